"""The plan of a fault run is its seed's alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.faults.plan import BY_NAME, KINDS, make_plan

NAMES = [kind.name for kind in KINDS]


def test_a_seed_makes_the_same_plan_again_and_another_seed_another() -> None:
    assert make_plan(7, 60, NAMES) == make_plan(7, 60, NAMES)
    assert make_plan(7, 60, NAMES) != make_plan(8, 60, NAMES)


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_one_after_the_other_and_within_the_run(seed: int) -> None:
    plan = make_plan(seed, 120, NAMES)
    assert plan.faults
    for first, second in pairwise(plan.faults):
        assert first.at + first.seconds + 1.0 < second.at
    assert all(fault.at >= 2.0 and fault.at + fault.seconds < 120 for fault in plan.faults)


def test_every_kind_comes_before_any_comes_again() -> None:
    plan = make_plan(1, 600, NAMES)
    first = [fault.kind for fault in plan.faults[: len(NAMES)]]
    assert sorted(first) == sorted(NAMES)
    assert len(plan.faults) > len(NAMES)


def test_once_is_each_kind_in_the_order_given_and_as_long_as_they_take() -> None:
    plan = make_plan(1, 1, ["poison", "worker-kill"], once=True)
    assert [fault.kind for fault in plan.faults] == ["poison", "worker-kill"]
    assert plan.seconds >= plan.faults[-1].at + plan.faults[-1].seconds


def test_what_outlives_a_lease_is_measured_in_leases() -> None:
    (fault,) = make_plan(1, 1, ["worker-stop"], ack_wait=20.0, once=True).faults
    assert BY_NAME["worker-stop"].in_leases
    assert 24.0 <= fault.seconds <= 40.0


def test_tasks_come_at_the_rate_in_order_with_names_of_their_own() -> None:
    plan = make_plan(3, 300, [], rate=30)
    assert 7_500 < len(plan.jobs) < 10_500
    assert [job.at for job in plan.jobs] == sorted(job.at for job in plan.jobs)
    assert len({job.id for job in plan.jobs}) == len(plan.jobs)
    kinds = {(job.type, bool(job.fails), bool(job.delay), job.twice, job.cancel_after is not None)
             for job in plan.jobs}  # fmt: skip
    assert len(kinds) == 7  # every way in which a task is special, and none
