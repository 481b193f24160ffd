"""What is known of a worker: the values of the registry and of `get_workers()`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from headrace.task import TaskPriority


class WorkerStatus(StrEnum):
    """The states of a worker."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"  # finishing what runs, starting nothing
    STOPPED = "stopped"
    ERROR = "error"


@dataclass(slots=True)
class WorkerConfig:
    """How a worker works.

    `max_concurrent_tasks` is its slots. `task_timeout` (seconds) is used where a task brings none.
    `graceful_shutdown_timeout` (seconds) is how long a graceful stop waits for running tasks before
    it hands them back. `heartbeat_interval` (seconds) is kept for code written for the original:
    liveness does not depend on it. `tags`: the worker serves untagged tasks and those of its tags.
    `starvation_limit` (seconds): a level whose oldest task waits longer gets at least 1 of every 8
    starts of this worker, whatever comes in above it.
    """

    max_concurrent_tasks: int = 1
    heartbeat_interval: float = 5.0
    task_timeout: float = 300.0
    graceful_shutdown_timeout: float = 30.0
    tags: list[str] = field(default_factory=list)
    serve_untagged: bool = True
    starvation_limit: float = 60.0

    def __post_init__(self) -> None:
        if self.max_concurrent_tasks < 1:
            raise ValueError("max_concurrent_tasks must be at least 1")
        if not (self.tags or self.serve_untagged):
            raise ValueError("a worker that leaves untagged tasks needs tags to serve")


def new_worker_id() -> str:
    """An id that no other worker has."""
    return "worker-" + secrets.token_hex(4)


def _no_runs() -> dict[str, tuple[int, float]]:
    return {level.name.lower(): (0, 0.0) for level in TaskPriority}


@dataclass(slots=True)
class WorkerInfo:
    """One worker, as of `last_heartbeat` (seconds since the epoch): when it last said so."""

    id: str
    status: WorkerStatus = WorkerStatus.IDLE
    current_tasks: int = 0
    total_completed: int = 0
    total_failed: int = 0
    last_heartbeat: float = field(default_factory=time.time)
    started_at: float = field(default_factory=time.time)
    config: WorkerConfig = field(default_factory=WorkerConfig)
    metadata: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, tuple[int, float]] = field(default_factory=_no_runs)
    """Runs that have ended since its start and the seconds that they took, by level."""

    @property
    def is_available(self) -> bool:
        """Whether it would take a task now."""
        free = self.current_tasks < self.config.max_concurrent_tasks
        return self.status in (WorkerStatus.IDLE, WorkerStatus.BUSY) and free

    @property
    def uptime_seconds(self) -> float:
        """Seconds since it started."""
        return max(0.0, time.time() - self.started_at)

    def to_json(self) -> dict[str, Any]:
        """The facts of the worker as JSON values; `from_json` reads them back."""
        return asdict(self) | {"status": self.status.value}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> WorkerInfo:
        """The worker that `to_json` described; unknown fields are ignored."""
        known = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        known["status"] = WorkerStatus(known.get("status", "idle"))
        fields = WorkerConfig.__dataclass_fields__
        config = {name: v for name, v in known.get("config", {}).items() if name in fields}
        known["config"] = WorkerConfig(**config)
        return cls(**known)
