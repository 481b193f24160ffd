"""A server of the test's own, a journal, a client; all of them end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.workers import Journal, MakeClient, MakeWorker, WorkerProcess

from headrace import Client, QueueSettings


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsProcess]:
    """A server that the test may end and start again."""
    server = NatsProcess(tmp_path / "nats")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """What the handlers of this test do."""
    return Journal(tmp_path / "journal")


@pytest.fixture
async def make_client(nats_server: NatsProcess, queue_name: str) -> AsyncIterator[MakeClient]:
    """Makes connected clients of this test's queue; keywords as `QueueSettings`, and `url`."""
    async with AsyncExitStack() as stack:

        async def make(url: str | None = None, **settings: Any) -> Client:
            settings = {"ack_wait": 2.0} | settings
            client = Client(url or nats_server.url, queue_name, settings=QueueSettings(**settings))
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
def make_worker(
    nats_server: NatsProcess, queue_name: str, journal: Journal
) -> Iterator[MakeWorker]:
    """Starts worker processes of this test's queue; keywords as the program's config."""
    started: list[WorkerProcess] = []

    async def make(env: dict[str, str] | None = None, **config: Any) -> WorkerProcess:
        config = {"url": nats_server.url, "queue": queue_name} | config
        worker = WorkerProcess(journal, config, env)
        started.append(worker)
        return await worker.start()

    yield make
    for worker in started:
        worker.close()
