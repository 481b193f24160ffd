"""Run times and arrivals as measured from counts and depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scaling.builders import depth, look, policy

from headrace.scaling import (
    UNKNOWN,
    History,
    LevelRates,
    RunCount,
    Tally,
    WaitTargets,
    decide_next,
    measure,
)
from headrace.task import TaskPriority

NORMAL = TaskPriority.NORMAL
RULES = policy(max_workers=100, slots=1)


def after(tally: Tally, at: float, waiting: int | None, *counts: tuple[str, int, float]) -> Tally:
    """The tally after a look; waiting None: depth was not known."""
    lanes = UNKNOWN if waiting is None else (depth(waiting),)
    runs = [RunCount(worker, NORMAL, runs, seconds) for worker, runs, seconds in counts]
    return measure(tally, RULES, replace(look(1, lanes=lanes), now=at), runs)


def of(tally: Tally) -> LevelRates:
    return next(each for each in tally.rates if each.priority is NORMAL)


def test_nothing_is_known_at_first() -> None:
    assert Tally().rates == ()
    found = of(after(Tally(), 0.0, 10))
    assert found.run_seconds is UNKNOWN
    assert found.arrivals is UNKNOWN
    assert found.samples == 0


def test_steady_arrivals_are_measured_whether_they_are_run_or_wait() -> None:
    tally = after(Tally(), 0.0, 0, ("a", 0, 0.0))
    for second in range(1, 121):
        # 5 come each second; 3 of them are run, in 2 s each, 2 stay
        tally = after(tally, float(second), 2 * second, ("a", 3 * second, 6.0 * second))
    assert of(tally).arrivals == pytest.approx(5.0)
    assert of(tally).run_seconds == pytest.approx(2.0)
    assert of(tally).samples == 360


def test_a_worker_seen_for_the_first_time_tells_run_times_and_no_arrivals() -> None:
    tally = after(Tally(), 0.0, 0)
    tally = after(tally, 1.0, 0, ("old", 10_000, 30_000.0))
    assert of(tally).run_seconds == pytest.approx(3.0)
    assert of(tally).arrivals == 0.0


def test_an_outage_of_the_depth_loses_no_run() -> None:
    tally = after(Tally(), 0.0, 0, ("a", 0, 0.0))
    for second in range(1, 30):
        tally = after(tally, float(second), None, ("a", 4 * second, 4.0 * second))
    assert of(tally).arrivals is UNKNOWN
    tally = after(tally, 30.0, 0, ("a", 120, 120.0))
    assert of(tally).arrivals == pytest.approx(4.0)


def test_a_worker_that_begins_anew_counts_from_there() -> None:
    tally = after(Tally(), 0.0, 0, ("a", 50, 50.0))
    tally = after(tally, 1.0, 0, ("a", 0, 0.0))
    tally = after(tally, 2.0, 0, ("a", 2, 2.0))
    assert of(tally).samples == 52
    assert of(tally).arrivals == pytest.approx(0.1)  # 2 in 20 s: it is too early to say more


def test_a_burst_just_after_the_start_is_no_rate() -> None:
    """300 tasks within a minute are ten workers' work here; as a rate of the first two seconds
    they were 389 workers'."""
    rules = policy(max_workers=500, slots=1, targets=WaitTargets(normal=60.0))
    tally, history, target = Tally(), History(), 5
    for second in range(5):
        seen = replace(look(target, depth(300 if second > 1 else 0)), now=float(second))
        tally = measure(tally, rules, seen, [RunCount("a", NORMAL, 1_000, 2_000.0)])
        decision, history = decide_next(rules, replace(seen, rates=tally.rates), history)
        target = decision.desired
    assert 10 <= target <= 60


def test_recent_runs_weigh_most() -> None:
    tally = after(Tally(), 0.0, 0, ("a", 10_000, 10_000.0))
    assert of(tally).run_seconds == pytest.approx(1.0)
    tally = after(tally, 1.0, 0, ("a", 10_300, 10_000.0 + 300 * 9.0))
    assert 8.0 < of(tally).run_seconds < 9.0  # type: ignore[operator]


def test_cancelled_tasks_never_make_a_negative_rate() -> None:
    tally = after(after(Tally(), 0.0, 1_000), 1.0, 0)
    assert of(tally).arrivals == 0.0


def test_arrivals_fade_once_they_have_ended() -> None:
    tally = after(Tally(), 0.0, 0, ("a", 0, 0.0))
    for second in range(1, 61):
        tally = after(tally, float(second), 0, ("a", 5 * second, 5.0 * second))
    for second in range(61, 661):
        tally = after(tally, float(second), 0, ("a", 300, 300.0))
    assert of(tally).arrivals < 0.001  # type: ignore[operator]


def test_who_has_gone_is_forgotten_after_a_minute() -> None:
    tally = after(Tally(), 0.0, 0, *((f"w{n}", 1, 1.0) for n in range(50)))
    assert len(tally.seen) == 50
    assert not after(tally, 61.0, 0).seen


def test_levels_that_are_not_known_here_are_left_out() -> None:
    found = RunCount.of("a", {"normal": (3, 1.5), "urgent": (9, 9.0)})
    assert found == (RunCount("a", NORMAL, 3, 1.5),)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 20), st.none() | st.integers(0, 50), st.integers(0, 30)),
        max_size=30,
    )
)
@settings(max_examples=100)
def test_rates_are_always_times_and_rates(
    steps: list[tuple[float, int | None, int]],
) -> None:
    tally, at, runs = Tally(), 0.0, 0
    for passed, waiting, more in steps:
        at, runs = at + passed, runs + more
        tally = after(tally, at, waiting, ("a", runs, runs * 0.5))
        assert of(tally).run_seconds in (UNKNOWN, pytest.approx(0.5))  # LevelRates checks the rest


def test_a_pool_is_sized_by_its_wait_target_once_it_has_measured() -> None:
    rules = policy(max_workers=100, slots=1, targets=WaitTargets(normal=10.0))
    tally, history, target = Tally(), History(), 1
    messages = []
    for second in range(4):
        seen = replace(look(target, depth(300, 1)), now=float(second))
        counts = [RunCount("a", NORMAL, 10 * second, 5.0 * second)]
        tally = measure(tally, rules, seen, counts)
        decision, history = decide_next(rules, replace(seen, rates=tally.rates), history)
        target = decision.desired
        messages.append(decision.message)
    assert target == 31  # what the thresholds asked for at the first look, held for a window
    assert "wants 16 (normal to start within 10s)" in messages[-1]
