"""Outages of the broker, and for how long after one its counts are not believed.

A server that is killed forgets what it did last: it delivers what it has delivered as if for the
first time, and what was acknowledged once more. And while it is away, workers cannot write that
they run a task, or how it ended. Both are over a moment after the lanes answer again.
"""

from __future__ import annotations

import math
import time

UNSURE = 3.0
"""Seconds from the first answer after an outage, in which other workers come back too."""


class Outages:
    """What one worker knows of them."""

    def __init__(self, slots: int) -> None:
        """Each slot may ask once an outage who runs the task that it got: a server gives out first
        what it has forgotten, and that is no more than ran."""
        self._slots = slots
        self._questions = 0
        self._seen_at = -math.inf  # monotonic
        self._over_at = -math.inf
        self.answers_missing = False
        """Whether no lane has answered since the last one."""

    def seen(self) -> None:
        """The connection was lost and is there again, or a lane has no leader."""
        self._seen_at, self._over_at = time.monotonic(), math.inf
        self._questions = self._slots
        self.answers_missing = True

    def answered(self) -> None:
        """A lane has answered."""
        if self.answers_missing:
            self.answers_missing = False
            self._over_at = time.monotonic() + UNSURE

    @property
    def over(self) -> bool:
        """Whether nothing is in doubt for an outage any more."""
        return self._over_at <= time.monotonic()

    def concerns(self, age: float) -> bool:
        """Whether a message of this age (seconds) was there before an outage that is not over."""
        now = time.monotonic()
        return now < self._over_at and age >= now - self._seen_at

    def may_ask(self) -> bool:
        """Whether one of the questions is left; it is taken."""
        self._questions -= 1
        return self._questions >= 0
