"""The server dies and comes back in the middle of a run: workers and waiting clients go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import depth_when
from tests.support.workers import Journal, MakeClient, MakeWorker

from headrace import BrokerUnavailable, Client, QueueDepth, TaskResult
from headrace.broker.port import BrokerQueue

TASKS = 200


async def _run_and_break(
    client: Client, journal: Journal, break_it: object, again: object
) -> list[TaskResult]:
    """Submit, wait with and without a reply, break the server when a quarter has started."""
    items = [("work", {"n": n, "seconds": 0.05}) for n in range(TASKS)]
    ids = [task.id for task in await client.submit_many(items)]
    waiting = [asyncio.create_task(client.wait_for(task_id)) for task_id in ids]
    submits = [
        asyncio.create_task(client.submit("work", {"n": n, "seconds": 0.05})) for n in range(20)
    ]
    await journal.started(TASKS // 4)
    await break_it()  # type: ignore[operator]
    # who submits now waits for the server, and loses nothing
    late = [asyncio.create_task(client.submit("work", {"n": n})) for n in range(1000, 1010)]
    await again()  # type: ignore[operator]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*waiting)
        assert await asyncio.gather(*submits) == [{"did": n} for n in range(20)]
        assert await asyncio.gather(*late) == [{"did": n} for n in range(1000, 1010)]
    return results


async def _check(client: Client, journal: Journal, results: list[TaskResult], slots: int) -> None:
    assert [result.status for result in results] == ["completed"] * TASKS
    assert [result.result for result in results] == [{"did": n} for n in range(TASKS)]
    broker, queue = await client.link()
    depth = await _empty(queue)
    assert depth.dead == 0
    # one final state each: what the first answer said is what the record says at the end
    again = await asyncio.gather(*(client.wait_for(result.task_id) for result in results))
    assert again == results
    assert broker.connected
    # at least once: only what was under way at the kill may have run twice
    runs = journal.runs()
    assert set(runs) >= {result.task_id for result in results}
    twice = [task_id for task_id, count in runs.items() if count > 1]
    assert len(twice) <= 4 * slots, twice
    assert max(runs.values()) <= 2


async def _empty(queue: BrokerQueue) -> QueueDepth:
    """The depth once nothing is left; an election ends it with an error and never with less. A
    server that was killed counts as running, for a lease, what it forgot to be acknowledged."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await depth_when(queue, lambda depth: depth.messages == depth.running == 0)
            except BrokerUnavailable:
                continue


async def test_a_server_that_is_killed_and_started_again(
    own_server: NatsProcess, journal: Journal, make_client: MakeClient, make_worker: MakeWorker
) -> None:
    client = await make_client(own_server.url)
    workers = [await make_worker(url=own_server.url, slots=4) for _ in range(2)]

    async def kill() -> None:
        await asyncio.to_thread(own_server.kill)

    async def start() -> None:
        own_server.start()

    results = await _run_and_break(client, journal, kill, start)
    await _check(client, journal, results, slots=8)
    assert all(worker.running for worker in workers)
    assert len(journal.entries("ready")) == 2  # nobody was started again


@pytest.fixture
async def whole_cluster(nats_cluster: NatsCluster) -> AsyncIterator[NatsCluster]:
    """The cluster; a server that the test ended runs again behind it."""
    yield nats_cluster
    for server in nats_cluster.servers:
        if not server.running:
            server.start()


@pytest.mark.cluster3
async def test_the_leader_of_the_work_stream_is_killed(
    whole_cluster: NatsCluster,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    """Three servers, three replicas, and the leader does not come back while the tasks run."""
    client = await make_client(whole_cluster.url, replicas=3, ack_wait=5.0)
    config = {"url": whole_cluster.url, "replicas": 3, "ack_wait": 5.0, "slots": 4}
    workers = [await make_worker(**config) for _ in range(2)]

    async def kill() -> None:
        connection = await nats.connect(whole_cluster.url.split(","))
        info = await connection.jetstream().stream_info(f"HEADRACE_{queue_name}")
        await connection.close()
        assert info.config.num_replicas == 3
        await asyncio.to_thread(whole_cluster.named(info.cluster.leader).kill)

    async def nothing() -> None:
        pass

    results = await _run_and_break(client, journal, kill, nothing)
    await _check(client, journal, results, slots=8)
    assert all(worker.running for worker in workers)
