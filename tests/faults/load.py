"""The clients of a run: they submit its tasks until each is stored, cancel some, wait for some."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from tests.faults.plan import Job

from headrace import Client, Task
from headrace.errors import BrokerError, HeadraceError, QueueFull, TaskNotFound

_AGAIN_AFTER = 0.2
_WAITED_FOR = 4  # one of so many tasks has a client that waits for it


class Load:
    """Submits, cancels and waits, and remembers what it was told."""

    def __init__(self, client: Client, second: Client) -> None:
        self._client, self._second = client, second
        self.asked: dict[str, float] = {}
        self.stored: dict[str, float] = {}
        self.answers: dict[str, list[str]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        """The last text of each kind of error."""
        self.slowest = 0.0
        """Seconds that the slowest submit took, until it was answered or raised."""
        self.broken: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def begin(self, job: Job) -> None:
        """Submit a task, and see to what belongs to it."""
        self._count += 1
        task = asyncio.create_task(self._see_to(job, self._count % _WAITED_FOR == 0))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.append(f"a client failed with {type(error).__name__}: {error}")

    async def over(self, within: float) -> None:
        """Wait until every call has been answered."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            self.broken.append(f"{len(self._tasks)} calls of clients were not answered")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _see_to(self, job: Job, waits: bool) -> None:
        if job.twice:
            await asyncio.gather(self._submit(self._client, job), self._submit(self._second, job))
        else:
            await self._submit(self._client, job)
        if job.cancel_after is not None:
            await asyncio.sleep(job.cancel_after)
            result = await self._insist(lambda: self._client.cancel_task(job.id), TaskNotFound)
            if result is not None:
                self.answers[job.id].append(result.status.value)
        if waits:
            found = await self._insist(lambda: self._second.wait_for(job.id))
            self.answers[job.id].append(found.status.value)

    async def _submit(self, client: Client, job: Job) -> None:
        data = {"seconds": job.seconds, "fails": job.fails, "pause": job.pause}

        async def submit() -> Task:
            return await client.submit_async(
                job.type, data, task_id=job.id, priority=job.priority, timeout=job.timeout,
                retries=job.retries, delay=job.delay or None,
            )  # fmt: skip

        self.asked.setdefault(job.id, time.monotonic())
        await self._insist(submit, submits=True)
        self.stored.setdefault(job.id, time.monotonic())

    async def _insist(
        self,
        call: Callable[[], Awaitable[Any]],
        *ends: type[HeadraceError],
        submits: bool = False,
    ) -> Any:
        """Do it until it is answered; every error of a call must be one of the typed ones."""
        while True:
            began = time.monotonic()
            try:
                return await call()
            except ends:
                return None
            except (BrokerError, QueueFull) as error:
                if submits:
                    self.errors[type(error).__name__] += 1
                    self.texts[type(error).__name__] = str(error)
            finally:
                if submits:
                    self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(_AGAIN_AFTER)
