"""Stories in which a busy pod was once deleted; each was found by the model."""

from __future__ import annotations

import pytest
from tests.unit.operator_core.model import Freedom
from tests.unit.operator_core.test_shrink_model import Step, simulate

L, KS, D, T, SEES = ("look", 0), ("kubelets", 0), ("deployment", 0), ("task", 0), ("sees-size", 0)


def k(n: int) -> Step:
    return ("kubelet", n)


def rs(n: int) -> Step:
    return ("replica-set", n)


def target(n: int) -> Step:
    return ("target", n)


SHRINK = [target(2), L, KS, L, rs(9), L]
TWO_MARKS = [target(2), L, k(0), L, k(1), rs(9)]

CASES: dict[str, tuple[int, Freedom, list[Step]]] = {
    "1 barrier skipped while another pod waits for its mark": (
        5,
        Freedom(second_mark=True),
        [target(0), ("fail", 3), T, L, KS, L, D, rs(0)],
    ),
    "2 quiet is not asked for when a size is lowered": (
        4,
        Freedom(second_mark=True, mark_lag_after_unmark=True, late_ready=True),
        [*TWO_MARKS, ("crash", 1), ("restart", 0), target(3), L, L, *[T] * 7, D, rs(0)],
    ),
    "3 unmarked while a smaller size is still to be carried out": (
        5,
        Freedom(early_unmark=True, second_mark=True),
        [*[T] * 4, ("sick", 2), target(1), L, KS, L, rs(9), L, D, ("end", 1), target(4), L, rs(9)],
    ),
    "4 resumed before the controller has seen the larger size": (
        3,
        Freedom(spec_lag=True, early_unmark=True, second_mark=True, mark_lag_after_unmark=True),
        [*SHRINK, D, SEES, target(3), L, D, L, *[T] * 6, rs(0)],
    ),
    "5a size lowered by a pod whose end the controller has not seen": (
        4,
        Freedom(death_lag=True),
        [T, ("die", 1), target(1), L, D, rs(0)],
    ),
    "5b survivor resumed before the controller has seen the other's end": (
        3,
        Freedom(True, True, True, True, True, False, True),
        [*SHRINK, ("die", 1), D, SEES, L, *[T] * 5, L, rs(0)],
    ),
    "6a a pod shown as Pending whose worker says it is busy": (
        3,
        Freedom(status_lag=True),
        [
            *(*[T] * 6, target(4), L, D, rs(5), rs(5), ("start", 3), ("start", 3), T, T),
            *(("end", 0), ("end", 0), target(3), L, k(0), L, rs(5), L, D, rs(0)),
        ],
    ),
    "6b nobody is asked where no pod is shown as started": (
        1,
        Freedom(status_lag=True),
        [("die", 0), T, k(0), rs(9), ("start", 0), ("start", 0), target(0), L, D, rs(9)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_busy_pod_is_deleted(case: str) -> None:
    size, freedom, happens = CASES[case]
    simulate(size, happens, freedom)
