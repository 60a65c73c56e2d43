"""Middleware for ASGI: FastAPI, Starlette and others.

app.add_middleware(RateLimitMiddleware, limiter=limiter, by=client_address())
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

from ._aio import AsyncLimiter
from ._identify import Request
from ._rules import Asking, Middleware
from ._types import Result

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008
"""The code with which a WebSocket is closed that sends more messages than it may."""


class Caller:
    """Who makes a request, under the identifiers that were found for it. A handler has it from scope["ratelimitd"]."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def allow(self, cost: int | None = None) -> Result:
        """Asks the limiters of the request, or asks them again for one more thing that its caller does on it, such as a
        message of a WebSocket."""
        asking = self._asking
        for limiter, identifier, units in asking.again(cost):
            if asking.told(limiter, await limiter.allow(identifier, units)):
                break
        return asking.result


class RateLimitMiddleware(Middleware[AsyncLimiter, App]):
    """Holds requests to limits. A request that is denied is answered 429 with application/problem+json, and each response
    has the fields RateLimit, RateLimit-Policy and Retry-After. The handshake of a WebSocket is a request."""

    _kind = AsyncLimiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        request = _request(scope)
        rule = self._rules.match(request.method, request.path)
        if rule is None:
            return await self._app(scope, receive, send)
        asking = Asking(self._rules, rule, request)
        caller = Caller(asking)
        result = await caller.allow()
        fields = [(name.lower().encode(), value.encode()) for name, value in asking.fields()]

        async def send_with(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        if asking.denied:
            if scope["type"] == "websocket":
                return await _refuse(scope, asking, send_with)
            app = _problem(asking) if self._denied is None else self._denied(request, result)
            return await app(scope, receive, send_with)
        if asking.delay:
            await asyncio.sleep(asking.delay)
        scope = {**scope, "ratelimitd": caller}
        if scope["type"] == "websocket" and rule.per_message:
            receive = _limited(caller, receive, send)
        return await self._app(scope, receive, send_with)


def _limited(caller: Caller, receive: Receive, send: Send) -> Receive:
    """Holds each message that a client sends to the limits of its connection, which is closed if one is denied."""

    async def limited() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive":
            caller._asking.request.message = message.get("text") or message.get("bytes")
            if not await caller.allow():
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "over the limit"})
                return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
            if caller._asking.delay:
                await asyncio.sleep(caller._asking.delay)
        return message

    return limited


def _problem(asking: Asking, prefix: str = "http") -> App:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        status, _, body = asking.problem()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        await send({"type": prefix + ".response.start", "status": status, "headers": headers})
        await send({"type": prefix + ".response.body", "body": body})

    return app


async def _refuse(scope: Scope, asking: Asking, send: Send) -> None:
    """Answers the handshake of a WebSocket that is denied. Not all servers can say why."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await _problem(asking, "websocket.http")(scope, _nothing, send)
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})


async def _nothing() -> Message:
    return {"type": "websocket.disconnect"}


def _request(scope: Scope) -> Request:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    peer = scope.get("client")
    return Request(scope.get("method", "GET"), scope["path"], headers, peer[0] if peer else "", scope)
