"""Pods and answers, joined; and who would be deleted first."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.operator_core.builders import (
    answer,
    draining,
    pending,
    pod,
    serving,
    silent,
    unscheduled,
)

from headrace.scaling import UNKNOWN, WorkerState
from headrace_operator.core.fleet import facts_of, join, never_started, next_victims
from headrace_operator.core.values import FAILING_REASONS, MARK_COST, Member, Pod

# --- join ---


def test_each_pod_has_its_workers_answer() -> None:
    a, b = pod("a"), pod("b")
    of_a, of_b = answer(a, "idle", 0), answer(b, "busy", 2)
    assert join([a, b], [of_b, of_a]) == (Member(a, of_a), Member(b, of_b))


def test_a_pod_without_an_answer_is_there_all_the_same() -> None:
    assert join([pod("a")], []) == (Member(pod("a"), None),)


def test_an_answer_from_no_pod_of_the_pool_is_left_out() -> None:
    assert join([], [answer(pod("else"), "idle", 0)]) == ()
    assert join([pod("a")], [answer(pod("a", uid=""), "busy", 1)]) == (Member(pod("a")),)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_containers_of_a_pod_the_younger_ones_answer_counts(order: int) -> None:
    a = pod("a")
    before = answer(a, "draining", 0, started=100.0)
    after = answer(a, "busy", 1, started=160.0)
    assert join([a], [before, after][::order]) == (Member(a, after),)


def test_a_pod_of_the_same_name_made_anew_does_not_get_the_old_answer() -> None:
    old = answer(pod("a", uid="old"), "draining", 0)
    assert join([pod("a", uid="new")], [old])[0].answer is None


# --- states ---


@pytest.mark.parametrize(
    ("member", "state", "running"),
    [
        (serving("a"), WorkerState.SERVING, 0),
        (serving("a", 3), WorkerState.SERVING, 3),
        (serving("a", 3, ready=False), WorkerState.SERVING, 3),
        (draining("a", 2), WorkerState.DRAINING, 2),
        (draining("a"), WorkerState.DRAINED, 0),
        (silent("a"), WorkerState.SERVING, UNKNOWN),
        (silent("a", ready=False), WorkerState.STARTING, UNKNOWN),
        (pending("a"), WorkerState.STARTING, 0),
        (unscheduled("a"), WorkerState.UNSCHEDULED, 0),
        (pending("a", failing="ErrImagePull"), WorkerState.FAILING, 0),
        (silent("a", started=False, ready=False, failing="CrashLoop"), WorkerState.FAILING, 0),
        (serving("a", 2, terminating=True), WorkerState.GONE, 2),
        (serving("a", phase="Failed"), WorkerState.GONE, 0),
        (serving("a", phase="Succeeded"), WorkerState.GONE, 0),
    ],
)
def test_the_state_of_a_worker(member: Member, state: WorkerState, running: object) -> None:
    facts = facts_of(member, 4)
    assert (facts.id, facts.state, facts.running) == ("a", state, running)
    assert (facts.slots, facts.started) == (4, 100.0)


def test_a_worker_that_answers_before_its_container_is_shown_as_running_has_its_load() -> None:
    early = pod("a", phase="Pending", started=False, ready=False)
    facts = facts_of(Member(early, answer(early, "busy", 2)), 4)
    assert (facts.state, facts.running) == (WorkerState.STARTING, 2)


def test_a_status_of_a_later_version_is_that_of_one_who_may_take_tasks() -> None:
    each = pod("a")
    assert facts_of(Member(each, answer(each, "sleeping", 0)), 4).state is WorkerState.SERVING


@pytest.mark.parametrize(
    ("each", "found"),
    [
        (unscheduled("a").pod, True),
        (pending("a").pod, True),
        (pod("a"), False),
        (pod("a", ready=False, started=False, failing="CrashLoopBackOff"), False),
        (pending("a", terminating=True).pod, False),
        (pod("a", phase="Failed", node=None), False),
    ],
)
def test_which_pods_have_never_started(each: Pod, found: bool) -> None:
    assert never_started(each) is found


def test_a_pod_without_a_node_is_not_failing() -> None:
    assert "Unschedulable" not in FAILING_REASONS


# --- the order of a ReplicaSet ---


def compare(one: Pod, other: Pod) -> int:
    """ActivePodsWithRanks.Less as it is written there, up to the deletion cost."""
    if (one.node is None) != (other.node is None):
        return -1 if one.node is None else 1
    rank = ["Pending", "Unknown", "Running"]
    if one.phase != other.phase:
        return -1 if rank.index(one.phase) < rank.index(other.phase) else 1
    if one.ready != other.ready:
        return 1 if one.ready else -1
    return (one.cost > other.cost) - (one.cost < other.cost)


def may_go(pods: list[Pod], count: int) -> set[str]:
    """All that could be among the first, whatever decides between equals."""
    active = sorted((each for each in pods if each.active), key=functools.cmp_to_key(compare))
    if count <= 0:
        return set()
    if count >= len(active):
        return {each.name for each in active}
    return {each.name for each in active if compare(each, active[count - 1]) <= 0}


_pod: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    node=st.sampled_from([None, "n1", "n2"]),
    phase=st.sampled_from(["Pending", "Running", "Running", "Unknown", "Failed"]),
    ready=st.booleans(),
    cost=st.sampled_from([0, 0, MARK_COST, -5, 100]),
    terminating=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_pod, max_size=7), st.integers(-1, 8))
def test_the_next_victims_are_all_that_a_replica_set_could_delete(
    rows: list[dict[str, object]], count: int
) -> None:
    pods = [pod(f"p{number}", **row) for number, row in enumerate(rows)]
    found = next_victims(pods, count)
    assert {each.name for each in found} == may_go(pods, count)
    assert len({each.name for each in found}) == len(found)
    assert all(compare(*pair) <= 0 for pair in itertools.pairwise(found))


def test_the_order_of_one_of_each() -> None:
    pods = [
        pod("ready"),
        pod("cheap", cost=-1),
        pod("not-ready", ready=False),
        pod("marked", ready=False, cost=MARK_COST),
        pending("pending").pod,
        unscheduled("unscheduled").pod,
    ]
    order = ["unscheduled", "pending", "marked", "not-ready", "cheap", "ready"]
    for count in range(7):
        assert [each.name for each in next_victims(pods, count)] == order[:count]


def test_who_is_equal_to_the_last_may_be_chosen_in_its_place() -> None:
    pods = [pod("a"), pod("b"), pod("c", ready=False)]
    assert {each.name for each in next_victims(pods, 2)} == {"a", "b", "c"}
    assert {each.name for each in next_victims(pods, 1)} == {"c"}
