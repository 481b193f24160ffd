"""Who is there: the registry of the original, and one that asks the workers themselves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from headrace.client import Client
from headrace.worker_info import WorkerInfo, WorkerStatus


class WorkerRegistry(Protocol):
    """Where workers are looked up."""

    async def register(self, info: WorkerInfo) -> None:
        """A worker is there."""

    async def unregister(self, worker_id: str) -> None:
        """A worker has gone. Unknown ids are ignored."""

    async def heartbeat(self, worker_id: str) -> None:
        """A worker is still there. Unknown ids are ignored."""

    async def get_workers(
        self, status: WorkerStatus | None = None, tags: Iterable[str] | None = None
    ) -> list[WorkerInfo]:
        """The workers with this status that have all of these tags."""


class InMemoryWorkerRegistry:
    """A registry in this process."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerInfo] = {}

    async def register(self, info: WorkerInfo) -> None:
        """Add, or replace one with the same id."""
        self._workers[info.id] = info

    async def unregister(self, worker_id: str) -> None:
        """Remove."""
        self._workers.pop(worker_id, None)

    async def heartbeat(self, worker_id: str) -> None:
        """Note that the worker is alive now."""
        info = self._workers.get(worker_id)
        if info is not None:
            info.last_heartbeat = time.time()

    async def get_workers(
        self, status: WorkerStatus | None = None, tags: Iterable[str] | None = None
    ) -> list[WorkerInfo]:
        """Sorted by id."""
        return _matching(self._workers.values(), status, tags)


class QueueWorkerRegistry:
    """All workers of a queue, in every process: they are asked, and answer for themselves.

    Nothing is stored, so nothing goes stale: `register`, `heartbeat` and `unregister` have nothing
    to do. A worker that does not answer is unknown, not dead.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def register(self, info: WorkerInfo) -> None:
        """Nothing to do: a worker announces itself when it starts."""

    async def unregister(self, worker_id: str) -> None:
        """Nothing to do: a worker that has gone answers no more."""

    async def heartbeat(self, worker_id: str) -> None:
        """Nothing to do: an answer is the heartbeat."""

    async def get_workers(
        self, status: WorkerStatus | None = None, tags: Iterable[str] | None = None
    ) -> list[WorkerInfo]:
        """Ask; sorted by id."""
        return _matching(await self._client.get_workers(), status, tags)


def _matching(
    workers: Iterable[WorkerInfo], status: WorkerStatus | None, tags: Iterable[str] | None
) -> list[WorkerInfo]:
    wanted = set(tags or ())
    found = [
        info
        for info in workers
        if (status is None or info.status is status) and wanted <= set(info.config.tags)
    ]
    return sorted(found, key=lambda info: info.id)
