"""Which workers go and which come back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigurationError
from headrace.scaling import (
    UNKNOWN,
    Fleet,
    Why,
    WorkerFacts,
    WorkerState,
    fleet_of,
    plan_drain,
    serving_target,
)
from headrace.scaling.drain import DrainPlan

STARTING, SERVING = WorkerState.STARTING, WorkerState.SERVING
DRAINING, DRAINED = WorkerState.DRAINING, WorkerState.DRAINED


def serving(name: str, running: int = 0, started: float = 0.0) -> WorkerFacts:
    return WorkerFacts(name, SERVING, running, 4, started)


def ids(picks: tuple[object, ...]) -> list[str]:
    return [pick.id for pick in picks]  # type: ignore[attr-defined]


def test_nothing_is_done_at_the_right_size() -> None:
    plan = plan_drain([serving("a", 4), serving("b")], 2)
    assert plan == DrainPlan(target=2, active=2)
    assert plan.message == ""


def test_workers_that_never_started_go_first_and_at_once() -> None:
    workers = [
        serving("idle"),
        WorkerFacts("starting", STARTING),
        WorkerFacts("failing", WorkerState.FAILING),
        WorkerFacts("unscheduled", WorkerState.UNSCHEDULED),
    ]
    assert ids(plan_drain(workers, 3).remove) == ["unscheduled"]
    assert ids(plan_drain(workers, 2).remove) == ["unscheduled", "failing"]
    assert ids(plan_drain(workers, 1).remove) == ["unscheduled", "failing", "starting"]
    assert plan_drain(workers, 1).drain == ()
    assert plan_drain(workers, 1).remove[0].why is Why.NEVER_STARTED


def test_then_the_least_loaded_are_drained_the_youngest_first() -> None:
    workers = [
        serving("busy", 4),
        serving("half", 2),
        serving("old", 0, started=10.0),
        serving("young", 0, started=99.0),
    ]
    assert ids(plan_drain(workers, 3).drain) == ["young"]
    assert ids(plan_drain(workers, 2).drain) == ["young", "old"]
    assert ids(plan_drain(workers, 1).drain) == ["young", "old", "half"]
    assert plan_drain(workers, 0).remove == ()


def test_an_idle_worker_is_drained_and_not_removed_because_it_may_just_have_taken_a_task() -> None:
    plan = plan_drain([serving("idle")], 0)
    assert (ids(plan.drain), plan.remove) == (["idle"], ())


def test_a_drained_worker_may_be_removed_and_a_draining_one_is_waited_for() -> None:
    workers = [WorkerFacts("done", DRAINED), WorkerFacts("soon", DRAINING, 1, 4), serving("a")]
    plan = plan_drain(workers, 1)
    assert (ids(plan.remove), ids(plan.renew), plan.drain) == (["done"], ["soon"], ())


def test_a_drain_once_begun_stands_though_another_worker_is_idle_by_now() -> None:
    workers = [WorkerFacts("slow", DRAINING, 3, 4), serving("idle")]
    plan = plan_drain(workers, 1)
    assert (ids(plan.renew), plan.drain, plan.resume) == (["slow"], (), ())


def test_a_starting_worker_goes_in_place_of_one_that_drains() -> None:
    workers = [WorkerFacts("slow", DRAINING, 3, 4), WorkerFacts("new", STARTING), serving("a", 4)]
    plan = plan_drain(workers, 2)
    assert (ids(plan.remove), ids(plan.resume)) == (["new"], ["slow"])


def test_load_that_comes_back_resumes_all_before_anything_is_started() -> None:
    workers = [WorkerFacts("d", DRAINING, 1, 4), WorkerFacts("e", DRAINED), serving("a", 4)]
    plan = plan_drain(workers, 5)
    assert sorted(ids(plan.resume)) == ["d", "e"]
    assert (plan.start, plan.drain, plan.remove, plan.renew) == (2, (), (), ())
    assert plan.resume[0].why is Why.LOAD_BACK


def test_a_worker_that_does_not_answer_is_passed_over() -> None:
    workers = [WorkerFacts("silent", SERVING, UNKNOWN, 4), serving("busy", 4)]
    plan = plan_drain(workers, 1)
    assert (ids(plan.drain), plan.short) == (["busy"], 0)
    plan = plan_drain(workers, 0)
    assert (ids(plan.drain), plan.short) == (["busy"], 1)
    assert "1 more should go" in plan.message


def test_a_draining_worker_that_does_not_answer_is_waited_for() -> None:
    plan = plan_drain([WorkerFacts("d", DRAINING, UNKNOWN, 4), serving("a")], 1)
    assert (ids(plan.renew), plan.remove) == (["d"], ())


def test_a_drained_worker_that_stopped_answering_is_neither_removed_nor_called_back() -> None:
    plan = plan_drain([WorkerFacts("d", DRAINED, UNKNOWN, 4), serving("a")], 1)
    assert (ids(plan.renew), plan.remove, plan.resume) == (["d"], (), ())


def test_gone_workers_count_for_nothing() -> None:
    workers = [WorkerFacts("gone", WorkerState.GONE, 3, 4), serving("a")]
    plan = plan_drain(workers, 1)
    assert (plan.active, plan.drain, plan.remove, plan.start) == (1, (), (), 0)
    assert plan_drain(workers, 2).start == 1


def test_a_failing_worker_with_a_running_task_is_not_removed() -> None:
    plan = plan_drain([WorkerFacts("f", WorkerState.FAILING, 2, 4), serving("a")], 1)
    assert (ids(plan.drain), plan.remove) == (["a"], ())


def test_the_plan_says_what_it_does_with_whom() -> None:
    workers = [
        WorkerFacts("new", STARTING),
        WorkerFacts("slow", DRAINING, 3, 4),
        serving("busy", 1),
        serving("full", 4),
    ]
    assert plan_drain(workers, 1).message == (
        "removes new (starting); drains busy (1 of 4 slots busy); "
        "waits for slow (3 of 4 slots busy)"
    )
    assert plan_drain(workers, 6).message == "resumes slow (3 of 4 slots busy); starts 2 workers"


@pytest.mark.parametrize(
    ("status", "running", "state"),
    [
        ("idle", 0, SERVING),
        ("busy", 3, SERVING),
        ("draining", 3, DRAINING),
        ("draining", 0, DRAINED),
        ("draining", UNKNOWN, DRAINING),
        ("stopped", 0, WorkerState.GONE),
        ("error", 0, WorkerState.FAILING),
        ("starting", 0, STARTING),
    ],
)
def test_a_workers_own_words_become_its_state(
    status: str, running: int, state: WorkerState
) -> None:
    assert WorkerFacts.of("w", status, running, slots=4).state is state


def test_a_status_that_nobody_knows_is_an_error_and_not_idle() -> None:
    with pytest.raises(ConfigurationError, match="'resting' is no status"):
        WorkerFacts.of("w", "resting", 0)


def test_workers_are_added_up_for_the_snapshot() -> None:
    workers = [
        serving("a"),
        WorkerFacts("b", DRAINING, 1),
        WorkerFacts("c", DRAINED),
        WorkerFacts("d", WorkerState.FAILING),
        WorkerFacts("e", STARTING),
        WorkerFacts("f", WorkerState.GONE),
    ]
    assert fleet_of(workers, 7.0) == Fleet(ready=1, failing=1, draining=2, oldest_drain=7.0)
    assert serving_target(workers) == 3  # a, d and e: what drains is taken off already


_worker = st.builds(
    WorkerFacts,
    id=st.integers(0, 999).map(str),
    state=st.sampled_from(WorkerState),
    running=st.sampled_from([0, 0, 1, 4, UNKNOWN]),
    slots=st.just(4),
    started=st.sampled_from([0.0, 1.0, 2.0]),
)
_workers = st.lists(_worker, max_size=14, unique_by=lambda worker: worker.id)
often = settings(max_examples=300, deadline=None)


@often
@given(_workers, st.integers(0, 16))
def test_a_plan_never_takes_more_than_needed_nor_a_running_task(
    workers: list[WorkerFacts], target: int
) -> None:
    plan = plan_drain(workers, target)
    by_id = {worker.id: worker for worker in workers}
    going = ids(plan.remove) + ids(plan.drain) + ids(plan.renew)
    assert len(going) + plan.short == max(0, plan.active - target)
    assert plan.start == max(0, target - plan.active)
    assert len(set(going + ids(plan.resume))) == len(going) + len(plan.resume)
    assert all(by_id[each].running == 0 for each in ids(plan.remove))
    assert all(by_id[each].state is not SERVING for each in ids(plan.remove))
    assert all(by_id[each].state is not WorkerState.GONE for each in going)
    assert all(by_id[each].state in (DRAINING, DRAINED) for each in ids(plan.resume))
    leaving = {each for each in by_id if by_id[each].state in (DRAINING, DRAINED)}
    assert leaving == (set(going) & leaving) | set(ids(plan.resume))


@often
@given(_workers, st.integers(0, 16))
def test_a_plan_that_was_begun_is_not_changed(workers: list[WorkerFacts], target: int) -> None:
    plan = plan_drain(workers, target)
    asked, back = set(ids(plan.drain)), set(ids(plan.resume))
    after = [
        WorkerFacts(
            worker.id,
            DRAINING if worker.id in asked else SERVING if worker.id in back else worker.state,
            worker.running,
            worker.slots,
            worker.started,
        )
        for worker in workers
        if worker.id not in ids(plan.remove)
    ]
    again = plan_drain(after, target)
    assert (again.drain, again.resume, again.remove) == ((), (), ())
    assert set(ids(again.renew)) == set(ids(plan.renew)) | asked


@often
@given(_workers, st.integers(0, 16))
def test_no_chosen_worker_has_more_to_do_than_one_that_stays(
    workers: list[WorkerFacts], target: int
) -> None:
    plan = plan_drain(workers, target)
    chosen = [worker for worker in workers if worker.id in ids(plan.drain)]
    staying = [
        worker
        for worker in workers
        if worker.state is SERVING
        and worker.running is not UNKNOWN
        and worker.id not in ids(plan.drain)
    ]
    loads = [worker.running for worker in chosen if worker.state is SERVING]
    assert all(
        load <= worker.running  # type: ignore[operator]
        for load in loads
        for worker in staying
    )


@often
@given(_workers, st.randoms(use_true_random=False), st.integers(0, 16))
def test_the_order_in_which_workers_are_told_does_not_matter(
    workers: list[WorkerFacts], random: object, target: int
) -> None:
    mixed = list(workers)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert plan_drain(mixed, target) == plan_drain(workers, target)
