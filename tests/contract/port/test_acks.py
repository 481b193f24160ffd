"""Acknowledgements in a lane where very many tasks wait."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client as NatsClient
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, MakeQueue, OpenBroker, Recorder, depth_when, put

from headrace.broker.connect import make_broker
from headrace.broker.jetstream.acks import HOLD
from headrace.broker.port import QueueSettings

TASKS = 1_500


async def test_what_was_acknowledged_is_gone_although_the_connection_ends(
    open_broker: OpenBroker, queue_name: str
) -> None:
    """The last one's acknowledgement may be held for a moment, and must not be lost."""
    settings = QueueSettings(ack_wait=60.0)
    broker, other = await open_broker(), await open_broker()
    queue, again = broker.queue(queue_name, settings), other.queue(queue_name, settings)
    await queue.ensure()
    await put(queue, NORMAL, *(f"t{n}" for n in range(TASKS)))
    async with Recorder(queue, NORMAL) as taker:
        for delivery in await taker.take(3):
            await queue.ack(delivery)
    broker.queue(queue_name, settings)  # another view of the queue on the same connection
    await broker.close()
    await depth_when(again, lambda depth: depth.messages == TASKS - 3 and not depth.running, 10)


async def test_what_was_acknowledged_is_gone_a_moment_later(make_queue: MakeQueue) -> None:
    queue = await make_queue(ack_wait=60.0)
    await put(queue, NORMAL, *(f"t{n}" for n in range(TASKS)))
    async with Recorder(queue, NORMAL) as taker:
        for delivery in await taker.take(3):
            await queue.ack(delivery)
        await depth_when(queue, lambda depth: depth.messages == TASKS - 3, 10)


async def test_what_a_redelivery_would_not_find_is_acknowledged_at_once(
    make_queue: MakeQueue,
) -> None:
    """A record that lives for a second is gone by then: the task would run again."""
    queue = await make_queue(ack_wait=60.0)
    await put(queue, NORMAL, *(f"t{n}" for n in range(TASKS)))
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take(1)
        before = asyncio.get_running_loop().time()
        await queue.ack(delivery, 1.0)
        await depth_when(queue, lambda depth: depth.messages == TASKS - 1, 10)
        assert asyncio.get_running_loop().time() - before < HOLD


async def test_the_next_task_of_a_long_lane_is_never_the_streams_oldest(
    nats_server: NatsProcess, queue_name: str
) -> None:
    """With one slot each task was, and the server walked over every waiting one to find it."""
    broker = make_broker(nats_server.url)
    await broker.connect()
    nc = NatsClient()
    await nc.connect(nats_server.url)
    try:
        queue = broker.queue(queue_name, QueueSettings(ack_wait=60.0))
        await queue.ensure()
        await put(queue, NORMAL, *(f"t{n}" for n in range(TASKS)))
        async with Recorder(queue, NORMAL) as taker:
            for _ in range(5):
                (delivery,) = await taker.take(1)
                state = (await nc.jetstream().stream_info(queue.names.work_stream)).state
                assert state.first_seq < delivery.seq or delivery.seq == 1
                await queue.ack(delivery)
                await asyncio.wait_for(nc.flush(), 5)
    finally:
        await nc.close()
        await broker.close()
