"""What the cases do not say: streams that end, daemons that come and go under load, forks, hooks."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from typing import Any, Callable

import grpc
import pytest

from ratelimitd import AsyncClient, Client, Event, RateLimitError, Reason, Result, _api
from ratelimitd._batch import Alone, Batches, Call
from ratelimitd.testing import Daemon

CALLERS = 64


def many(callers: int, call: Any) -> list[Any]:
    """Has so many threads call, and returns what they return."""
    with futures.ThreadPoolExecutor(callers) as pool:
        return [f.result() for f in [pool.submit(call) for _ in range(callers)]]


def test_streams_of_age_lose_no_call_and_count_none_twice() -> None:
    with Daemon("--connection-age=300ms", "--connection-grace=10s") as d, Client(d.grpc, timeout=60) as client:
        limiter, end = client.limiter("shop", "1_000_000/h"), time.monotonic() + 1

        def call() -> int:
            n = 0
            while time.monotonic() < end:
                limiter.allow("alice").raise_for_error()
                n += 1
            return n

        async def calls() -> int:
            async with AsyncClient(d.grpc, timeout=60) as other:
                alice, end = other.limiter("shop", "1_000_000/h"), time.monotonic() + 1

                async def one() -> int:
                    n = 0
                    while time.monotonic() < end:
                        (await alice.allow("alice")).raise_for_error()
                        n += 1
                    return n

                return sum(await asyncio.gather(*(one() for _ in range(16))))

        asked = sum(many(16, call)) + asyncio.run(calls())
        assert 1_000_000 - limiter.check("alice", 0).statuses[0].remaining == asked > 100


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Waits until something holds, on however slow a machine."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, f"not within a minute: {what}"
        time.sleep(0.001)


class Load:
    """64 callers that do not stop."""

    def __init__(self) -> None:
        self.stopped = False
        self.wrong: list[Result] = []
        self.allowed = 0
        self.failed = 0

    def note(self, result: Result) -> None:
        if result.allowed and result.error is None:
            self.allowed += 1
        elif not result.allowed and result.reason is Reason.FAILURE:
            self.failed += 1
        else:
            self.wrong.append(result)

    def more(self, kind: str, after: str) -> None:
        before = getattr(self, kind)
        eventually(f"more are {kind} after {after}", lambda: getattr(self, kind) >= before + 100)

    def turn(self, d: Daemon) -> None:
        """Has the daemon come and go under load: the failure policy answers while it is away, and calls are allowed again
        when it is back."""
        self.more("allowed", "the start")
        for _ in range(2):
            d.kill()
            self.more("failed", "a kill")
            d.start()
            self.more("allowed", "a kill")
            d.stop()
            self.more("failed", "a stop")
            d.start()
            self.more("allowed", "a stop")
        d.pause()
        self.more("failed", "a pause")
        d.resume()
        self.more("allowed", "a pause")


def test_restarts_under_load_of_threads(daemon: Daemon) -> None:
    load = Load()
    with Client(daemon.grpc, timeout=1, on_failure="deny") as client:
        limiter = client.limiter("shop", "1_000_000_000/h")

        def call() -> None:
            while not load.stopped:
                result = limiter.allow("alice")
                load.note(result)
                if result.error is not None:
                    time.sleep(0.01)  # as the connection is refused at once

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            load.turn(daemon)
        finally:
            load.stopped = True
            for caller in callers:
                caller.join()
    assert not load.wrong


def test_restarts_under_load_of_tasks(daemon: Daemon) -> None:
    load = Load()

    async def call(limiter: Any) -> None:
        while not load.stopped:
            result = await limiter.allow("alice")
            load.note(result)
            if result.error is not None:
                await asyncio.sleep(0.01)

    async def run() -> None:
        async with AsyncClient(daemon.grpc, timeout=1, on_failure="deny") as client:
            limiter = client.limiter("shop", "1_000_000_000/h")
            callers = [asyncio.create_task(call(limiter)) for _ in range(CALLERS)]
            try:
                await asyncio.to_thread(load.turn, daemon)
            finally:
                load.stopped = True
                await asyncio.gather(*callers)

    asyncio.run(run())
    assert not load.wrong


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_tries_again_soon(kind: str) -> None:
    """A daemon that is back is to be found within a second. By gRPC's own pauses, the tenth try comes after two minutes."""
    tries = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            nonlocal tries
            while True:
                try:
                    server.accept()[0].close()
                except OSError:  # the test has ended
                    return
                tries += 1

        def watch() -> None:
            eventually("ten connections", lambda: tries >= 10)

        async def run() -> None:
            async with AsyncClient(address) as client:
                await client.limiter("shop", "1/h").allow("alice")
                await asyncio.to_thread(watch)

        threading.Thread(target=serve, daemon=True).start()
        try:
            if kind == "tasks":
                asyncio.run(run())
            else:
                with Client(address) as client:
                    client.limiter("shop", "1/h").allow("alice")
                    watch()
        finally:
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("unary", [False, True])
def test_several_daemons(unary: bool) -> None:
    with Daemon() as one, Daemon() as other:
        with Client(one.grpc, other.grpc, timeout=60, unary=unary) as client:
            check_daemons(one, lambda *a: client.limiter("shop", "4/h").allow(*a).raise_for_error(), unary)
        one.start()
        loop, tasks = asyncio.new_event_loop(), AsyncClient(one.grpc, other.grpc, timeout=60, unary=unary)
        limiter = tasks.limiter("ship", "4/h")
        check_daemons(one, lambda *a: loop.run_until_complete(limiter.allow(*a)).raise_for_error(), unary)
        loop.run_until_complete(tasks.close())
        loop.close()


