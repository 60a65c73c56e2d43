"""Runs the cases that the clients of all languages run: clients/README.md says what the fields mean."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from ratelimitd import EXEMPT, NEVER, TLS, AsyncClient, Client, Limit, RateLimitError, Reason, Result, Strategy
from ratelimitd.testing import Daemon

CLIENTS = Path(__file__).parents[2]
CASES = json.loads((CLIENTS / "cases.json").read_text())["cases"]

CANCELLED = Result(False, Reason.FAILURE, error=RateLimitError(grpc.StatusCode.CANCELLED, "the task was cancelled"))


def cancels(case: dict[str, Any]) -> bool:
    return any("cancel_after_ms" in step for step in case["steps"])


def client_options(case: dict[str, Any]) -> dict[str, Any]:
    o = case.get("client", {})
    tls = o.get("tls")
    return {
        "timeout": o.get("timeout_ms", 60000) / 1000,
        "on_failure": o.get("on_failure", "allow"),
        "max_denials": 10_000 if o.get("remember") else 0,
        "token": o.get("token", ""),
        "tls": None if tls is None else TLS(**{k: str(CLIENTS / "testdata" / v) for k, v in tls.items()}),
    }


class Threads:
    """Does the steps with Client."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = Client(address, **options)

    def do(self, method: Any, *args: Any, cancel_after: float | None = None) -> Any:
        assert cancel_after is None
        return method(*args)

    def race(self, callers: int, each: int, method: Any, *args: Any) -> list[Result]:
        together = threading.Barrier(callers)

        def call() -> list[Result]:
            together.wait()
            return [method(*args) for _ in range(each)]

        with ThreadPoolExecutor(callers) as pool:
            return [result for done in [pool.submit(call) for _ in range(callers)] for result in done.result()]

    def close(self) -> None:
        self.client.close()


