"""How long tasks run and how often they come, measured from what workers say and how depth moves.

    tally = Tally()
    async for look in looks:
        tally = measure(tally, policy, snapshot, runs)      # snapshot without rates
        decision, history = decide_next(policy, replace(snapshot, rates=tally.rates), history)

Workers count their runs; nobody is asked for more than that. Of one level:

    S = mean of the first 100 runs, then a moving one that a run enters with a weight of 1/100
    λ = Σ w·x / Σ w·t,   x = change of depth + runs that ended, in a time t between two looks,
                         w = e^(-age/60 s)

A task that leaves without a run (cancelled, expired) makes x smaller, a retry comes twice:
both are what the pool has to be sized for. Where depth is unknown nothing is measured; what ended
meanwhile counts at the next look that knows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from headrace.scaling.load import load_of
from headrace.scaling.policy import Policy
from headrace.scaling.values import LEVELS, UNKNOWN, LevelRates, Snapshot
from headrace.task import TaskPriority

_RUNS = 100
_SPAN = 60.0  # seconds
_LEAST_SPAN = _SPAN / 3
"""Seconds by which arrivals are divided at least. What comes at once just after the start of an
operator is a burst, which the depth tells of; in its first second it would be a rate."""


@dataclass(frozen=True, slots=True)
class RunCount:
    """What one worker has run of one level since its start."""

    worker: str
    priority: TaskPriority
    runs: int
    seconds: float

    @classmethod
    def of(cls, worker: str, counts: Mapping[str, tuple[int, float]]) -> tuple[RunCount, ...]:
        """From `WorkerInfo.runs`; levels that this version does not know are left out."""
        levels = {level.name.lower(): level for level in LEVELS}
        return tuple(
            cls(worker, levels[name], int(runs), float(seconds))
            for name, (runs, seconds) in counts.items()
            if name in levels
        )


@dataclass(frozen=True, slots=True)
class _Level:
    samples: int = 0
    run_seconds: float = 0.0
    arrived: float = 0.0
    """Σ w·x"""
    span: float = 0.0
    """Σ w·t"""
    depth: float | None = None
    ended: int = 0
    """Runs that ended since depth was last known."""

    def with_runs(self, runs: int, seconds: float, *, ended: bool) -> _Level:
        if runs <= 0:
            return self
        samples = self.samples + runs
        weight = max(runs / samples, 1 - (1 - 1 / _RUNS) ** runs)
        mean = self.run_seconds + weight * (seconds / runs - self.run_seconds)
        more = runs if ended else 0
        return replace(self, samples=samples, run_seconds=mean, ended=self.ended + more)

    def with_depth(self, depth: float, passed: float) -> _Level:
        if self.depth is None:
            return replace(self, depth=depth, ended=0)
        fade = math.exp(-passed / _SPAN)
        arrived = self.arrived * fade + depth - self.depth + self.ended
        return replace(self, arrived=arrived, span=self.span * fade + passed, depth=depth, ended=0)

    def rates(self, priority: TaskPriority) -> LevelRates:
        return LevelRates(
            priority,
            self.run_seconds if self.samples else UNKNOWN,
            self.samples,
            max(0.0, self.arrived / max(self.span, _LEAST_SPAN)) if self.span else UNKNOWN,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What has been measured; `Tally()` at the start."""

    levels: Mapping[TaskPriority, _Level] = field(default_factory=dict)
    seen: Mapping[tuple[str, TaskPriority], tuple[int, float, float]] = field(default_factory=dict)
    """Runs and seconds of each worker, and when it last answered."""
    depth_at: float | None = None

    @property
    def rates(self) -> tuple[LevelRates, ...]:
        """For the next snapshot."""
        return tuple(level.rates(priority) for priority, level in self.levels.items())


def measure(tally: Tally, policy: Policy, snapshot: Snapshot, runs: Iterable[RunCount]) -> Tally:
    """The tally after one look. `runs`: of the pool's workers that answered."""
    levels = {level: tally.levels.get(level, _Level()) for level in LEVELS}
    oldest = snapshot.now - _SPAN
    seen = {key: counts for key, counts in tally.seen.items() if counts[2] > oldest}
    for count in runs:
        key = count.worker, count.priority
        # What a worker did before it was first seen tells how long tasks run, and not when they
        # came: after a restart of ours that would be hours of work in one second.
        before = seen.get(key, (0, 0.0, 0.0))
        levels[count.priority] = levels[count.priority].with_runs(
            count.runs - before[0], count.seconds - before[1], ended=key in seen
        )
        seen[key] = count.runs, count.seconds, snapshot.now
    load = load_of(policy, snapshot)
    if not load.complete:
        return Tally(levels, seen, tally.depth_at)
    passed = 0.0 if tally.depth_at is None else snapshot.now - tally.depth_at
    for each in load.levels:
        levels[each.priority] = levels[each.priority].with_depth(each.tasks, passed)
    return Tally(levels, seen, snapshot.now)