def check_daemons(one: Daemon, allow: Any, unary: bool) -> None:
    names = iter(range(1_000_000))

    def both() -> bool:
        """Each of a pair of calls goes to one of them, once both are connected."""
        who = f"pair-{next(names)}"
        return [allow(who, 3).allowed for _ in range(2)] == [True, True]

    if unary:
        eventually("both are connected", both)
    if unary:
        assert sum(allow("alice").allowed for _ in range(10)) == 8
    one.kill()
    allow_or_error = []
    for _ in range(3):
        try:
            allow("bob")
        except Exception as e:
            allow_or_error.append(e)
    assert len(allow_or_error) <= 1, allow_or_error  # the first may have been on its way


def test_calls_that_two_streams_did_not_decide_go_alone() -> None:
    batches, finished = Batches(), []
    call = Call(_api.ShouldAllowRequest(identifier="alice"), 10.0, lambda: finished.append(True))
    ended = RateLimitError(grpc.StatusCode.UNAVAILABLE, "the daemon has ended the stream")
    batches.add(call)
    for streams in (1, 2):
        assert not finished
        batches.is_open = True
        assert batches.take(0.0) == [call.request], streams
        batches.end(ended, 0.0, True)
    assert finished == [True]
    assert isinstance(call.error, Alone)


