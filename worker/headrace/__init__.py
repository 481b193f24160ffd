"""Headrace: a task queue on NATS JetStream, its workers and their autoscaler as one system.

    from headrace import Coordinator

    coordinator = Coordinator()

    @coordinator.handler("double")
    async def double(data: dict) -> dict:
        return {"doubled": data["x"] * 2}

Every name below is imported at its first use, so that `import headrace` and the command line start
quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.blobs import Blob, BlobReader
    from headrace.broker.port import LaneDepth, QueueDepth, QueueSettings
    from headrace.client import Client
    from headrace.client.streaming import TaskStream
    from headrace.client.submission import Submission
    from headrace.coordinator import Coordinator, CoordinatorConfig
    from headrace.errors import (
        AccessDenied,
        AppNotFound,
        BlobDamaged,
        BlobNotFound,
        BlobStoreFull,
        BrokerError,
        BrokerUnavailable,
        BrokerUnsupported,
        BrokerUntrusted,
        ConfigurationError,
        HeadraceError,
        InvalidData,
        InvalidManifest,
        InvalidName,
        InvalidSchedule,
        InvalidTime,
        NoHandler,
        NotRunning,
        PayloadTooLarge,
        QueueFull,
        StreamInterrupted,
        SubmitRefused,
        TaskCancelled,
        TaskError,
        TaskFailed,
        TaskNotFound,
        TaskTimeout,
        WaitTimeout,
    )
    from headrace.handle import AsyncHandle, Handle, StreamHandle
    from headrace.pool import WorkerPool
    from headrace.registry import InMemoryWorkerRegistry, QueueWorkerRegistry, WorkerRegistry
    from headrace.retry import Backoff, Reject, Retry
    from headrace.runtime.context import CONTEXT, Context, Resource
    from headrace.schedule import Schedule
    from headrace.sync import SyncClient
    from headrace.task import Task, TaskPriority, TaskResult, TaskStatus
    from headrace.taskqueue import TaskQueue
    from headrace.wire import DeadLetter
    from headrace.worker import Worker
    from headrace.worker_info import WorkerConfig, WorkerInfo, WorkerStatus

_HOMES = {
    "blobs": ("Blob", "BlobReader"),
    "broker.port": ("LaneDepth", "QueueDepth", "QueueSettings"),
    "client": ("Client",),
    "client.streaming": ("TaskStream",),
    "client.submission": ("Submission",),
    "coordinator": ("Coordinator", "CoordinatorConfig"),
    "errors": (
        "AccessDenied",
        "AppNotFound",
        "BlobDamaged",
        "BlobNotFound",
        "BlobStoreFull",
        "BrokerError",
        "BrokerUnavailable",
        "BrokerUnsupported",
        "BrokerUntrusted",
        "ConfigurationError",
        "HeadraceError",
        "InvalidData",
        "InvalidManifest",
        "InvalidName",
        "InvalidSchedule",
        "InvalidTime",
        "NoHandler",
        "NotRunning",
        "PayloadTooLarge",
        "QueueFull",
        "StreamInterrupted",
        "SubmitRefused",
        "TaskCancelled",
        "TaskError",
        "TaskFailed",
        "TaskNotFound",
        "TaskTimeout",
        "WaitTimeout",
    ),
    "handle": ("AsyncHandle", "Handle", "StreamHandle"),
    "pool": ("WorkerPool",),
    "registry": ("InMemoryWorkerRegistry", "QueueWorkerRegistry", "WorkerRegistry"),
    "retry": ("Backoff", "Reject", "Retry"),
    "runtime.context": ("CONTEXT", "Context", "Resource"),
    "schedule": ("Schedule",),
    "sync": ("SyncClient",),
    "task": ("Task", "TaskPriority", "TaskResult", "TaskStatus"),
    "taskqueue": ("TaskQueue",),
    "wire": ("DeadLetter",),
    "worker": ("Worker",),
    "worker_info": ("WorkerConfig", "WorkerInfo", "WorkerStatus"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


__all__ = [  # noqa: RUF022  # in the order of the table above
    "Blob",
    "BlobReader",
    "LaneDepth",
    "QueueDepth",
    "QueueSettings",
    "Client",
    "TaskStream",
    "Submission",
    "Coordinator",
    "CoordinatorConfig",
    "AccessDenied",
    "AppNotFound",
    "BlobDamaged",
    "BlobNotFound",
    "BlobStoreFull",
    "BrokerError",
    "BrokerUnavailable",
    "BrokerUnsupported",
    "BrokerUntrusted",
    "ConfigurationError",
    "HeadraceError",
    "InvalidData",
    "InvalidManifest",
    "InvalidName",
    "InvalidSchedule",
    "InvalidTime",
    "NoHandler",
    "NotRunning",
    "PayloadTooLarge",
    "QueueFull",
    "StreamInterrupted",
    "SubmitRefused",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskNotFound",
    "TaskTimeout",
    "WaitTimeout",
    "AsyncHandle",
    "Handle",
    "StreamHandle",
    "WorkerPool",
    "InMemoryWorkerRegistry",
    "QueueWorkerRegistry",
    "WorkerRegistry",
    "Backoff",
    "Reject",
    "Retry",
    "CONTEXT",
    "Context",
    "Resource",
    "Schedule",
    "SyncClient",
    "Task",
    "TaskPriority",
    "TaskResult",
    "TaskStatus",
    "TaskQueue",
    "DeadLetter",
    "Worker",
    "WorkerConfig",
    "WorkerInfo",
    "WorkerStatus",
]
