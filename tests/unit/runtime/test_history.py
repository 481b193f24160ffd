"""When the broker's counts are not believed, and which hand-backs are remembered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from headrace.broker.port import Delivery
from headrace.runtime.history import UNSURE, History
from headrace.wire import LEVELS, Lane


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("headrace.runtime.history.time", clock)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_nothing_is_in_doubt_without_an_outage(clock: Clock) -> None:
    history = History(slots=4)
    history.answered()
    assert history.sure
    assert not history.doubts(age=1e9)


def test_it_is_over_a_moment_after_the_first_answer(clock: Clock) -> None:
    history = History(slots=4)
    history.outage()
    clock.now += 3600  # a worker whose slots are all taken asks for nothing
    assert history.doubts(age=3601)
    assert not history.doubts(age=3599)  # it came after the outage
    history.answered()
    clock.now += UNSURE - 0.1
    history.answered()  # only the first one counts
    assert not history.sure
    assert history.doubts(age=3605)
    clock.now += 0.1
    assert history.sure
    assert not history.doubts(age=1e9)


def test_each_slot_may_ask_once_an_outage(clock: Clock) -> None:
    history = History(slots=2)
    for _ in range(2):
        history.outage()
        assert [history.may_ask() for _ in range(3)] == [True, True, False]


def _delivery(seq: int, deliveries: int) -> Delivery:
    return Delivery(Lane(LEVELS[0]), "t", "", b"", seq, 0.0, deliveries, 0, False, "", 0.0)


def test_so_many_hand_backs_are_remembered(clock: Clock) -> None:
    history = History(slots=1)
    for seq in range(1, 1_002):
        history.handed_back(_delivery(seq, 1))
    again = [_delivery(seq, 2) for seq in (1, 2, 1_001)]
    for delivery in again:
        history.came(delivery)
    assert [delivery.may_have_been_started for delivery in again] == [True, False, False]


def test_counts_that_begin_again_are_no_proof(clock: Clock) -> None:
    """Of a consumer that was made anew, or of another message of the same number."""
    history = History(slots=1)
    for deliveries in (1, 2, 3):
        delivery = _delivery(7, deliveries)
        history.came(delivery)
        history.handed_back(delivery)
    first = _delivery(7, 1)
    history.came(first)
    assert first.may_have_been_started
