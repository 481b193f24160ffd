"""Notices that the event loop stood still: a handler blocked it, or the process was stopped."""

from __future__ import annotations

import asyncio
import time

TICK = 0.25  # seconds
_READ_WITHIN = 2.0  # seconds in which a loop that woke has read what lay in its sockets


class Standstill:
    """Of the loop that it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat_at = self._woke_at = time.monotonic()
        self._gap = 0.0  # seconds for which the loop stood still before it woke last
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin, and go on until `close`."""
        now = time.monotonic()
        if now - self._beat_at > 2 * TICK:
            self._gap, self._woke_at = now - self._beat_at, now
        self._beat_at = now
        self._timer = self._loop.call_later(TICK, self.watch)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def unread(self, asked_at: float) -> float:
        """Seconds for which an answer that is read now may have lain here; `asked_at` is the
        monotonic time of its question. Less than two ticks is nothing.

        A loop that was blocked, or a process that was stopped, reads what came long ago: a lease
        counts from its true arrival, and what may have lapsed meanwhile runs somewhere else by
        now. The timers of a loop that wakes come before what is in its sockets, so the gap is
        remembered; what was asked for after it is fresh.
        """
        now = time.monotonic()
        if asked_at < self._woke_at and now - self._woke_at < _READ_WITHIN:
            return max(self._gap, now - self._beat_at)
        return now - self._beat_at
