"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at the earliest deadline that was set.

    The callback handles all that is due and returns the next deadline, or None. All times are the
    loop's. A deadline that is no longer needed is not unset: the callback finds nothing due.
    """

    __slots__ = ("_at", "_callback", "_handle", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[float], float | None]
    ) -> None:
        self._loop, self._callback = loop, callback
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float) -> None:
        """Call back at `at` or before."""
        if self._handle is not None:
            if self._at <= at:
                return
            self._handle.cancel()
        self._at = at
        self._handle = self._loop.call_at(at, self._ring)

    def cancel(self) -> None:
        """Call back no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        # The loop rings up to one tick of its clock early: what was set for `_at` is due.
        following = self._callback(max(self._at, self._loop.time()))
        if following is not None:
            self.set(following)
