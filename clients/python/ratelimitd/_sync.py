"""The client for threads."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from datetime import datetime
from typing import Any, Callable

import grpc

from . import _api
from ._batch import Alone, Call
from ._core import CHANNEL_OPTIONS, CLOSED, Ask, BaseClient, BaseLimiter, BaseReservation, Operation
from ._types import Limit, RateLimitError, Result, error_of


class _Link:
    """The connection to one address."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials is None:
            self.channel = grpc.insecure_channel(target, CHANNEL_OPTIONS)
        else:
            self.channel = grpc.secure_channel(target, credentials, CHANNEL_OPTIONS)
        self.ready = False
        self.unary = {name: self.channel.unary_unary(*_api.method(name)) for name in _api.UNARY}
        self.stream = self.channel.stream_stream(*_api.method("ShouldAllowStream"))

    def watch(self) -> None:
        self.channel.subscribe(self._changed, try_to_connect=True)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self.ready = state is grpc.ChannelConnectivity.READY


class Client(BaseClient):
    """The connections to the daemons, which its limiters share. It is safe for concurrent use, and a process needs one.

    It may be made before the process forks: it connects when it is first asked. One that was asked begins anew in a child,
    but gRPC may abort a child that is forked while its threads are at work.
    """

    def _start(self) -> None:
        super()._start()
        self._lock = threading.Lock()  # protects the following, and the batches
        self._links: list[_Link] = []  # none before the first call
        self._turn = 0
        self._callers = 0  # that wait for an answer now
        self._crowded = False  # more than one has, since none had
        self._stream: Any = None  # that is open
        self._send: Callable[[Any], None]  # on the stream
        self._gave_up = False  # the stream, as it has not answered in time
        self._thread: threading.Thread | None = None  # reads the stream
        _clients.add(self)

    def limiter(self, namespace: str, *limits: Limit | str) -> Limiter:
        """Returns a limiter that holds identifiers to limits, from 1 to 16: a call is allowed if each of them allows it. A
        text is the limit of that rate: "100/min". Make it once, and use it for all calls."""
        return Limiter(self, namespace, limits, "")

    def policy(self, namespace: str, policy: str) -> Limiter:
        """Returns a limiter that holds identifiers to a policy of the daemon's configuration."""
        return Limiter(self, namespace, (), policy)

    def close(self) -> None:
        """Closes the connections. Calls under way, and later ones, are answered by on_failure."""
        with self._lock:
            self._closed = True
            links, self._links = self._links, []
            thread = self._thread
            if self._stream is not None:
                self._stream.cancel()
        for link in links:
            link.channel.close()
        if thread is not None:
            thread.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, operation: Operation) -> Result:
        """Does an operation, and meets what it needs."""
        try:
            need = next(operation)
            while True:
                if isinstance(need, Ask):
                    try:
                        response = self._answer(need)
                    except RateLimitError as error:
                        need = operation.throw(error)
                    else:
                        need = operation.send(response)
                else:
                    time.sleep(need.seconds)
                    need = operation.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _answer(self, ask: Ask) -> Any:
        deadline = time.monotonic() + ask.timeout
        if not self._batched(ask):
            return self._alone(ask, deadline)
        with self._lock:
            self._callers += 1
            self._crowded = self._crowded or self._callers > 1
            crowded = self._crowded
        try:
            # gRPC gives what comes on a stream from thread to thread. On a busy machine that is slow now and then, so a
            # caller that has nobody to share with asks on its own thread.
            return self._share(ask, deadline) if crowded else self._alone(ask, deadline)
        except Alone:
            return self._alone(ask, deadline)
        finally:
            with self._lock:
                self._callers -= 1
                self._crowded = self._crowded and self._callers > 0

    def _alone(self, ask: Ask, deadline: float) -> Any:
        """Returns the answer to a call of its own."""
        try:
            with self._lock:
                link = self._next_locked()
            return link.unary[ask.method](ask.request, timeout=max(0.0, deadline - time.monotonic()), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error)[0] from None
        except ValueError:  # of a channel that has just been closed
            raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED) from None

    def _share(self, ask: Ask, deadline: float) -> Any:
        """Returns the answer to a call that goes with others."""
        done = threading.Lock()
        done.acquire()
        call = Call(ask.request, deadline, done.release)
        with self._lock:
            if self._closed:
                raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED)
            self._batches.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name="ratelimitd", daemon=True)
                self._thread.start()
            self._send_locked()
        if not done.acquire(timeout=ask.timeout):
            with self._lock:
                if call.place != "answered":
                    if self._batches.leave(call, time.monotonic()) and self._stream is not None:
                        self._gave_up = True
                        self._stream.cancel()
                    raise RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer in {ask.timeout:g} s")
        if call.error is not None:
            raise call.error
        return call.response

    def _next_locked(self) -> _Link:
        """Returns the next connection to a daemon that is healthy. With one address, gRPC does so alone."""
        if self._closed:
            raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED)
        if not self._links:
            self._links = [_Link(target, self._credentials) for target in self._targets]
            if len(self._links) > 1:
                for link in self._links:
                    link.watch()
        links = [link for link in self._links if link.ready] or self._links
        self._turn += 1
        return links[self._turn % len(links)]

    def _send_locked(self) -> None:
        requests = self._batches.take(time.monotonic())
        if requests:
            self._send(_api.ShouldAllowBatchRequest(requests=requests))

    def _read(self) -> None:
        """Opens streams and receives their answers, for as long as there are calls."""
        while True:
            messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
            stream: Any = None
            undecided = False
            try:
                with self._lock:
                    stream = self._next_locked().stream(iter(messages.get, None), metadata=self._metadata)
                    self._stream, self._send, self._gave_up, self._batches.is_open = stream, messages.put, False, True
                    self._send_locked()
                for message in stream:
                    with self._lock:
                        self._batches.answer(message.results)
                        self._send_locked()
                error = RateLimitError(grpc.StatusCode.UNAVAILABLE, "the daemon has ended the stream")
            except grpc.RpcError as ended:
                error, undecided = error_of(ended)
            except RateLimitError as closed:
                error = closed
            except ValueError as wrong:  # of the batches, or of a channel that has just been closed
                if stream is not None:
                    stream.cancel()
                error = RateLimitError(grpc.StatusCode.INTERNAL, str(wrong))
            messages.put(None)
            with self._lock:
                if self._closed:
                    error, undecided = RateLimitError(grpc.StatusCode.CANCELLED, CLOSED), False
                elif self._gave_up:
                    error = RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, "the daemon has not answered in time")
                self._stream = None
                self._batches.end(error, time.monotonic(), undecided)
                if not self._batches.queue or self._closed:
                    self._thread = None
                    for call in self._batches.queue:
                        call.end(None, error)
                    self._batches.queue.clear()
                    return


