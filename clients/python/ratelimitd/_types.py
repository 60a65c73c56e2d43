"""What callers give and get."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import grpc

from . import _api

EXEMPT = "\x00exempt"
"""The identifier of whoever has no limit: it is allowed without a call. No header and no address is EXEMPT, as it
begins with a zero byte."""

NEVER = math.inf
"""The retry_after of a call that no wait can help, as its cost is above a limit's capacity."""


class OnFailure(enum.Enum):
    """What a call is answered when no daemon answers."""

    ALLOW = "allow"  # fail open
    DENY = "deny"  # fail closed


class Strategy(enum.IntEnum):
    """How a rate is enforced: see docs/strategies.md."""

    FIXED_WINDOW = 1
    SLIDING_WINDOW_COUNTER = 2
    SLIDING_WINDOW_LOG = 3
    TOKEN_BUCKET = 4
    LEAKY_BUCKET = 5
    GCRA = 6


class Reason(enum.Enum):
    """Why a result is what it is."""

    UNSPECIFIED = "REASON_UNSPECIFIED"
    WITHIN_LIMIT = "WITHIN_LIMIT"
    OVER_LIMIT = "OVER_LIMIT"  # denied
    EXEMPT = "EXEMPT"  # the identifier has no limit
    UNLIMITED = "UNLIMITED"  # every limit is "unlimited"
    STORE_FAILURE = "STORE_FAILURE"  # the daemon's store failed, and the daemon's on_error decided
    SHADOW = "SHADOW"  # over a limit that is in shadow mode
    FAILURE = "FAILURE"  # there was no answer: error says why, and on_failure decided


_REASONS = tuple(Reason)  # by their numbers in the API


@dataclass(frozen=True)
class Limit:
    """A rate to hold an identifier to."""

    rate: str
    """"100/min", "5/s", "10/30s", "1000/month" or "unlimited"."""
    strategy: Strategy = Strategy.FIXED_WINDOW
    burst: int = 0
    """The capacity of TOKEN_BUCKET, LEAKY_BUCKET and GCRA. 0 is the strategy's default."""
    name: str = ""
    """Names the counter, so that it keeps what was consumed when its rate changes."""
    time_zone: str = ""
    """Of FIXED_WINDOW with a rate of days or longer: "Europe/Berlin". "" is UTC."""
    anchor_day: int = 0
    """Of a rate of months or years: the day on which they begin."""
    max_debt: int | None = None
    """The most debt that a charge may leave. None is no bound."""

    def _message(self) -> Any:
        return _api.Limit(
            rate=self.rate, strategy=int(self.strategy), burst=self.burst, name=self.name,
            time_zone=self.time_zone, anchor_day=self.anchor_day, max_debt=self.max_debt,
        )  # fmt: skip


class RateLimitError(Exception):
    """Why there was no answer. Results have it; only Result.raise_for_error raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class Status(NamedTuple):
    """What one limit says."""

    name: str  # "": it has none
    limit: int  # the largest cost that it ever allows at once
    remaining: int
    reset_after: float  # seconds until it is wholly unused again
    retry_after: float  # if it denied: seconds until it can allow the same cost; or NEVER
    allowed: bool  # by this limit alone


class Result(NamedTuple):
    """The answer to one call. It is true if the call is allowed."""

    allowed: bool
    reason: Reason
    retry_after: float = 0.0
    """Of a denial: seconds until the same call can be allowed; or NEVER. 0 if that is not known."""
    delay: float = 0.0
    """How many seconds to hold an allowed call of a LEAKY_BUCKET, so that calls leave evenly."""
    statuses: tuple[Status, ...] = ()
    """Of each limit, in their order."""
    decided_at: datetime | None = None
    """When it was decided, by the daemon's store; for refund. None if no counter was asked."""
    remembered: bool = False
    """A denial was repeated from memory, without a call."""
    error: RateLimitError | None = None
    """Why there was no answer. Then on_failure decided."""

    def __bool__(self) -> bool:
        return self.allowed

    def raise_for_error(self) -> Result:
        """Raises the error, if there is one, and else returns the result."""
        if self.error is not None:
            raise self.error
        return self


class Event(NamedTuple):
    """One call and its result."""

    operation: str
    """allow, check, charge, refund, reserve, commit, cancel or reset."""
    namespace: str
    policy: str
    """"": the limiter has limits of its own."""
    identifier: str
    """As it was given. A label of a metric must not have it: there may be any number."""
    result: Result
    took: float
    """In seconds."""


def _seconds(d: Any) -> float:
    return float(d.seconds + d.nanos / 1e9)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def result_of(message: Any) -> Result:
    """Returns what a ShouldAllowResponse says."""
    allowed, number = message.allowed, message.reason
    reason = _REASONS[number] if number < len(_REASONS) - 1 else Reason.UNSPECIFIED
    retry = 0.0
    if message.HasField("retry_after"):
        retry = _seconds(message.retry_after)
    elif not allowed and reason is Reason.OVER_LIMIT:
        retry = NEVER
    statuses = []
    for s in message.statuses:
        ok = s.allowed
        wait = _seconds(s.retry_after) if s.HasField("retry_after") else 0.0 if ok else NEVER
        statuses.append(Status(s.name, s.limit, s.remaining, _seconds(s.reset_after), wait, ok))
    decided = None
    if message.HasField("decided_at"):
        at = message.decided_at
        decided = _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    return Result(allowed, reason, retry, _seconds(message.delay), tuple(statuses), decided)


def error_of(error: grpc.RpcError) -> tuple[RateLimitError, bool]:
    """Returns what a failed call of gRPC says, and whether what it has not answered was certainly not decided.

    A daemon that ends a stream, as it stops or the stream is old, says when to ask again: a google.rpc.RetryInfo.
    """
    code: grpc.StatusCode = error.code()
    undecided = False
    if code is grpc.StatusCode.UNAVAILABLE:
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                details = _api.Status.FromString(value).details
                undecided = any(d.type_url.endswith("/google.rpc.RetryInfo") for d in details)
    return RateLimitError(code, error.details() or ""), undecided
