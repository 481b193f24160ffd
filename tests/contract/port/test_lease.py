"""Leases: a task whose worker is gone comes back, one that is held does not."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.recorder import (
    NORMAL,
    MakeQueue,
    OpenBroker,
    Recorder,
    depth_when,
    put,
    task_ids,
    when,
)

from headrace.broker.port import Broker, BrokerQueue, Delivery

ACK_WAIT = 0.4  # seconds


@pytest.fixture
async def short(make_queue: MakeQueue) -> BrokerQueue:
    """A queue whose leases are short."""
    return await make_queue(ack_wait=ACK_WAIT)


async def handed_back(broker: Broker, queue: BrokerQueue, *deliveries: Delivery) -> None:
    """Hand these back, in this order, and wait until the broker has read it."""
    for delivery in deliveries:
        await queue.nak(delivery)
    await broker.flush()
    await queue.depth()


async def test_a_task_that_nobody_settles_is_redelivered(short: BrokerQueue) -> None:
    (seq,) = await put(short, NORMAL, "a")
    async with Recorder(short, NORMAL) as taker:
        (first,) = await taker.take()
        (second,) = await taker.take()
    assert (second.seq, second.deliveries) == (seq, 2)
    assert second.stored_at == pytest.approx(first.stored_at, abs=0.01)
    assert ACK_WAIT * 0.9 < second.received_at - first.received_at < ACK_WAIT * 5


async def test_a_settled_task_is_not_redelivered(short: BrokerQueue) -> None:
    await put(short, NORMAL, "a", "b")
    async with Recorder(short, NORMAL) as taker:
        a, _ = await taker.take(2)
        await short.ack(a)
        (again,) = await taker.take()  # b, after its lease: a's would have ended before
        assert again.task_id == "b"
        assert (await short.depth()).messages == 1


async def test_what_lapses_comes_in_order_and_before_new_tasks(short: BrokerQueue) -> None:
    await put(short, NORMAL, "a", "b", "c", "new")
    async with Recorder(short, NORMAL) as taker:
        await taker.take(3)
        await asyncio.sleep(ACK_WAIT * 1.5)
        assert task_ids(await taker.take(4)) == ["a", "b", "c", "new"]


async def test_what_is_handed_back_comes_at_once_and_first(
    broker: Broker, queue: BrokerQueue
) -> None:
    await put(queue, NORMAL, "a", "b", "c", "new")
    async with Recorder(queue, NORMAL) as taker:
        a, b, c = await taker.take(3)
        await handed_back(broker, queue, c, a)
        deliveries = await taker.take(3)
    assert [(d.task_id, d.deliveries) for d in deliveries] == [("c", 2), ("a", 2), ("new", 1)]
    assert b.task_id == "b"


async def test_what_is_handed_back_goes_to_a_parked_pull(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as one, Recorder(queue, NORMAL) as other:
        (delivery,) = await one.take()
        await other.consumer.park(0, 30.0)
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
        await queue.nak(delivery)
        (again,) = await other.next()
    assert (again.task_id, again.deliveries) == ("a", 2)


async def test_what_is_handed_back_with_a_delay_comes_after_it(queue: BrokerQueue) -> None:
    """So that who leaves is not given it once more."""
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as one, Recorder(queue, NORMAL) as other:
        (delivery,) = await one.take()
        await other.consumer.park(0, 30.0)
        await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
        before = time.monotonic()
        await queue.nak(delivery, 0.5)
        (again,) = await other.next()
    assert (again.task_id, again.deliveries) == ("a", 2)
    assert 0.45 <= time.monotonic() - before < 3.0


async def test_a_task_is_present_until_it_is_settled(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert await queue.present(delivery)
        await queue.ack(delivery)
        await when(lambda: queue.present(delivery), lambda present: not present)
        await queue.ack(delivery)  # twice is harmless
        await queue.nak(delivery)
        assert (await queue.depth()).messages == 0


async def test_a_late_ack_settles_all_the_same(short: BrokerQueue) -> None:
    """Whoever ends the task first has ended it, also if its lease had lapsed."""
    await put(short, NORMAL, "a")
    async with Recorder(short, NORMAL) as taker:
        (first,) = await taker.take()
        await taker.take()
        await short.ack(first)
        await depth_when(short, lambda depth: depth.messages == 0)


async def test_a_held_task_is_not_redelivered(broker: Broker, short: BrokerQueue) -> None:
    await put(short, NORMAL, "held", "left")
    leases = await broker.leases(ACK_WAIT, 2)
    async with Recorder(short, NORMAL) as taker:
        held, left = await taker.take(2)
        leases.hold(held)
        assert leases.sure_until(held) > time.monotonic()
        lapsed = 0
        while lapsed < 2:  # the one beside it tells how often the held one would have come
            (again,) = await taker.take()
            assert (again.task_id, again.deliveries) == ("left", lapsed + 2)
            lapsed += 1
        assert leases.sure_until(held) > time.monotonic()
        await short.ack(held)
        leases.release(held)
        assert left.task_id == "left"
    await leases.close()


async def test_a_released_task_lapses(broker: Broker, short: BrokerQueue) -> None:
    await put(short, NORMAL, "a")
    leases = await broker.leases(ACK_WAIT, 1)
    async with Recorder(short, NORMAL) as taker:
        (held,) = await taker.take()
        leases.hold(held)
        leases.release(held)
        (again,) = await taker.take()
    assert (again.task_id, again.deliveries) == ("a", 2)
    await leases.close()


async def test_what_closed_leases_held_lapses(broker: Broker, short: BrokerQueue) -> None:
    await put(short, NORMAL, "a")
    leases = await broker.leases(ACK_WAIT, 1)
    async with Recorder(short, NORMAL) as taker:
        (held,) = await taker.take()
        leases.hold(held)
        await leases.close()
        await leases.close()
        (again,) = await taker.take()
    assert again.deliveries == 2


async def test_a_lease_is_sure_until_nobody_else_can_have_it(
    broker: Broker, short: BrokerQueue
) -> None:
    await put(short, NORMAL, "a")
    leases = await broker.leases(ACK_WAIT, 1)
    async with Recorder(short, NORMAL) as taker:
        (first,) = await taker.take()
        assert leases.sure_until(first) <= first.received_at + ACK_WAIT + 0.05
        (second,) = await taker.take()
        assert leases.sure_until(first) <= second.received_at + 0.05
    await leases.close()


async def test_what_a_closed_broker_had_goes_to_another(
    open_broker: OpenBroker, broker: Broker, short: BrokerQueue
) -> None:
    other = await open_broker()
    await put(short, NORMAL, "a")
    async with Recorder(short, NORMAL) as taker:
        await taker.take()
        await broker.close()
    async with Recorder(other.queue(short.names.queue, short.settings), NORMAL) as second:
        (delivery,) = await second.take()
    assert (delivery.task_id, delivery.deliveries) == ("a", 2)
