"""What a decision is made from and what it answers. All of it is frozen.

What could not be read is `UNKNOWN`. It has no truth value and takes part in no arithmetic, so that
nobody reads it as zero by accident: that is how other autoscalers have shrunk a pool because of an
outage (keda#1850, practo/k8s-worker-pod-autoscaler#137).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, NoReturn

from headrace.errors import ConfigurationError
from headrace.task import TaskPriority

LEVELS: Final = tuple(sorted(TaskPriority, reverse=True))
"""The priorities, highest first."""


class Unknown(Enum):
    """The type of `UNKNOWN`, for annotations: `int | Unknown`."""

    UNKNOWN = "unknown"

    def __bool__(self) -> NoReturn:
        raise TypeError("UNKNOWN is neither true nor false: compare with `is UNKNOWN`")

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown.UNKNOWN


def _level(priority: int) -> TaskPriority:
    try:
        return TaskPriority(priority)
    except ValueError:
        raise ConfigurationError(f"{priority!r} is no priority level") from None


@dataclass(frozen=True, slots=True)
class Depth:
    """The tasks of one priority and one tag (None: untagged), as of one look.

    `waiting` are stored and not delivered, `running` delivered and not settled. Delayed tasks and
    retries count when they are due, not before. `share` is the part of them that this pool sizes
    itself for, where several pools serve the same tasks.
    """

    priority: TaskPriority
    waiting: int | Unknown
    running: int | Unknown
    tag: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        # A level given as a number that is none of the four would be left out of every sum.
        object.__setattr__(self, "priority", _level(self.priority))
        for figure in (self.waiting, self.running):
            if not isinstance(figure, Unknown) and figure < 0:
                raise ConfigurationError(f"depth of {self.name}: {figure} tasks is no depth")
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"depth of {self.name}: share is above 0 and at most 1")

    @property
    def name(self) -> str:
        """What it is the depth of: `high`, `high-gpu`."""
        level = self.priority.name.lower()
        return level if self.tag is None else f"{level}-{self.tag}"


@dataclass(frozen=True, slots=True)
class LevelRates:
    """What was measured of one level's tasks, over all that the pool serves of it."""

    priority: TaskPriority
    run_seconds: float | Unknown = UNKNOWN
    """Mean time a task runs (S), in seconds; recent runs should weigh most."""
    samples: int = 0
    """How many runs are behind it."""
    arrivals: float | Unknown = UNKNOWN
    """Tasks that become ready per second (λ); first attempts and retries alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "priority", _level(self.priority))
        for figure in (self.run_seconds, self.arrivals):
            if not isinstance(figure, Unknown) and not (math.isfinite(figure) and figure >= 0):
                raise ConfigurationError(
                    f"rates of {self.priority.name.lower()}: {figure} is no time and no rate"
                )


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of the workers as a whole; `fleet_of` adds them up."""

    ready: int | Unknown = UNKNOWN
    """Workers that can take a task."""
    failing: int = 0
    """Workers that cannot start: no image, a crash loop. One without a node is not failing."""
    draining: int = 0
    oldest_drain: float = 0.0
    """Seconds since the oldest of the drains began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at a queue and its workers."""

    now: float
    """Seconds of any clock that never goes back, the same for all snapshots of one history."""
    target: int
    """The size last decided and carried out; workers that drain are already taken off it."""
    lanes: tuple[Depth, ...] | Unknown
    """Depth of the queue, per priority and tag. Those that the pool does not serve may be there;
    a lane that is not there holds nothing. UNKNOWN: nothing could be read."""
    missing: tuple[str, ...] = ()
    """What a partial answer left out, in words, where it is more than a lane's figure."""
    age: float = 0.0
    """Seconds since the oldest of the figures was read."""
    rates: tuple[LevelRates, ...] = ()
    startup: float | Unknown = UNKNOWN
    """Seconds from a wish for a worker to its first task, as measured."""
    fleet: Fleet = Fleet()
    rollout: bool = False
    """Workers of an older form are being replaced."""
    quota_exceeded: bool = False
    """Somebody refused a further worker: a ResourceQuota, the machine's memory."""
    clock: float | None = None
    """`now` in seconds since the epoch; only for the times in messages. None: messages say in how
    many seconds."""

    def __post_init__(self) -> None:
        if self.target < 0:
            raise ConfigurationError(f"snapshot: a target of {self.target} workers")
        if not (math.isfinite(self.now) and self.age >= 0):
            raise ConfigurationError(f"snapshot: now={self.now}, age={self.age}")


class Reason(StrEnum):
    """Why a pool has the size it has. Stable: part of conditions, metrics and the CLI's JSON."""

    WITHIN_BAND = "WithinBand"
    BACKLOG_HIGH = "BacklogHigh"  # more tasks per worker than scale_up_threshold
    BACKLOG_LOW = "BacklogLow"  # fewer tasks per worker than scale_down_threshold
    ALL_BUSY = "AllBusy"  # the running tasks alone fill that many workers
    WAIT_TARGET = "WaitTarget"  # sized so that no level waits longer than its target
    PINNED = "Pinned"  # a size set by hand
    UNKNOWN = "Unknown"  # figures are missing or stale, and what is known asks for no more
    AT_MIN = "AtMin"
    AT_MAX = "AtMax"
    PAUSED = "Paused"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    STABILIZING = "Stabilizing"  # the window has not passed, or something in it asked for more
    PODS_FAILING = "PodsFailing"
    QUOTA_EXCEEDED = "QuotaExceeded"
    STEP_LIMITED = "StepLimited"


class LimitedBy(StrEnum):
    """What kept a pool from the size that the law asked for; the last limit that took effect."""

    NONE = ""
    UNKNOWN = "Unknown"
    AT_MIN = "AtMin"
    AT_MAX = "AtMax"
    PAUSED = "Paused"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    STABILIZING = "Stabilizing"
    PODS_FAILING = "PodsFailing"
    QUOTA_EXCEEDED = "QuotaExceeded"
    STEP_LIMITED = "StepLimited"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the law alone asks for: a size, why, and the same in a few words."""

    raw: int
    reason: Reason
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a decision was made from: for status, `explain`, the dashboard and `observe`."""

    now: float
    target: int
    waiting: int
    running: int
    """Sums over what the pool serves and what is known of it, rounded up."""
    unknown: tuple[str, ...]
    """Names of the figures that were missing or stale."""
    age: float
    raw: int
    """What the law asked for with what is known, before any limit; with a pin too."""
    law: Reason
    """The law's own reason for `raw`."""
    wanted: int
    """`raw` within minimum and maximum."""
    ready: int | Unknown
    failing: int
    draining: int
    complete_since: float | None
    """Since when every look was complete, by `now`'s clock; None: this one was not."""
    not_before: float | None
    """Earliest time, by `now`'s clock, at which the limit in force can end; None: not a matter of
    time, or no limit."""

    @property
    def tasks(self) -> int:
        """Waiting and running."""
        return self.waiting + self.running

    @property
    def complete(self) -> bool:
        """Whether every figure was there and fresh."""
        return not self.unknown


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be, and why.

    `reason` says why `desired` is what it is: the law's reason, or the limit that changed it
    (a pin stays `Pinned`). `limited_by` is that limit, `NONE` where the law has its wish.
    `message` is one sentence with the numbers, to be shown unchanged everywhere.
    """

    desired: int
    reason: Reason
    message: str
    limited_by: LimitedBy
    inputs: Inputs

    @property
    def changes(self) -> bool:
        """Whether the size is to change."""
        return self.desired != self.inputs.target
