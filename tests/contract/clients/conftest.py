"""A queue that somebody works on, for clients that have no event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from headrace import Worker, WorkerConfig


class Served(NamedTuple):
    """A queue, and what its handlers noted."""

    url: str
    queue: str
    begun: threading.Semaphore
    cancelled: threading.Event


@pytest.fixture(params=["embedded", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    """Each broker that other processes and loops can reach."""
    if request.param == "embedded":
        return f"embedded://{request.getfixturevalue('embedded_folder')}"
    found: str = request.getfixturevalue("nats_server").url
    return found


@pytest.fixture
def served(url: str, queue_name: str) -> Iterator[Served]:
    """A queue with a worker in a thread of its own, as it would be in another process."""
    found = Served(url, f"clients-{queue_name}", threading.Semaphore(0), threading.Event())
    ready, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        worker = Worker(url=url, queue=found.queue, config=WorkerConfig(16))

        @worker.handler("double")
        async def double(x: int) -> int:
            return 2 * x

        @worker.handler("count")
        async def count(upto: int) -> AsyncIterator[int]:
            for n in range(upto):
                yield n

        @worker.handler("hold")
        async def hold(n: int) -> AsyncIterator[int]:
            yield n
            found.begun.release()
            try:
                await asyncio.Event().wait()
            finally:
                found.cancelled.set()

        await worker.start()
        ready.set()
        await end.wait()
        await worker.stop(graceful=False)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    yield found
    loop.call_soon_threadsafe(end.set)
    thread.join(20)
    assert not thread.is_alive()
