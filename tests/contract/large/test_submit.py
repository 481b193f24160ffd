"""What is submitted at the server's limit: it fits, or it is refused and nothing is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace import PayloadTooLarge, TaskStatus
from headrace.broker.jetstream.stored_queue import JetStreamQueue
from headrace.broker.memory.stored_queue import MemoryQueue
from headrace.client.submission import Submission, encode

from .conftest import Bench


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """`created_at` has as many digits each time, so that sizes can be told to the byte."""
    now = round(time.time()) + 0.5
    for queue in (JetStreamQueue, MemoryQueue):
        monkeypatch.setattr(queue, "now", lambda self: now)


async def largest(bench: Bench, **options: Any) -> int:
    """Characters of data with which a task of type `t` just fits."""
    token = "0" * 16  # of the client that waits
    envelope = Submission("t", "", task_id="x" * 29, **options).envelope(
        token, round(time.time()) + 0.5
    )
    return bench.limit - 2_048 - len(encode(envelope, bench.limit))


@pytest.mark.usefixtures("still_clock")
async def test_the_limit_to_the_byte(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Case C03: one byte over is refused, what just fits is stored, innocents are not hurt."""
    most = await largest(bench)
    client = bench.client
    small = [asyncio.create_task(client.submit_async("t", n)) for n in range(20)]
    with pytest.raises(PayloadTooLarge) as refused:
        await client.submit_async("t", "x" * (most + 1))
    assert (refused.value.size, refused.value.limit) == (bench.limit + 1, bench.limit)
    fits = await client.submit_async("t", "x" * most)
    assert len(await asyncio.gather(*small)) == 20
    assert client.connected
    assert "disconnected" not in caplog.text
    assert (await client.depth()).messages == 21
    worker = bench.worker()

    @worker.handler("t")
    async def t(data: Any) -> Any:
        return data

    await worker.start()
    done = await client.wait_for(fits.id, 30)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, "x" * most)
    task = await client.get_task(fits.id)
    assert task is not None
    assert task.status is TaskStatus.COMPLETED


@pytest.mark.usefixtures("still_clock")
async def test_a_delayed_task_that_just_fits_runs(bench: Bench) -> None:
    """It is stored twice, with the headers of a schedule and with those of the scheduler."""
    most = await largest(bench, delay=0.05)
    worker = bench.worker()

    @worker.handler("t")
    async def t(data: str) -> int:
        return len(data)

    await worker.start()
    with pytest.raises(PayloadTooLarge):
        await bench.client.submit_async("t", "x" * (most + 1), delay=0.05)
    assert (await bench.client.depth()).delayed == 0
    assert await bench.client.submit("t", "x" * most, delay=0.05, wait_timeout=30) == most


Submit = Callable[[Bench, str], Awaitable[Any]]

WAYS: dict[str, Submit] = {
    "submit": lambda bench, text: bench.client.submit("t", text),
    "delay": lambda bench, text: bench.client.submit_async("t", text, delay=60),
    "metadata": lambda bench, text: bench.client.submit_async("t", metadata={"text": text}),
    "many": lambda bench, text: bench.client.submit_many([("t", 1), ("t", text), ("t", 2)]),
    "stream": lambda bench, text: anext(aiter(bench.client.stream("t", text))),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_refused_leaves_nothing_behind(bench: Bench, way: str) -> None:
    with pytest.raises(PayloadTooLarge) as refused:
        await WAYS[way](bench, "é" * bench.limit)
    assert refused.value.size > refused.value.limit == bench.limit
    assert "Store the data" in refused.value.hint
    depth = await bench.client.depth()
    assert (depth.messages, depth.delayed, depth.dead) == (0, 0, 0)


async def test_a_refused_task_does_not_claim_its_unique_key(bench: Bench) -> None:
    client = bench.client
    with pytest.raises(PayloadTooLarge):
        await client.submit_async("t", "x" * bench.limit, unique="k", task_id="large")
    task = await client.submit_async("t", "small", unique="k", task_id="small")
    assert (task.id, task.duplicate) == ("small", False)
