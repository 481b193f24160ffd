"""Short ways to write policies, snapshots and histories; defaults are those of the law's table."""

from __future__ import annotations

from typing import Any

from headrace.scaling import (
    UNKNOWN,
    Depth,
    Fleet,
    History,
    LevelRates,
    Mark,
    Policy,
    Snapshot,
    Unknown,
)
from headrace.task import TaskPriority

NOW = 1_000.0
"""Any time: the core only compares."""

MEASURED = 20
"""Samples from which a run time counts as known."""


def policy(**changes: Any) -> Policy:
    """min 0, max 50, 4 slots, up 10, down 2, window 60 s."""
    return Policy(**changes)


def depth(
    waiting: int | Unknown,
    running: int | Unknown = 0,
    priority: TaskPriority = TaskPriority.NORMAL,
    **changes: Any,
) -> Depth:
    """One lane; level normal unless said otherwise."""
    return Depth(priority, waiting, running, **changes)


def unknown(priority: TaskPriority = TaskPriority.NORMAL) -> Depth:
    """A lane that could not be read."""
    return Depth(priority, UNKNOWN, UNKNOWN)


def look(target: int, *lanes: Depth, **changes: Any) -> Snapshot:
    """A fresh look at `target` workers and these lanes."""
    return Snapshot(**({"now": NOW, "target": target, "lanes": lanes} | changes))


def rates(
    seconds: float | Unknown,
    arrivals: float | Unknown = 0.0,
    priority: TaskPriority = TaskPriority.NORMAL,
    samples: int = MEASURED,
) -> LevelRates:
    """Measured figures of one level."""
    return LevelRates(priority, seconds, samples, arrivals)


def steady(
    seconds: float = 3600.0, wishes: tuple[Mark, ...] = (), moves: tuple[Mark, ...] = ()
) -> History:
    """A history in which the data has been complete for so long."""
    return History(seen=NOW - 1, complete_since=NOW - seconds, wishes=wishes, moves=moves)


def fleet(ready: int | Unknown, failing: int = 0) -> Fleet:
    """What is known of the workers."""
    return Fleet(ready=ready, failing=failing)
