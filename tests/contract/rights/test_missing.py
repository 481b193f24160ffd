"""Single rights that a worker lacks, and what becomes of its tasks; the roles on three servers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.rights.conftest import QUEUE, configuration, user
from tests.support.nats_servers import NatsCluster, NatsProcess
from tests.support.recorder import when

from headrace import AccessDenied, Client, HeadraceError, QueueSettings, TaskStatus, Worker
from headrace.broker.jetstream.broker import JetStreamBroker
from headrace.broker.jetstream.grants import Role, permissions

SETTINGS = QueueSettings(ack_wait=2.0)


def users_with(worker: dict[str, Any]) -> str:
    return (
        "authorization { users: [\n"
        + "\n".join(
            (
                user("owner", permissions([Role.OWNER], [QUEUE])),
                user("producer", permissions([Role.PRODUCER], [QUEUE])),
                user("worker", worker),
            )
        )
        + "\n] }"
    )


def worker_without(*subjects: str) -> dict[str, Any]:
    """A worker's rights but for these."""
    rights = permissions([Role.WORKER], [QUEUE])
    for side in ("publish", "subscribe"):
        rights[side]["allow"] = [each for each in rights[side]["allow"] if each not in subjects]
    return rights


Start = Callable[[dict[str, Any]], NatsProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the server whose worker has these rights."""
    server = NatsProcess(tmp_path / "nats")

    def begin(worker: dict[str, Any]) -> NatsProcess:
        server._extra = users_with(worker)
        return server.start()

    yield begin
    server.stop()


def as_user(url: str, name: str) -> str:
    return ",".join(each.replace("//", f"//{name}:p@") for each in url.split(","))


async def make_queue(url: str, settings: QueueSettings = SETTINGS) -> None:
    broker = JetStreamBroker(as_user(url, "owner"))
    await broker.connect()
    await broker.queue(QUEUE, settings).ensure()
    await broker.queue(QUEUE, settings).ensure_later()
    await broker.close()


def echo(url: str) -> Worker:
    worker = Worker(url=as_user(url, "worker"), queue=QUEUE, settings=SETTINGS)

    @worker.handler("echo")
    async def handle(data: object) -> object:
        return data

    return worker


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        (f"$JS.API.CONSUMER.MSG.NEXT.HEADRACE_{QUEUE}.*", "CONSUMER.MSG.NEXT"),
        (f"$JS.API.CONSUMER.DURABLE.CREATE.HEADRACE_{QUEUE}.*", "CONSUMER.DURABLE.CREATE"),
        (f"headrace.control.{QUEUE}.*.*", "headrace.control"),
        ("$SRV.STATS", r"\$SRV.STATS"),
    ],
)
async def test_a_worker_that_cannot_do_its_work_ends_at_its_start(
    start: Start, subject: str, named: str
) -> None:
    """Without the right to ask for tasks it waited for ever, and looked idle."""
    server = start(worker_without(subject))
    await make_queue(server.url)
    begun = time.monotonic()
    worker = echo(server.url)
    with pytest.raises(AccessDenied, match=f"(?i){named}"):
        await worker.start()
    assert time.monotonic() - begun < 15.0  # a lease keeper is started and ended


async def test_an_outcome_waits_for_the_right_to_record_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(worker_without(f"headrace.state.{QUEUE}.*"))
    await make_queue(server.url)
    worker = echo(server.url)
    await worker.start()
    async with Client(as_user(server.url, "producer"), QUEUE, settings=SETTINGS) as client:
        task = await client.submit_async("echo", 1)
        missing = "not settled yet, trying on: the credentials lack the right of publish to "
        await when(
            lambda: _text(caplog), lambda text: f"{missing}headrace.state.{QUEUE}.{task.id}" in text
        )
        server.reload(users_with(permissions([Role.WORKER], [QUEUE])))
        result = await client.wait_for(task.id, 30)
        assert (result.status, result.result) == (TaskStatus.COMPLETED, 1)
        await when(client.depth, lambda depth: depth.messages == 0, 30)
    await worker.stop()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def _text(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.text


async def test_the_roles_on_three_servers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Single messages are asked of a stream's leader there, by another subject."""
    cluster = NatsCluster(tmp_path, configuration())
    try:
        cluster.start()
        async with asyncio.timeout(60):
            while True:
                try:
                    await make_queue(cluster.url, QueueSettings(ack_wait=2.0, replicas=3))
                except HeadraceError:
                    await asyncio.sleep(0.1)
                else:
                    break
        caplog.clear()
        worker = echo(cluster.url)
        await worker.start()
        async with Client(as_user(cluster.url, "producer"), QUEUE, settings=SETTINGS) as client:
            assert await client.submit("echo", 1, wait_timeout=20) == 1
            assert await client.submit("echo", 2, delay=0.1, wait_timeout=20) == 2
            queued = await client.submit_async("echo", 3, delay=60)
            assert (await client.cancel_task(queued.id)).status is TaskStatus.CANCELLED
            assert len(await client.get_workers()) == 1
        await worker.stop()
        assert "right" not in caplog.text
    finally:
        cluster.stop()
