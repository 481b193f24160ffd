"""`unique=`: who submits a key again gets the first task (C05)."""

from __future__ import annotations

import asyncio

from tests.contract.life.conftest import Bench, until

from headrace import (
    Client,
    QueueSettings,
    TaskPriority,
    Worker,
)
from headrace.wire import Lane


async def test_unique_runs_once_however_many_submit_it(bench: Bench) -> None:
    worker = bench.worker()
    runs: list[int] = []

    @worker.handler("once")
    async def once(n: int) -> int:
        runs.append(n)
        return n

    tasks = await asyncio.gather(
        *(bench.client.submit_async("once", n, unique="key") for n in range(20))
    )
    assert len({task.id for task in tasks}) == 1
    assert sum(not task.duplicate for task in tasks) == 1
    await worker.start()
    await bench.client.wait_for(tasks[0].id, timeout=10)
    assert len(runs) == 1


async def test_a_unique_key_gives_the_first_task_until_its_window_has_passed(
    broker_url: str, queue_name: str
) -> None:
    """C05: at once, after the first has completed, after the window."""
    settings = QueueSettings(dedupe_window=6.0)
    queue = f"unique-{queue_name}"
    worker = Worker(url=broker_url, queue=queue, settings=settings)
    runs: list[int] = []

    @worker.handler("once")
    async def once(n: int) -> int:
        runs.append(n)
        return n

    async with Client(broker_url, queue, settings=settings) as client:
        first = await client.submit_async("once", 1, unique="user-7")
        second = await client.submit_async("once", 2, unique="user-7")
        assert (first.duplicate, second.duplicate, second.id) == (False, True, first.id)
        await worker.start()
        try:
            assert await client.submit("once", 3, unique="user-7", wait_timeout=10) == 1
            while (again := await client.submit_async("once", 4, unique="user-7")).duplicate:
                assert again.id == first.id
                assert (await client.wait_for(again.id, timeout=1)).result == 1
            assert again.id != first.id
            assert (await client.wait_for(again.id, timeout=10)).result == 4
            assert runs == [1, 4]
        finally:
            await worker.stop(graceful=False)


async def test_a_unique_key_outlives_the_queues_own_window(bench: Bench) -> None:
    """The queue was made with a shorter one than this client's: the first task counts on."""
    settings = QueueSettings(dedupe_window=0.2)
    async with Client(bench.url, f"{bench.queue}-short", settings=settings) as maker:
        _, queue = await maker.link()
        worker = Worker(url=bench.url, queue=maker.queue)
        bench.workers.append(worker)
        runs: list[int] = []

        @worker.handler("once")
        async def once(n: int) -> int:
            runs.append(n)
            return n

        await worker.start()
        async with Client(bench.url, maker.queue) as client:
            assert await client.submit("once", 1, unique="k", wait_timeout=10) == 1
            lane, body = Lane(TaskPriority.LOW), b'{"type":"once","data":0}'
            await (await queue.put_soon(lane, "probe", body, "probe"))

            async def window_has_passed() -> bool:
                again = await (await queue.put_soon(lane, "probe", body, "probe"))
                return not again.duplicate

            await until(window_has_passed)
            again = await client.submit_async("once", 2, unique="k")
            assert again.duplicate
            assert (await client.wait_for(again.id, timeout=10)).result == 1
            assert await client.submit("once", 3, unique="k", wait_timeout=10) == 1
            assert not {2, 3} & set(runs)
