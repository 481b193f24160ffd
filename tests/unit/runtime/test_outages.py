"""When the broker's counts are not believed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from headrace.runtime.outages import UNSURE, Outages


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("headrace.runtime.outages.time", clock)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_nothing_is_in_doubt_without_an_outage(clock: Clock) -> None:
    outages = Outages(slots=4)
    outages.answered()
    assert outages.over
    assert not outages.concerns(age=1e9)


def test_it_is_over_a_moment_after_the_first_answer(clock: Clock) -> None:
    outages = Outages(slots=4)
    outages.seen()
    clock.now += 3600  # a worker whose slots are all taken asks for nothing
    assert outages.concerns(age=3601)
    assert not outages.concerns(age=3599)  # it came after the outage
    outages.answered()
    clock.now += UNSURE - 0.1
    outages.answered()  # only the first one counts
    assert not outages.over
    assert outages.concerns(age=3605)
    clock.now += 0.1
    assert outages.over
    assert not outages.concerns(age=1e9)


def test_each_slot_may_ask_once_an_outage(clock: Clock) -> None:
    outages = Outages(slots=2)
    for _ in range(2):
        outages.seen()
        assert [outages.may_ask() for _ in range(3)] == [True, True, False]
