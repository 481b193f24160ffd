"""Schedules while servers and workers die: no run twice, the beat goes on, one run made up for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import when
from tests.support.workers import Journal, MakeClient, MakeWorker

from headrace.broker.jetstream import JetStreamBroker, streams
from headrace.broker.jetstream.stored_queue import JetStreamQueue
from headrace.wire import LEVELS, Lane

DOWN = 4.0  # seconds
DATA = {"n": 1, "seconds": 0.0}


def runs(journal: Journal) -> list[int]:
    """The times of the runs, from their ids, in the order of their starts."""
    stamps = [entry["task"].partition("@")[2] for entry in journal.starts()]
    times = [datetime.strptime(stamp, "%Y%m%dT%H%M%SZ") for stamp in stamps]
    return [int(at.replace(tzinfo=UTC).timestamp()) for at in times]


async def until(journal: Journal, condition: Callable[[list[int]], object]) -> list[int]:
    await journal.until(lambda one: condition(runs(one)), within=40)
    return runs(journal)


async def test_a_server_that_is_killed_goes_on_with_its_schedules(
    own_server: NatsProcess, journal: Journal, make_client: MakeClient, make_worker: MakeWorker
) -> None:
    client = await make_client(own_server.url)
    for _ in range(2):
        await make_worker(url=own_server.url, slots=4)
    await client.schedule("s", "work", DATA, every=1)
    await until(journal, lambda found: len(found) >= 3)
    own_server.kill()
    before = len(runs(journal))
    await asyncio.sleep(DOWN)  # how long it is away is what this is about
    own_server.start()
    back = time.time()
    found = await until(journal, lambda found: max(found) > back + 3)
    assert len(set(found)) == len(found)
    during = [at for at in found[before:] if at < back - 1.5]
    assert len(during) <= 2  # under way at the kill, and the one that is made up for
    (schedule,) = await client.schedules()
    assert schedule.last_run is not None
    assert schedule.last_run >= max(found) - 1


async def test_a_run_whose_worker_is_killed_delays_no_other(
    nats_server: NatsProcess, journal: Journal, make_client: MakeClient, make_worker: MakeWorker
) -> None:
    client = await make_client()
    first = await make_worker(slots=2)
    await client.schedule("s", "work", {"n": 1, "seconds": 60}, every=1)
    (task, *_) = {entry["task"] for entry in await journal.started(1)}
    await client.schedule("s", "work", DATA, every=1)  # from here on they are short
    await make_worker(slots=4)
    first.kill()
    count = len(journal.starts())
    await journal.started(count + 4)
    assert all(number == 1 for one, number in journal.runs().items() if one != task)
    assert await client.unschedule("s")


@pytest.mark.cluster3
async def test_the_leader_of_the_schedules_is_killed(
    nats_cluster: NatsCluster, journal: Journal, make_client: MakeClient, make_worker: MakeWorker,
) -> None:  # fmt: skip
    client = await make_client(nats_cluster.url, replicas=3, ack_wait=3.0)
    await client.start()
    await make_worker(url=nats_cluster.url, slots=4)
    await client.schedule("s", "work", DATA, every=1)
    await until(journal, lambda found: len(found) >= 3)
    leader = nats_cluster.named(await _leader(nats_cluster, client.queue))
    try:
        leader.kill()
        killed = time.time()
        found = await until(journal, lambda found: max(found) > killed + 3)
    finally:
        leader.start()
    assert len(set(found)) == len(found)
    await client.unschedule("s")


async def _leader(cluster: NatsCluster, queue: str) -> str:
    broker = JetStreamBroker(cluster.url)
    await broker.connect()
    try:
        answer = await broker._connection.api(f"STREAM.INFO.HEADRACE_LATER_{queue}")
        return str(answer["cluster"]["leader"])
    finally:
        await broker.close()


async def test_a_stream_of_before_there_were_schedules_takes_them(
    nats_server: NatsProcess, queue_name: str
) -> None:
    broker = JetStreamBroker(nats_server.url)
    await broker.connect()
    try:
        queue = broker.queue(queue_name)
        assert isinstance(queue, JetStreamQueue)
        await queue.ensure()
        lane = Lane(LEVELS[0])
        await queue.schedule(lane, "a", b"{}", time.time() + 900, "a")
        stream = queue.names.later_stream
        config = (await broker._connection.api(f"STREAM.INFO.{stream}"))["config"]
        config["subjects"].remove(f"{queue.names.cron}*")
        await streams.update_stream(broker._connection, config)
        await queue.put_schedule("s", lane, b"{}", "@every 900s", 0)
        assert len(await queue.list_schedules()) == 1
        found = await when(lambda: queue.find_scheduled("a"), lambda found: found is not None)
        assert found is not None
    finally:
        await broker.close()
