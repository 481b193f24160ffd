"""Tasks out: order, pulls, parked pulls and how each of them ends."""

from __future__ import annotations

import asyncio

from tests.support.recorder import (
    NORMAL,
    Came,
    MakeQueue,
    Recorder,
    Told,
    depth_when,
    put,
    task_ids,
)

from headrace.broker.port import GONE, NO_MESSAGES, BrokerQueue, QueueSettings
from headrace.task import TaskPriority
from headrace.wire import Lane, lanes

CRITICAL = Lane(TaskPriority.CRITICAL)
LOW = Lane(TaskPriority.LOW)
LOW_GPU = Lane(TaskPriority.LOW, "gpu")


async def test_a_lane_is_first_in_first_out(queue: BrokerQueue) -> None:
    ids = [f"t{n}" for n in range(100)]
    await put(queue, NORMAL, *ids)
    async with Recorder(queue, NORMAL) as taker:
        deliveries = await taker.take(100)
    assert task_ids(deliveries) == ids
    assert [delivery.pending for delivery in deliveries] == list(range(99, -1, -1))


async def test_lanes_are_apart(queue: BrokerQueue) -> None:
    await put(queue, LOW, "low")
    await put(queue, LOW_GPU, "gpu")
    await put(queue, CRITICAL, "critical")
    async with Recorder(queue, CRITICAL, LOW, LOW_GPU) as taker:
        for lane, task_id in ((2, "gpu"), (0, "critical"), (1, "low")):
            (delivery,) = await taker.take(1, lane)
            assert delivery.task_id == task_id
            assert taker.came[-1].lane == lane


async def test_a_pull_gets_what_is_there_and_then_an_end(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a", "b", "c")
    await depth_when(queue, lambda depth: depth.waiting == 3)
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.pull(0, 5)
        await taker.until(lambda: bool(taker.told))
        assert taker.ids == ["a", "b", "c"]
        assert not any(came.parked for came in taker.came)
        assert taker.told == [Told(0, False, NO_MESSAGES)]


async def test_a_full_batch_has_no_end(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a", "b", "c", "d", "e")
    await depth_when(queue, lambda depth: depth.waiting == 5)
    async with Recorder(queue, NORMAL) as taker:
        assert task_ids(await taker.pull(2)) == ["a", "b"]
        assert task_ids(await taker.pull(3)) == ["c", "d", "e"]
        assert taker.told == []


async def test_a_pull_on_an_empty_lane_says_so(queue: BrokerQueue) -> None:
    async with Recorder(queue, CRITICAL, NORMAL) as taker:
        await taker.consumer.pull(1, 1)
        await taker.until(lambda: bool(taker.told))
        await taker.consumer.pull(0, 7)
        await taker.until(lambda: len(taker.told) == 2)
        assert taker.told == [Told(1, False, NO_MESSAGES), Told(0, False, NO_MESSAGES)]
        assert taker.came == []


async def test_a_parked_pull_gets_what_comes(queue: BrokerQueue) -> None:
    async with Recorder(queue, CRITICAL, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        await taker.consumer.park(1, 30.0)
        await taker.consumer.flush()
        await depth_when(queue, lambda depth: [row.parked for row in depth.lanes] == [1, 1])
        await put(queue, NORMAL, "a", "b")
        (delivery,) = await taker.next()
        assert taker.came == [Came(1, delivery, True)]
        assert (await depth_when(queue, lambda depth: depth.waiting == 1)).running == 1


async def test_a_parked_pull_gets_what_is_there(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        await taker.next()
        assert taker.came[0].parked


async def test_a_parked_pull_that_expires_is_gone(queue: BrokerQueue) -> None:
    async with Recorder(queue, CRITICAL, NORMAL) as taker:
        await taker.consumer.park(1, 0.3)
        await taker.until(lambda: bool(taker.told))
        assert taker.told == [Told(1, True, GONE)]
        await put(queue, NORMAL, "a")
        await taker.consumer.pull(0, 1)  # what comes now was not for the old pull
        await taker.until(lambda: len(taker.told) == 2)
        assert taker.came == []
        assert task_ids(await taker.take(1, 1)) == ["a"]


async def test_parked_pulls_are_answered_one_task_each(queue: BrokerQueue) -> None:
    async with Recorder(queue, NORMAL) as one, Recorder(queue, NORMAL) as other:
        await one.consumer.park(0, 30.0)
        await other.consumer.park(0, 30.0)
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 2)
        await put(queue, NORMAL, "a", "b", "c")
        await one.next()
        await other.next()
        assert sorted(one.ids + other.ids) == ["a", "b"]
        assert (await depth_when(queue, lambda depth: depth.waiting == 1)).running == 2


async def test_a_worker_of_all_lanes_makes_them_once(queue: BrokerQueue) -> None:
    served = lanes(["gpu", "eu"])
    await queue.ensure_lanes(served)
    await queue.ensure_lanes(served)
    await queue.restore_lanes(served)
    assert tuple(row.lane for row in (await queue.depth()).lanes) == tuple(
        sorted(served, key=lambda lane: (-lane.priority, lane.tag or ""))
    )


async def test_no_more_tasks_run_than_the_lane_allows(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_ack_pending=1)
    await put(queue, NORMAL, "a", "b", "c")
    async with Recorder(queue, NORMAL) as taker:
        (first,) = await taker.take()
        await taker.consumer.park(0, 30.0)
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
        depth = await queue.depth()
        assert (depth.running, depth.waiting) == (1, 2)
        await queue.ack(first)
        (second,) = await taker.next()
        assert second.task_id == "b"


async def test_the_allowed_number_is_raised_by_who_asks_for_more(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_ack_pending=1)
    await put(queue, NORMAL, "a", "b", "c")
    async with Recorder(queue, NORMAL) as taker:
        await taker.take()
        more = await make_queue(max_ack_pending=3)
        await more.ensure_lanes([NORMAL])
        assert task_ids(await taker.take(2)) == ["b", "c"]


async def test_a_put_is_not_delivered_before_it_returns_to_the_loop(queue: BrokerQueue) -> None:
    """Callbacks come from the loop, so that who puts is never called back into."""
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
        answer = await queue.put_soon(NORMAL, "a", b"{}", "a")
        assert taker.came == []
        await answer
        await taker.next()


async def test_what_a_closed_consumer_had_is_redelivered(make_queue: MakeQueue) -> None:
    queue = await make_queue(ack_wait=0.5)
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as first:
        await first.take()
    async with Recorder(queue, NORMAL) as second:
        (delivery,) = await second.take()
    assert (delivery.task_id, delivery.deliveries) == ("a", 2)


async def test_received_at_is_now(queue: BrokerQueue) -> None:
    loop = asyncio.get_running_loop()
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        before = loop.time()
        (delivery,) = await taker.take()
        assert before <= delivery.received_at <= loop.time()


def test_defaults_are_what_the_design_says() -> None:
    settings = QueueSettings()
    assert (settings.max_size, settings.ack_wait, settings.dedupe_window) == (10_000, 15.0, 120.0)
