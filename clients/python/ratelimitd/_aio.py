"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import grpc
import grpc.aio

from . import _api
from ._batch import Alone, Batches, Call
from ._core import CHANNEL_OPTIONS, CLOSED, Ask, BaseClient, BaseLimiter, BaseReservation, Operation
from ._types import Limit, RateLimitError, Result, error_of

_INTERNAL, _CANCELLED = grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED


class _Link:
    """The connection to one address."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, CHANNEL_OPTIONS)
        self.unary = {name: self.channel.unary_unary(*_api.method(name)) for name in _api.UNARY}
        self.stream = self.channel.stream_stream(*_api.method("ShouldAllowStream"))

    @property
    def ready(self) -> bool:
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY


class AsyncClient(BaseClient):
    """The connections to the daemons, which its limiters share. A process needs one.

    It belongs to the event loop that first asks it. If another loop does, it begins anew there.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _links: list[_Link]
    _stream: Any  # that is open
    _gave_up: bool  # the stream, as it has not answered in time
    _unwritten: bool  # the last message, as the stream had ended
    _reader: asyncio.Task[None] | None  # of the stream
    _writer: asyncio.Task[None] | None  # of the message that is on its way
    _turn: int

    def limiter(self, namespace: str, *limits: Limit | str) -> AsyncLimiter:
        """Returns a limiter that holds identifiers to limits, from 1 to 16: a call is allowed if each of them allows it. A
        text is the limit of that rate: "100/min". Make it once, and use it for all calls."""
        return AsyncLimiter(self, namespace, limits, "")

    def policy(self, namespace: str, policy: str) -> AsyncLimiter:
        """Returns a limiter that holds identifiers to a policy of the daemon's configuration."""
        return AsyncLimiter(self, namespace, (), policy)

    async def close(self) -> None:
        """Closes the connections. Calls under way, and later ones, are answered by on_failure."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop():
            return
        if self._reader is not None:
            reader = self._reader
            reader.cancel()
            await asyncio.wait([reader])
        links = self._links
        self._links = []
        for link in links:
            await link.channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batches = Batches()
        self._links, self._turn = [], 0
        self._stream = self._reader = self._writer = None
        self._gave_up = self._unwritten = False

    async def _run(self, operation: Operation) -> Result:
        """Does an operation, and meets what it needs."""
        try:
            need = next(operation)
            while True:
                if isinstance(need, Ask):
                    try:
                        response = await self._answer(need)
                    except RateLimitError as error:
                        need = operation.throw(error)
                    else:
                        need = operation.send(response)
                else:
                    await asyncio.sleep(need.seconds)
                    need = operation.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _answer(self, ask: Ask) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._begin(loop)
        deadline = time.monotonic() + ask.timeout
        if self._batched(ask):
            try:
                return await self._share(ask, deadline, loop)
            except Alone:
                pass
        try:
            link = self._next()
            return await link.unary[ask.method](ask.request, timeout=max(0.0, deadline - time.monotonic()), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error)[0] from None
        except grpc.aio.UsageError:  # of a channel that has just been closed
            raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED) from None

    async def _share(self, ask: Ask, deadline: float, loop: asyncio.AbstractEventLoop) -> Any:
        """Returns the answer to a call that goes with others."""
        if self._closed:
            raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED)
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        call = Call(ask.request, deadline, finish)
        self._batches.add(call)
        if self._reader is None:
            self._reader = loop.create_task(self._read())
        requests = self._batches.take(time.monotonic())
        if requests:
            self._writer = loop.create_task(self._write(self._stream, requests, self._writer))
        timer = loop.call_later(ask.timeout, finish)
        try:
            await done
        finally:
            timer.cancel()
            if call.place != "answered" and self._batches.leave(call, time.monotonic()) and self._reader is not None:
                self._gave_up = True
                self._reader.cancel()  # the stream may be one whose write never ends, even if it is cancelled
        if call.place != "answered":
            raise RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer in {ask.timeout:g} s")
        if call.error is not None:
            raise call.error
        return call.response

    def _next(self) -> _Link:
        """Returns the next connection to a daemon that is healthy. With one address, gRPC does so alone."""
        if self._closed:
            raise RateLimitError(grpc.StatusCode.CANCELLED, CLOSED)
        if not self._links:
            self._links = [_Link(target, self._credentials) for target in self._targets]
        links = self._links
        if len(links) > 1:
            links = [link for link in links if link.ready] or links
        self._turn += 1
        return links[self._turn % len(links)]

    async def _write(self, stream: Any, requests: list[Any], before: asyncio.Task[None] | None) -> None:
        """Sends a message. The answer to the one before it may be here before gRPC knows that that is written, and then
        gRPC must not be told to write another."""
        if before is not None and not before.done():
            await asyncio.wait([before])
        try:
            await stream.write(_api.ShouldAllowBatchRequest(requests=requests))
        except (grpc.RpcError, asyncio.InvalidStateError):  # the stream has ended
            self._unwritten = True
            stream.cancel()  # so that its reader learns of it too

    async def _read(self) -> None:
        """Opens a stream and receives its answers until it ends. If there are calls left then, it begins another."""
        stream: Any = None
        undecided = ended = False
        error = RateLimitError(grpc.StatusCode.UNAVAILABLE, "the daemon has ended the stream")
        try:
            self._stream = stream = self._next().stream(metadata=self._metadata)
            self._gave_up, self._unwritten, self._batches.is_open = False, False, True
            requests = self._batches.take(time.monotonic())
            if requests:
                await self._write(stream, requests, None)
            while (message := await stream.read()) is not grpc.aio.EOF:
                self._batches.answer(message.results)
                requests = self._batches.take(time.monotonic())
                if requests:
                    await self._write(stream, requests, self._writer)
        except grpc.RpcError as failed:
            error, undecided = error_of(failed)
        except RateLimitError as closed:
            error, ended = closed, True
        except grpc.aio.UsageError:  # of a channel that has just been closed
            error, ended = RateLimitError(grpc.StatusCode.CANCELLED, CLOSED), True
        except ValueError as wrong:  # of the batches
            error = RateLimitError(grpc.StatusCode.INTERNAL, str(wrong))
        except asyncio.CancelledError:
            error, ended = RateLimitError(grpc.StatusCode.CANCELLED, CLOSED), not (self._gave_up or self._unwritten)
        if self._gave_up and not self._closed:
            error = RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, "the daemon has not answered in time")
        elif self._unwritten and not ended and error.code in (_INTERNAL, _CANCELLED, grpc.StatusCode.UNAVAILABLE):
            # gRPC may then not say what the daemon has said. What it could not write was not decided.
            error, undecided = RateLimitError(grpc.StatusCode.UNAVAILABLE, "the daemon has ended the stream"), True
        if stream is not None:
            stream.cancel()
        if self._writer is not None:
            self._writer.cancel()
        self._stream = self._writer = None
        self._batches.end(error, time.monotonic(), undecided and not ended)
        if ended or self._closed:
            for call in self._batches.queue:
                call.end(None, error)
            self._batches.queue.clear()
        self._reader = asyncio.get_running_loop().create_task(self._read()) if self._batches.queue else None


class AsyncLimiter(BaseLimiter):
    """Holds identifiers to limits, or to a policy. AsyncClient.limiter and AsyncClient.policy make it.

    A call raises nothing but asyncio.CancelledError, if its task is cancelled. If there is no answer within the timeout,
    on_failure of the client decides, and the result has an error. timeout, in seconds, is that of the client unless it is
    given.

    An identifier that is longer than 1,024 bytes stands for itself by its SHA-256.
    """

    _client: AsyncClient

    async def allow(self, identifier: str, cost: int = 1, *, timeout: float | None = None) -> Result:
        """Asks whether the identifier may do now what costs so many units, and consumes them if it may. A denial is
        remembered until its retry_after, for a second at most, and is repeated without a call."""
        return await self._client._run(self._take("allow", identifier, cost, timeout))

    async def check(self, identifier: str, cost: int = 1, *, timeout: float | None = None) -> Result:
        """Is allow, but consumes nothing. With the cost 0 it is allowed, and says what is left."""
        return await self._client._run(self._take("check", identifier, cost, timeout))

    async def charge(self, identifier: str, cost: int, *, timeout: float | None = None) -> Result:
        """Consumes what has already happened, whatever is left: it may leave debt."""
        return await self._client._run(self._report("charge", identifier, cost, _api.CHARGE, None, timeout))

    async def refund(self, identifier: str, cost: int, consumed_at: datetime | None = None, *, timeout: float | None = None) -> Result:
        """Gives back what was consumed at an instant, the decided_at of its result. None is just now."""
        return await self._client._run(self._report("refund", identifier, cost, _api.REFUND, consumed_at, timeout))

    async def reset(self, identifier: str, *, timeout: float | None = None) -> Result:
        """Forgets what the identifier has consumed. The daemon must permit it. The result is allowed if it is done."""
        return await self._client._run(self._reset(identifier, timeout))

    async def wait(self, identifier: str, max: float, cost: int = 1, *, timeout: float | None = None) -> Result:  # noqa: A002
        """Is allow for a caller that can wait, for max seconds: it asks again when a denial says to, a little later at
        random, and holds an allowed call for its delay. It returns a denial at once if waiting is of no use, or would take
        longer."""
        return await self._client._run(self._wait(identifier, max, cost, timeout))

    async def reserve(self, identifier: str, estimate: int, *, timeout: float | None = None) -> AsyncReservation:
        """Asks whether the identifier may do now what will cost about so many units, and consumes them if it may."""
        made = AsyncReservation(self, identifier)
        await self._client._run(made._reserve(estimate, timeout))
        return made

    def reservation(self, identifier: str, id: bytes) -> AsyncReservation:  # noqa: A002
        """Returns the reservation of an id, so that another process than the one that made it can settle it."""
        return AsyncReservation(self, identifier, id)


class AsyncReservation(BaseReservation):
    """Work whose cost is known only when it is done. AsyncLimiter.reserve makes it; commit or cancel settles it. One that
    nobody settles has cost its estimate. It is true if the work may be done."""

    _limiter: AsyncLimiter

    async def commit(self, actual: int, *, timeout: float | None = None) -> Result:
        """Settles it with what was really used. It counts once, so that after an error it may be called again. If no daemon
        made the reservation, as none answered and on_failure allowed the work, it charges what was used."""
        return await self._limiter._client._run(self._commit(actual, timeout))

    async def cancel(self, *, timeout: float | None = None) -> Result:
        """Settles it, of which nothing was used. After an error it may be called again."""
        return await self._limiter._client._run(self._cancel(timeout))
