"""Case C38: more idle workers than the consumer lets wait."""

from __future__ import annotations

import asyncio
import logging

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, depth_when
from tests.support.workers import MakeClient

from headrace import CONTEXT, Context, QueueSettings, Worker, WorkerConfig
from headrace.broker.jetstream.streams import MAX_WAITING

WORKERS = 3


async def test_c38_consumers_let_a_whole_fleet_wait_and_run(
    nats_server: NatsProcess, make_client: MakeClient
) -> None:
    client = await make_client(max_ack_pending=20_000)
    await client.submit_async("work", {})
    _, queue = await client.link()
    connection = await nats.connect(nats_server.url)
    info = await connection.jetstream().consumer_info(queue.names.work_stream, NORMAL.consumer)
    assert info.config.max_waiting == MAX_WAITING == 20_000
    assert info.config.max_ack_pending == 20_000
    # a fleet with more slots raises what may run, by whoever of it comes
    other = await make_client(max_ack_pending=30_000)
    await other.submit_async("work", {})
    info = await connection.jetstream().consumer_info(queue.names.work_stream, NORMAL.consumer)
    assert info.config.max_ack_pending == 30_000
    await connection.close()


async def test_c38_a_worker_that_is_refused_backs_off_and_gets_work_all_the_same(
    nats_server: NatsProcess,
    queue_name: str,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = await make_client()
    _, queue = await client.link()
    connection = await nats.connect(nats_server.url)
    await connection.jetstream().add_consumer(
        queue.names.work_stream,
        ConsumerConfig(
            durable_name=NORMAL.consumer,
            filter_subject=f"{queue.names.work}{NORMAL.tokens}.*",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=2.0,
            max_ack_pending=20_000,
            max_waiting=1,
        ),
    )
    asked: list[str] = []

    async def count(msg: nats.aio.msg.Msg) -> None:
        asked.append(msg.subject)

    stream = queue.names.work_stream
    await connection.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", cb=count)
    await connection.subscribe(f"$JS.API.CONSUMER.*.{stream}.*", cb=count)
    await connection.flush()
    settings = QueueSettings(ack_wait=2.0)
    ran: list[str] = []
    all_run = asyncio.Barrier(WORKERS)
    workers = []
    for _ in range(WORKERS):
        worker = Worker(
            url=nats_server.url,
            queue=queue_name,
            config=WorkerConfig(max_concurrent_tasks=1),
            settings=settings,
        )

        async def work(data: int, *, ctx: Context = CONTEXT) -> int:
            ran.append(ctx.worker_id)
            await all_run.wait()
            return data

        worker.register_handler("work", work)
        workers.append(worker)
    try:
        with caplog.at_level(logging.WARNING, "headrace.worker"):
            for worker in workers:
                await worker.start()
            await depth_when(queue, lambda depth: any(row.parked for row in depth.lanes))
            await asyncio.sleep(1.0)  # the first refusals
            before = len(asked)
            assert before > 0
            window = 3.0
            await asyncio.sleep(window)
            assert (len(asked) - before) / window / WORKERS < 2
            # all of them get work: each holds its task until every one has one
            results = await asyncio.gather(
                *(client.submit("work", n, wait_timeout=30) for n in range(WORKERS))
            )
        assert results == list(range(WORKERS))
        assert sorted(ran) == sorted(worker.id for worker in workers)
        said = [record for record in caplog.records if "max_waiting" in record.message]
        assert len(said) == WORKERS - 1  # once each
    finally:
        for worker in workers:
            await worker.stop(graceful=False)
        await connection.close()
