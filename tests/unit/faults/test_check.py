"""The check of a fault run finds what is planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.faults.check import TAIL, Life, Record, Run, Seen, Window, violations
from tests.faults.figures import figures, stalls
from tests.faults.plan import Job

from headrace.task import TaskPriority

DONE = Record("completed")


def job(name: str = "a", type_: str = "work", **more: Any) -> Job:
    level = more.pop("priority", TaskPriority.NORMAL)
    return Job(name, 0.0, type_, level, 0.1, **more)


def run(start: float, end: float | None, how: str = "ended", **more: Any) -> Run:
    given = {"task": "a", "attempt": 1, "level": 5, "pid": 1} | more
    return Run(start=start, end=end, how=how if end is not None else "", **given)


def seen(
    *jobs: Job,
    runs: Sequence[Run] = (),
    records: dict[str, list[Record]] | None = None,
    **more: Any,
) -> Seen:
    """A run of 100 s with workers 1 and 2, in which all was well unless told otherwise."""
    all_jobs = {each.id: each for each in jobs or [job()]}
    given: dict[str, Any] = {
        "jobs": all_jobs,
        "asked": dict.fromkeys(all_jobs, 0.0),
        "stored": dict.fromkeys(all_jobs, 0.0),
        "runs": runs or [run(1.0, 1.1, task=name) for name in all_jobs],
        "lives": [Life(1, 2, 0.0), Life(2, 2, 0.0)],
        "windows": [],
        "records": {name: [DONE] for name in all_jobs} if records is None else records,
    }
    return Seen(**(given | more))


def the_only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_found_where_all_is_well() -> None:
    assert violations(seen()) == []


def test_a_task_without_a_final_state_is_lost() -> None:
    assert "a (work) is lost" in the_only(violations(seen(records={})))
    queued = seen(records={"a": [Record("queued")]})
    assert "is lost" in the_only(violations(queued))


def test_a_task_that_was_never_stored_is_said() -> None:
    assert "never stored" in the_only(violations(seen(stored={})))


@pytest.mark.parametrize("records", [[DONE, DONE], [DONE, Record("running")]])
def test_an_end_that_is_not_the_only_and_last_one(records: list[Record]) -> None:
    assert "more than one end" in violations(seen(records={"a": records}))[0]


def test_what_a_client_was_told_must_be_the_record() -> None:
    found = violations(seen(answers={"a": ["completed", "cancelled"]}))
    assert "a client was told cancelled" in the_only(found)


def test_a_wrong_end() -> None:
    found = violations(seen(records={"a": [Record("timeout")]}, dead=frozenset("a")))
    assert "ended timeout" in the_only(found)


def test_a_failure_has_a_dead_letter_and_a_success_none() -> None:
    failing = job(fails=1)
    failed = seen(failing, runs=[run(1, 2, "raised")], records={"a": [Record("failed")]})
    assert "has no dead letter" in the_only(violations(failed))
    assert violations(replace(failed, dead=frozenset("a"))) == []
    assert "has a dead letter" in the_only(violations(seen(dead=frozenset("a"))))


def test_completed_without_a_run() -> None:
    assert "no run of its handler ended" in the_only(violations(seen(runs=[run(1.0, None)])))


def test_worker_lost_needs_workers_that_died() -> None:
    lost = {"records": {"a": [Record("failed", "worker_lost")]}, "dead": frozenset("a")}
    runs = [run(10.0 * pid, None, pid=pid) for pid in (1, 2, 3)]
    died = [Life(pid, 2, 0.0, 10.0 * pid + 1) for pid in (1, 2, 3)]
    assert violations(seen(runs=runs, lives=died, **lost)) == []
    alive = [*died[:2], Life(3, 2, 0.0)]
    assert "ended failed (worker_lost)" in the_only(
        violations(seen(runs=runs, lives=alive, **lost))
    )


AGAIN = [run(1.0, 1.2), run(8.0, 8.2, pid=2)]


def test_a_second_run_needs_a_lost_lease() -> None:
    assert "had lost no lease" in the_only(violations(seen(runs=AGAIN)))
    died = seen(runs=AGAIN, lives=[Life(1, 2, 0.0, 1.3), Life(2, 2, 0.0)])
    assert violations(died) == []
    asleep = Window("worker-stop", 0.9, 7.0, frozenset({1}))
    assert violations(seen(runs=AGAIN, windows=[asleep])) == []


@pytest.mark.parametrize(
    "window",
    [
        Window("worker-stop", 0.9, 7.0, frozenset({2})),  # the other worker
        Window("slow-handler", 0.9, 7.0, leases=False),  # no lease is lost by it
        Window("broker-kill", 5.0, 7.0),  # long after the first run had ended
        Window("broker-kill", -60.0, 0.5 - TAIL),  # long before
    ],
)
def test_a_fault_that_could_not_have_lost_it_excuses_nothing(window: Window) -> None:
    assert "had lost no lease" in the_only(violations(seen(runs=AGAIN, windows=[window])))


def test_each_second_run_needs_a_lease_of_its_own() -> None:
    runs = [*AGAIN, run(15.0, 15.2)]
    died = [Life(1, 2, 0.0, 1.3), Life(2, 2, 0.0)]
    assert "ran again 7.00 s later" in the_only(violations(seen(runs=runs, lives=died)))


def test_attempts_and_their_pauses() -> None:
    twice = job(fails=1, retries=1, pause=2.0)
    first = run(1.0, 1.1, "raised")
    assert violations(seen(twice, runs=[first, run(3.2, 3.3, attempt=2)])) == []
    early = violations(seen(twice, runs=[first, run(2.5, 2.6, attempt=2)]))
    assert "came 1.40 s after 1" in the_only(early)
    third = [first, run(3.2, 3.3, "raised", attempt=2), run(6.0, 6.1, attempt=3)]
    assert "attempt 3 of 2" in the_only(violations(seen(twice, runs=third)))


def test_a_delayed_task_that_came_early() -> None:
    assert "not after 3.00 s" in the_only(violations(seen(job(delay=3.0))))


def test_more_at_once_than_slots() -> None:
    jobs = [job(name) for name in "abc"]
    runs = [run(1.0, 4.0, task=name) for name in "abc"]
    assert "3 tasks at once in 2 slots" in the_only(violations(seen(*jobs, runs=runs)))


def passed_over(**more: Any) -> list[str]:
    """A critical task that waits from 0 to 9 while a low one, stored at 4, starts at 5."""
    jobs = [job("a", priority=TaskPriority.CRITICAL), job("b", priority=TaskPriority.LOW)]
    runs = [run(9.0, 9.1, level=20), run(5.0, 5.1, task="b", level=0)]
    return violations(seen(*jobs, runs=runs, **({"stored": {"a": 0.0, "b": 4.0}} | more)))


def test_a_lower_task_that_started_first() -> None:
    assert "1 lower tasks started, such as b" in the_only(passed_over())
    # within its rights: it was over the starvation limit
    assert passed_over(starvation_limit=0.5) == []
    # an election of one level's consumer lets the others go on
    assert passed_over(windows=[Window("leader-kill", 3.0, 4.0)]) == []
    assert len(passed_over(windows=[Window("slow-handler", 3.0, 4.0, order=False)])) == 1


def test_the_rest() -> None:
    assert "2 messages are left" in the_only(violations(seen(left=["x", "y"])))
    assert "held 11 tasks, its limit is 10" in the_only(violations(seen(deepest=11, max_size=10)))
    assert violations(seen(broken=["a client failed"])) == ["a client failed"]


def test_a_stall_is_a_task_that_waits_a_slot_that_is_free_and_nothing_that_happens() -> None:
    waits = seen(job("a"), job("b"), runs=[run(1.0, 1.5), run(6.0, 6.1, task="b")])
    longest = max(stalls(waits), key=lambda stall: stall.seconds)
    assert (longest.at, longest.seconds, longest.during) == (1.5, 4.5, "")
    busy = [run(1.0, 6.0), run(1.0, 6.0, task="b"), run(6.0, 6.1, task="c")]
    full = seen(*map(job, "abc"), runs=busy, lives=[Life(1, 2, 0.0)])
    assert max(stall.seconds for stall in stalls(full)) == pytest.approx(1.0)
    assert max(stall.seconds for stall in stalls(replace(full, lives=[Life(1, 3, 0.0)]))) == 5.0


def test_the_figures() -> None:
    known = figures(
        seen(
            job("a"), job("b"),
            runs=[run(1.0, 1.1), run(5.0, 5.1, pid=2)],
            records={"a": [DONE]},
            windows=[Window("worker-kill", 0.5, 0.6)],
        ),
        {},
    )  # fmt: skip
    assert (known.tasks, known.lost, known.ended) == (2, 1, {"completed": 1})
    assert (known.runs, known.second_runs, known.refused) == (2, 1, 1)
    assert known.faults == {"worker-kill": 1}
