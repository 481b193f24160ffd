"""Delayed tasks, and finding, replacing and removing tasks wherever they are."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.recorder import NORMAL, MakeQueue, OpenBroker, Recorder, depth_when, put, when

from headrace.broker.port import BrokerQueue, Stored
from headrace.task import TaskPriority
from headrace.wire import Lane, lane_and_id

HIGH_GPU = Lane(TaskPriority.HIGH, "gpu")


async def test_a_delayed_task_comes_at_its_time(queue: BrokerQueue) -> None:
    at = time.time() + 0.5
    await queue.schedule(HIGH_GPU, "a", b'{"late":1}', at, "a")
    async with Recorder(queue, HIGH_GPU) as taker:
        (delivery,) = await taker.take()
        late = time.time() - at
    assert -0.01 < late < 2.0
    assert (delivery.task_id, delivery.lane, delivery.body) == ("a", HIGH_GPU, b'{"late":1}')
    assert delivery.subject == queue.names.task(HIGH_GPU, "a")
    assert delivery.sourced
    assert delivery.deliveries == 1
    assert delivery.stored_at >= at - 0.01


async def test_a_time_that_has_passed_is_now(queue: BrokerQueue) -> None:
    await queue.schedule(NORMAL, "a", b"{}", time.time() - 60, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
    assert delivery.sourced


async def test_delayed_tasks_come_in_the_order_of_their_times(queue: BrokerQueue) -> None:
    now = time.time()
    for number in (3, 1, 2):
        at = now + number * 0.35  # a server fires up to 0.25 s late
        await queue.schedule(NORMAL, f"t{number}", b"{}", at, f"t{number}")
    async with Recorder(queue, NORMAL) as taker:
        await taker.take(3)
        assert taker.ids == ["t1", "t2", "t3"]


async def test_a_schedule_is_stored_once(queue: BrokerQueue) -> None:
    at = time.time() + 600
    first = await queue.schedule(NORMAL, "a", b"{}", at, "a.1")
    assert await queue.schedule(NORMAL, "a", b"{}", at, "a.1") == Stored(first.seq, True)
    assert (await queue.depth()).delayed == 1


async def test_a_newer_schedule_replaces_the_older(queue: BrokerQueue) -> None:
    await queue.schedule(NORMAL, "a", b'{"n":1}', time.time() + 600, "a.1")
    await queue.schedule(NORMAL, "a", b'{"n":2}', time.time() + 0.2, "a.2")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert delivery.body == b'{"n":2}'
    await depth_when(queue, lambda depth: depth.delayed == 0)


async def test_a_due_task_knows_no_dedupe(queue: BrokerQueue) -> None:
    """A retry has its task's id and may even have its message id: it must come all the same."""
    await put(queue, NORMAL, "a")
    await queue.schedule(NORMAL, "a", b'{"n":2}', time.time() + 0.2, "a")
    async with Recorder(queue, NORMAL) as taker:
        first, second = await taker.take(2)
    assert (first.task_id, second.task_id) == ("a", "a")
    assert (first.sourced, second.sourced) == (False, True)


async def test_a_due_task_waits_while_the_queue_is_full(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=1)
    await put(queue, NORMAL, "first")
    at = time.time() + 0.2
    await queue.schedule(NORMAL, "due", b"{}", at, "due")
    async with Recorder(queue, NORMAL) as taker:
        (first,) = await taker.take()
        await taker.consumer.park(0, 60.0)
        await asyncio.sleep(0.6)  # past its time: nothing is to come
        assert taker.ids == ["first"]
        found = await queue.find_scheduled("due")
        assert found is not None
        assert lane_and_id(queue.names.work + found.subject.split(".", 3)[3])[1] == "due"
        assert (await queue.depth()).delayed == 1
        await queue.ack(first)
        (due,) = await taker.next()
        assert (due.task_id, due.sourced) == ("due", True)


