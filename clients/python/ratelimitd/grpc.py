"""Interceptors for servers of gRPC.

    grpc.server(executor, interceptors=[RateLimitInterceptor(limiter=limiter, by=client_address())])
    grpc.aio.server(interceptors=[AsyncRateLimitInterceptor(limiter=limiter, by=client_address())])

A call that is denied fails with RESOURCE_EXHAUSTED and a google.rpc.RetryInfo. The trailers of each call have ratelimit,
ratelimit-policy and retry-after, as HTTP has them. The path of a rule is "/package.Service/Method", or "/package.Service/".
"""

from __future__ import annotations

import asyncio
import inspect
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from . import _api
from ._aio import AsyncLimiter
from ._identify import Identify, Request
from ._rules import NOT_CHECKED, OVER_LIMIT, Asking, OnResult, Rule, Rules, rules_of
from ._sync import Limiter
from ._types import NEVER


class RateLimitInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Holds calls to limits, in a server with threads."""

    def __init__(
        self,
        *,
        limiter: Limiter | None = None,
        by: Identify | None = None,
        rules: Sequence[Rule] = (),
        shadow: bool = False,
        on_result: OnResult | None = None,
    ) -> None:
        """
        limiter, by: hold all calls to one limiter.
        rules: instead of that. The first that matches a call holds; a call that none matches has no limit.
        shadow: asks, and denies nobody: to try limits out. Trailers say nothing of them.
        on_result: is told each result, for metrics and logs.
        """
        self._rules = Rules(rules_of(rules, limiter, by), shadow, on_result, Limiter)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler, rule = continuation(details), self._rules.match("", details.method)
        if handler is None or rule is None:
            return handler
        behavior = _behavior(handler)

        def begin(request: Any, context: Any) -> tuple[Asking, Any]:
            asking = Asking(self._rules, rule, _request(details, context))
            if handler.request_streaming and rule.per_message:
                return asking, messages(asking, request, context)
            asking.request.message = None if handler.request_streaming else request
            ask(asking, context)
            return asking, request

        def ask(asking: Asking, context: Any) -> None:
            for limiter, identifier, cost in asking.again():
                if asking.told(limiter, limiter.allow(identifier, cost)):
                    code, text, trailers = _denial(asking)
                    context.set_trailing_metadata(trailers)
                    context.abort(code, text)
            if asking.delay:
                time.sleep(asking.delay)

        def messages(asking: Asking, requests: Any, context: Any) -> Any:
            for message in requests:
                asking.request.message = message
                ask(asking, context)
                yield message

        def one(request: Any, context: Any) -> Any:
            asking, request = begin(request, context)
            response = behavior(request, context)
            _add_trailers(asking, context)
            return response

        def many(request: Any, context: Any) -> Any:
            asking, request = begin(request, context)
            yield from behavior(request, context)
            _add_trailers(asking, context)

        return _handler(handler, many if handler.response_streaming else one)


class AsyncRateLimitInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Holds calls to limits, in a server of asyncio."""

    def __init__(
        self,
        *,
        limiter: AsyncLimiter | None = None,
        by: Identify | None = None,
        rules: Sequence[Rule] = (),
        shadow: bool = False,
        on_result: OnResult | None = None,
    ) -> None:
        """Takes what RateLimitInterceptor does."""
        self._rules = Rules(rules_of(rules, limiter, by), shadow, on_result, AsyncLimiter)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler, rule = await continuation(details), self._rules.match("", details.method)
        if handler is None or rule is None:
            return handler
        behavior = _behavior(handler)

        async def begin(request: Any, context: Any) -> tuple[Asking, Any]:
            asking = Asking(self._rules, rule, _request(details, context))
            if handler.request_streaming and rule.per_message:
                return asking, messages(asking, request, context)
            asking.request.message = None if handler.request_streaming else request
            await ask(asking, context)
            return asking, request

        async def ask(asking: Asking, context: Any) -> None:
            for limiter, identifier, cost in asking.again():
                if asking.told(limiter, await limiter.allow(identifier, cost)):
                    code, text, trailers = _denial(asking)
                    await context.abort(code, text, trailers)
            if asking.delay:
                await asyncio.sleep(asking.delay)

        async def messages(asking: Asking, requests: Any, context: Any) -> Any:
            async for message in requests:
                asking.request.message = message
                await ask(asking, context)
                yield message

        async def one(request: Any, context: Any) -> Any:
            asking, request = await begin(request, context)
            response = behavior(request, context)
            if inspect.isawaitable(response):
                response = await response
            _add_trailers(asking, context)
            return response

        async def many(request: Any, context: Any) -> Any:
            asking, request = await begin(request, context)
            responses = behavior(request, context)
            if inspect.isawaitable(responses):  # it writes them itself
                await responses
            else:
                async for response in responses:
                    yield response
            _add_trailers(asking, context)

        return _handler(handler, many if handler.response_streaming else one)


def _behavior(handler: Any) -> Any:
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _handler(of: Any, behavior: Any) -> Any:
    """Returns a handler like that of a method, with another behavior."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[of.request_streaming, of.response_streaming]
    return make(behavior, of.request_deserializer, of.response_serializer)


def _request(details: Any, context: Any) -> Request:
    headers: dict[str, list[str]] = {}
    for key, value in details.invocation_metadata:
        if isinstance(value, str):
            headers.setdefault(key, []).append(value)
    kind, _, peer = urllib.parse.unquote(context.peer()).partition(":")
    return Request("", details.method, headers, peer if kind in ("ipv4", "ipv6") else "", details)


def _trailers(asking: Asking) -> tuple[tuple[str, Any], ...]:
    return tuple((name.lower(), value) for name, value in asking.fields())


def _add_trailers(asking: Asking, context: Any) -> None:
    """Adds to the trailers of a call that is allowed. The service may have set some."""
    if not asking.rule.per_message:
        context.set_trailing_metadata(tuple(context.trailing_metadata() or ()) + _trailers(asking))


def _denial(asking: Asking) -> tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]:
    """Returns the status of a call that is denied, and its trailers."""
    trailers = _trailers(asking)
    if asking.unknown:
        return grpc.StatusCode.UNAVAILABLE, NOT_CHECKED, trailers
    text = " ".join([OVER_LIMIT, ", ".join(asking.violated())]).strip()
    wait = asking.result.retry_after
    if 0 < wait < NEVER:
        retry = _api.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(wait * 1e6))
        status = _api.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message=text)
        status.details.add().Pack(retry)
        trailers += (("grpc-status-details-bin", status.SerializeToString()),)
    return grpc.StatusCode.RESOURCE_EXHAUSTED, text, trailers
