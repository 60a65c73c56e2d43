"""Which requests are held to which limits, and what responses say of it. The middleware of all kinds shares it."""

from __future__ import annotations

import json
import logging
import math
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Generic, TypeVar

from ._core import BaseLimiter
from ._identify import ANONYMOUS, Identify, Request
from ._types import NEVER, Limit, Reason, Result, Status

# The names of the fields of draft-ietf-httpapi-ratelimit-headers-11.
RATE_LIMIT = "RateLimit"
POLICY = "RateLimit-Policy"
RETRY_AFTER = "Retry-After"

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"

OVER_LIMIT = "over the limit"
NOT_CHECKED = "the limit of this call cannot be checked"

OnResult = Callable[[Request, Any, Result], object]

log = logging.getLogger("ratelimitd")


@dataclass(frozen=True)
class Step:
    """A limiter that a request goes through."""

    limiter: BaseLimiter
    by: Identify | None = None
    """Finds the identifier. None is that of the rule."""
    cost: Callable[[Request], int] | None = None
    """Finds what the request costs. None is 1."""


@dataclass(frozen=True)
class Rule:
    """The limits of some requests."""

    steps: Sequence[Step] = ()
    """Are asked in order, and the first that denies answers. What those before it have taken is not given back: put first
    what denies most for the least."""
    by: Identify | None = None
    """Finds the identifier for each step that has none of its own. It is called once for a request."""
    methods: Sequence[str] = ()
    """Of the requests, such as "POST". None are all. gRPC has none."""
    path: str = ""
    """Exactly that of the requests, or with a slash at its end also what is below it. "" is all."""
    per_message: bool = False
    """Also holds each message that a client sends on a WebSocket to the limits; or on a stream of gRPC, and then not the
    call as a whole."""


class Asking:
    """One request on its way through the steps of a rule, or one message of it."""

    def __init__(self, rules: Rules, rule: Rule, request: Request) -> None:
        self.rules = rules
        self.rule = rule
        self.request = request
        common: str | None = None
        self.identifiers: list[str] = []
        for step in rule.steps:
            if step.by is not None:
                found = step.by(request)
            else:
                if common is None and rule.by is not None:
                    common = rule.by(request)
                found = common or ""
            self.identifiers.append(found or ANONYMOUS)
        self.again()

    def again(self, cost: int | None = None) -> list[tuple[Any, str, int]]:
        """Begins anew, and returns whom to ask: limiter, identifier and cost."""
        self.asked: list[tuple[BaseLimiter, Result]] = []
        self.denied = False
        return [
            (step.limiter, who, cost if cost is not None else 1 if step.cost is None else step.cost(self.request))
            for step, who in zip(self.rule.steps, self.identifiers)
        ]

    def told(self, limiter: BaseLimiter, result: Result) -> bool:
        """Takes what a limiter has said. True: it denies, and no other is asked."""
        if self.rules.on_result is not None:
            try:
                self.rules.on_result(self.request, limiter, result)
            except Exception:
                log.exception("ratelimitd: on_result failed")
        self.asked.append((limiter, result))
        self.denied = not result.allowed and not self.rules.shadow
        return self.denied

    @property
    def result(self) -> Result:
        """The last that was said: that of the denial, if it is denied."""
        last = self.asked[-1][1] if self.asked else Result(True, Reason.UNLIMITED)
        return last._replace(allowed=not self.denied)

    @property
    def delay(self) -> float:
        """How long to hold what is allowed, so that calls of a leaky bucket leave evenly."""
        return 0.0 if self.rules.shadow else max([r.delay for _, r in self.asked], default=0.0)

    @property
    def unknown(self) -> bool:
        """The failure policy denies: the caller is not over a limit."""
        return self.result.reason in (Reason.FAILURE, Reason.STORE_FAILURE)

    def fields(self) -> list[tuple[str, str]]:
        """Returns the fields of the response."""
        if self.rules.shadow:
            return []
        policies, states = [], []
        for name, status, limit in self._names():
            window = _window(limit)
            policies.append(_item(name) + _parameter("q", status.limit) + ("" if window is None else _parameter("w", window)))
            state = _item(name) + _parameter("r", status.remaining)
            if not status.allowed:
                state += "" if status.retry_after == NEVER else _parameter("t", math.ceil(status.retry_after))
            elif not self.denied and status.reset_after > 0:
                state += _parameter("t", math.ceil(status.reset_after))
            states.append(state)
        out = [(POLICY, ", ".join(policies)), (RATE_LIMIT, ", ".join(states))] if states else []
        if self.denied and 0 < self.result.retry_after < NEVER:
            out.append((RETRY_AFTER, str(math.ceil(self.result.retry_after))))
        return out

    def violated(self) -> list[str]:
        """Returns the names of the limits that denied."""
        return [name for name, status, _ in self._names() if not status.allowed]

    def problem(self) -> tuple[int, str, bytes]:
        """Returns the status, its phrase and the body of the answer to a request that is denied."""
        if self.unknown:
            status, phrase = 503, "Service Unavailable"
            body: dict[str, Any] = {"type": "about:blank", "title": phrase, "status": status}
        else:
            status, phrase = 429, "Too Many Requests"
            body = {"type": QUOTA_EXCEEDED, "title": OVER_LIMIT, "status": status}
            names = self.violated()
            if names:
                body["violated-policies"] = names
        return status, phrase, json.dumps(body).encode() + b"\n"

    def _names(self) -> list[tuple[str, Status, Limit | None]]:
        out: list[tuple[str, Status, Limit | None]] = []
        names: set[str] = set()
        for limiter, result in self.asked:
            for place, status in enumerate(result.statuses):
                if status.limit == _UNLIMITED:
                    continue
                limit = limiter.limits[place] if place < len(limiter.limits) else None
                name = status.name or (f"limit-{place + 1}" if limit is None else f"{limit.strategy.name.lower()}:{limit.rate}")
                while name in names:
                    name += f"#{len(names)}"
                names.add(name)
                out.append((name, status, limit))
        return out