class Tasks:
    """Does the steps with AsyncClient."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = AsyncClient(address, **options)
        self.loop = asyncio.new_event_loop()

    def do(self, method: Any, *args: Any, cancel_after: float | None = None) -> Any:
        async def call() -> Any:
            task = asyncio.ensure_future(method(*args))
            if cancel_after is not None:
                asyncio.get_running_loop().call_later(cancel_after, task.cancel)
            try:
                return await task
            except asyncio.CancelledError:
                return CANCELLED

        return self.loop.run_until_complete(call())

    def race(self, callers: int, each: int, method: Any, *args: Any) -> list[Result]:
        async def call() -> list[Result]:
            return [await method(*args) for _ in range(each)]

        async def race() -> list[Result]:
            return [result for results in await asyncio.gather(*(call() for _ in range(callers))) for result in results]

        return self.loop.run_until_complete(race())

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


# A thread cannot be cancelled: it has a timeout. So the case of a cancelled call is one of asyncio.
@pytest.mark.parametrize(
    ("case", "driver", "unary"),
    [
        pytest.param(case, driver, unary, id=f"{case['name']}, {driver.__name__.lower()}{', alone' * unary}")
        for case in CASES
        for driver in (Threads, Tasks)
        for unary in (False, True)
        if not (driver is Threads and cancels(case))
    ],
)
def test_case(case: dict[str, Any], driver: type[Threads] | type[Tasks], unary: bool) -> None:
    assert not case.keys() - {"name", "flags", "clock", "client", "limiter", "steps"}
    with Daemon(*case.get("flags", []), cwd=str(CLIENTS / "testdata"), real_clock=case.get("clock") == "real") as daemon:
        run = Runner(case, daemon, driver(daemon.grpc, unary=unary, **client_options(case)))
        try:
            for i, step in enumerate(case["steps"]):
                run.step(i, step)
        finally:
            run.driver.close()


class Runner:
    def __init__(self, case: dict[str, Any], daemon: Daemon, driver: Threads | Tasks) -> None:
        self.daemon = daemon
        self.driver = driver
        of = case["limiter"]
        self.limiter: Any
        if "policy" in of:
            self.limiter = driver.client.policy(of["namespace"], of["policy"])
        else:
            limits = [Limit(**{**li, "strategy": Strategy[li.get("strategy", "FIXED_WINDOW")]}) for li in of["limits"]]
            self.limiter = driver.client.limiter(of["namespace"], *limits)
        self.saved: dict[str, Any] = {}

    def step(self, i: int, step: dict[str, Any]) -> None:
        for _ in range(step.get("times", 1)):
            end = time.monotonic() + step.get("eventually_ms", 0) / 1000
            while True:
                began = time.monotonic()
                results = self.do(step)
                wrong = wrongs(step.get("want", {}), results, time.monotonic() - began)
                if not wrong:
                    break
                assert time.monotonic() < end, f"step {i}, {step['do']}: {wrong} in {results[:3]}"
                time.sleep(0.005)

    def do(self, step: dict[str, Any]) -> list[Result]:
        """Does what a step says, and returns its results: many of a race, and none of what is no call."""
        what, limiter, cost = step["do"], self.limiter, step.get("cost", 1)
        identifier = EXEMPT if step.get("exempt") else step.get("identifier", "") * step.get("identifier_times", 1)
        if what == "race":
            return self.driver.race(step["callers"], step["each"], limiter.allow, identifier, cost)
        if what == "advance":
            self.daemon.advance(step["by"])
            return []
        if what == "daemon":
            self.turn(step["to"])
            return []
        args: list[Any] = [identifier, cost]
        method = getattr(self.saved[step["reservation"]] if "reservation" in step else limiter, what)
        if what == "refund":
            args.append(self.saved[step["consumed_at"]].decided_at if "consumed_at" in step else None)
        elif what == "wait":
            args.insert(1, step["max_ms"] / 1000)
        elif what == "commit":
            args = [step["actual"]]
        elif what == "cancel":
            args = []
        elif what == "reset":
            args = [identifier]
        after = step.get("cancel_after_ms")
        result = self.driver.do(method, *args, cancel_after=None if after is None else after / 1000)
        if "save" in step:
            self.saved[step["save"]] = result
        return [result.result if what == "reserve" else result]

    def turn(self, to: str) -> None:
        d = self.daemon
        {"kill": d.kill, "stop": d.stop, "start": d.start, "pause": d.pause, "resume": d.resume}[to]()


def wrongs(want: dict[str, Any], results: list[Result], took: float) -> list[str]:
    """Returns what of the results is not as a step wants it."""
    if not results:
        return []
    failed = [r for r in results if r.error is not None]
    result = (failed or results)[0]
    got = {
        "allowed": result.allowed,
        "reason": result.reason.value,
        "remembered": result.remembered,
        "retry_after_us": micros(result.retry_after),
        "delay_us": micros(result.delay),
        "error": None if result.error is None else result.error.code.name,
        "allowed_count": sum(r.allowed for r in results),
        "denied_count": sum(not r.allowed for r in results),
    }
    out = []
    for field, value in want.items():
        if field == "statuses":
            out += wrong_statuses(result, value)
        elif field == "error_has":
            if value not in str(result.error):
                out.append(f"error: {result.error}, want {value}")
        elif field in ("within_ms", "at_least_ms"):
            if (field == "within_ms") == (took * 1000 > value):
                out.append(f"{field}: it took {took * 1000:.0f} ms, want {value}")
        elif got[field] != value and not (isinstance(value, list) and got[field] in value):
            out.append(f"{field}: {got[field]}, want {value}")
    return out


def wrong_statuses(result: Result, want: list[dict[str, Any]]) -> list[str]:
    if len(result.statuses) != len(want):
        return [f"{len(result.statuses)} statuses, want {len(want)}"]
    out = []
    for i, (status, fields) in enumerate(zip(result.statuses, want)):
        got = {**status._asdict(), "reset_after_us": micros(status.reset_after), "retry_after_us": micros(status.retry_after)}
        out += [f"statuses[{i}].{f}: {got[f]}, want {v}" for f, v in fields.items() if got[f] != v]
    return out


def micros(seconds: float) -> int | None:
    """Returns seconds as the cases have them."""
    return None if seconds == NEVER else round(seconds * 1e6)
