"""What a client and its limiters do, without I/O: Client and AsyncClient share it.

Each operation is a generator. It yields what it needs, an Ask or a Pause, is sent the response, or thrown the
RateLimitError, and returns its result. The clients differ only in how they meet these needs.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Literal, NamedTuple, Union

import grpc

from . import _api
from ._batch import Batches
from ._denials import Denials, Recollection
from ._types import EXEMPT, Event, Limit, OnFailure, RateLimitError, Reason, Result, result_of

log = logging.getLogger("ratelimitd")

DEFAULT_ADDRESS = "127.0.0.1:8081"
DEFAULT_TIMEOUT = 0.05
"""As long as the daemon waits for its store."""
DEFAULT_MAX_DENIALS = 10_000
"""How many denials a client remembers: about 8 MB of them."""

_MAX_IDENTIFIER = 1024  # bytes, for the daemon
_MAX_JITTER = 0.1  # spreads those who wait for the same instant, so that they do not all ask at once
_QUIET = 10.0  # for so long the log is not told of another failure

# A call goes to each daemon that says it is healthy, in turn. Reconnecting is soon: a daemon that is back is to be found
# within a second, and gRPC's own pauses grow to two minutes. Keepalive finds a daemon that is gone without a word; the
# daemon permits a ping every 10 s.
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}'),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.keepalive_time_ms", 15000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.primary_user_agent", "ratelimitd-python"),
]

CLOSED = "the client is closed"


@dataclass(frozen=True)
class TLS:
    """The files of a connection with TLS. TLS() trusts the authorities of the system."""

    ca: str | None = None
    """The authorities to trust, in PEM."""
    cert: str | None = None
    """The client's certificate, and the key of it."""
    key: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        read = [None if path is None else open(path, "rb").read() for path in (self.ca, self.key, self.cert)]  # noqa: SIM115
        return grpc.ssl_channel_credentials(*read)


class Ask(NamedTuple):
    """A need: the response of a method."""

    method: str
    request: Any
    timeout: float


class Pause(NamedTuple):
    """A need: to wait for so many seconds."""

    seconds: float


Operation = Generator[Union[Ask, Pause], Any, Result]


class BaseClient:
    """What Client and AsyncClient have in common."""

    def __init__(
        self,
        *addresses: str,
        tls: TLS | grpc.ChannelCredentials | None = None,
        token: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        on_failure: OnFailure | Literal["allow", "deny"] = OnFailure.ALLOW,
        max_denials: int = DEFAULT_MAX_DENIALS,
        unary: bool = False,
        on_result: Callable[[Event], object] | None = None,
    ) -> None:
        """Makes a client of the daemons at addresses, as host:port; none is 127.0.0.1:8081. It connects when it is first
        asked, so that it can be made before a process forks, or an event loop runs.

        tls: without it there is no TLS.
        token: is sent as a bearer token. Without TLS it can be read on the way.
        timeout: how many seconds a call waits for its answer.
        on_failure: answers a call that gets no answer in time: "allow" or "deny".
        max_denials: how many denials are remembered. 0 is none.
        unary: sends each call alone. Otherwise calls that are made at the same time share the messages of one stream.
        on_result: is told every result, for metrics and logs. It must be quick.
        """
        if not 0 < timeout < math.inf:
            raise ValueError(f"ratelimitd: timeout {timeout!r}: must be above 0, such as 0.05")
        if token and not re.fullmatch(r"[!-~]+", token):
            raise ValueError("ratelimitd: token: it has a character that no token has; give one token without spaces")
        if max_denials < 0:
            raise ValueError(f"ratelimitd: max_denials {max_denials}: must be 0 or above, such as {DEFAULT_MAX_DENIALS}")
        self._targets = [_target(a) for a in addresses or (DEFAULT_ADDRESS,)]
        self._credentials = tls.credentials() if isinstance(tls, TLS) else tls
        self._metadata = (("authorization", "Bearer " + token),) if token else ()
        self._timeout = timeout
        self._on_failure = OnFailure(on_failure)
        self._max_denials = max_denials
        self._unary = unary
        self._on_result = on_result
        self._closed = False
        self._start()

    def _start(self) -> None:
        """Begins without connections, and without what is known."""
        self._batches = Batches()
        self._denials = Denials(self._max_denials) if self._max_denials else None
        self._log_lock = threading.Lock()  # protects the following
        self._failures, self._told = 0, -math.inf  # since when the log was last told, and when that was

    def _batched(self, ask: Ask) -> bool:
        return ask.method == "ShouldAllow" and not self._unary and time.monotonic() >= self._batches.alone_until

    def _failed(self, error: RateLimitError) -> Result:
        """Returns the answer of the failure policy to a call that failed."""
        now = time.monotonic()
        with self._log_lock:
            self._failures += 1
            calls, tell = self._failures, now - self._told >= _QUIET
            if tell:
                self._failures, self._told = 0, now
        if tell:
            text = "ratelimitd gives no answer: the failure policy decides. answer=%s calls=%d error=%s"
            log.warning(text, self._on_failure.value, calls, error)
        return Result(self._on_failure is OnFailure.ALLOW, Reason.FAILURE, error=error)


