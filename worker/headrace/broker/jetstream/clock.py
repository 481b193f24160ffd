"""The server's clock, kept on this machine's monotonic one.

How old a message is decides whether a lease may have lapsed and whether a level starves. This
machine's wall clock may be wrong or jump, so ages are not taken from it.
"""

from __future__ import annotations

import time
from datetime import datetime

_QUICK = 1.0  # seconds; an answer that took longer says too little about now
_STEP = 0.05  # seconds; less than this is no change of a clock


class ServerClock:
    """Learns the server's time from its answers."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # the server's epoch time minus our monotonic time
        self._correction = 0.0  # our wall clock minus the server's

    def learn(self, stamp: str, asked_at: float) -> None:
        """An answer to what was asked at `asked_at` (monotonic) bears this time of the server's."""
        if time.monotonic() - asked_at < _QUICK:
            self._ahead = epoch(stamp) - asked_at

    def now(self) -> float:
        """The server's time (seconds since the epoch); this machine's until one is known."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def here(self, stored_at: float, now: float) -> float:
        """What this machine's wall clock showed, or would have by its present error, when the
        server stored something at its `stored_at`; `now` is monotonic."""
        wall = time.time()
        if self._ahead is None:
            self._ahead = wall - now
        if stored_at > now + self._ahead:
            self._ahead = stored_at - now  # stored in what we took for the future
        correction = wall - now - self._ahead
        if abs(correction - self._correction) > _STEP:
            self._correction = correction
        return stored_at + self._correction


def epoch(stamp: str) -> float:
    """Seconds since the epoch of an RFC 3339 time, cut to the digits that `datetime` reads."""
    head, dot, tail = stamp.removesuffix("Z").partition(".")
    text = f"{head}.{tail[:6]:0<6}+00:00" if dot else f"{head}+00:00"
    return datetime.fromisoformat(text).timestamp()
