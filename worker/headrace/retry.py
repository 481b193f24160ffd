"""What a handler raises to say how its task goes on, and how long retries wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


class Retry(Exception):
    """Raised by a handler: try this task again, after `delay` seconds or the usual backoff.

    Uses up one of the task's `retries`; with none left the task fails.
    """

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        if delay is not None and not delay >= 0:
            raise ValueError("delay is in seconds and not negative")
        super().__init__(message or "the handler asked for another attempt")
        self.delay = delay


class Reject(Exception):
    """Raised by a handler: this task can never succeed. No retry; a dead letter with `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    The wait before attempt n + 1 is drawn evenly from 0 to min(`maximum`, `first` · `factor`^(n-1))
    seconds: the jitter keeps tasks that failed together from coming back together (Brooker,
    "Exponential Backoff And Jitter", 2015).
    """

    first: float = 1.0
    factor: float = 2.0
    maximum: float = 300.0

    def __post_init__(self) -> None:
        if not (self.first >= 0 and self.factor >= 1 and self.maximum >= 0):
            raise ValueError("first and maximum are seconds from 0 up, factor is from 1 up")

    def delay(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed."""
        try:
            ceiling = min(self.maximum, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = self.maximum if self.first else 0.0
        return ceiling * draw()
