"""What a fault can reach: the servers, the workers, the clients."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from tests.faults.check import Window
from tests.faults.crew import Crew, Member
from tests.faults.ground import Ground
from tests.faults.load import Load
from tests.faults.plan import Job
from tests.faults.servers import Servers

from headrace.wire import QueueNames


@dataclass(slots=True)
class World:
    """One run."""

    servers: Servers
    crew: Crew
    load: Load
    ground: Ground | None
    names: QueueNames
    jobs: dict[str, Job]
    max_size: int
    ack_wait: float
    windows: list[Window] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _more: int = 0

    def member(self, pick: float) -> Member:
        """The worker that a fault has picked."""
        return self.crew.members[int(pick * len(self.crew.members))]

    def submit(self, job: Job) -> None:
        """One more task, because a fault consists of it."""
        self.jobs[job.id] = job
        self.load.begin(job)

    def new_id(self) -> str:
        """For such a task."""
        self._more += 1
        return f"x{self._more}"

    async def all_stored(self, ids: list[str]) -> None:
        """Wait until these tasks are stored."""
        while not self.load.stored.keys() >= set(ids):
            await asyncio.sleep(0.02)
