"""A task's life, the same on every broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from tests.contract.life.conftest import Bench, until

from headrace import (
    CONTEXT,
    Backoff,
    BrokerUnavailable,
    Client,
    Context,
    InvalidData,
    InvalidTime,
    PayloadTooLarge,
    QueueFull,
    QueueSettings,
    TaskFailed,
    TaskNotFound,
    TaskPriority,
    TaskStatus,
    WaitTimeout,
)

QUICK = Backoff(first=0.05, maximum=0.1)


@dataclass
class Size:
    width: int


class Job(BaseModel):
    pages: int


async def test_typed_handlers_get_and_give_what_they_say(bench: Bench) -> None:
    worker = bench.worker()

    @worker.handler("plain")
    def plain(data: dict[str, Any]) -> Any:
        return data["x"] + 1

    @worker.handler("model")
    async def model(job: Job) -> Job:
        return Job(pages=job.pages * 2)

    @worker.handler("dataclass")
    async def of_dataclass(size: Size) -> int:
        return size.width

    @worker.handler("named")
    async def named(a: int, b: int = 2) -> int:
        return a * b

    await worker.start()
    submit = bench.client.submit
    assert await submit("plain", {"x": 1}) == 2
    assert await submit("model", {"pages": 3}) == {"pages": 6}
    assert await submit("dataclass", {"width": 7}) == 7
    assert await submit("named", {"a": 4}) == 8
    with pytest.raises(TaskFailed, match="pages") as caught:
        await submit("model", {"pages": "many"}, retries=3)
    assert caught.value.reason == "invalid_data"
    (letter,) = await bench.client.dead_letters()
    assert (letter.reason, letter.attempts) == ("invalid_data", 1)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x", object()])
async def test_data_and_results_that_json_does_not_have(bench: Bench, value: Any) -> None:
    with pytest.raises(InvalidData):
        await bench.client.submit_async("any", {"x": value})
    worker = bench.worker()

    @worker.handler("give")
    async def give(data: dict[str, Any]):  # type: ignore[no-untyped-def]
        return {"x": value}

    await worker.start()
    with pytest.raises(TaskFailed) as caught:
        await bench.client.submit("give", {})
    assert caught.value.reason == "result"


async def test_too_large_is_refused_before_it_is_sent(bench: Bench) -> None:
    with pytest.raises(PayloadTooLarge):
        await bench.client.submit_async("any", "x" * 2_000_000)
    assert (await bench.client.depth()).messages == 0


async def test_cancel_waiting_delayed_running_and_ended(bench: Bench) -> None:
    worker = bench.worker(slots=1)
    ended = asyncio.Event()

    @worker.handler("hold")
    async def hold(data: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    @worker.handler("quick")
    async def quick(data: dict[str, Any]) -> int:
        return 1

    client = bench.client
    waiting = await client.submit_async("hold", {})
    delayed = await client.submit_async("hold", {}, delay=60)
    for task in (waiting, delayed):
        assert (await client.cancel_task(task.id)).status is TaskStatus.CANCELLED
    await worker.start()
    running = await client.submit_async("hold", {})

    async def is_running() -> bool:
        found = await client.get_task(running.id)
        return found is not None and found.status is TaskStatus.RUNNING

    await until(is_running)
    await client.cancel_task(running.id)
    await asyncio.wait_for(ended.wait(), 10)
    assert (await client.wait_for(running.id)).status is TaskStatus.CANCELLED
    assert await client.submit("quick", {}) == 1  # the slot is free, and nothing else ran
    again = await client.cancel_task(running.id)
    assert again.status is TaskStatus.CANCELLED
    with pytest.raises(TaskNotFound):
        await client.cancel_task("task-unknown")
    assert (await client.depth()).messages == 0


async def test_a_cancel_that_was_interrupted_is_completed_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record was there and its message too: who cancelled again was told that it is cancelled,
    and then its handler ran."""
    task = await bench.client.submit_async("work")
    _, queue = await bench.client.link()

    async def fails(_: object, task_id: str) -> None:
        raise BrokerUnavailable("the server restarts just here")

    with monkeypatch.context() as patched:
        patched.setattr(type(queue), "remove", fails)
        with pytest.raises(BrokerUnavailable):
            await bench.client.cancel_task(task.id)
    assert (await bench.client.cancel_task(task.id)).status is TaskStatus.CANCELLED
    assert (await bench.client.depth()).messages == 0