async def test_a_delayed_task_is_found_with_its_lane(queue: BrokerQueue) -> None:
    assert await queue.find_scheduled("a") is None
    await queue.schedule(HIGH_GPU, "a", b'{"a":1}', time.time() + 600, "a")
    found = await queue.find_scheduled("a")
    assert found is not None
    assert found.body == b'{"a":1}'
    assert found.subject == f"{queue.names.due}{HIGH_GPU.tokens}.a"
    assert abs(found.stored_at - time.time()) < 5
    assert await queue.find("a") is None


async def test_another_broker_finds_and_removes_a_delayed_task(
    open_broker: OpenBroker, queue: BrokerQueue
) -> None:
    other = (await open_broker()).queue(queue.names.queue)
    await other.ensure()
    assert await other.find_scheduled("a") is None
    await other.remove("a")  # nothing was ever delayed: nothing to remove
    await queue.schedule(NORMAL, "a", b"{}", time.time() + 600, "a")
    assert await other.find_scheduled("a") is not None
    await other.remove("a")
    assert await queue.find_scheduled("a") is None
    assert (await queue.depth()).delayed == 0


async def test_a_waiting_task_is_found(queue: BrokerQueue) -> None:
    (seq,) = await put(queue, HIGH_GPU, "a", body=b'{"a":1}')
    for lane in (HIGH_GPU, None):
        found = await queue.find("a", lane)
        assert found is not None
        assert (found.seq, found.body) == (seq, b'{"a":1}')
        assert found.subject == queue.names.task(HIGH_GPU, "a")
        assert abs(found.stored_at - time.time()) < 5
    assert await queue.find("a", NORMAL) is None
    assert await queue.find("b") is None


async def test_a_running_task_is_found_and_a_settled_one_is_not(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert await queue.find("a") is not None
        await queue.ack(delivery)
        await when(lambda: queue.find("a"), lambda found: found is None)


async def test_the_newest_message_of_a_task_is_found(queue: BrokerQueue) -> None:
    await (await queue.put_soon(NORMAL, "a", b"1", "a.1"))
    newer = await (await queue.put_soon(NORMAL, "a", b"2", "a.2"))
    found = await queue.find("a")
    assert found is not None
    assert (found.body, found.seq) == (b"2", newer.seq)


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
async def test_a_removed_task_is_gone(queue: BrokerQueue, running: bool) -> None:
    await put(queue, NORMAL, "a", "b")
    async with Recorder(queue, NORMAL) as taker:
        if running:
            (delivery,) = await taker.take()
            await queue.remove("a")
            assert not await queue.present(delivery)
            await queue.ack(delivery)
        else:
            await queue.remove("a")
        assert await queue.find("a") is None
        (following,) = await taker.take()
        assert following.task_id == "b"
    depth = await depth_when(queue, lambda depth: depth.running == 1)
    assert (depth.messages, depth.waiting) == (1, 0)


async def test_removing_makes_room(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=1)
    await put(queue, NORMAL, "a")
    await queue.remove("a")
    await queue.remove("a")
    await put(queue, NORMAL, "b")


async def test_a_removed_delayed_task_does_not_come(queue: BrokerQueue) -> None:
    now = time.time()
    await queue.schedule(NORMAL, "a", b"{}", now + 0.3, "a")
    await queue.schedule(NORMAL, "b", b"{}", now + 0.6, "b")
    await queue.remove("a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert delivery.task_id == "b"


async def test_what_lies_above_the_position_waits_for_certain(queue: BrokerQueue) -> None:
    assert await queue.delivered_up_to(NORMAL) == 0
    first, second, third = await put(queue, NORMAL, "a", "b", "c")
    assert await queue.delivered_up_to(NORMAL) == 0
    async with Recorder(queue, NORMAL) as taker:
        (a, _) = await taker.take(2)
        position = await when(lambda: queue.delivered_up_to(NORMAL), lambda seq: seq == second)
        assert first < position < third
        await queue.nak(a)  # handed back: it stays below
        assert await queue.delivered_up_to(NORMAL) == second
    assert await queue.delivered_up_to(HIGH_GPU) == 0
