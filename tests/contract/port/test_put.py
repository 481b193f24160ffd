"""Tasks in: stored once, refused when there is no room, and never under a name that is none."""

from __future__ import annotations

import pytest
from tests.support.recorder import NORMAL, MakeQueue, Recorder, depth_when, put

from headrace.broker.port import Broker, BrokerQueue, Stored
from headrace.errors import BrokerError, BrokerUnavailable, InvalidName, PayloadTooLarge, QueueFull
from headrace.task import TaskPriority
from headrace.wire import Lane

HIGH_GPU = Lane(TaskPriority.HIGH, "gpu")


async def test_a_task_arrives_as_it_was_put(queue: BrokerQueue) -> None:
    body = bytes(range(256))
    (seq,) = await put(queue, HIGH_GPU, "a-1", body=body)
    async with Recorder(queue, HIGH_GPU) as taker:
        (delivery,) = await taker.take()
    assert (delivery.lane, delivery.task_id, delivery.body) == (HIGH_GPU, "a-1", body)
    assert delivery.subject == queue.names.task(HIGH_GPU, "a-1")
    assert (delivery.seq, delivery.deliveries, delivery.pending) == (seq, 1, 0)
    assert delivery.sourced is False


async def test_many_puts_may_be_under_way(queue: BrokerQueue) -> None:
    sequences = await put(queue, NORMAL, *(f"t{n}" for n in range(500)))
    assert sequences == sorted(sequences)
    assert len(set(sequences)) == 500


async def test_one_message_id_is_stored_once(queue: BrokerQueue) -> None:
    first = await (await queue.put_soon(NORMAL, "a", b"{}", "same"))
    again = await (await queue.put_soon(NORMAL, "b", b"{}", "same"))
    assert first == Stored(first.seq, duplicate=False)
    assert again == Stored(first.seq, duplicate=True)
    assert (await queue.depth()).messages == 1


async def test_a_message_id_is_remembered_after_the_task_is_done(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        await queue.ack(delivery)
    await depth_when(queue, lambda depth: depth.messages == 0)
    assert (await (await queue.put_soon(NORMAL, "a", b"{}", "a"))).duplicate


async def test_a_message_id_may_come_again_after_the_window(make_queue: MakeQueue) -> None:
    queue = await make_queue(dedupe_window=0.2)
    async with Recorder(queue, NORMAL) as taker:
        await put(queue, NORMAL, "a")
        stored = Stored(0, duplicate=True)
        while stored.duplicate:
            stored = await (await queue.put_soon(NORMAL, "a", b"{}", "a"))
        first, second = await taker.take(2)
    assert (first.task_id, second.task_id) == ("a", "a")
    assert first.seq < second.seq == stored.seq


async def test_a_full_queue_refuses(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=2)
    await put(queue, NORMAL, "a", "b")
    with pytest.raises(QueueFull) as refused:
        await (await queue.put_soon(NORMAL, "c", b"{}", "c"))
    assert (refused.value.queue, refused.value.limit) == (queue.names.queue, 2)


async def test_a_full_queue_still_knows_what_it_has(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=1)
    await put(queue, NORMAL, "a")
    assert (await (await queue.put_soon(NORMAL, "a", b"{}", "a"))).duplicate


async def test_a_running_task_takes_room_until_it_is_settled(make_queue: MakeQueue) -> None:
    queue = await make_queue(max_size=1)
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        with pytest.raises(QueueFull):
            await put(queue, NORMAL, "b")
        await queue.ack(delivery)
        await depth_when(queue, lambda depth: depth.messages == 0)
        await put(queue, NORMAL, "b")


async def test_an_existing_queue_is_raised_and_never_lowered(
    broker: Broker, make_queue: MakeQueue
) -> None:
    await make_queue(max_size=1)
    queue = await make_queue(max_size=3)
    await put(queue, NORMAL, "a", "b")
    lower = await make_queue(max_size=2)
    await put(lower, NORMAL, "c")
    with pytest.raises(QueueFull) as refused:
        await put(lower, NORMAL, "d")
    assert refused.value.limit == 3
    assert (await lower.depth()).max_size == 3


async def test_what_is_too_large_is_refused_before_it_is_sent(
    broker: Broker, queue: BrokerQueue
) -> None:
    limit = broker.max_payload
    assert limit == 1_048_576
    for size in (limit - 20, limit, limit + 1):
        with pytest.raises(PayloadTooLarge) as refused:
            await queue.put_soon(NORMAL, "a", b"x" * size, "a")
        assert refused.value.limit == limit < refused.value.size
    with pytest.raises(PayloadTooLarge):
        await queue.schedule(NORMAL, "a", b"x" * limit, 0.0, "a")
    with pytest.raises(PayloadTooLarge):
        await queue.write_record("a", b"x" * limit, 0, 60.0)
    with pytest.raises(PayloadTooLarge):
        await queue.write_dead("a", b"x" * limit)
    with pytest.raises(PayloadTooLarge):
        await broker.publish("headrace.test", b"x" * (limit + 1))
    await put(queue, NORMAL, "a", body=b"x" * (limit - 500))
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert len(delivery.body) == limit - 500


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "-a", "LATER_a", "STATE_a", "ä"])
async def test_a_name_that_is_none_is_refused(broker: Broker, name: str) -> None:
    with pytest.raises(InvalidName):
        broker.queue(name)


async def test_a_queue_that_nobody_made_is_an_error_and_not_empty(
    broker: Broker, queue_name: str
) -> None:
    queue = broker.queue(queue_name)
    with pytest.raises(BrokerError, match="does not exist"):
        await queue.put_soon(NORMAL, "a", b"{}", "a")
    with pytest.raises(BrokerError, match="does not exist"):
        await queue.read_record("a")
    with pytest.raises(BrokerError, match="does not exist"):
        await queue.depth()
    assert queue_name not in await broker.queues()


async def test_after_close_everything_is_unavailable(broker: Broker, queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        await broker.close()
        await broker.close()
        assert not broker.connected
        with pytest.raises(BrokerUnavailable):
            await (await queue.put_soon(NORMAL, "b", b"{}", "b"))
        with pytest.raises(BrokerUnavailable):
            await queue.find("a")
        with pytest.raises(BrokerUnavailable):
            await broker.publish("headrace.test", b"")
        await queue.ack(delivery)  # not waited for: its lease ends by itself


async def test_a_queue_without_settings_is_the_one_there_is(
    broker: Broker, make_queue: MakeQueue
) -> None:
    queue = await make_queue(max_size=7)
    assert broker.queue(queue.names.queue) is queue
    assert queue.names.queue in await broker.queues()
