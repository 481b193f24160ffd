"""A client and workers of one queue, on every broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from headrace import (
    Client,
    Worker,
    WorkerConfig,
)


class Bench:
    """A client, and workers that are stopped at the end."""

    def __init__(self, url: str, queue: str) -> None:
        self.url, self.queue = url, queue
        self.client = Client(url, queue)
        self.workers: list[Worker] = []

    def worker(self, slots: int = 4, **options: Any) -> Worker:
        settings = options.pop("settings", None)
        worker = Worker(
            url=self.url,
            queue=self.queue,
            config=WorkerConfig(max_concurrent_tasks=slots, **options),
            settings=settings,
        )
        self.workers.append(worker)
        return worker


@pytest.fixture
async def bench(broker_url: str, queue_name: str) -> AsyncIterator[Bench]:
    bench = Bench(broker_url, f"life-{queue_name}")
    await bench.client.start()
    yield bench
    for worker in bench.workers:
        await worker.stop(graceful=False)
    await bench.client.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)