class BaseLimiter:
    """What Limiter and AsyncLimiter have in common."""

    def __init__(self, client: BaseClient, namespace: str, limits: Sequence[Limit | str], policy: str) -> None:
        self._client = client
        self.namespace = namespace
        self.limits = tuple(Limit(li) if isinstance(li, str) else li for li in limits)
        """None if the limiter is bound to a policy."""
        self.policy = policy
        self._sent = [li._message() for li in self.limits]

    def _fields(self, identifier: str) -> dict[str, Any]:
        return {"namespace": self.namespace, "identifier": identifier, "limits": self._sent, "policy": self.policy}

    def _take(self, operation: str, identifier: str, cost: int, timeout: float | None) -> Operation:
        """Asks for a cost, and may answer from memory."""
        began = time.monotonic()
        if identifier == EXEMPT:
            return self._told(operation, identifier, Result(True, Reason.EXEMPT), began)
        known: Result | Recollection | None = None
        memory = self._client._denials
        try:
            sent = well_formed(identifier)
            key = (self.namespace, sent)
            if memory is not None:
                known = memory.recall(self, key, cost)
                if isinstance(known, Result):
                    return self._told(operation, identifier, known, began)
            request = _api.ShouldAllowRequest(namespace=self.namespace, identifier=sent, limits=self._sent, policy=self.policy)
            if cost != 1:
                request.cost = cost
            if operation == "check":
                request.dry_run = True
            result = yield from self._ask("ShouldAllow", request, timeout)
        except (TypeError, ValueError, AttributeError) as wrong:  # an identifier that is no text, a cost below 0
            return self._told(operation, identifier, self._refused(wrong), began)
        if memory is not None and known is not None and not result.allowed:
            memory.remember(self, key, cost, result, known)  # type: ignore[arg-type]
        return self._told(operation, identifier, result, began)

    def _report(
        self, operation: str, identifier: str, cost: int, mode: int, consumed_at: datetime | None, timeout: float | None
    ) -> Operation:
        """Has the daemon count what may free the identifier."""
        if identifier == EXEMPT:
            return self._told(operation, identifier, Result(True, Reason.EXEMPT), time.monotonic())

        def request(sent: str) -> Any:
            message = _api.ShouldAllowRequest(**self._fields(sent), cost=cost, mode=mode)
            if consumed_at is not None:
                message.consumed_at.FromDatetime(consumed_at)
            return message

        return (yield from self._freeing(operation, identifier, "ShouldAllow", request, timeout))

    def _reset(self, identifier: str, timeout: float | None) -> Operation:
        return (yield from self._freeing("reset", identifier, "Reset", lambda sent: _api.request("Reset", **self._fields(sent)), timeout))

    def _freeing(self, operation: str, identifier: str, method: str, request: Callable[[str], Any], timeout: float | None) -> Operation:
        """Asks what may free the identifier: no denial from before it may be repeated after it."""
        began = time.monotonic()
        memory = self._client._denials
        try:
            sent = well_formed(identifier)
            message = request(sent)
        except (TypeError, ValueError, AttributeError) as wrong:
            return self._told(operation, identifier, self._refused(wrong), began)
        if memory is not None:
            memory.forget((self.namespace, sent))
        try:
            result = yield from self._ask(method, message, timeout)
        finally:
            if memory is not None:
                memory.forget((self.namespace, sent))
        return self._told(operation, identifier, result, began)

    def _ask(self, method: str, request: Any, timeout: float | None) -> Operation:
        """Returns the answer, or that of the failure policy."""
        try:
            response = yield Ask(method, request, self._client._timeout if timeout is None else timeout)
        except RateLimitError as error:
            if method in ("Reset", "Cancel"):
                return Result(False, Reason.FAILURE, error=error)
            return self._client._failed(error)
        if method in ("Reset", "Cancel"):
            return Result(True, Reason.UNSPECIFIED)
        return result_of(response.response if method == "Commit" else response)

    def _refused(self, wrong: Exception) -> Result:
        return self._client._failed(RateLimitError(grpc.StatusCode.INVALID_ARGUMENT, str(wrong)))

    def _wait(self, identifier: str, most: float, cost: int, timeout: float | None) -> Operation:
        end = time.monotonic() + most
        while True:
            result = yield from self._take("allow", identifier, cost, timeout)
            left = end - time.monotonic()
            pause = result.delay if result.allowed else result.retry_after
            if result.error is not None or pause <= 0:
                return result
            if pause > left:
                if result.allowed:  # its turn comes too late: somebody else may have it
                    yield from self._report("refund", identifier, cost, _api.REFUND, result.decided_at, timeout)
                    result = result._replace(allowed=False, reason=Reason.OVER_LIMIT, retry_after=pause, delay=0.0)
                return result
            if result.allowed:
                yield Pause(pause)
                return result
            yield Pause(pause + random.uniform(0, min(_MAX_JITTER, pause / 10, left - pause)))  # noqa: S311

    def _told(self, operation: str, identifier: str, result: Result, began: float) -> Result:
        """Returns the result, which it tells whoever wants to know."""
        tell = self._client._on_result
        if tell is not None:
            try:
                tell(Event(operation, self.namespace, self.policy, identifier, result, time.monotonic() - began))
            except Exception:
                log.exception("ratelimitd: on_result failed")
        return result