def test_without_streams_calls_go_alone() -> None:
    calls = []

    class OldDaemon(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            path, _, _ = _api.method("ShouldAllow")
            if details.method != path:
                return None

            def answer(request: Any, _context: Any) -> Any:
                calls.append(request.identifier)
                return b"\x08\x01\x10\x01"  # allowed, WITHIN_LIMIT

            return grpc.unary_unary_rpc_method_handler(answer, _api.ShouldAllowRequest.FromString)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[OldDaemon()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def ask() -> None:
        async with AsyncClient(f"127.0.0.1:{port}", timeout=60) as client:
            assert (await client.limiter("shop", "1/h").allow("bob")).raise_for_error()

    try:
        with Client(f"127.0.0.1:{port}", timeout=60) as client:
            limiter = client.limiter("shop", "1/h")
            for _ in range(5):
                assert limiter.allow("alice").raise_for_error()
        asyncio.run(ask())
    finally:
        server.stop(0)
    assert calls == ["alice"] * 5 + ["bob"]


def test_a_message_has_no_more_than_it_may(daemon: Daemon) -> None:
    async def ask() -> None:
        async with AsyncClient(daemon.grpc, timeout=60) as client:
            limiter = client.limiter("shop", "3000/h")
            results = await asyncio.gather(*(limiter.allow(who) for who in ["alice"] * 3001 + ["b" * 1000] * 200))
            assert sum(bool(r.raise_for_error()) for r in results) == 3200

    asyncio.run(ask())


def test_a_client_of_another_event_loop_begins_anew(daemon: Daemon) -> None:
    limiter = AsyncClient(daemon.grpc, timeout=60).limiter("shop", "10/h")
    for _ in range(3):
        assert asyncio.run(limiter.allow("alice")).raise_for_error()


FORKS = """
import os, sys
from ratelimitd import Client
limiter = Client(sys.argv[1], timeout=60).limiter("shop", "1000/h")
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        ok = all(limiter.allow("alice").error is None for _ in range(20))
        os._exit(0 if ok else 1)
    children.append(pid)
failed = [os.waitpid(pid, 0)[1] for pid in children]
assert not any(failed), failed
limiter.allow("alice").raise_for_error()
print(limiter.check("alice", 0).statuses[0].remaining)
"""


def test_a_client_is_made_before_the_process_forks(daemon: Daemon) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, daemon.grpc], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1000 - 81


def test_close(daemon: Daemon) -> None:
    client = Client(daemon.grpc, timeout=60, on_failure="deny")
    limiter = client.limiter("shop", "1/h")
    limiter.allow("alice")
    client.close()
    client.close()
    result = limiter.allow("alice")
    assert not result
    assert "closed" in str(result.error)
    assert not limiter.reserve("alice", 1)


def test_close_answers_who_waits(daemon: Daemon) -> None:
    client = Client(daemon.grpc, timeout=60)
    limiter = client.limiter("shop", "1000/h")
    limiter.allow("alice").raise_for_error()
    daemon.pause()
    with futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(limiter.allow, "alice") for _ in range(8)]
        time.sleep(0.1)
        client.close()
        assert all(w.result(5).error is not None for w in waiting)


@pytest.mark.parametrize(
    ("address", "options", "wrong"),
    [
        ("", {}, "address ''"),
        ("a:b:c", {}, "address 'a:b:c': write host:port, such as ratelimitd:8081"),
        ("a", {"timeout": 0}, "timeout 0: must be above 0, such as 0.05"),
        ("a", {"token": "a b"}, "token: it has a character that no token has"),
        ("a", {"max_denials": -1}, "max_denials -1"),
        ("a", {"on_failure": "open"}, "open"),
    ],
)
def test_options(address: str, options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match="(?i)" + wrong.replace("(", "\\(")):
        Client(address, **options)


def test_wrong_input_raises_nothing(daemon: Daemon) -> None:
    with Client(daemon.grpc, timeout=60, on_failure="deny") as client:
        limiter = client.limiter("shop", "10/h")
        for result in (
            limiter.allow(None),  # type: ignore[arg-type]
            limiter.allow("alice", -1),
            limiter.charge("alice", 1 << 64),
            limiter.reserve("alice", -1).result,
            limiter.refund("alice", 1, "now"),  # type: ignore[arg-type]
            client.limiter("shop").allow("alice"),
        ):
            assert result.reason is Reason.FAILURE
            assert result.error is not None
            assert result.error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert limiter.allow("\ud800alice").error is None


def test_hooks(daemon: Daemon) -> None:
    told: list[str] = []

    def tell(e: Event) -> None:
        told.append(f"{e.operation} {e.identifier} {e.result.reason.value}")
        raise RuntimeError("a hook that fails stops nobody")

    with Client(daemon.grpc, timeout=60, on_result=tell) as client:
        limiter = client.limiter("shop", "1/h")
        limiter.allow("alice")
        limiter.allow("alice")
        limiter.reserve("bob", 1).commit(1)
        limiter.reset("alice").raise_for_error()
    assert told == [
        "allow alice WITHIN_LIMIT",
        "allow alice OVER_LIMIT",
        "reserve bob WITHIN_LIMIT",
        "commit bob WITHIN_LIMIT",
        "reset alice REASON_UNSPECIFIED",
    ]


def test_the_log_is_told_of_failures_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ratelimitd"), Client("127.0.0.1:1") as client:
        for _ in range(5):
            assert client.limiter("shop", "1/h").allow("alice").error is not None
    assert len(caplog.records) == 1
    assert "answer=allow" in caplog.text
