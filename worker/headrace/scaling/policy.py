"""What a pool's owner asks for: the numbers that the law works with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import ConfigurationError
from headrace.task import TaskPriority

MAX_SPAN = 3600.0
"""Seconds; the longest window or step period. History older than this is forgotten."""


class Law(StrEnum):
    """How a depth becomes a number of workers."""

    THRESHOLDS = "thresholds"  # a band on tasks per worker; wait targets where they are set
    ABSOLUTE = "absolute"  # the original's: queue sizes, one worker more or less a tick


class Pause(StrEnum):
    """Which direction the owner has stopped. Pins and the maximum still hold."""

    NONE = "None"
    IN = "In"
    OUT = "Out"
    BOTH = "Both"

    @property
    def stops_in(self) -> bool:
        """Whether the pool may not shrink."""
        return self in (Pause.IN, Pause.BOTH)

    @property
    def stops_out(self) -> bool:
        """Whether the pool may not grow."""
        return self in (Pause.OUT, Pause.BOTH)


@dataclass(frozen=True, slots=True)
class Step:
    """At most `max_up` workers more and `max_down` fewer within any `period` seconds.

    None: no limit in that direction. A pool at zero may always start one worker.
    """

    period: float = 10.0
    max_up: int | None = None
    max_down: int | None = None

    def __post_init__(self) -> None:
        _check(0 < self.period <= MAX_SPAN, f"step: period is in seconds, up to {MAX_SPAN:g}")
        for name, limit in (("max_up", self.max_up), ("max_down", self.max_down)):
            _check(limit is None or limit >= 1, f"step: {name} must be at least 1")


@dataclass(frozen=True, slots=True)
class WaitTargets:
    """Seconds within which a waiting task of each level should start; None: no target.

    A target is what the pool is sized for, not a promise. A higher level never has a longer
    target than a lower one, because it is served first.
    """

    critical: float | None = None
    high: float | None = None
    normal: float | None = None
    low: float | None = None

    def __post_init__(self) -> None:
        before = 0.0
        for level in (self.critical, self.high, self.normal, self.low):
            if level is not None:
                _check(
                    math.isfinite(level) and level > 0, "wait targets are seconds, greater than 0"
                )
                _check(level >= before, "a higher level's wait target is not above a lower one's")
                before = level

    def of(self, priority: TaskPriority) -> float | None:
        """The target of this level in seconds, or None."""
        match priority:
            case TaskPriority.CRITICAL:
                return self.critical
            case TaskPriority.HIGH:
                return self.high
            case TaskPriority.NORMAL:
                return self.normal
            case TaskPriority.LOW:
                return self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a pool's owner asks for. The defaults are those of a `WorkerPool` manifest.

    | field | in the manifest |
    |---|---|
    | `min_workers`, `max_workers` | `minWorkers`, `maxWorkers` |
    | `slots` | `concurrency` times `processes` |
    | `scale_up_threshold`, `scale_down_threshold` | the same in `scaling` |
    | `window` | `scaling.scaleDownWindow` |
    | `targets`, `step`, `pause` | `scaling.targetWait`, `scaling.step`, `scaling.pause` |
    | `pin` | `replicas` |
    | `tags`, `serve_untagged` | `tags`, `untagged: Serve` |
    | `drain_timeout` | `drain.timeout` |
    """

    min_workers: int = 0
    max_workers: int = 50
    slots: int = 4
    """Tasks that one worker runs at once."""
    scale_up_threshold: float = 10
    """Waiting and running tasks per worker above which the pool grows; below `slots` it counts as
    `slots`, since a worker whose slots are all busy is full and not overloaded. With
    `Law.ABSOLUTE`: waiting tasks in the whole queue."""
    scale_down_threshold: float = 2
    """Tasks per worker below which the pool shrinks. With `Law.ABSOLUTE`: waiting tasks in the
    whole queue."""
    law: Law = Law.THRESHOLDS
    targets: WaitTargets = WaitTargets()
    window: float = 60.0
    """Seconds of complete data that must speak for fewer workers before there are fewer."""
    step: Step | None = None
    pause: Pause = Pause.NONE
    pin: int | None = None
    """A size set by hand, in place of the law; None: automatic. May be below the minimum."""
    tags: tuple[str, ...] = ()
    serve_untagged: bool = True
    period: float = 1.0
    """Seconds between two looks at the queue. Figures older than three are stale."""
    utilisation: float = 0.8
    """Share of the slots that steady arrivals may fill (ρ): the rest takes up their unevenness."""
    min_samples: int = 20
    """Run times that must have been measured before a level's wait target is worked with."""
    startup: float = 5.0
    """Seconds a new worker takes to start, until that has been measured."""
    drain_timeout: float = 600.0
    """Seconds a drain should take at most. Said in messages; nothing is cut when it has passed."""

    def __post_init__(self) -> None:
        _check(
            0 <= self.min_workers <= self.max_workers and self.max_workers >= 1,
            "0 <= min_workers <= max_workers, and max_workers >= 1",
        )
        _check(self.slots >= 1, "slots must be at least 1")
        up, down = self.scale_up_threshold, self.scale_down_threshold
        _check(math.isfinite(up) and up > 0, "scale_up_threshold must be greater than 0")
        _check(0 <= down <= up, "0 <= scale_down_threshold <= scale_up_threshold")
        _check(0 <= self.window <= MAX_SPAN, f"window is in seconds, from 0 to {MAX_SPAN:g}")
        _check(0 < self.period <= MAX_SPAN, f"period is in seconds, up to {MAX_SPAN:g}")
        _check(0 < self.utilisation <= 1, "utilisation is above 0 and at most 1")
        _check(self.pin is None or self.pin >= 0, "pin must not be negative")
        _check(
            math.isfinite(self.startup) and self.startup >= 0,
            "startup is in seconds and not negative",
        )
        _check(self.min_samples >= 1, "min_samples must be at least 1")
        _check(self.drain_timeout >= 0, "drain_timeout is in seconds and not negative")
        _check(
            self.serve_untagged or bool(self.tags),
            "a pool that leaves untagged tasks needs tags to serve",
        )

    @classmethod
    def in_process(
        cls,
        *,
        min_workers: int = 1,
        max_workers: int = 10,
        scale_up_threshold: float = 10,
        scale_down_threshold: float = 2,
        slots: int = 1,
        tags: tuple[str, ...] = (),
        serve_untagged: bool = True,
        period: float = 10.0,
        law: Law = Law.THRESHOLDS,
    ) -> Policy:
        """The policy of a pool inside one process, with the defaults of `CoordinatorConfig`.

        `period` is its `health_check_interval`: how often `decide` will be asked. Its workers cost
        next to nothing to start, so the window is three looks, or none with `Law.ABSOLUTE`, as in
        the original.
        """
        return cls(
            min_workers=min_workers,
            max_workers=max_workers,
            scale_up_threshold=scale_up_threshold,
            scale_down_threshold=scale_down_threshold,
            slots=slots,
            tags=tags,
            serve_untagged=serve_untagged,
            period=period,
            law=law,
            window=0.0 if law is Law.ABSOLUTE else min(3 * period, 60.0),
            startup=0.0,
        )

    @property
    def full_worker(self) -> float:
        """Tasks per worker above which the pool grows (U): at least its slots."""
        return max(self.scale_up_threshold, self.slots)

    @property
    def max_age(self) -> float:
        """Seconds after which figures are stale, and after which two looks do not join up."""
        return 3 * self.period

    def serves(self, tag: str | None) -> bool:
        """Whether the pool's workers take tasks of this tag (None: untagged)."""
        return self.serve_untagged if tag is None else tag in self.tags


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise ConfigurationError(f"scaling policy: {problem}")
