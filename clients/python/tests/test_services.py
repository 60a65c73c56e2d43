"""Middleware in processes of its own: the README's programs and the example, with uvicorn and gunicorn."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from ratelimitd import EXEMPT, AsyncClient, Client, Limit, Request, Rule, Step, api_key, bearer_subject, client_address
from ratelimitd.grpc import AsyncRateLimitInterceptor, RateLimitInterceptor
from ratelimitd.testing import Daemon
from ratelimitd.wsgi import RateLimitMiddleware

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "examples" / "python"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def serve(cwd: Path, *program: str, port: int, **env: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-m", *program], cwd=cwd, env={**os.environ, **env})
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, response.headers, body


def readme(daemon: Daemon, place: int) -> str:
    text = (HERE.parent / "README.md").read_text()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[place]
    return str(program.replace("localhost:8081", daemon.grpc).replace('")\napp', '", timeout=60)\napp'))


@pytest.mark.parametrize("place", [0, 1])
def test_readme(daemon: Daemon, tmp_path: Path, place: int) -> None:
    (tmp_path / "hello.py").write_text(readme(daemon, place))
    port = free_port()
    uvicorn = ("uvicorn", "hello:app", f"--port={port}", "--log-level=warning")
    gunicorn = ("gunicorn", "hello:app", f"--bind=127.0.0.1:{port}", "--preload", "--workers=2", "--threads=4", "--log-level=warning")
    with serve(tmp_path, *(gunicorn if place else uvicorn), port=port):
        status, headers, body = ask(port, "GET", "/")
        assert (status, "hello" in body) == (200, True)
        assert headers["RateLimit-Policy"] == '"fixed_window:100/min";q=100;w=60'
        assert headers["RateLimit"] == '"fixed_window:100/min";r=99;t=60'
        with futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: ask(port, "GET", "/")[0], range(120)))
        assert statuses.count(200) == 99
        assert statuses.count(429) == 21
        status, headers, body = ask(port, "GET", "/")
        assert (status, headers["Content-Type"]) == (429, "application/problem+json")
        assert 58 <= int(headers["Retry-After"]) <= 60
        assert json.loads(body)["type"].endswith("#quota-exceeded")
        assert json.loads(body)["violated-policies"] == ["fixed_window:100/min"]


def test_example(daemon: Daemon) -> None:
    port = free_port()
    environment = {"RATELIMITD_ADDR": daemon.grpc, "RATELIMITD_TIMEOUT": "60"}
    with serve(EXAMPLES, "uvicorn", "shop:app", f"--port={port}", "--log-level=warning", port=port, **environment):
        for path in ("/healthz", "/products", "//products/../products") * 3:
            assert ask(port, "GET", path)[0] in (200, 404)
        assert [ask(port, "POST", "/orders", X_API_Key="one")[0] for _ in range(4)] == [201, 201, 201, 429]
        assert ask(port, "POST", "/orders", X_API_Key="two")[0] == 201
        reports = [ask(port, "GET", "/report?words=250", X_API_Key="one")[0] for _ in range(7)]
        assert reports == [200] * 6 + [429]  # each reserves 250 words, and takes 150 of 1,000
        chat(port)


def chat(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/chat") as socket:  # 1 of 5
        for _ in range(4):
            socket.send("tea")
            assert socket.recv() == "TEA"
        socket.send("tea")
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/chat").close()
    assert refused.value.response.status_code == 429


def wsgi(app: Any, method: str = "GET", path: str = "/", **headers: str) -> tuple[str, dict[str, str], bytes]:
    out: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "REMOTE_ADDR": "192.0.2.1", **{"HTTP_" + k: v for k, v in headers.items()}}
    body = b"".join(app(environ, lambda status, fields: out.extend((status, dict(fields)))))
    return out[0], out[1], body


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def test_rules(daemon: Daemon) -> None:
    calls: list[str] = []
    told: list[str] = []

    def who(r: Request) -> str:
        calls.append(r.path)
        return api_key("X-API-Key")(r)

    with Client(daemon.grpc, timeout=60, max_denials=0) as client:
        orders, posts, pages = (client.limiter("shop", Limit("1/h", name=n)) for n in ("orders", "posts", "pages"))
        rules = [
            Rule([Step(pages)], by=lambda _: EXEMPT, path="/health"),
            Rule([Step(orders), Step(posts)], by=who, methods=["POST"], path="/orders/"),
            Rule([Step(pages, cost=lambda _: 2)], by=who, path="/dear"),
            Rule([Step(pages)], by=who, path="/orders"),
        ]
        app = RateLimitMiddleware(hello, rules=rules, on_result=lambda r, _, result: told.append(f"{r.path} {result.reason.value}"))
        assert [wsgi(app, path=p)[0][:3] for p in ("/health", "/health", "/free", "/orders", "//orders", "/./orders")] == [
            "200", "200", "200", "200", "429", "429"
        ]  # fmt: skip
        assert [wsgi(app, "POST", p, X_API_KEY=k)[0][:3] for p, k in (("/orders/7", "a"), ("/orders/7/x", "a"), ("/orders/", "b"))] == [
            "200", "429", "200"
        ]  # fmt: skip
        assert calls.count("/orders/7") == 1
        assert told[-1] == "/orders/ WITHIN_LIMIT"
        status, fields, _ = wsgi(app, path="/dear", X_API_KEY="c")
        assert (status[:3], "Retry-After" in fields) == ("429", False)
        shadow = RateLimitMiddleware(hello, rules=rules, shadow=True)
        assert [wsgi(shadow, path="/orders")[:2] for _ in range(2)] == [("200 OK", {})] * 2
        own = RateLimitMiddleware(hello, rules=rules, denied=lambda *_: hello)
        assert wsgi(own, path="/orders")[2] == b"hello"
    daemon.kill()
    with Client(daemon.grpc, on_failure="deny") as client:
        status, fields, body = wsgi(RateLimitMiddleware(hello, limiter=client.limiter("shop", "1/h"), by=client_address()))
        assert (status[:3], json.loads(body)["type"]) == ("503", "about:blank")
    with pytest.raises(TypeError, match="this middleware needs a Limiter"):
        RateLimitMiddleware(hello, limiter=AsyncClient().limiter("shop", "1/h"), by=client_address())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peer", "forwarded", "want"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # is not trusted
        ("10.0.0.1:1", ["6.6.6.6, 198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:443"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("192.168.0.9", ["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        ("::1", ["2001:db8:1:2:ffff::9"], "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.1]:1234", [], "192.0.2.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", [], ""),
    ],
)
def test_client_address(peer: str, forwarded: list[str], want: str) -> None:
    by = client_address("10.0.0.0/8", "::1", "::ffff:192.168.0.0/112")
    assert by(Request("GET", "/", {"x-forwarded-for": forwarded}, peer, None)) == want


@pytest.mark.parametrize(
    ("authorization", "want"),
    [
        ("Basic abc", ""),
        ("Bearer ", ""),
        ("bearer  e30.eyJzdWIiOiJ1c2VyOjQyIn0.c2ln", "user:42"),
        ("Bearer a.b.c", "token:845e30448809e2bc8958eb025bfc7952"),
        ("Bearer opaque", "token:6d229884c1268bb0ab32d8da315d0fe5"),
        ("Bearer e30.e30.", "token:2c168bb011ce2543df31fbe947518b44"),
    ],
)
def test_bearer_subject(authorization: str, want: str) -> None:
    r = Request("GET", "/", {"authorization": [authorization], "x-api-key": ["secret"]}, "", None)
    assert bearer_subject()(r) == want
    assert api_key()(r) == "key:2bb80d537b1da3e38bd30361aa855686"


def echo(request: bytes, _: Any) -> bytes:
    return request


def each(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
    yield from requests


async def aecho(request: bytes, _: Any) -> bytes:
    return request


async def aeach(requests: Any, _: Any) -> Any:
    async for request in requests:
        yield request


def handlers(one: Any, many: Any) -> list[Any]:
    methods = {"One": grpc.unary_unary_rpc_method_handler(one), "Many": grpc.stream_stream_rpc_method_handler(many)}
    return [grpc.method_handlers_generic_handler("test.Echo", methods)]


def rules_of(limiter: Any) -> list[Rule]:
    by = client_address()
    return [Rule([Step(limiter)], by=by, path="/test.Echo/One"), Rule([Step(limiter)], by=by, per_message=True)]


def check_calls(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        one, many = channel.unary_unary("/test.Echo/One"), channel.stream_stream("/test.Echo/Many")
        answer, call = one.with_call(b"tea", timeout=60)
        assert (answer, dict(call.trailing_metadata())["ratelimit"]) == (b"tea", '"fixed_window:3/h";r=2;t=3600')
        got = []
        with pytest.raises(grpc.RpcError) as denied:
            got.extend(many(iter([b"a", b"b", b"c"]), timeout=60))
        assert denied.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as denied:
            one(b"tea", timeout=60)
        trailers = dict(denied.value.trailing_metadata())
        assert denied.value.details() == "over the limit fixed_window:3/h"
        assert trailers["retry-after"] == "3600"
        assert b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]


def test_interceptor(daemon: Daemon) -> None:
    with Client(daemon.grpc, timeout=60, max_denials=0) as client:
        limits = RateLimitInterceptor(rules=rules_of(client.limiter("echo", "3/h")))
        server = grpc.server(futures.ThreadPoolExecutor(4), handlers=handlers(echo, each), interceptors=[limits])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            check_calls(port)
        finally:
            server.stop(0).wait()


def test_async_interceptor(daemon: Daemon) -> None:
    async def run() -> None:
        async with AsyncClient(daemon.grpc, timeout=60, max_denials=0) as client:
            limits = AsyncRateLimitInterceptor(rules=rules_of(client.limiter("echo", "3/h")))
            server = grpc.aio.server(handlers=handlers(aecho, aeach), interceptors=[limits])
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                await asyncio.to_thread(check_calls, port)
            finally:
                await server.stop(0)

    asyncio.run(run())
