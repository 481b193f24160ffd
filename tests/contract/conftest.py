"""Brokers for the contract suites: every one of them, on real servers where there is a server."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import MakeQueue, OpenBroker

from headrace.broker.connect import make_broker
from headrace.broker.embedded.files import lock
from headrace.broker.port import Broker, BrokerQueue, QueueSettings
from headrace.errors import HeadraceError

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server for all tests; each uses queue names of its own."""
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """A cluster of three that has a leader."""
    cluster = NatsCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        asyncio.run(_until_it_stores(cluster))
        yield cluster
    finally:
        cluster.stop()


async def _until_it_stores(cluster: NatsCluster) -> None:
    """A cluster takes a stream of three replicas once it has a leader that knows all three."""
    broker = make_broker(cluster.url)
    async with asyncio.timeout(60):
        while True:
            try:
                await broker.connect()
                await broker.queue("ready", QueueSettings(replicas=3)).ensure()
            except HeadraceError:
                await asyncio.sleep(0.1)
            else:
                break
    await broker.close()


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the embedded server of this session stores; held, so that it does not stop between
    two tests."""
    folder = tmp_path_factory.mktemp("embedded")
    user = lock(folder / "users.lock", fcntl.LOCK_SH)
    assert user is not None
    yield str(folder)
    os.close(user)


@pytest.fixture(params=["memory", "embedded", "nats"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The url of each broker in turn."""
    if request.param == "memory":
        return "memory://contract"
    if request.param == "embedded":
        return f"embedded://{request.getfixturevalue('embedded_folder')}"
    server: NatsProcess = request.getfixturevalue("nats_server")
    return server.url


@pytest.fixture
async def open_broker(broker_url: str) -> AsyncIterator[OpenBroker]:
    """Opens brokers for the test's url; they are closed at its end."""
    opened: list[Broker] = []

    async def make() -> Broker:
        broker = make_broker(broker_url)
        await broker.connect()
        opened.append(broker)
        return broker

    yield make
    for broker in opened:
        await broker.close()


@pytest.fixture
async def broker(open_broker: OpenBroker) -> Broker:
    """A connected broker."""
    return await open_broker()


@pytest.fixture
def queue_name() -> str:
    """A name that no other test uses."""
    return f"q{next(_numbers)}"


@pytest.fixture
async def make_queue(broker: Broker, queue_name: str) -> MakeQueue:
    """Makes this test's queue: `await make_queue(max_size=3)`, settings as `QueueSettings`."""

    async def make(**settings: float) -> BrokerQueue:
        queue = broker.queue(queue_name, QueueSettings(**settings))  # type: ignore[arg-type]
        await queue.ensure()
        return queue

    return make


@pytest.fixture
async def queue(make_queue: MakeQueue) -> BrokerQueue:
    """This test's queue with the settings that are the defaults."""
    return await make_queue()
