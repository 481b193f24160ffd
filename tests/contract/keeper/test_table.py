"""The shared table, seen from both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from headrace.broker.jetstream.keeper.parent import _memory
from headrace.broker.jetstream.keeper.table import LONGEST_SUBJECT, Held, Table, size_of

SLOTS = 4


@pytest.fixture
def sides() -> Iterator[tuple[Table, Table]]:
    """The worker's and the keeper's view of one memory."""
    descriptor = _memory(size_of(SLOTS))
    yield Table(descriptor, SLOTS), Table(descriptor, SLOTS)
    os.close(descriptor)


def test_what_one_side_writes_the_other_reads(sides: tuple[Table, Table]) -> None:
    worker, keeper = sides
    assert (keeper.beaten_at, keeper.ready, keeper.held()) == (0.0, False, [])
    worker.beaten_at, worker.ready = 12.5, True
    assert (keeper.beaten_at, keeper.ready) == (12.5, True)
    worker.fill(3, b"x" * LONGEST_SUBJECT, 7.25)
    worker.fill(0, b"$JS.ACK.a", 8.5)
    assert keeper.held() == [
        Held(0, 1, b"$JS.ACK.a", 0.0),
        Held(3, 1, b"x" * LONGEST_SUBJECT, 0.0),
    ]
    assert (worker.sure_from(3), worker.sure_from(0)) == (7.25, 8.5)
    worker.empty(3)
    assert [held.slot for held in keeper.held()] == [0]


def test_an_answer_counts_for_the_delivery_that_it_was_for(sides: tuple[Table, Table]) -> None:
    worker, keeper = sides
    worker.fill(1, b"first", 100.0)
    keeper.answered(1, 1, 105.0, 105.1, 15.0)
    assert worker.sure_from(1) == 105.0
    worker.empty(1)
    worker.fill(1, b"second", 106.0)
    keeper.answered(1, 1, 107.0, 107.1, 15.0)  # late, for the first
    keeper.answered(SLOTS, 1, 107.0, 107.1, 15.0)  # nonsense
    assert worker.sure_from(1) == 106.0
    assert keeper.held() == [Held(1, 2, b"second", 0.0)]


def test_an_older_answer_takes_nothing_back(sides: tuple[Table, Table]) -> None:
    worker, keeper = sides
    worker.fill(0, b"a", 100.0)
    keeper.answered(0, 1, 105.0, 105.1, 15.0)
    keeper.answered(0, 1, 103.0, 105.2, 15.0)
    assert worker.sure_from(0) == 105.0
    assert keeper.held()[0].extended_at == 105.0


def test_an_answer_that_comes_after_the_lease_proves_nothing(sides: tuple[Table, Table]) -> None:
    """The signal may have waited in a buffer while the connection was away, and have been read
    when somebody else had the task already."""
    worker, keeper = sides
    worker.fill(0, b"a", 100.0)
    keeper.answered(0, 1, 114.0, 115.1, 15.0)
    assert worker.sure_from(0) == 100.0
    keeper.answered(0, 1, 120.0, 120.1, 15.0)
    assert worker.sure_from(0) == 100.0
    assert keeper.held()[0].extended_at == 120.0  # it is extended all the same


def test_generations_begin_again(sides: tuple[Table, Table]) -> None:
    worker, keeper = sides
    worker.fill(0, b"a", 1.0)
    worker._numbers[64 // 4 + 1] = 2**32 - 1
    worker.fill(0, b"b", 2.0)
    assert keeper.held() == [Held(0, 0, b"b", 0.0)]
