"""Case C18: somebody deletes a consumer or a stream under workers that are idle."""

from __future__ import annotations

import asyncio
import time

import nats
import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, when
from tests.support.workers import Journal, MakeClient, MakeWorker

from headrace import CONTEXT, BrokerError, Client, Context, QueueSettings, Retry, Worker
from headrace.broker.jetstream.keeper.parent import KeeperLeases


async def _idle(client: Client, workers: int) -> None:
    """Wait until every worker has parked its pull on the level `normal`."""
    _, queue = await client.link()

    async def parked() -> int:
        return sum(row.parked for row in (await queue.depth()).lanes if row.lane == NORMAL)

    await when(parked, lambda count: count == workers)


async def test_c18_the_consumer_of_a_level_is_deleted_under_idle_workers(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    client = await make_client()
    workers = [await make_worker() for _ in range(2)]
    await _idle(client, 2)
    connection = await nats.connect(nats_server.url)
    _, queue = await client.link()
    await connection.jetstream().delete_consumer(queue.names.work_stream, NORMAL.consumer)
    await connection.close()
    began = time.monotonic()
    # by a client that believes in the consumer, and by one that has just come
    assert await client.submit("work", {"n": 1}, wait_timeout=10) == {"did": 1}
    assert await (await make_client()).submit("work", {"n": 2}, wait_timeout=10) == {"did": 2}
    assert time.monotonic() - began < 10
    assert all(worker.running for worker in workers)
    assert len(journal.entries("ready")) == 2


async def test_a_task_is_not_run_beside_itself_when_its_consumer_is_deleted(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    """The new consumer delivers what runs as if for the first time."""
    client = await make_client()
    for _ in range(2):
        await make_worker(slots=1)
    task = await client.submit_async("work", {"n": 1, "seconds": 8.0})
    await journal.started(1)
    connection = await nats.connect(nats_server.url)
    _, queue = await client.link()
    await connection.jetstream().delete_consumer(queue.names.work_stream, NORMAL.consumer)
    await connection.close()
    assert await client.submit("work", {"n": 2}, wait_timeout=10) == {"did": 2}  # the new one works
    assert (await client.wait_for(task.id, 15)).result == {"did": 1}
    assert journal.runs()[task.id] == 1


@pytest.mark.parametrize("retries", [0, 1])
async def test_what_runs_while_its_message_is_lost_has_its_outcome_all_the_same(
    nats_server: NatsProcess, queue_name: str, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """Also where its lease has lapsed by then: it was taken for settled by somebody else."""
    monkeypatch.setattr(KeeperLeases, "hold", lambda self, delivery: None)
    settings = QueueSettings(ack_wait=0.5)
    worker = Worker(url=nats_server.url, queue=queue_name, settings=settings)
    began, release = asyncio.Event(), asyncio.Event()

    @worker.handler("wait")
    async def wait(ctx: Context = CONTEXT) -> int:
        began.set()
        await release.wait()
        if ctx.attempt <= retries:
            raise Retry("once more", delay=0.0)
        return ctx.attempt

    async with Client(nats_server.url, queue_name, settings=settings) as client:
        await worker.start()
        task = await client.submit_async("wait", retries=1)
        await began.wait()
        connection = await nats.connect(nats_server.url)
        _, queue = await client.link()
        await connection.jetstream().purge_stream(queue.names.work_stream)
        await connection.close()
        await asyncio.sleep(2 * settings.ack_wait)  # a lease that lapses tells nobody
        release.set()
        assert (await client.wait_for(task.id, 10)).result == 1 + retries
        await worker.stop()


async def test_c18_the_work_stream_is_deleted_under_idle_workers(
    own_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 1.0)
    client, knows_the_level = [await make_client(own_server.url) for _ in range(2)]
    await knows_the_level.submit_async("work", {}, delay=600)
    workers = [await make_worker(url=own_server.url) for _ in range(2)]
    await _idle(client, 2)
    connection = await nats.connect(own_server.url)
    _, queue = await client.link()
    await connection.jetstream().delete_stream(queue.names.work_stream)
    await connection.close()
    # a client that asks for the consumer first, and one that publishes: nobody answers it
    for submit, says in ((client, "stream does not exist"), (knows_the_level, "not stored within")):
        with pytest.raises(BrokerError, match=says) as refused:
            await submit.submit_async("work", {"n": 1})
        assert refused.value.hint
    with pytest.raises(BrokerError):  # unknown is not zero
        await client.depth()
    # the queue is made again by whoever comes next, and the workers find it by themselves
    settings = QueueSettings(ack_wait=2.0)
    async with Client(own_server.url, queue_name, settings=settings) as another:
        assert await another.submit("work", {"n": 2}, wait_timeout=20) == {"did": 2}
        results = await asyncio.gather(
            *(client.submit("work", {"n": n, "seconds": 0.3}, wait_timeout=20) for n in range(4))
        )
    assert results == [{"did": n} for n in range(4)]
    assert {entry["pid"] for entry in journal.starts()} == {worker.pid for worker in workers}
    assert len(journal.entries("ready")) == 2