class Rules:
    """The rules of a middleware."""

    def __init__(self, rules: Sequence[Rule], shadow: bool, on_result: OnResult | None, limiter: type[BaseLimiter]) -> None:
        self.rules = tuple(rules)
        self.shadow = shadow
        self.on_result = on_result
        for rule in self.rules:
            for step in rule.steps:
                if not isinstance(step.limiter, limiter):
                    raise TypeError(f"ratelimitd: a step has a {type(step.limiter).__name__}: this middleware needs a {limiter.__name__}")
                if step.by is None and rule.by is None:
                    raise ValueError("ratelimitd: each step needs a by of its own, or of its rule")

    def match(self, method: str, path: str) -> Rule | None:
        """Returns the first rule that holds for a request."""
        clean = posixpath.normpath("/" + path.lstrip("/"))  # or else //orders would be another path here, and the same in the service
        if path.endswith("/") and clean != "/":
            clean += "/"
        for rule in self.rules:
            if rule.methods and method not in rule.methods:
                continue
            if not rule.path or clean == rule.path or (rule.path.endswith("/") and (clean + "/").startswith(rule.path)):
                return rule
        return None


_Limiter = TypeVar("_Limiter", bound=BaseLimiter)
_App = TypeVar("_App")


class Middleware(Generic[_Limiter, _App]):
    """What the middleware of ASGI and that of WSGI have in common."""

    _kind: ClassVar[type[BaseLimiter]]  # of limiters that it can ask

    def __init__(
        self,
        app: _App,
        *,
        limiter: _Limiter | None = None,
        by: Identify | None = None,
        rules: Sequence[Rule] = (),
        shadow: bool = False,
        denied: Callable[[Request, Result], _App] | None = None,
        on_result: OnResult | None = None,
    ) -> None:
        """
        limiter, by: hold all requests to one limiter.
        rules: instead of that. The first that matches a request holds; a request that none matches has no limit.
        shadow: asks, and denies nobody: to try limits out. Responses say nothing of them.
        denied: returns the application that answers a request that is denied, such as a Response of Starlette or Flask.
        on_result: is told each result, for metrics and logs.
        """
        self._app = app
        self._rules = Rules(rules_of(rules, limiter, by), shadow, on_result, self._kind)
        self._denied = denied


def rules_of(rules: Sequence[Rule], limiter: BaseLimiter | None, by: Identify | None) -> Sequence[Rule]:
    """Returns the rules of a middleware that has either rules, or one limiter and a by for all requests."""
    if (limiter is None) == (not rules):
        raise TypeError("ratelimitd: give either a limiter and by, or rules")
    return rules if limiter is None else [Rule(steps=[Step(limiter)], by=by)]


_UNLIMITED = (1 << 64) - 1

_RATE = re.compile(r".*(?:/| per )\s*(?P<n>[0-9_]*)\s*(?P<unit>[a-z]+)\s*", re.DOTALL)
_UNITS = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hr", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86400),
    **dict.fromkeys(("w", "week"), 604800),
}


def _window(limit: Limit | None) -> int | None:
    """Returns the period of a limit, if that is whole seconds: the field has no others. Months and years differ in length."""
    if limit is None or limit.time_zone:
        return None
    parts = _RATE.fullmatch(limit.rate.lower())
    if parts is None:
        return None
    unit = parts["unit"]
    seconds = _UNITS.get(unit[:-1] if len(unit) > 1 and unit.endswith("s") else unit)
    return None if seconds is None else int(parts["n"].replace("_", "") or 1) * seconds


def _parameter(key: str, n: int) -> str:
    """Returns an Integer of RFC 9651, which has 15 digits at most."""
    return f";{key}={min(n, 999_999_999_999_999)}"


def _item(name: str) -> str:
    """Returns a String of RFC 9651. That holds printable ASCII alone: other bytes, and the percent sign, are
    percent-encoded."""
    out = ""
    for b in name.encode("utf-8", "replace"):
        c = chr(b)
        out += "\\" + c if c in '"\\' else f"%{b:02X}" if b < 0x20 or b > 0x7E or c == "%" else c
    return f'"{out}"'