async def test_cancel_races_with_the_end_and_one_of_them_wins(bench: Bench) -> None:
    worker = bench.worker(slots=8)

    @worker.handler("quick")
    async def quick(data: dict[str, Any]) -> int:
        return 1

    await worker.start()
    for _ in range(30):
        task = await bench.client.submit_async("quick", {})
        cancelled = await bench.client.cancel_task(task.id)
        result = await bench.client.wait_for(task.id, timeout=10)
        assert result.status is cancelled.status
        found = await bench.client.get_task(task.id)
        assert found is not None
        assert found.status is result.status


async def test_streams_and_progress(bench: Bench) -> None:
    worker = bench.worker()
    left = asyncio.Event()

    @worker.handler("count")
    async def count(upto: int, *, ctx: Context = CONTEXT) -> AsyncIterator[int]:
        try:
            for n in range(upto):
                await ctx.progress(n / upto, str(n))
                yield n
                await asyncio.sleep(0)
        finally:
            left.set()

    @worker.handler("threaded")
    def threaded(upto: int):  # type: ignore[no-untyped-def]
        yield from range(upto)

    @worker.handler("breaks")
    async def breaks(data: dict[str, Any]) -> AsyncIterator[int]:
        yield 1
        raise ValueError("in the middle")

    await worker.start()
    stream = bench.client.stream
    assert [n async for n in stream("count", 20)] == list(range(20))
    assert [n async for n in stream("threaded", 5)] == list(range(5))
    got = []
    with pytest.raises(TaskFailed, match="in the middle"):  # noqa: PT012
        async for n in stream("breaks", {}):
            got.append(n)
    assert got == [1]
    left.clear()
    chunks = aiter(stream("count", 1_000_000))
    assert await anext(chunks) == 0
    await chunks.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(left.wait(), 10)


async def test_delay_at_and_times_that_are_refused(bench: Bench) -> None:
    worker = bench.worker()

    @worker.handler("now")
    async def now(data: dict[str, Any]) -> float:
        return time.time()

    await worker.start()
    began = time.time()
    assert await bench.client.submit("now", {}, delay=1) - began >= 0.95
    at = datetime.now(UTC) + timedelta(seconds=1)
    assert await bench.client.submit("now", {}, at=at) >= at.timestamp() - 0.05
    for options in ({"at": datetime(2040, 1, 1)}, {"delay": -1}, {"delay": 1, "at": at}):
        with pytest.raises(InvalidTime):
            await bench.client.submit_async("now", {}, **options)  # type: ignore[arg-type]


async def test_a_full_queue_refuses_and_tells_what_was_stored(
    broker_url: str, queue_name: str
) -> None:
    async with Client(broker_url, f"full-{queue_name}", max_queue_size=3) as client:
        with pytest.raises(QueueFull) as caught:
            await client.submit_many([("t", n) for n in range(5)])
        assert len(caught.value.stored) == 3

        async def counted() -> bool:  # a lane's count follows its stream by a moment
            return (await client.depth()).waiting == 3

        await until(counted)


async def test_tags_go_to_workers_that_have_them(bench: Bench) -> None:
    plain, gpu = bench.worker(), bench.worker(tags=["gpu"], serve_untagged=False)
    ran: list[tuple[str, str]] = []
    for name, worker in (("plain", plain), ("gpu", gpu)):

        def bind(name: str) -> Callable[[str], Awaitable[None]]:
            async def work(data: str) -> None:
                ran.append((name, data))

            return work

        worker.register_handler("work", bind(name))
    await plain.start()
    tagged = await bench.client.submit_async("work", "tagged", tag="gpu")
    await bench.client.submit("work", "untagged")
    await gpu.start()
    await bench.client.wait_for(tagged.id, timeout=10)
    assert ran == [("plain", "untagged"), ("gpu", "tagged")]


