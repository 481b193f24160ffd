"""Records and their fence, dead letters, and what `depth` counts."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.recorder import NORMAL, MakeQueue, Recorder, depth_when, lanes_of, put, when

from headrace.broker.port import BrokerQueue, WrongSequence
from headrace.task import TaskPriority
from headrace.wire import Lane

LOW_GPU = Lane(TaskPriority.LOW, "gpu")
CRITICAL = Lane(TaskPriority.CRITICAL)
TTL = 60.0


async def test_a_record_is_read_as_it_was_written(queue: BrokerQueue) -> None:
    assert await queue.read_record("a") is None
    seq = await queue.write_record("a", b'{"x":1}', 0, TTL)
    found = await queue.read_record("a")
    assert found is not None
    assert (found.body, found.seq) == (b'{"x":1}', seq)
    assert found.subject == queue.names.state + "a"
    assert abs(found.stored_at - time.time()) < 5


async def test_the_fence_lets_one_writer_through(queue: BrokerQueue) -> None:
    seq = await queue.write_record("a", b"1", 0, TTL)
    for wrong in (0, seq + 1, seq + 1000):
        with pytest.raises(WrongSequence):
            await queue.write_record("a", b"2", wrong, TTL)
    following = await queue.write_record("a", b"3", seq, TTL)
    assert following > seq
    with pytest.raises(WrongSequence):
        await queue.write_record("a", b"4", seq, TTL)
    found = await queue.read_record("a")
    assert found is not None
    assert found.body == b"3"


async def test_a_fence_is_of_one_task(queue: BrokerQueue) -> None:
    seq = await queue.write_record("a", b"1", 0, TTL)
    await queue.write_record("b", b"1", 0, TTL)
    await queue.write_record("a", b"2", seq, TTL)


async def test_of_many_writers_one_wins(queue: BrokerQueue) -> None:
    async def write(number: int) -> bool:
        try:
            await queue.write_record("a", b"%d" % number, 0, TTL)
        except WrongSequence:
            return False
        return True

    won = await asyncio.gather(*(write(number) for number in range(20)))
    assert sum(won) == 1
    found = await queue.read_record("a")
    assert found is not None
    assert found.body == b"%d" % won.index(True)


async def test_a_record_lives_for_its_time_and_the_fence_with_it(queue: BrokerQueue) -> None:
    start = time.monotonic()
    old = await queue.write_record("a", b"1", 0, 1.0)
    await queue.write_record("b", b"1", 0, TTL)
    replaced = await queue.write_record("c", b"1", 0, 1.0)
    await queue.write_record("c", b"2", replaced, TTL)
    await when(lambda: queue.read_record("a"), lambda found: found is None)
    assert 0.9 < time.monotonic() - start < 4
    with pytest.raises(WrongSequence):
        await queue.write_record("a", b"2", old, TTL)
    await queue.write_record("a", b"3", 0, TTL)
    assert await queue.read_record("b") is not None
    assert await queue.read_record("c") is not None  # it lives for the time of its last version


async def test_dead_letters_are_listed_oldest_first(queue: BrokerQueue) -> None:
    assert await queue.list_dead(10) == []
    for number in range(5):
        await queue.write_dead(f"d{number}", b"%d" % number)
    letters = await queue.list_dead(10)
    assert [letter.body for letter in letters] == [b"0", b"1", b"2", b"3", b"4"]
    assert [letter.subject for letter in letters] == [f"{queue.names.dead}d{n}" for n in range(5)]
    assert [letter.body for letter in await queue.list_dead(2)] == [b"0", b"1"]
    assert await queue.list_dead(0) == []


async def test_a_dead_letter_replaces_an_older_one(queue: BrokerQueue) -> None:
    await queue.write_dead("a", b"1")
    await queue.write_dead("b", b"1")
    await queue.write_dead("a", b"2")
    assert [letter.body for letter in await queue.list_dead(10)] == [b"1", b"2"]
    found = await queue.read_dead("a")
    assert found is not None
    assert (found.body, found.subject) == (b"2", queue.names.dead + "a")
    assert await queue.read_dead("c") is None


async def test_a_dead_letter_is_dropped(queue: BrokerQueue) -> None:
    await queue.write_dead("a", b"1")
    letter = await queue.read_dead("a")
    assert letter is not None
    assert await queue.remove_dead("a", letter.seq - 1) is False  # a newer one stays
    assert await queue.read_dead("a") == letter
    assert await queue.remove_dead("a", letter.seq) is True
    await queue.write_dead("a", letter.body)
    assert await queue.remove_dead("a") is True
    assert await queue.remove_dead("a") is False
    assert await queue.read_dead("a") is None


async def test_records_and_dead_letters_are_apart(queue: BrokerQueue) -> None:
    await queue.write_record("a", b"record", 0, TTL)
    assert await queue.list_dead(10) == []
    await queue.write_dead("a", b"dead")
    found = await queue.read_record("a")
    assert found is not None
    assert found.body == b"record"
    await queue.remove_dead("a")
    assert await queue.read_record("a") is not None


async def test_depth_of_a_new_queue_is_nothing(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=77)
    depth = await queue.depth()
    assert (depth.lanes, depth.messages, depth.delayed, depth.dead) == ((), 0, 0, 0)
    assert (depth.waiting, depth.running, depth.bytes, depth.max_size) == (0, 0, 0, 77)


async def test_depth_counts_by_lane_from_the_top(queue: BrokerQueue) -> None:
    await put(queue, LOW_GPU, "a")
    await put(queue, NORMAL, "b", "c", "d")
    await put(queue, CRITICAL, "e")
    await queue.schedule(NORMAL, "f", b"{}", time.time() + 600, "f")
    await queue.write_record("g", b"{}", 0, TTL)
    await queue.write_dead("h", b"{}")
    async with Recorder(queue, NORMAL, CRITICAL) as taker:
        b, c = await taker.take(2)
        await queue.ack(b)
        await taker.consumer.park(1, 30.0)
        await taker.next()
        await taker.consumer.park(1, 30.0)
        depth = await depth_when(queue, lambda depth: (depth.running, depth.waiting) == (2, 2))
        assert lanes_of(depth) == {CRITICAL: (0, 1), NORMAL: (1, 1), LOW_GPU: (1, 0)}
        assert [row.lane for row in depth.lanes] == [CRITICAL, NORMAL, LOW_GPU]
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
        assert (depth.messages, depth.delayed, depth.dead) == (4, 1, 1)
        assert depth.bytes > 0
        await queue.nak(c)  # handed back: still counted, until it is settled
        assert (await queue.depth()).messages == 4
