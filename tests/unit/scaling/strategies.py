"""Hypothesis strategies for policies, looks and histories: wide, and mostly where limits meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests.unit.scaling.builders import NOW

from headrace.scaling import (
    UNKNOWN,
    Depth,
    Fleet,
    History,
    Law,
    LevelRates,
    Mark,
    Pause,
    Policy,
    Snapshot,
    Step,
    WaitTargets,
)
from headrace.task import TaskPriority

LEVELS = (TaskPriority.CRITICAL, TaskPriority.HIGH, TaskPriority.NORMAL, TaskPriority.LOW)
FAR = 3_000.0

# Made once: Hypothesis is quick with strategies that it has seen before.
_periods = st.sampled_from([1.0, 10.0, 60.0])
_step_sizes = st.sampled_from([None, 1, 2, 5])
_rarely = st.sampled_from([False, False, False, True])
_slots = st.integers(1, 8)
_minimum = st.integers(0, 5)
_room = st.integers(0, 35)
_ups = st.integers(1, 20)
_downs = st.integers(0, 20)
_laws = st.sampled_from([Law.THRESHOLDS, Law.THRESHOLDS, Law.ABSOLUTE])
_windows = st.sampled_from([0.0, 10.0, 60.0])
_pauses = st.sampled_from([Pause.NONE, Pause.NONE, *Pause])
_targets = st.lists(st.sampled_from([0.5, 5.0, 30.0, 300.0]), min_size=4, max_size=4)
_subsets = st.integers(0, 15)
_sizes = st.integers(0, 60)
_waiting = st.sampled_from([0, 0, 1, 3, 12, 40, 100, 237, 1500]) | st.integers(0, 300)
_running = st.sampled_from([0, 0, 1, 4, 30]) | st.integers(0, 100)
_run_times = st.sampled_from([0.0, 0.01, 0.5, 60.0, 600.0])
_samples = st.sampled_from([5, 20, 999])
_arrivals = st.sampled_from([0.0, 0.001, 0.1, 7.0, 50.0])
_startups = st.sampled_from([UNKNOWN, 0.0, 5.0, 60.0])
_ready = st.sampled_from([UNKNOWN, 0, 1, 5, 20, 40])
_failing = st.sampled_from([0, 0, 0, 1, 9])
_seen = st.sampled_from([0.5, 1.0, 3.0, 50.0])
_since = st.sampled_from([None, 20.0, 60.0, FAR, FAR])
_wishes = st.sets(st.integers(0, 50), max_size=4)
_moves = st.lists(st.tuples(st.integers(1, 90), st.sampled_from([-3, -1, 1, 2, 6])), max_size=4)


@st.composite
def _wait_targets(draw: Any) -> WaitTargets:
    kept, seconds = draw(_subsets), sorted(draw(_targets))
    return WaitTargets(*(each if kept >> n & 1 else None for n, each in enumerate(seconds)))


@st.composite
def _steps(draw: Any) -> Step:
    return Step(draw(_periods), draw(_step_sizes), draw(_step_sizes))


_any_targets = st.just(WaitTargets()) | _wait_targets()
_any_step = st.none() | _steps()


@st.composite
def policies(draw: Any, **fixed: Any) -> Policy:
    """Any policy that can be written; `fixed` fields are not drawn."""
    low, up = draw(_minimum), draw(_ups)
    drawn = {
        "min_workers": low,
        "max_workers": max(1, low + draw(_room)),
        "slots": draw(_slots),
        "scale_up_threshold": up,
        "scale_down_threshold": min(up, draw(_downs)),
        "law": draw(_laws),
        "targets": draw(_any_targets),
        "window": draw(_windows),
        "step": draw(_any_step),
        "pause": draw(_pauses),
    }
    return Policy(**(drawn | fixed))


@st.composite
def lanes(draw: Any, complete: bool | None = None) -> tuple[Depth, ...]:
    """One lane a level, with (`complete` False) or perhaps with (None) figures that are unknown."""
    no_waiting = no_running = 0
    if complete is not True and (complete is False or draw(_rarely)):
        no_waiting, no_running = draw(_subsets) or 1, draw(_subsets)
    return tuple(
        Depth(
            level,
            UNKNOWN if no_waiting >> n & 1 else draw(_waiting),
            UNKNOWN if no_running >> n & 1 else draw(_running),
        )
        for n, level in enumerate(LEVELS)
    )


@st.composite
def level_rates(draw: Any) -> tuple[LevelRates, ...]:
    """Measured figures for some of the levels."""
    kept = draw(_subsets)
    return tuple(
        LevelRates(level, draw(_run_times), draw(_samples), draw(_arrivals))
        for n, level in enumerate(LEVELS)
        if kept >> n & 1
    )


@st.composite
def snapshots(draw: Any, complete: bool | None = None, **fixed: Any) -> Snapshot:
    """Any look; most are in quiet times, so that the law itself is met often."""
    drawn = {
        "now": NOW,
        "target": draw(_sizes),
        "lanes": draw(lanes(complete)),
        "rates": draw(level_rates()),
        "startup": draw(_startups),
        "fleet": Fleet(ready=draw(_ready), failing=draw(_failing)),
        "rollout": draw(_rarely),
        "quota_exceeded": draw(_rarely),
    }
    return Snapshot(**(drawn | fixed))


@st.composite
def histories(draw: Any) -> History:
    """What a fold could have left: wishes that fall towards now, moves of both directions."""
    sizes = sorted(draw(_wishes))
    since = draw(_since)
    return History(
        seen=NOW - draw(_seen),
        complete_since=None if since is None else NOW - since,
        wishes=tuple(
            Mark(NOW - 1 - 25 * age, size) for age, size in reversed(list(enumerate(sizes)))
        ),
        moves=tuple(Mark(NOW - age, by) for age, by in sorted(draw(_moves), reverse=True)),
    )
