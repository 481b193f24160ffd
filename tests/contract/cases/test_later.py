"""Cases C25 to C27: retries that fail together, starved levels, what is due while it is full."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.cases.bench import Bench
from tests.contract.cases.conftest import MakeBench
from tests.support.recorder import NORMAL, Recorder, depth_when, put

from headrace import (
    CONTEXT,
    Backoff,
    Context,
    QueueFull,
    Retry,
    Task,
    TaskPriority,
    TaskStatus,
)
from headrace.runtime.dispatch import SHARE


def test_c25_delays_are_drawn_from_the_whole_ceiling_and_never_overflow() -> None:
    backoff = Backoff(first=1.0, factor=2.0, maximum=300.0)
    assert [backoff.delay(n, lambda: 1.0) for n in (1, 2, 3, 9, 10)] == [1, 2, 4, 256, 300]
    for attempt in (1_000, 10**9):
        assert backoff.delay(attempt, lambda: 1.0) == 300.0
        for factor in (1.1, 1e9, 1e300):
            assert Backoff(factor=factor).delay(attempt, lambda: 1.0) == 300.0
        assert Backoff(first=0.0).delay(attempt) == 0.0
    drawn = sorted(backoff.delay(1) for _ in range(10_000))
    # full jitter: no tenth of the ceiling holds more than a fifth of them
    tenths = Counter(min(9, int(delay * 10)) for delay in drawn)
    assert len(tenths) == 10
    assert max(tenths.values()) < 2_000


async def test_c25_what_failed_together_does_not_come_back_together(bench: Bench) -> None:
    """200 tasks that fail at once; a base of half a second stands for the default of one."""
    count, base = 200, 0.5
    worker = bench.worker(slots=count)
    starts: dict[int, list[float]] = {}
    contexts: dict[int, list[Task]] = {}
    together = asyncio.Event()

    @worker.handler("storm", backoff=Backoff(first=base, factor=1.0, maximum=base))
    async def storm(n: int, *, ctx: Context = CONTEXT) -> None:
        starts.setdefault(n, []).append(time.time())
        contexts.setdefault(n, []).append(ctx.task)
        if len(starts) == count:
            together.set()
        await together.wait()
        raise ValueError("all of us")

    await worker.start()
    items = [
        {
            "type": "storm",
            "data": n,
            "retries": 3,
            "timeout": 60.0,
            "priority": TaskPriority.HIGH,
            "metadata": {"n": n},
        }
        for n in range(count)
    ]
    tasks = await bench.client.submit_many(items)
    results = await asyncio.gather(*(bench.client.wait_for(task.id, 60) for task in tasks))
    assert {result.status for result in results} == {TaskStatus.FAILED}
    assert {len(each) for each in starts.values()} == {4}
    # by the times for which they were put back: how fast a machine then starts them is its own
    due = [task.due_at for _, task, *_ in contexts.values() if task.due_at is not None]
    assert len(due) == count
    tenths = Counter(int((at - min(due)) / (base / 10)) for at in due)
    assert max(tenths.values()) <= count / 5, tenths
    for n, each in contexts.items():
        assert [task.retry_count for task in each] == [0, 1, 2, 3]
        assert all(at >= (task.due_at or 0) for at, task in zip(starts[n], each, strict=True))
        for task in each:
            assert (task.priority, task.timeout, task.metadata) == (
                TaskPriority.HIGH,
                60.0,
                {"n": n},
            )
            assert task.created_at == each[0].created_at


async def test_c25_a_retry_that_names_its_delay_never_comes_earlier(bench: Bench) -> None:
    worker = bench.worker(tags=["gpu"])
    starts: list[float] = []

    @worker.handler("later")
    async def later(data: Any, *, ctx: Context = CONTEXT) -> str | None:
        starts.append(time.time())
        assert ctx.task.tag == "gpu"
        if ctx.attempt <= 2:
            raise Retry(delay=0.7)
        return "third"

    await worker.start()
    assert await bench.client.submit("later", {}, retries=2, tag="gpu", wait_timeout=20) == "third"
    assert all(after - before >= 0.69 for before, after in itertools.pairwise(starts))
    with pytest.raises(ValueError, match="not negative"):
        Retry(delay=-1)


async def test_c26_a_low_task_under_a_flood_starts_within_the_bound(bench: Bench) -> None:
    """One slot; a limit of half a second stands for the default of 60."""
    limit, service = 0.5, 0.02
    worker = bench.worker(slots=1, starvation_limit=limit)
    order: list[tuple[str, float]] = []
    enough = asyncio.Event()

    @worker.handler("work")
    async def work(level: str) -> None:
        order.append((level, time.time()))
        await asyncio.sleep(service)

    client = bench.client

    async def submit(level: TaskPriority, count: int = 1) -> list[Task]:
        item = {"type": "work", "data": level.name, "priority": level}
        return await client.submit_many([item] * count)

    async def flood() -> None:
        while not enough.is_set():  # twice of what one slot can do, and more
            await submit(TaskPriority.CRITICAL, 10)
            await asyncio.sleep(5 * service)

    lows = 4
    await submit(TaskPriority.CRITICAL, 50)
    waiting = await submit(TaskPriority.LOW, lows)
    await worker.start()
    flooding = asyncio.create_task(flood())
    try:
        await asyncio.gather(*(client.wait_for(low.id, 30) for low in waiting))
    finally:
        enough.set()
        await flooding
    at = [i for i, (level, _) in enumerate(order) if level == "LOW"]
    # over the limit, one of the next SHARE starts; and no more than that
    over = next(i for i, (_, when) in enumerate(order) if when >= waiting[-1].created_at + limit)
    assert at[0] <= over + SHARE + 1
    assert at[-1] <= over + lows * SHARE + 1
    kept = [level for level, _ in order[: at[-1] + 1]].count("CRITICAL")
    assert kept >= 0.8 * (at[-1] + 1)
    _, queue = await client.link()
    await depth_when(queue, lambda depth: depth.messages == 0, 30)


async def test_c26_delayed_tasks_age_from_when_they_became_due(bench: Bench) -> None:
    _, queue = await bench.client.link()
    submitted = time.time()
    due = submitted + 1.0
    await queue.schedule(NORMAL, "later", b"{}", due, "later")
    await put(queue, NORMAL, "now")
    async with Recorder(queue, NORMAL) as taker:
        now, later = await taker.take(2)
    assert (now.task_id, later.task_id) == ("now", "later")
    assert abs(now.stored_at - submitted) < 0.9
    assert later.stored_at >= due - 0.05


async def test_c27_what_comes_due_while_the_queue_is_full_comes_later(
    make_bench: MakeBench,
) -> None:
    """A retry and a delayed task, due for longer than a TTL could be, which they do not have."""
    bench = await make_bench(max_size=3)
    client = bench.client
    attempts: list[int] = []

    async def flaky(data: Any, *, ctx: Context = CONTEXT) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise Retry(delay=1.0)
        return "second"

    async def fill(data: int) -> int:
        return data

    def worker() -> Any:
        one = bench.worker(slots=1)
        one.register_handler("flaky", flaky)
        one.register_handler("fill", fill)
        return one

    first = worker()
    await first.start()
    retried = await client.submit_async("flaky", {}, retries=1)
    delayed = await client.submit_async("fill", 7, delay=timedelta(seconds=1))
    _, queue = await client.link()
    await depth_when(queue, lambda depth: depth.delayed == 2 and depth.messages == 0)
    await first.stop()  # nobody works
    filling = await client.submit_many([("fill", n) for n in range(3)])
    with pytest.raises(QueueFull):
        await client.submit_async("fill", 4)
    await asyncio.sleep(2.5)  # full, and past the time of both: nothing is to happen
    depth = await client.depth()
    assert (depth.messages, depth.delayed) == (3, 2)
    for task in (retried, delayed):
        found = await client.get_task(task.id)
        assert found is not None
        assert found.status is TaskStatus.QUEUED
    await worker().start()
    results = await asyncio.gather(
        *(client.wait_for(task.id, 30) for task in (retried, delayed, *filling))
    )
    assert [result.result for result in results] == ["second", 7, 0, 1, 2]
    assert attempts == [1, 2]
    await depth_when(queue, lambda depth: depth.messages == 0 and depth.delayed == 0)
    assert (await client.depth()).dead == 0
