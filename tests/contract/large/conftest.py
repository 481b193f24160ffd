"""Brokers with limits of different sizes, and a client and workers on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess

from headrace import Backoff, Client, QueueSettings, Worker, WorkerConfig
from headrace.broker.memory import MemoryBroker

MIB = 1_048_576
QUICK = Backoff(first=0.02, maximum=0.05)


class Bench:
    """A client of one queue, and workers that are stopped at the end."""

    def __init__(self, url: str, queue: str, limit: int) -> None:
        self.url, self.queue, self.limit = url, queue, limit
        self.settings = QueueSettings(ack_wait=2.0)
        self.client = Client(url, queue, settings=self.settings)
        self.workers: list[Worker] = []

    def worker(self, slots: int = 4) -> Worker:
        worker = Worker(
            url=self.url,
            queue=self.queue,
            config=WorkerConfig(max_concurrent_tasks=slots),
            settings=self.settings,
        )
        self.workers.append(worker)
        return worker


@pytest.fixture(scope="session")
def nats_of_8_mib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """A server that takes messages of 8 MiB."""
    server = NatsProcess(tmp_path_factory.mktemp("nats8"), extra="max_payload: 8MB")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(params=["memory", "embedded", "nats", "memory 8 MiB", "nats 8 MiB"])
def large_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """The url of each broker in turn, and its limit in bytes."""
    kind, _, size = request.param.partition(" ")
    limit = 8 * MIB if size else MIB
    if kind == "memory":
        monkeypatch.setattr(MemoryBroker, "max_payload", limit)
        return "memory://large", limit
    if kind == "embedded":
        return f"embedded://{request.getfixturevalue('embedded_folder')}", limit
    server: NatsProcess = request.getfixturevalue("nats_of_8_mib" if size else "nats_server")
    return server.url, limit


@pytest.fixture
async def bench(large_url: tuple[str, int], queue_name: str) -> AsyncIterator[Bench]:
    """A connected client on each broker."""
    url, limit = large_url
    async with running(Bench(url, f"large-{queue_name}", limit)) as bench:
        yield bench


class running:
    """`async with running(bench)`: its client is connected, its workers are stopped at the end."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def __aenter__(self) -> Bench:
        await self.bench.client.start()
        return self.bench

    async def __aexit__(self, *_: Any) -> None:
        for worker in self.bench.workers:
            await worker.stop(graceful=False)
        await self.bench.client.stop()
