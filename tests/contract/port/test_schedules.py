"""Schedules in the broker: their ticks, the fence, what waits while nobody takes it."""

from __future__ import annotations

import time

import pytest
from tests.support.recorder import NORMAL, MakeQueue, Recorder, depth_when, put, when

from headrace.broker.port import BrokerQueue, WrongSequence
from headrace.errors import PayloadTooLarge
from headrace.task import TaskPriority
from headrace.wire import Lane, tick_id

HIGH_GPU = Lane(TaskPriority.HIGH, "gpu")
SECONDLY = "* * * * * *"


@pytest.mark.parametrize("ticks", ["@every 1s", SECONDLY])
async def test_a_schedule_ticks_into_its_lane(queue: BrokerQueue, ticks: str) -> None:
    began = time.time()
    await queue.put_schedule("s", HIGH_GPU, b'{"n":1}', ticks, 0)
    async with Recorder(queue, HIGH_GPU) as taker:
        found = await taker.take(3)
    assert {delivery.task_id for delivery in found} == {tick_id("s")}
    assert {delivery.body for delivery in found} == {b'{"n":1}'}
    assert all(delivery.sourced and delivery.lane == HIGH_GPU for delivery in found)
    times = [delivery.next_at for delivery in found]
    assert None not in times
    first = times[0]
    assert first is not None
    assert times == [first, first + 1, first + 2]
    assert began < first < began + 4
    assert first == int(first)


async def test_only_a_tick_tells_when_the_next_one_comes(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    await queue.schedule(NORMAL, "b", b"{}", time.time(), "b")
    async with Recorder(queue, NORMAL) as taker:
        assert [delivery.next_at for delivery in await taker.take(2)] == [None, None]


async def test_a_schedule_is_replaced_by_who_knows_the_one_that_is_there(
    queue: BrokerQueue,
) -> None:
    assert await queue.read_schedule("s") is None
    before = time.time()
    first = await queue.put_schedule("s", NORMAL, b"1", "@every 900s", 0)
    for wrong in (0, first + 1):
        with pytest.raises(WrongSequence):
            await queue.put_schedule("s", NORMAL, b"2", "@every 900s", wrong)
    stored = await queue.read_schedule("s")
    assert stored is not None
    assert (stored.body, stored.seq) == (b"1", first)
    assert abs(stored.stored_at - before) < 5
    second = await queue.put_schedule("s", HIGH_GPU, b"2", "@every 1s", first)
    assert second > first
    async with Recorder(queue, HIGH_GPU) as taker:
        (delivery,) = await taker.take()
    assert delivery.body == b"2"


async def test_schedules_are_listed_and_are_no_delayed_tasks(queue: BrokerQueue) -> None:
    assert await queue.list_schedules() == []
    for name in ("b", "a"):
        await queue.put_schedule(name, NORMAL, name.encode(), "@every 900s", 0)
    await queue.schedule(NORMAL, "later", b"{}", time.time() + 900, "later")
    assert [stored.body for stored in await queue.list_schedules()] == [b"b", b"a"]
    assert (await queue.depth()).delayed == 1


async def test_a_removed_schedule_takes_its_ticks_along(queue: BrokerQueue) -> None:
    assert not await queue.remove_schedule("s")
    await queue.put_schedule("s", NORMAL, b"{}", SECONDLY, 0)
    await depth_when(queue, lambda depth: depth.messages > 0)
    assert await queue.remove_schedule("s")
    assert await queue.list_schedules() == []
    await queue.put_schedule("other", NORMAL, b"other", SECONDLY, 0)
    async with Recorder(queue, NORMAL) as taker:
        found = await taker.take(2)  # two seconds in which the first would have ticked
    assert {delivery.body for delivery in found} == {b"other"}


async def test_ticks_that_nobody_takes_do_not_pile_up(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    await queue.put_schedule("s", NORMAL, b"{}", SECONDLY, 0)
    seqs: set[int] = set()

    async def ticked() -> int:
        newest = await queue.find(tick_id("s"))
        if newest is not None:
            seqs.add(newest.seq)
        return len(seqs)

    await when(ticked, lambda count: count == 4)
    assert (await queue.depth()).messages == 3
    async with Recorder(queue, NORMAL) as taker:
        found = await taker.pull(10)
    assert {delivery.seq for delivery in found[-2:]} == set(sorted(seqs)[-2:])


async def test_ticks_wait_for_room_as_one(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=2)
    await put(queue, NORMAL, "a", "b")
    await queue.put_schedule("s", NORMAL, b"{}", SECONDLY, 0)
    first = await depth_when(queue, lambda depth: depth.delayed > 0)
    assert (first.delayed, first.messages) == (1, 2)
    seen = await queue.find_scheduled(tick_id("s"))
    assert seen is not None
    later = await when(
        lambda: queue.find_scheduled(tick_id("s")),
        lambda found: found is not None and found.seq > seen.seq + 1,
    )
    assert later is not None
    assert (await queue.depth()).delayed == 1
    async with Recorder(queue, NORMAL) as taker:
        for delivery in await taker.take(2):
            await queue.ack(delivery)
        (tick,) = await taker.take()
    assert tick.task_id == tick_id("s")
    assert tick.next_at is not None


async def test_a_third_copy_of_an_id_takes_the_place_of_the_first(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=2)
    for number in (1, 2, 3):  # the third also where the queue is full
        await (await queue.put_soon(NORMAL, "a", b"%d" % number, f"a.{number}"))
    async with Recorder(queue, NORMAL) as taker:
        found = await taker.pull(10)
    assert [delivery.body for delivery in found] == [b"2", b"3"]


async def test_a_schedule_that_is_too_large_is_refused(queue: BrokerQueue) -> None:
    with pytest.raises(PayloadTooLarge):
        await queue.put_schedule("s", NORMAL, b"x" * 2**20, "@every 1s", 0)
    assert await queue.list_schedules() == []
