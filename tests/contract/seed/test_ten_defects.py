"""Ten defects of the in-memory original, each with the behaviour that ours has instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import (
    Coordinator,
    CoordinatorConfig,
    NoHandler,
    QueueFull,
    Reject,
    TaskPriority,
    TaskQueue,
    TaskStatus,
    WaitTimeout,
    WorkerConfig,
    WorkerStatus,
)
from headrace.errors import NotRunning
from headrace.worker import Worker

pytestmark = pytest.mark.asyncio


class One:
    """A coordinator with one slot, and what its handlers saw."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started: list[Any] = []
        self.coordinator = Coordinator(
            CoordinatorConfig(min_workers=1, max_workers=1, auto_scale=False), url="memory://"
        )

        @self.coordinator.handler("hold")
        async def hold(n: int) -> int:
            self.started.append(n)
            await self.gate.wait()
            return n

        @self.coordinator.handler("slow")
        async def slow(data: dict[str, Any]) -> None:
            await asyncio.sleep(30)

    async def has_started(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.started) < count:
                await asyncio.sleep(0.005)


@pytest.fixture
async def one() -> AsyncIterator[One]:
    found = One()
    await found.coordinator.start()
    yield found
    found.gate.set()
    await found.coordinator.stop(graceful=False)


async def test_1_priority_jumps_the_queue_and_its_size_is_true(one: One) -> None:
    """The original drained its queue into tasks at once: size 0, and order of arrival."""
    submit = one.coordinator.submit_async
    for n in range(20):
        await submit("hold", n, priority=TaskPriority.LOW)
    await one.has_started(1)
    critical = await submit("hold", 99, priority=TaskPriority.CRITICAL)
    assert (await one.coordinator.depth()).waiting == 20
    one.gate.set()
    await one.coordinator.wait_for(critical.id, timeout=10)
    assert one.started[1] == 99


async def test_2_cancelling_a_running_task_stops_it_for_good(one: One) -> None:
    """The original let it run on, and its end overwrote the cancel."""
    task = await one.coordinator.submit_async("hold", 1)
    await one.has_started(1)
    await one.coordinator.cancel_task(task.id)
    one.gate.set()
    result = await one.coordinator.wait_for(task.id, timeout=10)
    assert result.status is TaskStatus.CANCELLED
    assert await one.coordinator.submit("hold", 2, wait_timeout=10) == 2
    found = await one.coordinator.get_task(task.id)
    assert found is not None
    assert found.status is TaskStatus.CANCELLED


async def test_3_a_cancelled_waiting_task_is_never_dequeued() -> None:
    """The original handed it out as running."""
    queue = TaskQueue(url="memory://")
    first = await queue.enqueue("a", {})
    second = await queue.enqueue("a", {})
    await queue.cancel(first.id)
    got = await queue.dequeue("w", timeout=5)
    assert got is not None
    assert got.id == second.id
    assert await queue.dequeue("w", timeout=0) is None
    await queue.stop()


async def test_4_a_timeout_says_so_and_by_whom(one: One) -> None:
    """The original ended as failed with an empty error, by "dispatcher"."""
    task = await one.coordinator.submit_async("slow", {}, timeout=0.1)
    result = await one.coordinator.wait_for(task.id, timeout=10)
    assert result.status is TaskStatus.TIMEOUT
    assert "0.1 s" in (result.error or "")
    assert (result.worker_id or "").startswith("worker-")


async def test_5_an_unknown_type_is_refused_at_once(one: One) -> None:
    """The original retried it like any failure."""
    with pytest.raises(NoHandler, match="Did you mean 'hold'"):
        await one.coordinator.submit_async("hodl", {}, retries=3)


async def test_6_submit_takes_a_priority_and_goes_through_the_queue(one: One) -> None:
    """The original raised a TypeError, and bypassed queue and retries."""
    first = await one.coordinator.submit_async("hold", 0)
    await one.has_started(1)
    low = await one.coordinator.submit_async("hold", 1, priority=TaskPriority.LOW)
    waiting = asyncio.ensure_future(
        one.coordinator.submit("hold", 2, priority=TaskPriority.CRITICAL)
    )
    async with asyncio.timeout(10):
        while (await one.coordinator.depth()).waiting < 2:
            await asyncio.sleep(0.005)
    one.gate.set()
    assert await waiting == 2
    for task in (first, low):
        await one.coordinator.wait_for(task.id, timeout=10)
    assert one.started == [0, 2, 1]


async def test_7_a_full_queue_refuses_at_once() -> None:
    """The original blocked for ever, with the task already saved."""
    queue = TaskQueue(max_queue_size=1, url="memory://")
    await queue.enqueue("a", {})
    with pytest.raises(QueueFull):
        await asyncio.wait_for(queue.enqueue("a", {}), 5)
    assert queue.size == 1
    await queue.stop()


async def test_8_a_timeout_of_zero_looks_once(one: One) -> None:
    """The original waited for ever."""
    queue = TaskQueue(url="memory://")
    began = time.monotonic()
    assert await queue.dequeue("w", timeout=0) is None
    assert time.monotonic() - began < 5
    await queue.stop()
    task = await one.coordinator.submit_async("hold", 1)
    with pytest.raises(WaitTimeout):
        await one.coordinator.wait_for(task.id, timeout=0)


async def test_9_a_stopped_worker_runs_nothing() -> None:
    """The original said stopped while its handler ran on."""
    worker = Worker(
        url="memory://nine", config=WorkerConfig(graceful_shutdown_timeout=0.1), queue="nine"
    )
    ended: list[str] = []

    @worker.handler("slow")
    async def slow(data: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("ended")

    from headrace import Client

    async with Client("memory://nine", "nine") as client:
        await worker.start()
        task = await client.submit_async("slow", {})
        async with asyncio.timeout(10):
            while worker.running == 0:
                await asyncio.sleep(0.005)
        assert await worker.stop() == 1
        assert worker.status is WorkerStatus.STOPPED
        assert ended == ["ended"]
        found = await client.get_task(task.id)
        assert found is not None
        assert found.status is TaskStatus.QUEUED  # handed back, nothing is lost


async def test_10_who_waits_is_told_when_the_coordinator_stops(one: One) -> None:
    """In the original a waiting task stayed running for ever, and so did who waited."""
    await one.coordinator.submit_async("hold", 0)
    await one.has_started(1)
    task = await one.coordinator.submit_async("hold", 1)
    waiting = asyncio.ensure_future(one.coordinator.wait_for(task.id))
    await asyncio.sleep(0)
    await one.coordinator.stop(graceful=False)
    with pytest.raises(NotRunning):
        await asyncio.wait_for(waiting, 10)


async def test_a_reject_is_no_retry(one: One) -> None:
    @one.coordinator.handler("gone", retries=5)
    async def gone(data: dict[str, Any]) -> None:
        raise Reject("source deleted")

    task = await one.coordinator.submit_async("gone", {})
    result = await one.coordinator.wait_for(task.id, timeout=10)
    assert result.status is TaskStatus.FAILED
    assert "source deleted" in (result.error or "")
