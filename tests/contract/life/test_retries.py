"""Attempts, what ends them, and what comes after the last."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.contract.life.conftest import Bench, until

from headrace import (
    CONTEXT,
    Backoff,
    Context,
    QueueSettings,
    Reject,
    Retry,
    TaskFailed,
    TaskNotFound,
    TaskStatus,
    TaskTimeout,
)
from headrace.runtime.settle import Settler

QUICK = Backoff(first=0.05, maximum=0.1)


async def test_retries_reject_and_give_up(bench: Bench) -> None:
    worker = bench.worker()
    attempts: list[int] = []

    @worker.handler("flaky", retries=2, backoff=QUICK)
    async def flaky(data: dict[str, Any], *, ctx: Context = CONTEXT) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise Retry(delay=0.05)
        if ctx.attempt == 2:
            raise ValueError("again")
        return ctx.attempt

    @worker.handler("gone", retries=5)
    async def gone(data: dict[str, Any]) -> None:
        raise Reject("deleted")

    @worker.handler("picky", retries=5, give_up_on=(KeyError,))
    async def picky(data: dict[str, Any]) -> None:
        raise KeyError("x")

    await worker.start()
    assert await bench.client.submit("flaky", {}) == 3
    assert attempts == [1, 2, 3]
    for name, reason in (("gone", "rejected"), ("picky", "handler")):
        with pytest.raises(TaskFailed) as caught:
            await bench.client.submit(name, {})
        assert (caught.value.reason, caught.value.attempt) == (reason, 1)


async def test_a_dead_letter_is_replayed_once_and_supersedes_the_record(bench: Bench) -> None:
    worker = bench.worker()
    broken = True

    @worker.handler("work")
    async def work(n: int) -> int:
        if broken:
            raise RuntimeError("down")
        return n

    await worker.start()
    task = await bench.client.submit_async("work", 5)
    assert (await bench.client.wait_for(task.id)).status is TaskStatus.FAILED
    broken = False
    await bench.client.replay(task.id)

    async def completed() -> bool:
        found = await bench.client.get_task(task.id)
        return found is not None and found.status is TaskStatus.COMPLETED

    await until(completed)
    assert await bench.client.dead_letters() == []
    with pytest.raises(TaskNotFound):
        await bench.client.replay(task.id)


async def test_a_replayed_task_has_its_retries_again(bench: Bench) -> None:
    """The next attempt of the replayed task had the message id of the first one's next attempt:
    within the window of duplicates it was dropped, and the task was gone."""
    worker = bench.worker()
    started: list[int] = []

    @worker.handler("flaky", retries=1, backoff=QUICK)
    async def flaky(data: None, *, ctx: Context = CONTEXT) -> str:
        started.append(ctx.attempt)
        if len(started) < 4:
            raise ValueError("down")
        return "up"

    await worker.start()
    task = await bench.client.submit_async("flaky")
    assert (await bench.client.wait_for(task.id)).status is TaskStatus.FAILED
    await bench.client.replay(task.id)

    async def completed() -> bool:
        found = await bench.client.get_task(task.id)
        return found is not None and found.status is TaskStatus.COMPLETED

    await until(completed)
    assert started == [1, 2, 1, 2]


async def test_a_letter_is_replayed_again_when_its_record_has_expired(bench: Bench) -> None:
    """Without a record both replays had one message id: the second was dropped with its letter."""
    worker = bench.worker()
    starts = 0

    @worker.handler("broken")
    async def broken(data: None) -> None:
        nonlocal starts
        starts += 1
        raise ValueError("down")

    async def expired() -> bool:
        return (
            await bench.client.get_task(task.id) is None
            and len(await bench.client.dead_letters()) == 1
        )

    await worker.start()
    task = await bench.client.submit_async("broken", result_ttl=1)
    for expected in (1, 2, 3):
        await until(expired)
        assert starts == expected
        if expected < 3:
            await bench.client.replay(task.id)

            async def failed(expected: int = expected) -> bool:
                return starts == expected + 1

            await until(failed)


async def test_a_timeout_ends_as_timeout_after_its_retries(bench: Bench) -> None:
    worker = bench.worker()
    started: list[float] = []

    @worker.handler("slow", backoff=QUICK)
    async def slow(data: dict[str, Any]) -> None:
        started.append(time.monotonic())
        await asyncio.sleep(30)

    await worker.start()
    with pytest.raises(TaskTimeout):
        await bench.client.submit("slow", {}, timeout=0.1, retries=1)
    assert len(started) == 2


async def test_a_worker_that_dies_between_the_record_and_the_next_attempt_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says `queued` for an attempt that nobody stored: the one before runs again."""
    schedule, died, runs = Settler._schedule, asyncio.Event(), []

    async def die_once(self: Settler, *arguments: Any) -> None:
        if not died.is_set():
            died.set()
            raise RuntimeError("as if it were killed here")
        await schedule(self, *arguments)

    monkeypatch.setattr(Settler, "_schedule", die_once)
    worker = bench.worker(settings=QueueSettings(ack_wait=1.0))

    @worker.handler("t", retries=1, backoff=QUICK)
    async def handle(ctx: Context = CONTEXT) -> int:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        return 7

    await worker.start()
    task = await bench.client.submit_async("t", retries=1)
    assert (await bench.client.wait_for(task.id, 20)).result == 7
    assert died.is_set()
    assert runs == [1, 1, 2]


async def test_an_attempt_whose_place_is_taken_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half: the next attempt is stored, and the worker dies before it acknowledges."""
    runs: list[int] = []
    worker = bench.worker(settings=QueueSettings(ack_wait=1.0))

    @worker.handler("t", retries=1, backoff=Backoff(first=3.0, maximum=3.0))
    async def handle(ctx: Context = CONTEXT) -> int:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            raise Retry(delay=3.0)  # longer than the lease: it is redelivered meanwhile
        return 7

    await worker.start()
    _, queue = await bench.client.link()
    acknowledge, skipped = type(queue).ack, asyncio.Event()

    async def ack_but_once(self: Any, delivery: Any) -> None:
        if not skipped.is_set():
            skipped.set()
            raise RuntimeError("as if it were killed here")
        await acknowledge(self, delivery)

    monkeypatch.setattr(type(queue), "ack", ack_but_once)
    task = await bench.client.submit_async("t", retries=1)
    assert (await bench.client.wait_for(task.id, 20)).result == 7
    assert skipped.is_set()
    assert runs == [1, 2]