class Limiter(BaseLimiter):
    """Holds identifiers to limits, or to a policy. Client.limiter and Client.policy make it. It is safe for concurrent use.

    A call raises nothing: if there is no answer within the timeout, on_failure of the client decides, and the result has
    an error. timeout, in seconds, is that of the client unless it is given.

    An identifier that is longer than 1,024 bytes stands for itself by its SHA-256.
    """

    _client: Client

    def allow(self, identifier: str, cost: int = 1, *, timeout: float | None = None) -> Result:
        """Asks whether the identifier may do now what costs so many units, and consumes them if it may. A denial is
        remembered until its retry_after, for a second at most, and is repeated without a call."""
        return self._client._run(self._take("allow", identifier, cost, timeout))

    def check(self, identifier: str, cost: int = 1, *, timeout: float | None = None) -> Result:
        """Is allow, but consumes nothing. With the cost 0 it is allowed, and says what is left."""
        return self._client._run(self._take("check", identifier, cost, timeout))

    def charge(self, identifier: str, cost: int, *, timeout: float | None = None) -> Result:
        """Consumes what has already happened, whatever is left: it may leave debt."""
        return self._client._run(self._report("charge", identifier, cost, _api.CHARGE, None, timeout))

    def refund(self, identifier: str, cost: int, consumed_at: datetime | None = None, *, timeout: float | None = None) -> Result:
        """Gives back what was consumed at an instant, the decided_at of its result. None is just now."""
        return self._client._run(self._report("refund", identifier, cost, _api.REFUND, consumed_at, timeout))

    def reset(self, identifier: str, *, timeout: float | None = None) -> Result:
        """Forgets what the identifier has consumed. The daemon must permit it. The result is allowed if it is done."""
        return self._client._run(self._reset(identifier, timeout))

    def wait(self, identifier: str, max: float, cost: int = 1, *, timeout: float | None = None) -> Result:  # noqa: A002
        """Is allow for a caller that can wait, for max seconds: it asks again when a denial says to, a little later at
        random, and holds an allowed call for its delay. It returns a denial at once if waiting is of no use, or would take
        longer."""
        return self._client._run(self._wait(identifier, max, cost, timeout))

    def reserve(self, identifier: str, estimate: int, *, timeout: float | None = None) -> Reservation:
        """Asks whether the identifier may do now what will cost about so many units, and consumes them if it may."""
        made = Reservation(self, identifier)
        self._client._run(made._reserve(estimate, timeout))
        return made

    def reservation(self, identifier: str, id: bytes) -> Reservation:  # noqa: A002
        """Returns the reservation of an id, so that another process than the one that made it can settle it."""
        return Reservation(self, identifier, id)


class Reservation(BaseReservation):
    """Work whose cost is known only when it is done. Limiter.reserve makes it; commit or cancel settles it. One that nobody
    settles has cost its estimate. It is true if the work may be done."""

    _limiter: Limiter

    def commit(self, actual: int, *, timeout: float | None = None) -> Result:
        """Settles it with what was really used. It counts once, so that after an error it may be called again. If no daemon
        made the reservation, as none answered and on_failure allowed the work, it charges what was used."""
        return self._limiter._client._run(self._commit(actual, timeout))

    def cancel(self, *, timeout: float | None = None) -> Result:
        """Settles it, of which nothing was used. After an error it may be called again."""
        return self._limiter._client._run(self._cancel(timeout))


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_parents: list[Any] = []  # what a child must not touch, not even to free it: its threads are not there


def _forked() -> None:
    for client in list(_clients):
        _parents.append((client._links, client._stream, client._batches))
        client._start()


os.register_at_fork(after_in_child=_forked)