async def test_priorities_start_from_the_top(bench: Bench) -> None:
    order: list[int] = []
    worker = bench.worker(slots=1)

    @worker.handler("note")
    async def note(level: int) -> None:
        order.append(level)

    levels = [TaskPriority.LOW, TaskPriority.HIGH, TaskPriority.NORMAL, TaskPriority.CRITICAL] * 5
    tasks = await bench.client.submit_many(
        [{"type": "note", "data": level.value, "priority": level} for level in levels]
    )
    await worker.start()
    for task in tasks:
        await bench.client.wait_for(task.id, timeout=10)
    assert order == sorted(order, reverse=True)


async def test_a_result_expires_and_a_wait_says_so(bench: Bench) -> None:
    worker = bench.worker()

    @worker.handler("quick")
    async def quick(data: dict[str, Any]) -> int:
        return 1

    await worker.start()
    task = await bench.client.submit_async("quick", {}, result_ttl=1)
    assert (await bench.client.wait_for(task.id)).result == 1

    async def expired() -> bool:
        return await bench.client.get_task(task.id) is None

    await until(expired)
    async with Client(bench.url, bench.queue) as other:
        with pytest.raises(TaskNotFound):
            await other.wait_for(task.id, timeout=10)
    waiting = await bench.client.submit_async("nobody", {}, delay=60)
    with pytest.raises(WaitTimeout):
        await bench.client.wait_for(waiting.id, timeout=0.1)


@pytest.mark.parametrize("ends", ["resumed", "lapsed"])
async def test_a_drain_that_ends_during_a_stop_gives_no_task_to_it(bench: Bench, ends: str) -> None:
    worker = bench.worker(graceful_shutdown_timeout=10)
    started: list[str] = []
    release = asyncio.Event()

    @worker.handler("work")
    async def work(name: str) -> None:
        started.append(name)
        await release.wait()

    await worker.start()
    await bench.client.submit_async("work", "first")

    async def runs() -> bool:
        return started == ["first"]

    await until(runs)
    stop = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.1)
    broker, queue = await bench.client.link()
    seconds = 60 if ends == "resumed" else 0.3
    await broker.request(
        queue.names.worker(worker.info.id, "drain"), json.dumps({"seconds": seconds}).encode(), 5
    )
    if ends == "resumed":
        await broker.request(queue.names.worker(worker.info.id, "resume"), b"", 5)
    await bench.client.submit_async("work", "second")
    await asyncio.sleep(1.5)  # nothing tells that nothing happens; a lapse is seen once a second
    assert started == ["first"]
    release.set()
    await stop


async def test_a_stop_hands_back_and_another_worker_goes_on(bench: Bench) -> None:
    first, second = bench.worker(), bench.worker()
    runs: list[str] = []
    for name, worker in (("first", first), ("second", second)):

        def bind(name: str) -> Callable[[dict[str, Any]], Awaitable[str]]:
            async def work(data: dict[str, Any]) -> str:
                runs.append(name)
                if name == "first":
                    await asyncio.sleep(30)
                return name

            return work

        worker.register_handler("work", bind(name))
    await first.start()
    task = await bench.client.submit_async("work", {})

    async def has_begun() -> bool:
        return runs == ["first"]

    await until(has_begun)
    assert await first.stop(graceful=False) == 1
    await second.start()
    assert (await bench.client.wait_for(task.id, timeout=10)).result == "second"


def test_settings_have_the_documented_defaults() -> None:
    settings = QueueSettings()
    assert (settings.ack_wait, settings.max_size, settings.replicas) == (15.0, 10_000, 1)
