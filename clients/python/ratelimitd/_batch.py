"""Which calls go together in the next message of the stream. It does no I/O: the clients send what it says."""

from __future__ import annotations

from typing import Any, Callable

import grpc

from ._types import RateLimitError

MAX_BATCH = 1000
"""How many requests the daemon takes in a message."""
MAX_BATCH_BYTES = 60_000
"""Fits the shortest --max-message-bytes that a daemon may have, and the window of HTTP/2, so that sending a message does
not wait for the daemon to read."""
MAX_FLIGHT = 1.0
"""How long a message is waited for while others queue behind it, even if one of its callers has more time."""
ALONE_FOR = 60.0
"""How long calls go alone after a daemon, or a proxy before it, has said that it has no streams."""


class Alone(Exception):  # noqa: N818 - it is no error, but says what to do
    """The call is to be sent on its own."""


class Call:
    """One request that waits for its answer."""

    __slots__ = ("again", "answer", "deadline", "error", "finish", "place", "request", "response")

    def __init__(self, request: Any, deadline: float, finish: Callable[[], object]) -> None:
        self.request = request
        self.deadline = deadline
        self.finish = finish  # is called once, when the call has a response or an error
        self.again = False  # it has been sent before, on a stream that ended without deciding it
        self.place = ""  # "queue", "flight", "left" or "answered"
        self.response: Any = None
        self.error: Exception | None = None

    def end(self, response: Any, error: Exception | None) -> None:
        """Gives the call its answer, unless its caller has gone."""
        if self.place != "left":
            self.place, self.response, self.error = "answered", response, error
            self.finish()


class Batches:
    """Calls that share the messages of one stream.

    A call that finds nothing under way is sent at once. Those that come until its answer is there go together in the next
    message. So the busier the client is, the larger its messages are, and no call waits for others to come.

    It is not safe for concurrent use: the clients hold a lock, or use it from one event loop.
    """

    def __init__(self) -> None:
        self.queue: dict[Call, None] = {}
        self.flight: list[Call] = []  # of the message that is under way
        self.is_open = False  # there is a stream to send on
        self.alone_until = 0.0
        self._overdue = 0.0  # when the flight has been waited for long enough

    def add(self, call: Call) -> None:
        call.place = "queue"
        self.queue[call] = None

    def take(self, now: float) -> list[Any]:
        """Returns the requests of the message to send now, and none if there is nothing to send, or no stream to do it on,
        or one is under way."""
        if not self.is_open or self.flight or not self.queue:
            return []
        requests: list[Any] = []
        size, overdue = 0, now
        for call in self.queue:
            size += call.request.ByteSize() + 4
            if requests and (size > MAX_BATCH_BYTES or len(requests) == MAX_BATCH):
                break
            call.place = "flight"
            overdue = max(overdue, call.deadline)
            requests.append(call.request)
            self.flight.append(call)
        self._overdue = min(overdue, now + MAX_FLIGHT)
        if len(self.flight) == len(self.queue):
            self.queue.clear()
        else:
            for call in self.flight:
                del self.queue[call]
        return requests

    def answer(self, results: Any) -> None:
        """Gives the flight its results. ValueError: they are not its results, and the stream is of no use."""
        flight = self.flight
        whole = len(results) == 1 and len(flight) != 1  # the error of the message itself
        if len(results) != len(flight) and not whole:
            raise ValueError(f"the daemon answers {len(flight)} requests with {len(results)} results")
        self.flight = []
        for i, call in enumerate(flight):
            result = results[0 if whole else i]
            if result.HasField("error"):
                call.end(None, RateLimitError(_CODES.get(result.error.code, grpc.StatusCode.UNKNOWN), result.error.message))
            else:
                call.end(result.response, None)

    def leave(self, call: Call, now: float) -> bool:
        """Takes a call out whose caller waits no longer. True: the stream is to be given up, as its message has been waited
        for long enough, and the next calls are to find another, and perhaps another daemon."""
        if call.place == "queue":
            del self.queue[call]
        call.place = "left"
        return bool(self.flight) and now >= self._overdue

    def end(self, error: RateLimitError, now: float, undecided: bool) -> None:
        """Answers the calls of a stream that has ended, or could not be opened. Those that the daemon has certainly not
        decided are queued again, and the next time go alone: gRPC for asyncio loses what the daemon says when it ends a stream
        on which a message is being written. Those that it may have decided are not, lest they are charged twice."""
        self.is_open = False
        flight, self.flight = self.flight, []
        alone = error.code is grpc.StatusCode.UNIMPLEMENTED
        if alone:
            self.alone_until = now + ALONE_FOR
        answer: Exception = Alone() if alone else error
        if alone:
            flight += self.queue
            self.queue.clear()
        for call in flight:
            if undecided and call.again:
                call.end(None, Alone())
            elif undecided and call.place == "flight":
                call.again = True
                self.add(call)
            else:
                call.end(None, answer)


_CODES = {code.value[0]: code for code in grpc.StatusCode}
