"""One timer for the timeouts of all runs of a worker.

A timer for each run costs more than all else that a short task does to be bounded. The one here is
set to the earliest deadline; a run that ends before only leaves the table, and the timer, when it
comes, is set to what is the earliest then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_EARLY = 0.001  # seconds by which a loop may call too soon

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Calls `expired` with each key whose time has come, once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[K], object]) -> None:
        self._loop = loop
        self._expired = expired
        self._due: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def add(self, key: K, seconds: float) -> None:
        """Call for `key` after so many seconds, unless it is removed before."""
        at = self._due[key] = self._loop.time() + seconds
        if at < self._timer_at:
            self._set(at)

    def remove(self, key: K) -> None:
        """Do not call for it. Harmless when it has been called for."""
        self._due.pop(key, None)

    def close(self) -> None:
        """Call for nothing more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._look), at

    def _look(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time() + _EARLY
        for key in [key for key, at in self._due.items() if at <= now]:
            if self._due.pop(key, None) is not None:
                self._expired(key)
        if self._due:
            first = min(self._due.values())
            if first < self._timer_at:
                self._set(first)
