"""The three laws beyond the worked cases, and the corners of the limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from tests.unit.scaling.builders import NOW, depth, fleet, look, policy, rates, steady, unknown
from tests.unit.scaling.strategies import policies, snapshots

from headrace.scaling import (
    UNKNOWN,
    History,
    Law,
    LevelRates,
    LimitedBy,
    Mark,
    Pause,
    Policy,
    Reason,
    Snapshot,
    Step,
    WaitTargets,
    decide,
    decide_next,
)
from headrace.scaling.load import load_of
from headrace.scaling.wait import wait_wish
from headrace.task import TaskPriority

CRITICAL, HIGH, LOW = TaskPriority.CRITICAL, TaskPriority.HIGH, TaskPriority.LOW


def size(rules: Policy, seen: Snapshot, history: History | None = None) -> int:
    return decide(rules, seen, history or steady()).desired


# --- wait targets ---------------------------------------------------------------------------------


def in_seconds(**targets: float) -> Policy:
    return policy(targets=WaitTargets(**targets), max_workers=1000, slots=1)


def test_a_task_never_needs_more_than_one_slot_however_long_it_runs() -> None:
    seen = look(0, depth(10), rates=(rates(600),))
    assert size(in_seconds(normal=1), seen) == 10


def test_short_tasks_share_slots_within_their_target() -> None:
    seen = look(0, depth(100), rates=(rates(1),))
    assert size(in_seconds(normal=10), seen) == 10  # 100 tasks of 1 s, 10 of them a slot


def test_higher_levels_are_in_the_way_of_lower_ones_and_not_the_other_way_round() -> None:
    high = (depth(100, 0, HIGH), depth(0, 0, LOW))
    low = (depth(0, 0, HIGH), depth(100, 0, LOW))
    measured = (rates(10, 0, HIGH), rates(10, 0, LOW))
    assert size(in_seconds(low=100), look(0, *high, rates=measured)) == 10
    # The threshold law's end for the level without a target: 100 tasks at 10 a worker.
    assert size(in_seconds(high=10), look(0, *low, rates=measured)) == 10
    assert size(in_seconds(high=10, low=1000), look(0, *low, rates=measured)) == 1


def test_running_tasks_of_lower_levels_hold_slots_that_a_critical_one_waits_for() -> None:
    lanes = (depth(5, 0, CRITICAL), depth(0, 20, LOW))
    measured = (rates(1, 0, CRITICAL), rates(600, 0, LOW))
    assert size(in_seconds(critical=5), look(0, *lanes, rates=measured)) == 21


def test_running_tasks_whose_times_are_unknown_count_as_long() -> None:
    lanes = (depth(5, 0, CRITICAL), depth(0, 20, LOW))
    seen = look(0, *lanes, rates=(rates(1, 0, CRITICAL),))
    assert size(in_seconds(critical=5), seen) == 21


def test_a_level_without_measured_times_is_sized_by_the_thresholds_beside_the_others() -> None:
    lanes = (depth(5, 0, CRITICAL), depth(95, 0))
    seen = look(0, *lanes, rates=(rates(1, 0, CRITICAL),))
    assert size(in_seconds(critical=5, normal=60), seen) == 10


@pytest.mark.parametrize("hole", [rates(UNKNOWN, 1), rates(1, UNKNOWN), rates(1, 1, samples=19)])
def test_without_any_measured_target_the_thresholds_decide(hole: Any) -> None:
    decision = decide(in_seconds(normal=60), look(0, depth(300), rates=(hole,)), steady())
    assert (decision.desired, decision.inputs.law) == (30, Reason.BACKLOG_HIGH)


def test_steady_arrivals_keep_their_slots_at_the_asked_utilisation() -> None:
    seen = look(20, depth(0, 1), rates=(rates(2, 4),))
    assert size(in_seconds(normal=60), seen) == 10  # 4/s · 2 s / 0.8


def test_a_rate_that_fades_away_lets_an_empty_pool_go_to_zero() -> None:
    rules = in_seconds(normal=60)
    assert size(rules, look(3, depth(0), rates=(rates(1, 0.01),))) == 0
    assert size(rules, look(3, depth(0), rates=(rates(1, 0.02),))) == 1
    assert size(rules, look(3, depth(1), rates=(rates(1, 0.01),))) == 1


def test_arrivals_alone_do_not_grow_a_pool_whose_depth_is_unknown() -> None:
    seen = look(2, lanes=UNKNOWN, rates=(rates(2, 40),))
    assert size(in_seconds(normal=60), seen) == 2


def test_the_startup_time_of_the_policy_counts_until_one_is_measured() -> None:
    seen = look(0, depth(100), rates=(rates(1),))
    rules = in_seconds(normal=1)
    assert size(rules, seen) == 20
    assert size(rules, look(0, depth(100), rates=(rates(1),), startup=10.0)) == 10


@settings(max_examples=200, deadline=None)
@given(policies(law=Law.THRESHOLDS), snapshots(complete=True))
def test_wait_targets_never_ask_for_more_slots_than_tasks_and_arrivals_can_use(
    rules: Policy, seen: Snapshot
) -> None:
    # One level at least is measured and has a target.
    rules = replace(rules, targets=replace(rules.targets, low=rules.targets.low or 300.0))
    others = tuple(each for each in seen.rates if each.priority is not LOW)
    seen = replace(seen, rates=(*others, LevelRates(LOW, 0.5, 999, 7.0)))
    load = load_of(rules, seen)
    wish = wait_wish(rules, seen, load)
    assert wish is not None
    arriving = math.fsum(
        each.arrivals * each.run_seconds / rules.utilisation  # type: ignore[operator]
        for each in seen.rates
    )
    most = max(load.running, arriving) + load.waiting
    assert wish.raw <= math.ceil(most / rules.slots)
    assert wish.raw >= math.ceil(load.running / rules.slots)


# --- thresholds -----------------------------------------------------------------------------------


def test_a_down_threshold_of_zero_shrinks_only_an_empty_queue() -> None:
    rules = policy(scale_down_threshold=0)
    assert size(rules, look(10, depth(1))) == 10
    assert size(rules, look(10, depth(0))) == 0


def test_an_up_threshold_below_the_slots_counts_as_the_slots() -> None:
    assert (
        size(policy(slots=8, scale_up_threshold=2, scale_down_threshold=1), look(0, depth(80)))
        == 10
    )


# --- the original's law ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "current", "after"),
    [(11, 3, 4), (10, 3, 3), (2, 3, 3), (1, 3, 2), (0, 3, 2), (11, 10, 10), (0, 1, 1)],
)
def test_the_original_moves_one_worker_a_tick_by_the_size_of_the_queue(
    waiting: int, current: int, after: int
) -> None:
    rules = Policy.in_process(law=Law.ABSOLUTE)
    assert decide(rules, look(current, depth(waiting, 5)), History()).desired == after


def test_the_original_does_not_leave_a_task_without_a_worker() -> None:
    rules = Policy.in_process(law=Law.ABSOLUTE, min_workers=0)
    assert decide(rules, look(0, depth(1)), History()).desired == 1
    assert decide(rules, look(1, depth(1)), History()).desired == 1
    assert decide(rules, look(1, depth(0)), History()).desired == 0


def test_the_original_does_not_shrink_on_unknown_data_either() -> None:
    rules = Policy.in_process(law=Law.ABSOLUTE)
    assert decide(rules, look(3, unknown()), History()).desired == 3


def test_a_pool_in_a_process_gives_back_after_three_quiet_ticks() -> None:
    rules, history, target, sizes = Policy.in_process(), History(), 5, []
    for tick in range(5):
        seen = look(target, depth(0), now=NOW + 10 * tick)
        decision, history = decide_next(rules, seen, history)
        target = decision.desired
        sizes.append(target)
    assert sizes == [5, 5, 5, 1, 1]


# --- limits ---------------------------------------------------------------------------------------


def test_a_lowered_maximum_goes_at_once_and_what_is_below_it_waits_for_the_window() -> None:
    decision = decide(policy(max_workers=5), look(10, depth(0)), steady(10))
    assert (decision.desired, decision.reason) == (5, Reason.STABILIZING)
    assert decide(policy(max_workers=5), look(10, depth(0)), steady()).desired == 0


@pytest.mark.parametrize(
    ("rules", "facts", "limit"),
    [
        (policy(max_workers=5, pause=Pause.IN), {}, LimitedBy.PAUSED),
        (policy(max_workers=5), {"rollout": True}, LimitedBy.ROLLOUT_IN_PROGRESS),
        (policy(max_workers=5), {"lanes": UNKNOWN}, LimitedBy.UNKNOWN),
    ],
)
def test_a_lowered_maximum_waits_for_pauses_rollouts_and_data(
    rules: Policy, facts: dict[str, Any], limit: LimitedBy
) -> None:
    decision = decide(rules, look(10, depth(400), **facts), steady())
    assert (decision.desired, decision.limited_by) == (10, limit)


def test_a_lowered_maximum_goes_by_the_owners_step() -> None:
    rules = policy(max_workers=5, step=Step(max_down=2))
    assert size(rules, look(10, depth(400))) == 8


def test_failing_workers_do_not_stop_the_first_one() -> None:
    assert size(policy(), look(0, depth(400), fleet=fleet(0, 3))) == 1
    assert size(policy(), look(5, depth(400), fleet=fleet(UNKNOWN, 3))) == 5


def test_failing_workers_do_not_keep_a_pool_from_shrinking() -> None:
    assert size(policy(), look(5, depth(0), fleet=fleet(0, 5))) == 0


def test_a_quota_does_not_keep_a_pool_from_shrinking() -> None:
    assert size(policy(), look(5, depth(0), quota_exceeded=True)) == 0


def test_a_step_counts_what_was_moved_in_its_period_and_in_its_direction() -> None:
    rules = policy(step=Step(period=10, max_up=4, max_down=1))
    moves = (Mark(NOW - 12, 9), Mark(NOW - 8, 3), Mark(NOW - 2, -1))
    decision = decide(rules, look(10, depth(400)), steady(moves=moves))
    assert (decision.desired, decision.inputs.not_before) == (11, NOW + 2)
    decision = decide(rules, look(10, depth(0)), steady(moves=moves))
    assert (decision.desired, decision.inputs.not_before) == (10, NOW + 8)


def test_a_step_does_not_leave_a_pool_at_zero_with_a_task() -> None:
    rules = policy(step=Step(period=10, max_up=1))
    assert size(rules, look(0, depth(1)), steady(moves=(Mark(NOW - 1, 1),))) == 1


def test_a_pin_below_the_minimum_stops_a_pool() -> None:
    decision = decide(policy(pin=0, min_workers=3), look(5, depth(400)), steady())
    assert (decision.desired, decision.reason) == (0, Reason.PINNED)


def test_a_rollout_holds_a_smaller_pin_and_not_a_larger_one() -> None:
    assert size(policy(pin=2), look(5, depth(0), rollout=True)) == 5
    assert size(policy(pin=9), look(5, depth(0), rollout=True)) == 9


def test_scale_in_is_announced_for_when_the_last_larger_wish_leaves_the_window() -> None:
    wishes = (Mark(NOW - 50, 10), Mark(NOW - 20, 4))
    decision = decide(policy(), look(10, depth(0)), steady(wishes=wishes))
    assert (decision.desired, decision.inputs.not_before) == (10, NOW + 10)
    decision = decide(policy(), look(10, depth(0)), steady(45, wishes))
    assert (decision.desired, decision.inputs.not_before) == (10, NOW + 15)
