"""Asks ratelimitd whether a caller may do something now.

    limits = Client("ratelimitd:8081")
    limiter = limits.limiter("checkout", "100/min")
    if not (result := limiter.allow("user:42")):
        ...  # come back after result.retry_after seconds

AsyncClient is the same for asyncio. ratelimitd.asgi, ratelimitd.wsgi and ratelimitd.grpc are middleware.
"""

from ._aio import AsyncClient, AsyncLimiter, AsyncReservation
from ._core import TLS
from ._identify import Request, api_key, bearer_subject, client_address, first_of, header
from ._rules import Rule, Step
from ._sync import Client, Limiter, Reservation
from ._types import EXEMPT, NEVER, Event, Limit, OnFailure, RateLimitError, Reason, Result, Status, Strategy

__all__ = [
    "EXEMPT",
    "NEVER",
    "TLS",
    "AsyncClient",
    "AsyncLimiter",
    "AsyncReservation",
    "Client",
    "Event",
    "Limit",
    "Limiter",
    "OnFailure",
    "RateLimitError",
    "Reason",
    "Request",
    "Reservation",
    "Result",
    "Rule",
    "Status",
    "Step",
    "Strategy",
    "api_key",
    "bearer_subject",
    "client_address",
    "first_of",
    "header",
]
