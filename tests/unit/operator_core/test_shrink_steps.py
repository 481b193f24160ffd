"""Each row of the scale-in protocol: what is there, and what is done next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_core.builders import (
    answer,
    deployment,
    draining,
    ground,
    marked,
    names,
    nothing_is_done,
    pending,
    pod,
    replica_set,
    serving,
    silent,
    unscheduled,
)

from headrace.scaling import WorkerState
from headrace_operator.core.fleet import facts_of
from headrace_operator.core.shrink import Ground, Hold, starting_target, steps
from headrace_operator.core.values import MARK_COST, Member

# --- nothing to do ---


def test_at_the_right_size_nothing_is_done() -> None:
    found = steps(ground(serving("a", 2), serving("b")), 2)
    assert nothing_is_done(found)
    assert found.hold is Hold.NONE


def test_an_empty_pool_that_is_wanted_empty_stays_so() -> None:
    assert nothing_is_done(steps(ground(), 0))


def test_what_was_decided_is_said_again_of_the_same_facts() -> None:
    there = ground(serving("a", 2), marked("b"), pending("c"))
    assert steps(there, 1) == steps(there, 1)


# --- growth ---


def test_growth_is_one_write_of_the_size() -> None:
    found = steps(ground(serving("a", 4)), 3)
    assert (found.size, found.hold) == (3, Hold.NONE)
    assert nothing_is_done(replace(found, size=None))


def test_growth_from_nothing_needs_no_replica_set() -> None:
    assert steps(ground(replica_sets=()), 2).size == 2


# --- never started: first, and without a drain ---


@pytest.mark.parametrize("first", [unscheduled("new"), pending("new")])
def test_pods_that_never_started_go_first_and_at_once(first: Member) -> None:
    found = steps(ground(serving("a"), first, serving("b")), 2)
    assert found.size == 2
    assert nothing_is_done(replace(found, size=None))


def test_of_many_only_as_many_as_there_are_too_many() -> None:
    there = ground(serving("a", 4), unscheduled("b"), pending("c"), pending("d"))
    assert steps(there, 2).size == 2


def test_pods_that_never_started_do_not_wait_for_those_that_drain() -> None:
    found = steps(ground(serving("a", 4), serving("b", 1), pending("c")), 1)
    assert found.size == 2
    assert names(found.drain) == ["b"]
    assert found.hold is Hold.DRAINING


def test_an_image_that_cannot_be_pulled_is_as_good_as_pending() -> None:
    stuck = pending("b", failing="ImagePullBackOff: no such image")
    assert steps(ground(serving("a", 4), stuck), 1).size == 1


def test_a_pod_in_a_crash_loop_is_marked_first_as_it_may_start_again() -> None:
    loop = Member(pod("b", started=False, ready=False, failing="CrashLoopBackOff"))
    found = steps(ground(serving("a", 4), loop), 1)
    assert names(found.mark) == ["b"]
    assert found.size is None
    looped = replace(loop, pod=replace(loop.pod, serving=False, cost=MARK_COST))
    found = steps(ground(serving("a", 4), looped), 1)
    assert (found.size, found.confirm) == (1, ())


# --- phantoms ---


def test_a_size_above_the_pods_that_exist_is_lowered_without_a_drain() -> None:
    there = ground(serving("a", 1), serving("b", 1), deployment=deployment(10))
    found = steps(there, 5)
    assert found.size == 5
    assert nothing_is_done(replace(found, size=None))


def test_phantoms_go_before_any_worker_is_touched_by_the_size() -> None:
    there = ground(serving("a", 1), serving("b", 1), deployment=deployment(10))
    found = steps(there, 1)
    assert found.size == 2
    assert len(found.drain) == 1


# --- drain ---


def test_the_least_loaded_is_asked_to_drain_and_the_size_stays() -> None:
    found = steps(ground(serving("a", 3), serving("b", 1), serving("c", 2)), 2)
    assert names(found.drain) == ["b"]
    assert (found.size, found.mark, found.hold) == (None, (), Hold.DRAINING)
    assert "b" in found.text


def test_a_worker_that_drains_is_asked_again_at_every_look() -> None:
    found = steps(ground(serving("a", 3), draining("b", 1)), 1)
    assert names(found.drain) == ["b"]
    assert (found.size, found.hold) == (None, Hold.DRAINING)


@pytest.mark.parametrize(
    "going", [draining("b", ready=True), draining("b"), marked("b"), marked("b", ready=True)]
)
def test_a_drained_worker_is_kept_drained_until_its_pod_ends(going: Member) -> None:
    assert names(steps(ground(serving("a", 3), going), 1).drain) == ["b"]


def test_a_pod_that_is_being_deleted_is_asked_nothing_and_counts_for_nothing() -> None:
    gone = draining("b", terminating=True, serving=False)
    assert nothing_is_done(steps(ground(serving("a", 3), gone), 1))


def test_a_drain_that_takes_long_is_waited_for_however_long() -> None:
    there = ground(serving("a", 3), draining("b", 4), deployment=deployment(2))
    assert steps(there, 0).size is None


# --- settle ---


def test_a_drained_pod_that_is_still_shown_as_ready_is_not_marked() -> None:
    found = steps(ground(serving("a", 3), draining("b", ready=True)), 1)
    assert (found.mark, found.size, found.hold) == ((), None, Hold.SETTLING)


# --- mark ---


def test_a_drained_pod_that_is_not_ready_is_marked() -> None:
    found = steps(ground(serving("a", 3), draining("b")), 1)
    assert names(found.mark) == ["b"]
    assert (found.size, found.confirm, found.hold) == (None, (), Hold.BARRIER)


def test_a_label_without_the_cost_is_no_mark() -> None:
    half = draining("b", serving=False)
    found = steps(ground(serving("a", 3), half), 1)
    assert names(found.mark) == ["b"]
    assert found.size is None


def test_nothing_is_marked_while_the_replica_set_lags() -> None:
    there = (serving("a", 3), draining("b"))
    lagging = replica_set(there, fully_labelled=1)
    found = steps(ground(*there, replica_sets=(lagging,)), 1)
    assert (found.mark, found.hold) == ((), Hold.BARRIER)
    assert found.text == "the ReplicaSet has seen 1 of 0 marks"


def test_nothing_is_marked_shortly_after_a_mark_was_taken_back() -> None:
    found = steps(ground(serving("a", 3), draining("b"), quiet=False), 1)
    assert (found.mark, found.hold) == ((), Hold.BARRIER)
    assert "taken back" in found.text


# --- barrier ---


def test_a_mark_that_the_replica_set_has_not_seen_does_not_count() -> None:
    there = (serving("a", 3), marked("b"))
    lagging = replica_set(there, fully_labelled=2)
    found = steps(ground(*there, replica_sets=(lagging,)), 1)
    assert (found.size, found.confirm, found.hold) == (None, (), Hold.BARRIER)
    assert found.text == "the ReplicaSet has seen 0 of 1 marks"


def test_more_marks_seen_than_there_are_is_no_pass() -> None:
    there = (serving("a", 3), marked("b"), serving("c", 3))
    lagging = replica_set(there, fully_labelled=1)
    assert steps(ground(*there, replica_sets=(lagging,)), 2).size is None


def test_a_replica_set_that_counts_other_pods_has_not_seen_the_marks() -> None:
    there = (serving("a", 3), marked("b"))
    lagging = replica_set(there, replicas=3, fully_labelled=2)
    assert steps(ground(*there, replica_sets=(lagging,)), 1).size is None


# --- lower ---


def test_the_size_is_lowered_by_the_marked_ones_once_they_confirm() -> None:
    found = steps(ground(serving("a", 3), marked("b"), marked("c")), 1)
    assert found.size == 1
    assert sorted(names(found.confirm)) == ["b", "c"]
    assert found.hold is Hold.NONE


def test_those_that_are_marked_do_not_wait_for_those_that_still_drain() -> None:
    found = steps(ground(serving("a", 3), draining("b", 1), marked("c")), 1)
    assert (found.size, names(found.confirm)) == (2, ["c"])
    assert found.hold is Hold.DRAINING
    assert sorted(names(found.drain)) == ["b", "c"]


def test_the_last_worker_goes_too() -> None:
    assert steps(ground(marked("a")), 0).size == 0


def test_a_size_that_is_low_enough_already_is_not_written_again() -> None:
    found = steps(ground(serving("a", 3), marked("b"), deployment=deployment(1)), 1)
    assert (found.size, found.confirm) == (None, ())
    assert names(found.drain) == ["b"]  # until its pod ends


def test_a_busy_pod_that_would_go_first_stops_the_shrink() -> None:
    sick = serving("a", 3, cost=MARK_COST, ready=False)
    found = steps(ground(sick, serving("c"), marked("b")), 2)
    assert (found.size, found.confirm, found.hold) == (None, (), Hold.VICTIMS)
    assert found.text == "a would be deleted in their place"


def test_a_busy_pod_that_is_not_ready_goes_after_the_marked_ones() -> None:
    assert steps(ground(serving("a", 3, ready=False), marked("b")), 1).size == 1


def test_a_marked_pod_that_is_shown_as_ready_again_waits() -> None:
    there = (serving("a", 3, ready=False), marked("b", ready=True))
    found = steps(ground(*there), 1)
    assert (found.size, found.hold) == (None, Hold.SETTLING)


def test_pending_and_marked_ones_go_together() -> None:
    found = steps(ground(serving("a", 3), marked("b"), pending("c")), 1)
    assert (found.size, names(found.confirm)) == (1, ["b"])


def test_a_new_pod_goes_in_the_place_of_a_marked_one_which_is_released_first() -> None:
    found = steps(ground(serving("a", 3), marked("b"), unscheduled("c")), 2)
    assert (names(found.unmark), names(found.resume)) == (["b"], ["b"])
    assert (found.size, found.hold) == (None, Hold.RELEASING)


# --- release ---


def test_a_drain_that_is_wanted_no_more_is_ended_where_there_is_room() -> None:
    found = steps(ground(serving("a", 3), draining("b", 1)), 2)
    assert names(found.resume) == ["b"]
    assert (found.size, found.unmark) == (None, ())


def test_a_marked_pod_that_is_needed_again_is_unmarked_and_resumed() -> None:
    found = steps(ground(serving("a", 3), marked("b")), 2)
    assert (names(found.resume), names(found.unmark)) == (["b"], ["b"])
    assert found.hold is Hold.RELEASING


def test_first_the_room_then_the_worker() -> None:
    there = (serving("a", 3), marked("b"))
    lowered = ground(
        *there, deployment=deployment(1), replica_sets=(replica_set(there, desired=1),)
    )
    found = steps(lowered, 2)
    assert (found.size, found.resume, found.unmark) == (2, (), ())
    raised = replace(lowered, deployment=deployment(2))
    found = steps(raised, 2)
    assert nothing_is_done(found)
    assert found.hold is Hold.RELEASING


def test_a_worker_whose_drain_has_lapsed_is_unmarked() -> None:
    lapsed = serving("b", 1, serving=False, cost=MARK_COST)
    found = steps(ground(serving("a", 3), lapsed), 2)
    assert names(found.unmark) == ["b"]
    assert found.resume == ()


def test_a_survivor_is_released_when_another_pod_has_died() -> None:
    there = (serving("a", 3), marked("b"), serving("c", 1, terminating=True))
    found = steps(ground(*there), 2)
    assert (names(found.resume), names(found.unmark)) == (["b"], ["b"])
    assert found.size is None


def test_nothing_is_marked_or_lowered_while_a_mark_is_taken_back() -> None:
    lapsed = serving("b", 4, serving=False, cost=MARK_COST)
    there = ground(serving("a", 3), lapsed, draining("c"))
    found = steps(there, 2)
    assert names(found.unmark) == ["b"]
    assert (found.mark, found.size, found.hold) == ((), None, Hold.RELEASING)
    assert names(found.drain) == ["c"]


def test_a_restarted_container_in_a_marked_pod_is_drained_anew() -> None:
    anew = serving("b", 0, serving=False, cost=MARK_COST)
    found = steps(ground(serving("a", 3), anew), 1)
    assert names(found.drain) == ["b"]
    assert found.size is None


# --- rollout ---


def _rolling() -> list[Ground]:
    there = (serving("a", 3), marked("b"))
    two = (replica_set(there, replicas=1), replica_set((), uid="rs-2", replicas=1, desired=1))
    old = ground(serving("a", owner="rs-0"), marked("b"))
    return [
        ground(*there, deployment=deployment(2, observed=False)),
        ground(*there, deployment=deployment(2, updated=1)),
        ground(*there, replica_sets=two),
        old,
    ]


@pytest.mark.parametrize("number", range(4))
def test_nothing_shrinks_while_pods_of_two_templates_are_there(number: int) -> None:
    found = steps(_rolling()[number], 1)
    assert nothing_is_done(found)
    assert found.hold is Hold.ROLLOUT
    assert found.text


@pytest.mark.parametrize("number", range(4))
def test_a_rollout_may_grow(number: int) -> None:
    found = steps(_rolling()[number], 5)
    assert (found.size, found.hold) == (5, Hold.ROLLOUT)


def test_an_old_replica_set_without_pods_is_no_rollout() -> None:
    there = (serving("a", 3), marked("b"))
    old = replica_set((), uid="rs-0")
    assert steps(ground(*there, replica_sets=(old, replica_set(there))), 1).size == 1


def test_a_stuck_rollout_without_any_task_shrinks_without_the_protocol() -> None:
    there = ground(serving("a"), pending("b"), deployment=deployment(2, updated=1), idle=True)
    found = steps(there, 0)
    assert found.size == 0
    assert nothing_is_done(replace(found, size=None))
    assert steps(replace(there, deployment=deployment(0, updated=1)), 0).size is None


# --- workers that do not answer ---


def test_workers_that_do_not_answer_are_not_chosen_and_that_is_said() -> None:
    found = steps(ground(silent("a"), silent("b")), 1)
    assert nothing_is_done(found)
    assert found.hold is Hold.NOT_ANSWERING
    assert "do not answer" in found.text


def test_those_that_answer_are_chosen_in_their_place() -> None:
    assert names(steps(ground(silent("a"), serving("b", 4)), 1).drain) == ["b"]


def test_a_marked_pod_that_has_fallen_silent_is_released() -> None:
    mute = silent("b", serving=False, cost=MARK_COST, ready=False)
    found = steps(ground(serving("a", 3), mute, serving("c", 2)), 2)
    assert names(found.unmark) == ["b"]
    assert found.size is None


# --- without the right to patch pods ---


def test_without_the_right_nothing_is_marked_and_readiness_is_the_order() -> None:
    found = steps(ground(serving("a", 3), draining("b"), can_mark=False), 1)
    assert (found.mark, found.size, names(found.confirm)) == ((), 1, ["b"])


def test_without_the_right_the_replica_set_must_have_seen_readiness() -> None:
    there = (serving("a", 3), draining("b"))
    lagging = replica_set(there, ready=2)
    found = steps(ground(*there, replica_sets=(lagging,), can_mark=False), 1)
    assert (found.size, found.hold) == (None, Hold.BARRIER)
    assert found.text == "the ReplicaSet counts 2 ready pods of 1"


def test_without_the_right_a_busy_pod_that_is_not_ready_stops_the_shrink() -> None:
    there = (serving("a", 3, ready=False), draining("b"), serving("c", 4))
    found = steps(ground(*there, can_mark=False), 2)
    assert (found.size, found.hold) == (None, Hold.VICTIMS)


# --- the beginning ---


def test_an_operator_begins_with_the_size_less_what_is_marked() -> None:
    there = (serving("a"), marked("b"), marked("c", terminating=True), draining("d"))
    assert starting_target(deployment(4), there) == 3
    assert starting_target(deployment(0), there) == 0


def test_the_state_of_each_pod() -> None:
    restarted = pod("e")
    there = [serving("a"), draining("b", 1), draining("c"), unscheduled("d")]
    there.append(Member(restarted, answer(restarted, "error", 0)))
    assert [facts_of(each, 4).state for each in there] == [
        WorkerState.SERVING,
        WorkerState.DRAINING,
        WorkerState.DRAINED,
        WorkerState.UNSCHEDULED,
        WorkerState.FAILING,
    ]
