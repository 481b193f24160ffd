"""What the operator's sweep reads of a queue, on a real server and without Kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from tests.contract.port.test_cluster import leader_of
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import NORMAL, Recorder, put

from headrace.broker.connect import make_broker
from headrace.broker.port import Broker, BrokerQueue, QueueSettings
from headrace.task import TaskPriority
from headrace.wire import Lane
from headrace_operator.adapters.jetstream.account import Account
from headrace_operator.app.ports import QueueAddress, QueueLook
from headrace_operator.errors import QueueUnreadable

KEY = ("ns", "pool")


class Watched:
    """A queue, the account that reads it, and the walks over all its subjects."""

    def __init__(self, broker: Broker, queue: BrokerQueue, account: Account) -> None:
        self.broker, self.queue, self.account = broker, queue, account
        self.nc = NatsClient()
        self.walks = 0

    async def listen(self, url: str) -> None:
        await self.nc.connect(url)

        async def asked(msg: Msg) -> None:
            self.walks += b"subjects_filter" in msg.data

        await self.nc.subscribe(f"$JS.API.STREAM.INFO.{self.queue.names.work_stream}", cb=asked)
        await self.nc.flush()

    async def look(self, tasks: int) -> QueueLook:
        """The first look that tells so many waiting tasks."""
        name = self.queue.names.queue
        async with asyncio.timeout(10):
            while True:
                if self.account._queues[name].read_at:
                    found = self.account.look(name)
                    if sum(int(lane.waiting) for lane in found.lanes) == tasks:  # type: ignore[arg-type]
                        return found
                await asyncio.sleep(0.02)


@pytest.fixture
async def watched(nats_server: NatsProcess, queue_name: str) -> AsyncIterator[Watched]:
    broker = make_broker(nats_server.url)
    await broker.connect()
    queue = broker.queue(queue_name)
    await queue.ensure()
    account = Account(QueueAddress(nats_server.url, queue_name), lambda _: None)
    found = Watched(broker, queue, account)
    await found.listen(nats_server.url)
    account.watch(KEY, queue_name)
    account.start()
    yield found
    await account.stop()
    await found.nc.close()
    await broker.close()


async def test_tasks_of_lanes_that_nobody_has_served(watched: Watched) -> None:
    names = watched.queue.names
    for number in range(3):
        await watched.nc.jetstream().publish(
            names.task(Lane(TaskPriority.LOW, "gpu"), f"g{number}")
        )
    await put(watched.queue, NORMAL, "a")
    look = await watched.look(4)
    waiting = {(lane.priority, lane.tag): lane.waiting for lane in look.lanes}
    assert waiting == {(TaskPriority.LOW, "gpu"): 3, (TaskPriority.NORMAL, None): 1}


async def test_a_queue_that_drains_is_not_walked_over(watched: Watched) -> None:
    """Between the sweep's two questions some tasks end: that was taken for tasks without a
    consumer, and every sweep had the server walk over all that waited."""
    await put(watched.queue, NORMAL, *(f"t{n}" for n in range(20)))
    await watched.look(20)
    known = watched.account._queues[watched.queue.names.queue]
    async with asyncio.timeout(10):
        while known.messages != 20:  # those before it counted the stream before the lanes
            await asyncio.sleep(0.02)
    assert watched.walks == 0
    async with Recorder(watched.queue, NORMAL) as taker:
        for delivery in await taker.take(5):
            await watched.queue.ack(delivery)
        await watched.look(15)
        known.messages = 20  # as a sweep counted before those five
        await watched.account._read(known)
    assert watched.walks == 0


@pytest.mark.cluster3
async def test_a_queue_whose_only_server_is_gone_is_unknown_and_no_other(
    nats_cluster: NatsCluster, queue_name: str
) -> None:
    """Nobody answers for its stream, and the whole account was unreadable: no pool grew."""
    broker = make_broker(nats_cluster.url)
    await broker.connect()
    account = Account(QueueAddress(nats_cluster.url, "any"), lambda _: None)
    safe, lone = f"{queue_name}-safe", f"{queue_name}-lone"
    queues: dict[str, BrokerQueue] = {}
    stopped: NatsProcess | None = None

    def waiting(name: str) -> int:
        return sum(int(lane.waiting) for lane in account.look(name).lanes)  # type: ignore[arg-type]

    async def until(seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while True:
                try:
                    if seen():
                        return
                except QueueUnreadable:
                    pass
                await asyncio.sleep(0.1)

    try:
        for name, replicas in ((safe, 3), (lone, 1)):
            queues[name] = broker.queue(name, QueueSettings(replicas=replicas))
            await queues[name].ensure()
            await put(queues[name], NORMAL, "a", "b")
            account.watch((name, name), name)
        account.start()
        await until(lambda: waiting(safe) == waiting(lone) == 2)
        stopped = await leader_of(nats_cluster, f"HEADRACE_{lone}")
        stopped.kill()
        await put(queues[safe], NORMAL, "c")
        await until(lambda: waiting(safe) == 3)
        async with asyncio.timeout(40):
            while True:
                try:
                    account.look(lone)
                except QueueUnreadable as error:
                    if error.reason == "Incomplete":
                        break
                await asyncio.sleep(0.1)
        assert waiting(safe) == 3
        server, stopped = stopped, None
        server.start()
        await until(lambda: waiting(lone) == 2)
    finally:
        if stopped is not None:
            stopped.start()
        await account.stop()
        await broker.close()


async def test_a_walk_is_not_repeated_at_every_sweep(watched: Watched) -> None:
    names = watched.queue.names
    watched.account._queues[names.queue].walk_at = 0.0
    await watched.nc.jetstream().publish(names.task(NORMAL, "a"))
    await watched.look(1)
    known = watched.account._queues[names.queue]
    walks, known.walk_at = watched.walks, known.walk_at + 60
    for number in range(3):
        await watched.nc.jetstream().publish(names.task(NORMAL, f"b{number}"))
    look = await watched.look(4)
    assert [int(lane.waiting) for lane in look.lanes] == [4]  # type: ignore[arg-type]
    assert watched.walks == walks
