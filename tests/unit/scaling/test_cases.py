"""The 37 worked cases of the law; each id starts with the case's number.

Defaults: min 0, max 50, 4 slots, thresholds 10 and 2, a window of 60 s that has passed, all tasks
of level normal. `P+A` is waiting and running tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from tests.unit.scaling.builders import (
    NOW,
    depth,
    fleet,
    look,
    policy,
    rates,
    steady,
    unknown,
)

from headrace.scaling import (
    UNKNOWN,
    Depth,
    History,
    Mark,
    Pause,
    Policy,
    Reason,
    Snapshot,
    Step,
    WaitTargets,
    WorkerFacts,
    WorkerState,
    decide,
    plan_drain,
)
from headrace.task import TaskPriority

CRITICAL, HIGH, LOW = TaskPriority.CRITICAL, TaskPriority.HIGH, TaskPriority.LOW


class Case(NamedTuple):
    """One row: what is known, and what must be decided."""

    number: int
    name: str
    current: int
    lanes: tuple[Depth, ...]
    desired: int
    reason: Reason
    policy: Policy = policy()
    history: History = steady()
    facts: dict[str, Any] = {}  # noqa: RUF012  # read only


def tasks(waiting: int, running: int, priority: TaskPriority = TaskPriority.NORMAL) -> Any:
    return (depth(waiting, running, priority),)


CRITICAL_IN_5S = policy(targets=WaitTargets(critical=5))
CRITICAL_IN_1S = policy(targets=WaitTargets(critical=1))
IN_60S = policy(targets=WaitTargets(normal=60))
BURST = tasks(1000, 40, CRITICAL)
HALF_SECOND = {"rates": (rates(0.5, 0, CRITICAL),), "startup": 5.0}
ONE_UP = policy(step=Step(period=10, max_up=1))
STEPPED = steady(moves=(Mark(NOW - 3, 1),))
HIGH_KNOWN = (depth(200, 0, HIGH), unknown(LOW))
HIGH_EMPTY = (depth(0, 0, HIGH), unknown(LOW))

CASES = [
    Case(1, "0+0", 0, tasks(0, 0), 0, Reason.WITHIN_BAND),
    Case(2, "1+0", 0, tasks(1, 0), 1, Reason.BACKLOG_HIGH),
    Case(3, "5+0", 0, tasks(5, 0), 1, Reason.BACKLOG_HIGH),
    Case(4, "237+0", 0, tasks(237, 0), 24, Reason.BACKLOG_HIGH),
    Case(5, "20+20", 10, tasks(20, 20), 10, Reason.WITHIN_BAND),
    Case(6, "110+40", 10, tasks(110, 40), 15, Reason.BACKLOG_HIGH),
    Case(7, "900+40", 10, tasks(900, 40), 50, Reason.AT_MAX),
    Case(8, "0+6", 10, tasks(0, 6), 3, Reason.BACKLOG_LOW),
    Case(9, "wanted 9 in the window", 10, tasks(0, 6), 9, Reason.STABILIZING,
         history=steady(wishes=(Mark(NOW - 30, 9),))),
    Case(10, "20 s of data", 10, tasks(0, 0), 10, Reason.STABILIZING, history=steady(20)),
    Case(11, "min 2", 10, tasks(0, 0), 2, Reason.AT_MIN, policy(min_workers=2)),
    Case(12, "one slot, all busy", 5, tasks(0, 5), 5, Reason.ALL_BUSY, policy(slots=1)),
    Case(13, "64 slots", 1, tasks(0, 20), 1, Reason.WITHIN_BAND, policy(slots=64)),
    Case(14, "unknown", 10, (unknown(),), 10, Reason.UNKNOWN),
    Case(15, "high 200, low unknown", 10, HIGH_KNOWN, 20, Reason.BACKLOG_HIGH),
    Case(16, "high 0, low unknown", 10, HIGH_EMPTY, 10, Reason.UNKNOWN),
    Case(17, "unknown below min", 0, (unknown(),), 2, Reason.AT_MIN, policy(min_workers=2)),
    Case(18, "none ready, 5 failing", 5, tasks(500, 0), 5, Reason.PODS_FAILING,
         facts={"fleet": fleet(0, 5)}),
    Case(19, "4 ready, 2 failing", 6, tasks(500, 0), 8, Reason.PODS_FAILING,
         facts={"fleet": fleet(4, 2)}),
    Case(20, "quota", 10, tasks(500, 0), 10, Reason.QUOTA_EXCEEDED,
         facts={"quota_exceeded": True}),
    Case(21, "3 ready, rest unscheduled", 40, tasks(500, 0), 50, Reason.BACKLOG_HIGH,
         facts={"fleet": fleet(3)}),
    Case(22, "rollout 0+0", 10, tasks(0, 0), 10, Reason.ROLLOUT_IN_PROGRESS,
         facts={"rollout": True}),
    Case(23, "rollout 300+0", 10, tasks(300, 0), 30, Reason.BACKLOG_HIGH,
         facts={"rollout": True}),
    Case(24, "pause in", 10, tasks(0, 0), 10, Reason.PAUSED, policy(pause=Pause.IN)),
    Case(25, "pause out", 10, tasks(300, 0), 10, Reason.PAUSED, policy(pause=Pause.OUT)),
    Case(26, "pin 7, pause both", 10, tasks(0, 0), 7, Reason.PINNED,
         policy(pin=7, pause=Pause.BOTH)),
    Case(27, "pin above max", 10, tasks(0, 0), 50, Reason.PINNED, policy(pin=500)),
    Case(28, "never stepped", 2, tasks(237, 0), 3, Reason.STEP_LIMITED, ONE_UP),
    Case(29, "stepped 3 s ago", 2, tasks(237, 0), 2, Reason.STEP_LIMITED, ONE_UP, STEPPED),
    Case(30, "3 of 10 draining, 2+16", 7, tasks(2, 16), 7, Reason.WITHIN_BAND),
    Case(31, "3 of 10 draining, 74+16", 7, tasks(74, 16), 9, Reason.BACKLOG_HIGH),
    Case(32, "max lowered to 5", 10, tasks(200, 0), 5, Reason.AT_MAX, policy(max_workers=5),
         steady(10)),
    Case(33, "critical burst", 10, BURST, 26, Reason.WAIT_TARGET, CRITICAL_IN_5S,
         facts=HALF_SECOND),
    Case(34, "target below start-up", 10, BURST, 26, Reason.WAIT_TARGET, CRITICAL_IN_1S,
         facts=HALF_SECOND),
    Case(35, "long tasks", 25, tasks(10, 100), 28, Reason.WAIT_TARGET,
         policy(targets=WaitTargets(normal=5)), facts={"rates": (rates(60, 0.1),)}),
    Case(36, "steady arrivals", 10, tasks(0, 8), 3, Reason.WAIT_TARGET, IN_60S,
         facts={"rates": (rates(0.2, 40),)}),
    Case(37, "run times unknown", 0, tasks(300, 0), 30, Reason.BACKLOG_HIGH, IN_60S,
         facts={"rates": (rates(UNKNOWN, UNKNOWN, samples=0),)}),
]  # fmt: skip


def _snapshot(case: Case) -> Snapshot:
    return look(case.current, *case.lanes, **case.facts)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.number}-{case.name}" for case in CASES])
def test_the_law_decides_as_worked_out_by_hand(case: Case) -> None:
    decision = decide(case.policy, _snapshot(case), case.history)
    assert (decision.desired, decision.reason) == (case.desired, case.reason), decision.message


@pytest.mark.parametrize("case", CASES, ids=[f"{case.number}-{case.name}" for case in CASES])
def test_the_sentence_names_both_sizes(case: Case) -> None:
    decision = decide(case.policy, _snapshot(case), case.history)
    noun = "worker" if case.current == 1 else "workers"
    assert f"{case.current} {noun}" in decision.message
    assert str(decision.desired) in decision.message.split(noun, 1)[1] or not decision.changes


def test_every_number_of_the_table_is_there_once() -> None:
    assert [case.number for case in CASES] == list(range(1, 38))


def test_31_two_of_three_draining_workers_are_resumed_and_one_goes_on_draining() -> None:
    serving = [WorkerFacts(f"s{n}", WorkerState.SERVING, 2, 4) for n in range(7)]
    draining = [WorkerFacts(f"d{n}", WorkerState.DRAINING, n + 1, 4) for n in range(3)]
    plan = plan_drain(serving + draining, 9)
    assert [pick.id for pick in plan.resume] == ["d1", "d2"]
    assert [pick.id for pick in plan.renew] == ["d0"]
    assert (plan.drain, plan.remove, plan.start) == ((), (), 0)


def test_32_what_is_above_a_lowered_maximum_is_drained_and_not_killed() -> None:
    plan = plan_drain([WorkerFacts(f"s{n}", WorkerState.SERVING, 4, 4) for n in range(10)], 5)
    assert len(plan.drain) == 5
    assert plan.remove == ()
