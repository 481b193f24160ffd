"""Many looks in a row: what must hold over time, checked against a plain log of what happened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scaling.builders import depth, look, policy, unknown

from headrace.scaling import (
    Decision,
    History,
    Policy,
    Snapshot,
    Step,
    decide_next,
)

WINDOW, MAX_AGE = 20.0, 3.0

_looks = st.lists(
    st.tuples(
        st.sampled_from([0.2, 1.0, 1.0, 1.0, 2.0, 5.0]),  # seconds since the look before
        st.sampled_from([0, 0, 0, 0, 5, 30, 120, 400]),  # waiting
        st.sampled_from([0, 0, 0, 4, 20]),  # running
        st.sampled_from([True] * 19 + [False]),  # whether it could be read
    ),
    min_size=30,
    max_size=90,
)
_steps = st.none() | st.builds(
    Step,
    period=st.sampled_from([4.0, 10.0]),
    max_up=st.sampled_from([None, 1, 3]),
    max_down=st.sampled_from([None, 1, 3]),
)


@dataclass(frozen=True)
class Entry:
    """One look and its decision."""

    snapshot: Snapshot
    decision: Decision

    @property
    def now(self) -> float:
        return self.snapshot.now

    @property
    def change(self) -> int:
        return self.decision.desired - self.snapshot.target


def run(policy: Policy, looks: list[tuple[float, int, int, bool]]) -> list[Entry]:
    """A pool whose size is always carried out at once."""
    log, history, target, now = [], History(), 6, 500.0
    for pause, waiting, running, readable in looks:
        now += pause
        lane = depth(waiting, running) if readable else unknown()
        snapshot = look(target, lane, now=now)
        decision, history = decide_next(policy, snapshot, history)
        log.append(Entry(snapshot, decision))
        target = decision.desired
    return log


def complete_for(log: list[Entry], index: int) -> float:
    """Seconds of complete looks without a gap, up to and with this one."""
    begun = log[index].now
    for later, entry in zip(log[index::-1], log[index - 1 :: -1] if index else [], strict=False):
        if not entry.decision.inputs.complete or later.now - entry.now > MAX_AGE:
            break
        begun = entry.now
    return log[index].now - begun


@settings(max_examples=60, deadline=None)
@given(_looks, _steps, st.integers(0, 3))
def test_what_a_pool_does_over_time(
    looks: list[tuple[float, int, int, bool]], step: Step | None, minimum: int
) -> None:
    rules = policy(min_workers=minimum, window=WINDOW, step=step)
    log = run(rules, looks)
    for index, entry in enumerate(log):
        if entry.change < 0:
            shrinks_only_after_a_quiet_window(log, index)
        if step is not None:
            moves_no_faster_than_the_step(log, index, step)


def shrinks_only_after_a_quiet_window(log: list[Entry], index: int) -> None:
    entry = log[index]
    assert complete_for(log, index) >= WINDOW
    wanted = [
        past.decision.inputs.wanted for past in log[: index + 1] if past.now > entry.now - WINDOW
    ]
    assert entry.decision.desired >= max(wanted)


def moves_no_faster_than_the_step(log: list[Entry], index: int, step: Step) -> None:
    entry = log[index]
    recent = [past.change for past in log[: index + 1] if past.now > entry.now - step.period]
    ups = sum(change for change in recent if change > 0)
    downs = -sum(change for change in recent if change < 0)
    from_zero = entry.snapshot.target == 0
    assert entry.change <= 0 or step.max_up is None or ups <= step.max_up or from_zero
    assert entry.change >= 0 or step.max_down is None or downs <= step.max_down


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(60, 300), min_size=20, max_size=60))
def test_a_depth_that_stays_within_the_band_never_moves_the_pool(depths: list[int]) -> None:
    # 30 workers, at least 2 and at most 10 tasks each.
    history, sizes = History(), set()
    for second, tasks in enumerate(depths):
        snapshot = look(30, depth(tasks), now=float(second))
        decision, history = decide_next(policy(window=0), snapshot, history)
        sizes.add(decision.desired)
    assert sizes == {30}


@settings(max_examples=40, deadline=None)
@given(_looks)
def test_a_history_stays_small(looks: list[tuple[float, int, int, bool]]) -> None:
    rules = policy(window=WINDOW)
    history, target, now = History(), 6, 500.0
    for pause, waiting, running, _ in looks * 3:
        now += pause
        snapshot = look(target, depth(waiting, running), now=now)
        decision, history = decide_next(rules, snapshot, history)
        target = decision.desired
        assert len(history.wishes) <= rules.max_workers + 1
        sizes = [mark.workers for mark in history.wishes]
        assert sizes == sorted(set(sizes), reverse=True)


def follow(rules: Policy, target: int, looks: list[Snapshot]) -> list[int]:
    history, sizes = History(), []
    for snapshot in looks:
        decision, history = decide_next(rules, replace(snapshot, target=target), history)
        target = decision.desired
        sizes.append(target)
    return sizes


def every_second(count: int, *lanes: Any, start: float = 0.0, **changes: Any) -> list[Snapshot]:
    return [look(0, *lanes, now=start + second, **changes) for second in range(count)]


def test_a_burst_is_answered_at_once_and_given_back_after_one_quiet_window() -> None:
    burst = every_second(3, depth(100))
    empty = every_second(70, depth(0), start=3.0)
    sizes = follow(policy(), 0, burst + empty)
    assert sizes[:3] == [10, 10, 10]
    # The last look that asked for 10 was at second 2: from second 62 on it is no longer in.
    assert sizes.index(0) == 62


def test_a_restart_begins_in_hold() -> None:
    sizes = follow(policy(), 8, every_second(61, depth(0)))
    assert sizes == [8] * 60 + [0]


def test_an_outage_starts_the_window_again() -> None:
    before, outage = every_second(50, depth(0)), every_second(5, unknown(), start=50.0)
    sizes = follow(policy(), 8, before + outage + every_second(61, depth(0), start=55.0))
    assert sizes == [8] * 115 + [0]


def test_looks_far_apart_do_not_join_up_to_a_window() -> None:
    looks = [look(0, depth(0), now=float(second)) for second in (0, 30, 60, 90, 120)]
    assert follow(policy(), 8, looks) == [8] * 5
    assert follow(policy(period=10.0), 8, looks) == [8, 8, 0, 0, 0]


def test_a_clock_that_went_back_starts_the_window_again() -> None:
    looks = every_second(59, depth(0), start=100.0) + every_second(60, depth(0))
    assert follow(policy(), 8, looks) == [8] * 119


def test_steps_are_of_their_period_however_often_it_is_asked() -> None:
    rules = policy(step=Step(period=10, max_up=4, max_down=2), window=0)
    looks = [look(0, depth(500), now=tenth / 10) for tenth in range(300)]
    sizes = follow(rules, 0, looks)
    assert [sizes[at] for at in (0, 99, 100, 199, 200)] == [4, 4, 8, 8, 12]


def test_a_size_set_by_hand_is_no_step() -> None:
    rules = policy(step=Step(period=10, max_up=1))
    pinned, history = decide_next(replace(rules, pin=5), look(0, depth(500), now=0.0), History())
    assert pinned.desired == 5
    freed, _ = decide_next(rules, look(5, depth(500), now=1.0), history)
    assert freed.desired == 6


def test_a_raised_maximum_does_not_bring_back_old_wishes() -> None:
    _, history = decide_next(policy(max_workers=5), look(5, depth(400), now=0.0), History())
    assert history.highest_wish(after=-1.0) == 5
