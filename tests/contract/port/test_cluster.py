"""A cluster of three servers: the same basics, and a leader that dies in the middle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import nats
import pytest
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import NORMAL, Recorder, depth_when, put, task_ids, when

from headrace import Client
from headrace.broker.connect import make_broker
from headrace.broker.port import Broker, BrokerQueue, QueueSettings, StoredMessage, WrongSequence
from headrace.client import waiting
from headrace.errors import BrokerUnavailable, TaskNotFound, WaitTimeout

pytestmark = pytest.mark.cluster3


@pytest.fixture
async def broker(nats_cluster: NatsCluster) -> AsyncIterator[Broker]:
    """A broker on the cluster."""
    broker = make_broker(nats_cluster.url)
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
async def queue(broker: Broker, queue_name: str) -> BrokerQueue:
    """A queue that is on all three servers."""
    queue = broker.queue(queue_name, QueueSettings(replicas=3, ack_wait=3.0, max_size=100_000))
    await queue.ensure()
    return queue


async def leader_of(cluster: NatsCluster, stream: str) -> NatsProcess:
    """The server that leads this stream."""
    client = await nats.connect(cluster.url.split(","))
    try:
        info = await client.jetstream().stream_info(stream)
    finally:
        await client.close()
    assert info.cluster is not None
    assert info.cluster.leader is not None
    return cluster.named(info.cluster.leader)


async def test_tasks_and_records(queue: BrokerQueue) -> None:
    await put(queue, NORMAL, "a", "b")
    assert (await (await queue.put_soon(NORMAL, "a", b"{}", "a"))).duplicate
    async with Recorder(queue, NORMAL) as taker:
        a, b = await taker.take(2)
        assert task_ids([a, b]) == ["a", "b"]
        seq = await queue.write_record("a", b"1", 0, 60.0)
        with pytest.raises(WrongSequence):
            await queue.write_record("a", b"2", 0, 60.0)
        found = await queue.read_record("a")
        assert found is not None
        assert (found.body, found.seq) == (b"1", seq)
        await queue.ack(a)
        await when(lambda: queue.present(a), lambda present: not present)
        await queue.nak(b)
        (again,) = await taker.take()
        assert (again.task_id, again.deliveries) == ("b", 2)
    depth = await depth_when(queue, lambda depth: depth.messages == 1)
    assert depth.running == 1


async def test_delayed_tasks(queue: BrokerQueue) -> None:
    at = time.time() + 0.5
    await queue.schedule(NORMAL, "a", b"{}", at, "a")
    await queue.schedule(NORMAL, "b", b"{}", at + 600, "b")
    found = await queue.find_scheduled("b")
    assert found is not None
    assert found.subject == f"{queue.names.due}{NORMAL.tokens}.b"
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert (delivery.task_id, delivery.sourced) == ("a", True)
        assert time.time() >= at - 0.01
    await queue.write_dead("a", b"1")
    assert [letter.body for letter in await queue.list_dead(5)] == [b"1"]


async def test_nothing_acknowledged_is_lost_when_the_leader_is_killed(
    nats_cluster: NatsCluster, queue: BrokerQueue
) -> None:
    leader = await leader_of(nats_cluster, queue.names.work_stream)
    ids = [f"t{n}" for n in range(4000)]
    under_way = []
    try:
        for number, task_id in enumerate(ids):
            if number == 2000:
                leader.kill()
            under_way.append(await queue.put_soon(NORMAL, task_id, b"{}", task_id))
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        lost = [answer for answer in answers if isinstance(answer, BaseException)]
        assert all(isinstance(answer, BrokerUnavailable) for answer in lost), lost[:3]
        acknowledged = {
            task_id
            for task_id, answer in zip(ids, answers, strict=True)
            if not isinstance(answer, BaseException)
        }
        assert len(acknowledged) >= 2000
        stored = await _drain(queue, acknowledged)
        assert acknowledged <= stored
        assert (await depth_when(queue, lambda depth: depth.messages == 0)).running == 0
    finally:
        leader.start()


async def _drain(queue: BrokerQueue, expected: set[str]) -> set[str]:
    """Take and settle tasks until these have come and the queue is empty."""
    got: set[str] = set()
    async with Recorder(queue, NORMAL) as taker:
        async with asyncio.timeout(60):
            while not expected <= got or (await queue.depth()).messages:
                for delivery in await taker.pull(500):
                    got.add(delivery.task_id)
                    await queue.ack(delivery)
    return got


async def test_a_wait_does_not_believe_one_look_that_found_nothing(
    nats_cluster: NatsCluster, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was cut off from the others answers as if it still led, with what it knew. What
    is really unknown is said to be so, later than on one server."""
    monkeypatch.setattr(waiting, "_SLOWEST_LOOK", 0.2)
    looks = 0
    async with Client(nats_cluster.url, queue.names.queue) as client:
        _, mine = await client.link()
        find = mine.find_scheduled

        async def stale(task_id: str) -> StoredMessage | None:
            nonlocal looks
            looks += 1
            return await find(task_id) if looks >= waiting._GONE_LOOKS else None

        monkeypatch.setattr(mine, "find_scheduled", stale)
        await queue.schedule(NORMAL, "a", b'{"type":"t"}', time.time() + 600, "a")
        with pytest.raises(WaitTimeout):
            await client.wait_for("a", timeout=4.0)
        assert looks > waiting._GONE_LOOKS
        with pytest.raises(TaskNotFound):
            await client.wait_for("b", timeout=10.0)
