"""One start of one task, and how it ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum

from headrace.broker.port import Delivery
from headrace.errors import BlobDamaged, BlobNotFound, InvalidData, PayloadTooLarge
from headrace.retry import Reject, Retry
from headrace.runtime.context import Context
from headrace.runtime.handlers import Handler
from headrace.runtime.outcome import Outcome, describe
from headrace.runtime.threads import ThreadExit
from headrace.task import TaskStatus
from headrace.wire import Envelope, Reason


class Cause(Enum):
    """Why a run was ended from outside."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"  # the worker stops and hands the task back


@dataclass(slots=True, eq=False)
class Run:
    """What the worker holds of a task that it has started.

    `expected` is the sequence of the record that the next write replaces. `lost` counts the
    workers that died running the task before.
    """

    id: str
    delivery: Delivery
    task: Envelope
    handler: Handler
    worker_id: str
    timeout: float
    expected: int
    lost: int = 0
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    """Monotonic time of the start."""
    context: Context | None = None
    chunks: int = 0
    cause: Cause | None = None
    told_at: float = 0.0
    """Monotonic time at which it was told to end."""
    asyncio_task: asyncio.Task[None] | None = None
    in_handler: bool = True
    """False once the handler has ended: a cancel is too late then."""
    abandoned: bool = False
    """The handler did not end when told to; its outcome no longer counts."""
    marked: bool = False
    """Its `running` record is written."""
    marking: asyncio.Task[None] | None = None
    sending: asyncio.Task[None] | None = None
    """The last progress, on its way."""
    refused: PayloadTooLarge | None = None
    """A chunk that was too large to send: not the handler's own error."""

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        return self.task.retry_count + 1

    @property
    def retries_left(self) -> int:
        """Attempts that may still follow."""
        retries = self.task.retries
        return (self.handler.retries if retries is None else retries) - self.task.retry_count


def failure(run: Run, error: BaseException) -> Outcome:
    """What an exception of the handler means."""
    if isinstance(error, ThreadExit):
        error = error.cause
    if isinstance(error, Retry):
        outcome = describe(error, Reason.HANDLER)
        outcome.retry, outcome.delay = True, error.delay
        return outcome
    if isinstance(error, Reject):
        return describe(error, Reason.REJECTED)
    if isinstance(error, BlobNotFound | BlobDamaged):  # gone: another attempt finds no more
        return describe(error, Reason.INVALID_DATA, traceback=False)
    outcome = describe(error, Reason.HANDLER)
    outcome.retry = run.handler.retries_for(error)
    return outcome


def bad_data(error: InvalidData) -> Outcome:
    """The data does not fit the handler: never worth another attempt."""
    return describe(error, Reason.INVALID_DATA, traceback=False)


def timed_out(run: Run) -> Outcome:
    """The run took longer than its timeout."""
    return Outcome(
        TaskStatus.TIMEOUT,
        error=f"TaskTimeout: ran longer than its timeout of {run.timeout:g} s",
        reason=Reason.TIMEOUT,
        retry=True,
    )
