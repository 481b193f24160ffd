"""The operator's adapter with the rights of an operator, and without them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from tests.contract.rights.conftest import QUEUE, As
from tests.support.recorder import when

from headrace import Client, Worker
from headrace_operator.adapters.jetstream.queues import JetStreamQueues
from headrace_operator.app.ports import QueueAddress, QueueLook
from headrace_operator.errors import QueueUnreadable

KEY = ("default", "pool")


@pytest.fixture
async def queues() -> AsyncIterator[tuple[JetStreamQueues, asyncio.Event]]:
    """The adapter, and the event that its pool is woken by."""
    woken = asyncio.Event()
    made = JetStreamQueues(lambda _: woken.set())
    yield made, woken
    await made.close()


def looking(
    queues: JetStreamQueues, address: QueueAddress
) -> Callable[[], asyncio.Future[QueueLook | QueueUnreadable]]:
    async def look() -> QueueLook | QueueUnreadable:
        try:
            return queues.look(address)
        except QueueUnreadable as error:
            return error

    return lambda: asyncio.ensure_future(look())


@pytest.mark.parametrize("who", ["operator", "operator-of-all"])
async def test_it_watches_wakes_asks_and_drains(
    queues: tuple[JetStreamQueues, asyncio.Event], as_user: As, client: Client, worker: Worker,
    who: str, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    adapter, woken = queues
    address = QueueAddress(as_user(who), QUEUE)
    adapter.watch(KEY, address)
    look = looking(adapter, address)
    await when(look, lambda found: isinstance(found, QueueLook) and found.messages == 0)
    woken.clear()
    await client.submit_async("t", 1, task_id=who)
    async with asyncio.timeout(5):
        await woken.wait()
    await when(look, lambda found: isinstance(found, QueueLook) and found.messages == 1)
    await client.cancel_task(who)
    await worker.start()
    (answer,) = await adapter.workers(address, ["?"])
    assert answer.worker_id == worker.id
    drained = await adapter.drain(address, worker.id, 1, 30.0)
    assert drained is not None
    assert drained.status == "draining"
    assert await adapter.resume(address, worker.id, 1) is not None
    assert "right" not in caplog.text


async def test_a_right_that_it_lacks_is_named(
    queues: tuple[JetStreamQueues, asyncio.Event], as_user: As, made: None
) -> None:
    """A worker's user may not sweep: it was a timeout."""
    adapter, _ = queues
    address = QueueAddress(as_user("worker"), QUEUE)
    begun = time.monotonic()
    adapter.watch(KEY, address)
    found = await when(
        looking(adapter, address),
        lambda found: isinstance(found, QueueUnreadable) and "right" in str(found),
    )
    assert "publish to $JS.API.STREAM.LIST" in str(found)
    assert time.monotonic() - begun < 3.0
