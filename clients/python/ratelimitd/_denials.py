"""The identifiers that were denied a short while ago, with their answers."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from ._types import Reason, Result

MAX_REMEMBERED = 1.0
"""How long a denial is repeated: for so long a reset, or a refund, of another process may go unnoticed."""

_SLOTS = 256


class _Denial(NamedTuple):
    limiter: object
    cost: int
    result: Result
    asked: float
    until: float


class Recollection(NamedTuple):
    """What remember needs to know of when a call was made."""

    asked: float
    changes: int


class Denials:
    """A denial stands until its retry_after: what others consume can only put that off. It says nothing of another cost,
    nor of other limits. Safe for concurrent use."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # protects the following
        self._known: OrderedDict[tuple[str, str], _Denial] = OrderedDict()
        # Counts what may have freed an identifier, by the hash of it: what was asked before is not remembered after.
        self._changes = [0] * _SLOTS

    def recall(self, limiter: object, key: tuple[str, str], cost: int) -> Result | Recollection:
        """Returns the denial of a call that is known to stand, or else what remember needs."""
        now = time.monotonic()
        with self._lock:
            known = self._known.get(key)
            if known is None or known.limiter is not limiter or known.cost != cost or now >= known.until:
                return Recollection(now, self._changes[hash(key) % _SLOTS])
        age = now - known.asked
        statuses = tuple(
            s._replace(reset_after=max(0.0, s.reset_after - age), retry_after=max(0.0, s.retry_after - age)) for s in known.result.statuses
        )
        return known.result._replace(retry_after=max(0.0, known.result.retry_after - age), statuses=statuses, remembered=True)

    def remember(self, limiter: object, key: tuple[str, str], cost: int, result: Result, when: Recollection) -> None:
        """Keeps the denial that a call was answered. One that the daemon itself has from memory is not kept, lest it
        becomes older than MAX_REMEMBERED: it has no decided_at."""
        if result.allowed or result.reason is not Reason.OVER_LIMIT or result.decided_at is None:
            return
        # Of several limits that denied, until the first changes its answer.
        wait = min([MAX_REMEMBERED, result.retry_after] + [s.retry_after for s in result.statuses if not s.allowed])
        if time.monotonic() >= when.asked + wait:
            return
        with self._lock:
            if self._changes[hash(key) % _SLOTS] != when.changes:
                return
            self._known.pop(key, None)
            if len(self._known) >= self._most:
                self._known.popitem(last=False)
            self._known[key] = _Denial(limiter, cost, result, when.asked, when.asked + wait)

    def forget(self, key: tuple[str, str]) -> None:
        """Drops what is known of an identifier, which may have become free."""
        with self._lock:
            self._changes[hash(key) % _SLOTS] += 1
            self._known.pop(key, None)
