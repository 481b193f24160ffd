"""What a worker knows of the deliveries before: hand-backs of its own, and what not to believe.

A task that was delivered before may have been started. Not if this worker had it every time and
handed it back.

A task that comes for the first time was not started before, if the broker counts right. A server
that is killed forgets what it did last, and a consumer that is made anew has not counted at all:
what was delivered comes as if for the first time, and what was acknowledged once more. And while
the broker is away, workers cannot write that they run a task, or how it ended. Both are over a
moment after the lanes answer again.
"""

from __future__ import annotations

import math
import time

from headrace.broker.port import Delivery

UNSURE = 3.0
"""Seconds from the first answer after an outage, in which other workers come back too."""
RECENT = 60.0
"""Seconds after an outage, in which an unanswered pull is believed for less time."""
_REMEMBERED = 1_000  # hand-backs


class History:
    """Of one worker."""

    def __init__(self, slots: int) -> None:
        """Each slot may ask once an outage who runs the task that it got: a server gives out first
        what it has forgotten, and that is about what ran."""
        self._slots = slots
        self._questions = 0
        self._returned: dict[int, int] = {}  # by sequence: deliveries, each handed back here
        self._outage_at = -math.inf  # monotonic
        self._over_at = -math.inf
        self._unanswered = False

    def came(self, delivery: Delivery) -> None:
        """Tell a delivery how many of those before it were handed back here."""
        if self._returned:
            delivery.returned = self._returned.pop(delivery.seq, 0)
        if self._unanswered:
            self.answered()

    def handed_back(self, delivery: Delivery) -> None:
        """Remember it, if it has not been started since it was stored."""
        if self.sure and not delivery.may_have_been_started:
            self._returned[delivery.seq] = delivery.deliveries
            if len(self._returned) > _REMEMBERED:
                del self._returned[next(iter(self._returned))]

    def outage(self) -> None:
        """The connection was lost and is there again, or a lane does not answer or has no leader:
        what was counted before may be forgotten."""
        self._outage_at, self._over_at = time.monotonic(), math.inf
        self._questions = self._slots
        self._unanswered = True
        self._returned.clear()

    def answered(self) -> None:
        """A lane has answered."""
        if self._unanswered:
            self._unanswered = False
            self._over_at = time.monotonic() + UNSURE

    @property
    def sure(self) -> bool:
        """Whether nothing is in doubt for an outage."""
        return self._over_at <= time.monotonic()

    @property
    def recent_outage(self) -> bool:
        """Whether there was an outage in the last minute."""
        return time.monotonic() - self._outage_at < RECENT

    def doubts(self, age: float) -> bool:
        """Whether a message of this age (seconds) was there before an outage that is not over."""
        return not self.sure and age >= time.monotonic() - self._outage_at

    def may_ask(self) -> bool:
        """Whether one of the questions is left; it is taken."""
        self._questions -= 1
        return self._questions >= 0
