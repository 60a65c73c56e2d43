"""Middleware for WSGI: Flask, Django and others.

app.wsgi_app = RateLimitMiddleware(app.wsgi_app, limiter=limiter, by=client_address())
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Callable

from ._identify import Request
from ._rules import Asking, Middleware
from ._sync import Limiter
from ._types import Result

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Caller:
    """Who makes a request, under the identifiers that were found for it. A handler has it from environ["ratelimitd"]."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def allow(self, cost: int | None = None) -> Result:
        """Asks the limiters of the request, or asks them again for one more thing that its caller does on it."""
        asking = self._asking
        for limiter, identifier, units in asking.again(cost):
            if asking.told(limiter, limiter.allow(identifier, units)):
                break
        return asking.result


class RateLimitMiddleware(Middleware[Limiter, App]):
    """Holds requests to limits. A request that is denied is answered 429 with application/problem+json, and each response
    has the fields RateLimit, RateLimit-Policy and Retry-After."""

    _kind = Limiter

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = _request(environ)
        rule = self._rules.match(request.method, request.path)
        if rule is None:
            return self._app(environ, start_response)
        asking = Asking(self._rules, rule, request)
        caller = Caller(asking)
        result = caller.allow()
        fields = asking.fields()

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, headers + fields, *rest)

        if asking.denied:
            app = _problem if self._denied is None else self._denied(request, result)
            environ["ratelimitd"] = caller
            return app(environ, start)
        if asking.delay:
            time.sleep(asking.delay)
        environ["ratelimitd"] = caller
        return self._app(environ, start)


def _problem(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    status, phrase, body = environ["ratelimitd"]._asking.problem()
    start_response(f"{status} {phrase}", [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))])
    return [body]


def _request(environ: dict[str, Any]) -> Request:
    headers = {}
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            headers[name[5:].lower().replace("_", "-")] = [value]
    if environ.get("CONTENT_LENGTH"):
        headers["content-length"] = [environ["CONTENT_LENGTH"]]
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode("utf-8", "replace")
    return Request(environ["REQUEST_METHOD"], path, headers, environ.get("REMOTE_ADDR", ""), environ)
