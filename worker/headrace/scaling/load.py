"""The known part of a queue's depth, added up for one pool."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.scaling.policy import Policy
from headrace.scaling.values import LEVELS, Depth, Snapshot, Unknown
from headrace.task import TaskPriority


@dataclass(frozen=True, slots=True)
class LevelLoad:
    """Tasks of one level that this pool is to serve, as far as they are known."""

    priority: TaskPriority
    waiting: float
    running: float

    @property
    def tasks(self) -> float:
        """Waiting and running."""
        return self.waiting + self.running


@dataclass(frozen=True, slots=True)
class Load:
    """All four levels, highest first, and the names of what is not known."""

    levels: tuple[LevelLoad, ...]
    unknown: tuple[str, ...]
    blind: bool = False
    """Whether nothing is known at all: no figure, or only stale ones."""

    @property
    def waiting(self) -> float:
        """Known waiting tasks (ΣP)."""
        return math.fsum(level.waiting for level in self.levels)

    @property
    def running(self) -> float:
        """Known running tasks (ΣA)."""
        return math.fsum(level.running for level in self.levels)

    @property
    def tasks(self) -> float:
        """Known tasks (D = ΣP + ΣA)."""
        return self.waiting + self.running

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and nothing stale: only then may a pool shrink."""
        return not self.unknown


def load_of(policy: Policy, snapshot: Snapshot) -> Load:
    """Sums of what `policy` serves.

    Stale figures are none at all: a depth of a minute ago is no reason to grow either.
    """
    if isinstance(snapshot.lanes, Unknown) or snapshot.age > policy.max_age:
        return Load(_levels(()), ("depth",), blind=True)
    served = tuple(lane for lane in snapshot.lanes if policy.serves(lane.tag))
    partly = (
        lane.name
        for lane in served
        if isinstance(lane.waiting, Unknown) or isinstance(lane.running, Unknown)
    )
    return Load(_levels(served), (*partly, *snapshot.missing))


def ceil_div(amount: float, per: float) -> int:
    """`amount` / `per`, rounded up: how many workers that makes."""
    # Shares and run times are floats: 0.1 · 30 / 3 is 1.0000000000000002 and still one worker.
    return max(0, math.ceil(amount / per - 1e-9))


def _levels(lanes: tuple[Depth, ...]) -> tuple[LevelLoad, ...]:
    return tuple(
        LevelLoad(
            level,
            math.fsum(_part(lane, lane.waiting) for lane in lanes if lane.priority is level),
            math.fsum(_part(lane, lane.running) for lane in lanes if lane.priority is level),
        )
        for level in LEVELS
    )


def _part(lane: Depth, figure: int | Unknown) -> float:
    # Not a reading of unknown as zero: the load is then marked incomplete, and never shrinks.
    return 0 if isinstance(figure, Unknown) else figure * lane.share
