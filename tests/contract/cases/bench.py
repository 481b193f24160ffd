"""A client and workers of one queue, for cases that hold on every broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from headrace import Client, QueueSettings, TaskStatus, Worker, WorkerConfig


class Bench:
    """A client of a queue of its own, and workers that are stopped at the end."""

    def __init__(self, url: str, queue: str, settings: QueueSettings) -> None:
        self.url, self.queue, self.settings = url, queue, settings
        self.client = Client(url, queue, settings=settings)
        self.workers: list[Worker] = []

    def worker(self, slots: int = 4, **config: Any) -> Worker:
        """A worker that is not started yet."""
        worker = Worker(
            url=self.url,
            queue=self.queue,
            config=WorkerConfig(max_concurrent_tasks=slots, **config),
            settings=self.settings,
        )
        self.workers.append(worker)
        return worker

    async def ended(self, task_id: str) -> TaskStatus:
        """How a task ended, by the wait and by the look, which must agree."""
        result = await self.client.wait_for(task_id, 20)
        found = await self.client.get_task(task_id)
        assert found is not None
        assert found.status is result.status
        return result.status

    async def running(self, task_id: str) -> None:
        """Wait until it runs."""

        async def runs() -> bool:
            found = await self.client.get_task(task_id)
            return found is not None and found.status is TaskStatus.RUNNING

        await until(runs)

    async def close(self) -> None:
        """Stop all."""
        for worker in self.workers:
            await worker.stop(graceful=False)
        await self.client.stop()


async def until(condition: Callable[[], Awaitable[bool]], within: float = 20.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.01)
