"""One Client in several event loops: after each other, and at once (C07)."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.clients.conftest import Served

from headrace import Client, Coordinator, CoordinatorConfig, NotRunning, TaskQueue


def test_successive_runs(served: Served) -> None:
    client = Client(served.url, served.queue)

    async def use(n: int) -> int:
        found: int = await client.submit("double", n, wait_timeout=20)
        await client.stop()
        return found

    assert [asyncio.run(use(n)) for n in range(1, 4)] == [2, 4, 6]


def test_successive_runs_that_never_stop_it(served: Served) -> None:
    def three_runs() -> list[int]:
        client = Client(served.url, served.queue)

        async def use(n: int) -> int:
            return await client.submit("double", n, wait_timeout=20)  # type: ignore[no-any-return]

        return [asyncio.run(use(n)) for n in range(1, 4)]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert three_runs() == [2, 4, 6]
        gc.collect()
    # Python's own word for a connection that nobody closed, and nothing else.
    assert {each.category for each in caught} <= {ResourceWarning}


async def test_a_stream_that_was_left_early_does_not_connect_a_stopped_client(
    served: Served,
) -> None:
    """Python closes a left generator by a task of its own, which may come after the stop."""
    async with Client(served.url, served.queue) as client:
        async for _ in client.stream("hold", 1):
            break
    assert await asyncio.to_thread(served.cancelled.wait, 20)
    await asyncio.sleep(0.2)  # the other connection's end
    assert not client.connected


def test_twenty_threads_with_a_loop_each(served: Served) -> None:
    client = Client(served.url, served.queue)
    together = threading.Barrier(20)

    async def use(n: int) -> list[int]:
        async with client:
            return [await client.submit("double", n + k, wait_timeout=20) for k in range(10)]

    def thread(n: int) -> list[int]:
        together.wait(20)
        return asyncio.run(use(100 * n))

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(thread, range(20)))
    assert found == [[2 * (100 * n + k) for k in range(10)] for n in range(20)]


def test_two_loops_keep_their_connections(served: Served) -> None:
    """Turn by turn, neither makes the other connect anew."""
    client = Client(served.url, served.queue)

    async def use() -> object:
        assert await client.submit("double", 2, wait_timeout=20) == 4
        return (await client.link())[0]

    with asyncio.Runner() as one, ThreadPoolExecutor(1) as thread, asyncio.Runner() as other:
        first = one.run(use())
        second = thread.submit(other.run, use()).result(20)
        assert one.run(use()) is first
        assert thread.submit(other.run, use()).result(20) is second
        assert first is not second
        one.run(client.stop())
        assert thread.submit(other.run, use()).result(20) is second
        thread.submit(other.run, client.stop()).result(20)


async def test_the_coordinators_connection_is_not_for_other_loops(url: str) -> None:
    coordinator = Coordinator(CoordinatorConfig(min_workers=1), url=url, queue="of-one-loop")

    @coordinator.handler("double")
    async def double(x: int) -> int:
        return 2 * x

    async def from_outside() -> int:
        return await coordinator.submit("double", 2)  # type: ignore[no-any-return]

    async with coordinator:
        with pytest.raises(NotRunning, match="Client"):
            await asyncio.to_thread(lambda: asyncio.run(from_outside()))
        assert await coordinator.submit("double", 2) == 4


@pytest.mark.parametrize("url", ["memory://again", "nats"])
def test_coordinator_and_queue_start_again_in_another_loop(
    url: str, request: pytest.FixtureRequest
) -> None:
    """As in the tests of an app: one module-level object, a loop for every test."""
    url = request.getfixturevalue("nats_server").url if url == "nats" else url
    coordinator = Coordinator(CoordinatorConfig(min_workers=2), url=url, queue="again")
    queue = TaskQueue(url=url, queue="again-alone")

    @coordinator.handler("double")
    async def double(x: int) -> int:
        return 2 * x

    async def use(n: int) -> None:
        async with coordinator:
            await asyncio.gather(*(coordinator.scale(size) for size in (2, 5, 3, 4)))
            assert await coordinator.submit("double", n) == 2 * n
        waiting = [asyncio.ensure_future(queue.dequeue("w", timeout=20)) for _ in range(2)]
        for _ in waiting:
            await queue.enqueue("t", {})
        for taken in await asyncio.gather(*waiting):
            assert taken is not None
            await queue.complete(taken.id)
        await queue.stop()

    for n in range(3):
        asyncio.run(use(n))


async def test_who_submits_while_it_stops_hears_that_the_task_is_stored(served: Served) -> None:
    client = Client(served.url, served.queue)
    await client.submit("double", 0)  # what the first use of a level needs is there
    under_way = [asyncio.create_task(client.submit_async("double", n)) for n in range(500)]
    await asyncio.sleep(0)  # all of them have sent, none has its answer
    await client.stop()
    tasks = await asyncio.gather(*under_way)
    async with Client(served.url, served.queue) as other:
        results = [await other.wait_for(task.id, timeout=20) for task in tasks]
    assert [result.result for result in results] == [2 * n for n in range(500)]
