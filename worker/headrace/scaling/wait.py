"""The wait law: enough workers that no level waits longer than its target.

For every level j: P_j waiting, A_j running, S_j seconds a run, λ_j arrivals a second; k slots a
worker; ρ the utilisation. A level with a target T_i takes T = max(T_i, start-up time), because a
target below the time a worker takes to start cannot be met by starting workers, and chasing it asks
for a fleet that comes too late. In a time T one slot gets through T/S_j tasks of level j, but one
task can use no more than one slot, so a task is worth f_j = min(1, S_j/T) of a slot:

    need_i = max( Σ_all A_j·f_j , Σ_{j≥i} λ_j·S_j/ρ ) + Σ_{j≥i} P_j·f_j          (j≥i: not below i)
    need   = max( ΣA , Σ λ_j·S_j/ρ , need_i for every level i with a target )

Running tasks of all levels hold slots, for a critical task too; the queue of lower levels is not in
a higher one's way. Levels that are not measured, or have no target, get the threshold law's lower
end, ⌈D/U⌉ workers, so that they do not starve. The idea of a backlog that one worker may have,
latency ÷ processing time, is from AWS ("Scaling policy based on Amazon SQS"); priorities, running
work, start-up time and the limit of one slot a task are added here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.scaling.load import LevelLoad, Load, ceil_div
from headrace.scaling.policy import Policy
from headrace.scaling.text import duration, plural
from headrace.scaling.values import Reason, Snapshot, Unknown, Wish

IDLE_SPAN = 60.0
"""Seconds, or the window if that is longer: with an empty queue, arrivals rarer than one in this
span keep no worker. A measured rate fades away and never reaches zero by itself."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A level with its measured figures; `measured` False: S and λ are not to be used."""

    load: LevelLoad
    target: float | None
    measured: bool
    run_seconds: float
    arrivals: float

    @property
    def governed(self) -> bool:
        return self.measured and self.target is not None

    def slots_each(self, span: float) -> float:
        """The part of a slot that one task needs to be done with within `span` seconds (f)."""
        # What was never measured may hold its slot for the whole span.
        if not self.measured or self.run_seconds >= span:
            return 1.0
        return self.run_seconds / span

    def steady(self, utilisation: float) -> float:
        """Slots that its arrivals keep busy (λ·S/ρ)."""
        return self.arrivals * self.run_seconds / utilisation


def wait_wish(policy: Policy, snapshot: Snapshot, load: Load) -> Wish | None:
    """The size that the wait targets ask for, or None while no level with a target is measured.

    Whether a level is measured does not depend on what is in the queue: otherwise one task of
    another kind would switch laws, and more tasks could mean fewer workers.
    """
    levels = tuple(_measure(policy, snapshot, level) for level in load.levels)
    # Without any depth the measured arrivals are as old as the depth is: no reason to grow.
    if load.blind or not any(level.governed for level in levels):
        return None
    if not load.tasks and _idle(policy, levels):
        return Wish(0, Reason.WAIT_TARGET, "nothing waits, and next to nothing arrives")
    need, because = _need(policy, snapshot, levels)
    raw = ceil_div(need, policy.slots)
    rest = math.fsum(level.load.tasks for level in levels if not level.governed)
    others = ceil_div(rest, policy.full_worker)
    if others > raw:
        raw = others
        because = f"at most {policy.full_worker:g} tasks a worker at the levels without a target"
    return Wish(raw, Reason.WAIT_TARGET, because)


def _need(policy: Policy, snapshot: Snapshot, levels: tuple[_Level, ...]) -> tuple[float, str]:
    """Slots needed, and for what."""
    startup = policy.startup if isinstance(snapshot.startup, Unknown) else snapshot.startup
    running = math.fsum(level.load.running for level in levels)
    steady = math.fsum(level.steady(policy.utilisation) for level in levels)
    need, because = running, f"{plural(math.ceil(running), 'running task')}"
    if steady > need:
        need, because = steady, f"arrivals keep {steady:.3g} slots busy"
    for count, level in enumerate(levels, start=1):
        if not level.governed or level.target is None:
            continue
        span = max(level.target, startup)
        held = math.fsum(each.load.running * each.slots_each(span) for each in levels)
        above = levels[:count]
        arriving = math.fsum(each.steady(policy.utilisation) for each in above)
        queued = math.fsum(
            each.load.waiting * each.slots_each(span) for each in above if each.measured
        )
        if max(held, arriving) + queued > need:
            need = max(held, arriving) + queued
            because = f"{level.load.priority.name.lower()} to start within {duration(span)}"
            if span > level.target:
                because += ", the time a worker takes to start"
    return need, because


def _measure(policy: Policy, snapshot: Snapshot, load: LevelLoad) -> _Level:
    target = policy.targets.of(load.priority)
    for rates in snapshot.rates:
        if (
            rates.priority is load.priority
            and rates.samples >= policy.min_samples
            and not isinstance(rates.run_seconds, Unknown)
            and not isinstance(rates.arrivals, Unknown)
        ):
            return _Level(load, target, True, rates.run_seconds, rates.arrivals)
    return _Level(load, target, False, 0.0, 0.0)


def _idle(policy: Policy, levels: tuple[_Level, ...]) -> bool:
    rate = math.fsum(level.arrivals for level in levels)
    return rate * max(policy.window, IDLE_SPAN) < 1
