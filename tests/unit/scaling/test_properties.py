"""What every decision keeps to, whatever the policy, the look and the history are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.scaling.builders import NOW, depth, look, policy, steady
from tests.unit.scaling.strategies import LEVELS, histories, lanes, policies, snapshots

from headrace.scaling import (
    UNKNOWN,
    Decision,
    Depth,
    History,
    Law,
    LimitedBy,
    Pause,
    Policy,
    Reason,
    Snapshot,
    Unknown,
    decide,
    observe,
)

often = settings(max_examples=200, deadline=None)


def known(figure: int | Unknown) -> int:
    assert not isinstance(figure, Unknown)
    return figure


def running(snapshot: Snapshot) -> int:
    assert not isinstance(snapshot.lanes, Unknown)
    return sum(0 if lane.running is UNKNOWN else known(lane.running) for lane in snapshot.lanes)


def tasks(snapshot: Snapshot) -> int:
    assert not isinstance(snapshot.lanes, Unknown)
    waiting = sum(0 if lane.waiting is UNKNOWN else known(lane.waiting) for lane in snapshot.lanes)
    return waiting + running(snapshot)


class Seen(NamedTuple):
    """One decision with what it was made from."""

    policy: Policy
    look: Snapshot
    decision: Decision

    @property
    def size(self) -> int:
        return self.decision.desired

    @property
    def now(self) -> int:
        return self.look.target


def within_bounds_or_on_the_way_there(it: Seen) -> None:
    assert min(it.policy.min_workers, it.now) <= it.size <= max(it.policy.max_workers, it.now)


def incomplete_data_never_shrinks(it: Seen) -> None:
    if it.decision.inputs.unknown:
        assert it.size >= it.now
        assert it.decision.inputs.complete_since is None


def rollouts_and_pauses_stop_their_direction(it: Seen) -> None:
    if it.look.rollout or it.policy.pause in (Pause.IN, Pause.BOTH):
        assert it.size >= it.now
    if it.look.quota_exceeded or it.policy.pause in (Pause.OUT, Pause.BOTH):
        assert it.size <= it.now


def any_known_task_has_a_worker(it: Seen) -> None:
    stopped = it.look.quota_exceeded or it.policy.pause in (Pause.OUT, Pause.BOTH)
    if tasks(it.look) and not stopped:
        assert it.size >= 1


def a_shrink_leaves_the_running_tasks_their_slots(it: Seen) -> None:
    if it.size < it.now and it.policy.law is Law.THRESHOLDS:
        need = math.ceil(running(it.look) / it.policy.slots)
        assert it.size >= min(need, it.policy.max_workers)


def failing_workers_never_more_than_double_the_ready_ones(it: Seen) -> None:
    ready = it.look.fleet.ready
    if it.look.fleet.failing and it.size > max(it.now, 1):
        assert it.size <= 2 * known(ready)


def without_a_limit_the_law_has_its_wish(it: Seen) -> None:
    if it.decision.limited_by is LimitedBy.NONE:
        assert it.size == it.decision.inputs.raw
        assert it.decision.reason in (it.decision.inputs.law, Reason.UNKNOWN)
    else:
        assert it.decision.reason.value == it.decision.limited_by.value


def a_limit_that_time_ends_says_when(it: Seen) -> None:
    timed = it.decision.limited_by in (LimitedBy.STABILIZING, LimitedBy.STEP_LIMITED)
    ends = it.decision.inputs.not_before
    assert (ends is not None) is timed
    assert ends is None or ends > it.look.now


def the_message_is_one_plain_sentence(it: Seen) -> None:
    message = it.decision.message
    assert message.isprintable()
    assert len(message) < 300
    assert "None" not in message
    assert "UNKNOWN" not in message


PROMISES = (
    within_bounds_or_on_the_way_there,
    incomplete_data_never_shrinks,
    rollouts_and_pauses_stop_their_direction,
    any_known_task_has_a_worker,
    a_shrink_leaves_the_running_tasks_their_slots,
    failing_workers_never_more_than_double_the_ready_ones,
    without_a_limit_the_law_has_its_wish,
    a_limit_that_time_ends_says_when,
    the_message_is_one_plain_sentence,
)


@settings(max_examples=500, deadline=None)
@given(policies(), snapshots(), histories())
def test_every_decision_keeps_every_promise(
    policy: Policy, look: Snapshot, history: History
) -> None:
    # One test for all of them: drawing the examples is what takes the time.
    seen = Seen(policy, look, decide(policy, look, history))
    for promise in PROMISES:
        promise(seen)
    assert decide(policy, look, history) == seen.decision  # the same arguments, the same answer


@often
@given(policies(), snapshots(), histories(), st.booleans())
def test_nothing_known_or_nothing_fresh_holds_the_size_but_for_the_minimum(
    policy: Policy, look: Snapshot, history: History, stale: bool
) -> None:
    look = replace(look, age=policy.max_age + 1) if stale else replace(look, lanes=UNKNOWN)
    decision = decide(policy, look, history)
    assert look.target <= decision.desired <= max(look.target, policy.min_workers)
    assert decision.inputs.complete_since is None


@often
@given(policies(), snapshots(), histories())
def test_partial_data_grows_a_pool_by_what_is_known(
    policy: Policy, look: Snapshot, history: History
) -> None:
    assert not isinstance(look.lanes, Unknown)
    whole = replace(
        look,
        lanes=tuple(
            replace(
                lane,
                waiting=0 if lane.waiting is UNKNOWN else lane.waiting,
                running=0 if lane.running is UNKNOWN else lane.running,
            )
            for lane in look.lanes
        ),
    )
    if decide(policy, whole, history).desired > look.target:
        assert decide(policy, look, history).desired == decide(policy, whole, history).desired


@often
@given(policies(), snapshots(complete=True), histories(), st.data())
def test_more_tasks_never_mean_fewer_workers(
    policy: Policy, look: Snapshot, history: History, data: st.DataObject
) -> None:
    assert not isinstance(look.lanes, Unknown)
    more = tuple(
        replace(
            lane,
            waiting=known(lane.waiting) + data.draw(st.integers(0, 300)),
            running=known(lane.running) + data.draw(st.integers(0, 30)),
        )
        for lane in look.lanes
    )
    fewer = decide(policy, look, history)
    assert decide(policy, replace(look, lanes=more), history).desired >= fewer.desired


@often
@given(policies(law=Law.THRESHOLDS), snapshots(), histories())
def test_the_same_facts_again_change_nothing(
    policy: Policy, look: Snapshot, history: History
) -> None:
    first = decide(policy, look, history)
    again = decide(policy, replace(look, target=first.desired), observe(history, first))
    assert again.desired == first.desired, (first, again)


@often
@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 5), st.integers(5, 20), st.data())
def test_between_the_thresholds_nothing_moves(
    workers: int, slots: int, down: int, up: int, data: st.DataObject
) -> None:
    band = policy(slots=slots, scale_up_threshold=up, scale_down_threshold=down)
    count = data.draw(st.integers(down * workers, max(up, slots) * workers))
    busy = data.draw(st.integers(0, min(count, workers * slots)))
    decision = decide(band, look(workers, depth(count - busy, busy)), steady())
    assert (decision.desired, decision.reason) == (workers, Reason.WITHIN_BAND)


@often
@given(st.integers(2, 30), st.integers(1, 5), st.integers(5, 20))
@example(workers=2, down=1, up=5)
def test_one_task_beyond_a_threshold_moves_one_worker(workers: int, down: int, up: int) -> None:
    band = policy(slots=1, scale_up_threshold=up, scale_down_threshold=down)
    above = decide(band, look(workers, depth(up * workers + 1)), steady())
    below = decide(band, look(workers, depth(down * (workers - 1))), steady())
    assert (above.desired, above.reason) == (workers + 1, Reason.BACKLOG_HIGH)
    assert (below.desired, below.reason) == (workers - 1, Reason.BACKLOG_LOW)


@often
@given(policies(), snapshots(), histories(), st.integers(0, 80))
def test_a_pin_is_followed_whatever_else_is_asked_or_unknown(
    policy: Policy, look: Snapshot, history: History, pin: int
) -> None:
    decision = decide(replace(policy, pin=pin), look, history)
    size = min(pin, policy.max_workers)
    held = look.rollout and size < look.target
    assert decision.desired == (look.target if held else size)
    assert decision.reason is Reason.PINNED


@often
@given(policies(), snapshots(), histories(), lanes())
def test_tags_that_the_pool_does_not_serve_are_nothing_to_it(
    policy: Policy, look: Snapshot, history: History, foreign: tuple[Depth, ...]
) -> None:
    assert not isinstance(look.lanes, Unknown)
    others = tuple(replace(lane, tag="gpu") for lane in foreign)
    with_others = replace(look, lanes=look.lanes + others)
    assert decide(policy, with_others, history) == decide(policy, look, history)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_counts(level: int) -> None:
    only = look(0, *(Depth(each, 95 if each is level else 0, 0) for each in LEVELS))
    assert decide(policy(), only, steady()).desired == 10


def test_time_is_only_compared_so_any_clock_will_do() -> None:
    early = decide(policy(), look(10, depth(0), now=20.0), History(19, 0))
    late = decide(policy(), look(10, depth(0), now=NOW + 20.0), History(NOW + 19, NOW))
    assert (early.desired, early.reason) == (late.desired, late.reason) == (10, Reason.STABILIZING)