class BaseReservation:
    """What Reservation and AsyncReservation have in common."""

    def __init__(self, limiter: BaseLimiter, identifier: str, id: bytes = b"") -> None:  # noqa: A002
        self._limiter = limiter
        self.identifier = identifier
        self.id = id
        """Settles the reservation: another process may do so with Limiter.reservation. It is empty if there is nothing to
        settle, as the work is denied or the identifier is exempt."""
        self.result = Result(True, Reason.UNSPECIFIED)
        """Says whether the work may be done."""

    def __bool__(self) -> bool:
        return self.result.allowed

    def _reserve(self, estimate: int, timeout: float | None) -> Operation:
        limiter, began = self._limiter, time.monotonic()
        if self.identifier == EXEMPT:
            self.result = Result(True, Reason.EXEMPT)
            return limiter._told("reserve", self.identifier, self.result, began)
        try:
            fields = limiter._fields(well_formed(self.identifier))
            request = _api.request("Reserve", request=_api.ShouldAllowRequest(**fields, cost=estimate))
            response = yield Ask("Reserve", request, limiter._client._timeout if timeout is None else timeout)
            self.result, self.id = result_of(response.response), response.reservation
        except RateLimitError as error:
            self.result = limiter._client._failed(error)
        except (TypeError, ValueError, AttributeError) as wrong:
            self.result = limiter._refused(wrong)
        return limiter._told("reserve", self.identifier, self.result, began)

    def _commit(self, actual: int, timeout: float | None) -> Operation:
        if self.id:
            return (yield from self._settle("Commit", timeout, actual=actual))
        if self.result.reason is Reason.FAILURE and self.result.allowed:
            return (yield from self._limiter._report("charge", self.identifier, actual, _api.CHARGE, None, timeout))
        return self.result

    def _cancel(self, timeout: float | None) -> Operation:
        if self.id:
            return (yield from self._settle("Cancel", timeout))
        return Result(True, Reason.UNSPECIFIED)

    def _settle(self, method: str, timeout: float | None, **fields: int) -> Operation:
        def request(_: str) -> Any:
            return _api.request(method, reservation=self.id, **fields)

        return (yield from self._limiter._freeing(method.lower(), self.identifier, method, request, timeout))


def well_formed(identifier: str) -> str:
    """Returns an identifier as the daemon takes it."""
    if not isinstance(identifier, str):
        raise TypeError(f"identifier {str(identifier)[:80]!r}: give text, such as 'user:42'")
    if len(identifier) <= _MAX_IDENTIFIER and identifier.isascii():
        return identifier
    text = re.sub("[\ud800-\udfff]", "\ufffd", identifier).encode()
    if len(text) > _MAX_IDENTIFIER:
        return "sha256:" + hashlib.sha256(text).hexdigest()
    return text.decode()


def _target(address: str) -> str:
    """Returns the address with the port of ratelimitd, if it is a host without one."""
    if "/" in address:  # a target of gRPC, such as unix:///run/ratelimitd.sock
        return address
    if re.fullmatch(r"[^:\s]+", address):
        return address + ":8081"
    if not re.fullmatch(r"([^:\s\[\]]+|\[[0-9A-Fa-f:.]+(%\w+)?\]):\d{1,5}", address):
        raise ValueError(f"ratelimitd: address {address[:80]!r}: write host:port, such as ratelimitd:8081")
    return address


