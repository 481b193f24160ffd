"""The sentence: what it says is what people read in every place."""

from __future__ import annotations

import pytest
from tests.unit.scaling.builders import NOW, depth, fleet, look, policy, rates, steady, unknown

from headrace.scaling import (
    UNKNOWN,
    Depth,
    Fleet,
    History,
    Mark,
    Pause,
    Policy,
    Snapshot,
    Step,
    WaitTargets,
    decide,
)
from headrace.scaling.text import duration, plural, time_of_day
from headrace.task import TaskPriority

AT_0300 = 1_700_017_200.0 + 3600.0  # 2023-11-15 04:00:00 UTC


def say(rules: Policy, seen: Snapshot, history: History | None = None) -> str:
    return decide(rules, seen, history or steady()).message


def test_a_scale_in_that_waits() -> None:
    seen = look(
        16,
        depth(12, 17),
        clock=AT_0300,
        fleet=Fleet(ready=14, draining=2, oldest_drain=240.0),
    )
    assert say(policy(), seen, steady(50)) == (
        "29 tasks (12 waiting, 17 running) on 16 workers; wants 15 (at least 2 tasks a worker); "
        "scale-in not before 04:00:10; stays at 16; draining 2, oldest 4m of 10m"
    )


@pytest.mark.parametrize(
    ("rules", "seen", "text"),
    [
        (policy(), look(10, depth(20, 20)),
         "40 tasks (20 waiting, 20 running) on 10 workers; wants 10 (2 to 10 tasks a worker)"),
        (policy(), look(1, depth(11)),
         "11 tasks (11 waiting, 0 running) on 1 worker; wants 2 (at most 10 tasks a worker)"),
        (policy(), look(10, depth(0)), "no tasks on 10 workers; wants 0 (nothing to do)"),
        (policy(slots=1), look(5, depth(0, 5)),
         "5 tasks (0 waiting, 5 running) on 5 workers; wants 5 (running tasks fill 5 × 1 slots)"),
        (policy(), look(10, unknown()),
         "no task known (unknown: normal) on 10 workers; no scale-in until all of it is known; "
         "stays at 10"),
        (policy(), look(10, depth(3), age=42.4),
         "no task known (unknown: depth, 42s old) on 10 workers; "
         "no scale-in until all of it is known; stays at 10"),
        (policy(), look(10, depth(200), unknown(TaskPriority.LOW)),
         "at least 200 tasks (200 waiting, 0 running, unknown: low) on 10 workers; "
         "wants 20 (at most 10 tasks a worker)"),
        (policy(), look(10, depth(900)),
         "900 tasks (900 waiting, 0 running) on 10 workers; wants 90 (at most 10 tasks a worker); "
         "the maximum is 50; goes to 50"),
        (policy(pin=7), look(10, depth(0)),
         "no tasks on 10 workers; pinned at 7 (automatic: 0); goes to 7"),
        (policy(pin=7), look(7, lanes=UNKNOWN),
         "no task known (unknown: depth) on 7 workers; pinned at 7; stays at 7"),
        (policy(), look(6, depth(90), fleet=fleet(4, 2)),
         "90 tasks (90 waiting, 0 running) on 6 workers; wants 9 (at most 10 tasks a worker); "
         "2 workers cannot start, 4 ready: at most 8 until more are; goes to 8"),
        (policy(pause=Pause.OUT), look(1, depth(90)),
         "90 tasks (90 waiting, 0 running) on 1 worker; wants 9 (at most 10 tasks a worker); "
         "scale-out is paused; stays at 1"),
        (policy(pause=Pause.IN), look(1, depth(0)),
         "no tasks on 1 worker; wants 0 (nothing to do); scale-in is paused; stays at 1"),
        (policy(), look(1, depth(0), rollout=True),
         "no tasks on 1 worker; wants 0 (nothing to do); no scale-in before the rollout has "
         "ended; stays at 1"),
        (policy(), look(1, depth(20), quota_exceeded=True),
         "20 tasks (20 waiting, 0 running) on 1 worker; wants 2 (at most 10 tasks a worker); "
         "a further worker was refused: no more until the quota allows it; stays at 1"),
        (policy(targets=WaitTargets(normal=1)), look(1, depth(80), rates=(rates(1),)),
         "80 tasks (80 waiting, 0 running) on 1 worker; "
         "wants 4 (normal to start within 5s, the time a worker takes to start)"),
    ],
)  # fmt: skip
def test_every_situation_has_its_sentence(rules: Policy, seen: Snapshot, text: str) -> None:
    assert say(rules, seen) == text


def test_a_step_says_how_large_it_is_and_when_the_next_one_comes() -> None:
    rules = policy(step=Step(period=10, max_up=1))
    history = steady(moves=(Mark(NOW - 3, 1),))
    assert say(rules, look(2, depth(237), clock=AT_0300), history) == (
        "237 tasks (237 waiting, 0 running) on 2 workers; wants 24 (at most 10 tasks a worker); "
        "the step is 1 in 10s, next not before 04:00:07; stays at 2"
    )


def test_without_a_clock_times_are_from_now() -> None:
    assert "scale-in not before 40s from now" in say(policy(), look(10, depth(0)), steady(20))


def test_the_sentence_stays_the_same_while_nothing_but_time_passes() -> None:
    # Each change of it would be a write to the cluster.
    since, first = NOW - 20, AT_0300
    said = {
        say(
            policy(),
            look(10, depth(0), now=NOW + 0.7 * n, clock=first + 0.7 * n, age=0.1 * (n % 5)),
            History(seen=NOW + 0.7 * (n - 1), complete_since=since),
        )
        for n in range(50)
    }
    assert len(said) == 1


def test_many_unknown_lanes_are_cut_short() -> None:
    lanes = tuple(
        Depth(TaskPriority.LOW, UNKNOWN, UNKNOWN, tag=f"t{number}") for number in range(9)
    )
    rules = policy(tags=tuple(f"t{number}" for number in range(9)))
    assert "unknown: low-t0, low-t1, low-t2 and 6 more" in say(rules, look(1, *lanes))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "0.25s"), (9.99, "9.99s"), (10, "10s"), (59.6, "1m"), (60, "1m"),
     (90, "1m30s"), (3600, "1h"), (3725, "1h2m")],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_rounded_up_and_counts_have_their_plural() -> None:
    assert time_of_day(0.0) == "00:00:00"
    assert time_of_day(86400 + 3661.2) == "01:01:02"
    assert (plural(1, "task"), plural(0, "task")) == ("1 task", "0 tasks")
