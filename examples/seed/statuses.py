"""The three enumerations as the page prints them; `headrace` has the same under these names."""

from enum import Enum


class WorkerStatus(str, Enum):  # noqa: UP042  # as on the page
    IDLE = "idle"  # Ready for tasks
    BUSY = "busy"  # Processing tasks
    DRAINING = "draining"  # Finishing current, no new tasks
    STOPPED = "stopped"  # Not running
    ERROR = "error"  # Error state


class TaskPriority(int, Enum):
    LOW = 0
    NORMAL = 5
    HIGH = 10
    CRITICAL = 20


class TaskStatus(str, Enum):  # noqa: UP042  # as on the page
    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
