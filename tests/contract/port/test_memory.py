"""What only the broker in memory promises: who shares it, how long it lives, and whose clock."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.recorder import NORMAL, Recorder, Told, put

from headrace.broker.memory import MemoryBroker
from headrace.broker.port import GONE, BrokerQueue, QueueSettings
from headrace.errors import BrokerError


async def opened(name: str = "") -> tuple[MemoryBroker, BrokerQueue]:
    broker = MemoryBroker(name)
    await broker.connect()
    await broker.connect()  # once more is harmless
    return broker, broker.queue("q", QueueSettings(ack_wait=15.0))


async def test_brokers_of_one_name_share_and_others_do_not() -> None:
    one, queue = await opened("a")
    await queue.ensure()
    await put(queue, NORMAL, "t")
    same, shared = await opened("a")
    other, apart = await opened("b")
    assert await shared.find("t") is not None
    assert await other.queues() == []
    with pytest.raises(BrokerError):
        await apart.find("t")
    for broker in (one, same, other):
        await broker.close()


async def test_the_last_one_that_closes_drops_it() -> None:
    one, queue = await opened()
    same, shared = await opened()
    await queue.ensure()
    await put(queue, NORMAL, "t")
    await one.close()
    await one.close()  # counts once
    assert await shared.find("t") is not None
    await same.close()
    again, queue = await opened()
    assert await again.queues() == []
    await again.close()


def test_another_event_loop_sees_nothing_of_it() -> None:
    async def leave_open() -> None:
        _, queue = await opened()
        await queue.ensure()

    async def look() -> list[str]:
        broker, _ = await opened()
        found = await broker.queues()
        await broker.close()
        return found

    for _ in range(20):  # ids of loops that have ended come again
        asyncio.run(leave_open())
        assert asyncio.run(look()) == []


async def test_a_callback_is_never_called_from_within_a_call() -> None:
    broker, queue = await opened()
    await queue.ensure()
    heard: list[bytes] = []
    await broker.subscribe("x", lambda _, body, __: heard.append(body))
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        await put(queue, NORMAL, "a")
        await taker.consumer.pull(0, 1)
        await broker.publish("x", b"1")
        assert (taker.came, taker.told, heard) == ([], [], [])
        await broker.flush()
        assert (taker.ids, heard) == (["a"], [b"1"])
    await broker.close()


async def test_who_puts_without_end_lets_others_run() -> None:
    broker, queue = await opened()
    await queue.ensure()
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        for number in range(100):
            await put(queue, NORMAL, f"t{number}")
        assert taker.ids == ["t0"]
    await broker.close()


async def test_what_was_on_its_way_to_a_closed_consumer_goes_to_the_next_at_once() -> None:
    broker, queue = await opened()
    await queue.ensure()
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 30.0)
        await put(queue, NORMAL, "a")
    assert taker.came == []
    async with Recorder(queue, NORMAL) as following:
        (delivery,) = await following.pull(1)
        assert (delivery.task_id, delivery.deliveries) == ("a", 2)
    await broker.close()


@pytest.mark.looptime(start=1000)
async def test_all_of_its_times_are_the_loops() -> None:
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    broker, queue = await opened()
    await queue.ensure()
    await put(queue, NORMAL, "now")
    await queue.schedule(NORMAL, "later", b"{}", time.time() + 3600, "later")
    await queue.write_record("r", b"{}", 0, 7200.0)
    leases = await broker.leases(15.0, 1)
    async with Recorder(queue, NORMAL) as taker:
        (first,) = await taker.take()
        await taker.consumer.park(0, 60.0)
        await taker.until(lambda: len(taker.came) == 2, within=100)
        again = taker.came[-1].delivery
        assert (again.deliveries, round(loop.time() - begin)) == (2, 15)
        leases.hold(again)
        await taker.consumer.park(0, 60.0)
        await taker.until(lambda: bool(taker.told), within=100)
        assert taker.told == [Told(0, True, GONE)]
        assert round(loop.time() - begin) == 75
        await taker.consumer.park(0, 7000.0)
        await taker.until(lambda: len(taker.came) == 3, within=7000)
        assert (taker.ids[-1], round(loop.time() - begin)) == ("later", 3600)
        await queue.ack(first)
        assert await queue.read_record("r") is not None
        await asyncio.sleep(3601)
        assert await queue.read_record("r") is None
    await broker.close()
    assert time.monotonic() - started < 5
