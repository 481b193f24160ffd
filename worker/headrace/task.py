"""A task and what is known of it: the values that the public API hands out."""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from headrace.errors import InvalidName


class TaskPriority(int, Enum):
    """Four levels; a free slot takes the highest level that has a task."""

    LOW = 0
    NORMAL = 5
    HIGH = 10
    CRITICAL = 20


class TaskStatus(StrEnum):
    """The states of a task; the last four are final."""

    PENDING = "pending"  # made, not stored yet
    QUEUED = "queued"  # stored: waiting for a slot, for its time, or for its next attempt
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows this state (but the replay of a dead letter)."""
        return self in FINAL_STATUSES


FINAL_STATUSES = frozenset(
    {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT}
)


_random: list[str] = []  # taken from the system in one piece for many ids
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)  # or parent and child had the same ids


def new_task_id() -> str:
    """An id that no other task has: 96 random bits."""
    while True:
        try:
            return "task-" + _random.pop()
        except IndexError:
            block = secrets.token_hex(12 * 256)
            _random.extend(block[start : start + 24] for start in range(0, len(block), 24))


@dataclass(slots=True, kw_only=False)
class Task:
    """One unit of work.

    Times are seconds since the epoch (UTC). `timeout` is the longest run of one attempt in
    seconds. `retries` is how many further attempts follow a failed one; `retry_count` how many
    have been used.
    """

    type: str
    data: Any = field(default_factory=dict)
    id: str = field(default_factory=new_task_id)
    priority: TaskPriority = TaskPriority.NORMAL
    status: TaskStatus = TaskStatus.PENDING
    result: Any = None
    error: str | None = None
    created_at: float = field(default_factory=time.time)
    started_at: float | None = None
    completed_at: float | None = None
    timeout: float = 300.0
    retries: int = 0
    retry_count: int = 0
    worker_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tag: str | None = None
    due_at: float | None = None
    """When a delayed task or a retry becomes due, or None."""
    duplicate: bool = False
    """True if `unique=` matched a task that was submitted before: this is that task."""
    reason: str = ""
    """Which kind of failure, for a task that failed: see `headrace.wire.Reason`."""

    @property
    def is_complete(self) -> bool:
        """Whether the task is in a final state."""
        return self.status in FINAL_STATUSES

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from start to end (to now while it runs), or None before the start."""
        if self.started_at is None:
            return None
        return (self.completed_at or time.time()) - self.started_at

    @property
    def can_retry(self) -> bool:
        """Whether an attempt is left."""
        return self.retry_count < self.retries

    @property
    def created(self) -> datetime:
        """`created_at` as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.created_at, UTC)


@dataclass(slots=True)
class TaskResult:
    """How a task ended. `error` is a text that starts with the exception's class name."""

    task_id: str
    status: TaskStatus
    result: Any = None
    error: str | None = None
    duration_seconds: float | None = None
    worker_id: str | None = None


# Names that become tokens of a NATS subject, or part of a stream's name. NATS itself forbids
# `.`, `*`, `>` and white space; the rest is kept to what a shell and a URL take unquoted.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_=+:@-]{0,127}"
TYPE_PATTERN = r"[^\x00-\x1f\x7f]{1,200}"

_NAME = re.compile(NAME_PATTERN)
_ID = re.compile(ID_PATTERN)
_TYPE = re.compile(TYPE_PATTERN)


def check_queue(name: object) -> str:
    """The queue's name, if it is one; else `InvalidName`."""
    return _check("queue name", name, _NAME, NAME_PATTERN)


def check_tag(name: object) -> str:
    """The tag, if it is one; else `InvalidName`."""
    return _check("tag", name, _NAME, NAME_PATTERN)


def check_task_id(name: object) -> str:
    """The task id, if it is one; else `InvalidName`."""
    return _check("task id", name, _ID, ID_PATTERN)


def check_task_type(name: object) -> str:
    """The task type, if it is one; else `InvalidName`."""
    return _check("task type", name, _TYPE, TYPE_PATTERN)


def _check(kind: str, name: object, compiled: re.Pattern[str], pattern: str) -> str:
    if not isinstance(name, str) or not compiled.fullmatch(name):
        raise InvalidName(kind, name, pattern)
    return name
