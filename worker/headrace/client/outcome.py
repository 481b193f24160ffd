"""From a final record to what the caller gets: a result, a value or an error."""

from __future__ import annotations

from typing import Any

from headrace.broker.port import StoredMessage
from headrace.errors import BrokerError, TaskCancelled, TaskError, TaskFailed, TaskTimeout
from headrace.task import TaskResult, TaskStatus
from headrace.wire import DeadLetter, Reason, Record, Undecodable, decode_dead, decode_record

_ERRORS: dict[TaskStatus, type[TaskError]] = {
    TaskStatus.FAILED: TaskFailed,
    TaskStatus.TIMEOUT: TaskTimeout,
    TaskStatus.CANCELLED: TaskCancelled,
}


def record_in(message: StoredMessage) -> Record:
    """The record in a message of the state stream. Raises `BrokerError` if somebody else has
    written something there."""
    try:
        return decode_record(message.body)
    except Undecodable as error:
        raise BrokerError(
            f"what is stored under {message.subject} is no record: {error}",
            hint="Only Headrace's own clients and workers may write there",
        ) from None


def letter_in(message: StoredMessage) -> DeadLetter:
    """The dead letter in a message; one that holds the bytes, if somebody else has put them
    there."""
    try:
        return decode_dead(message.body)
    except Undecodable as error:
        name = message.subject.rpartition(".")[2]
        return DeadLetter(name, Reason.UNDECODABLE, str(error), message.subject, message.body)


def result_of(record: Record) -> TaskResult:
    """How the task ended."""
    return TaskResult(
        record.id,
        record.status,
        record.result,
        record.error,
        record.duration,
        record.worker_id,
    )


def value_of(record: Record) -> Any:
    """The handler's result. Raises the `TaskError` of a task that did not complete."""
    if record.status is TaskStatus.COMPLETED:
        return record.result
    raise _ERRORS[record.status](
        record.error or f"task {record.id} was {record.status.value}",
        task_id=record.id,
        task_type="" if record.task is None else record.task.type,
        attempt=record.attempt,
        worker_id=record.worker_id,
        remote_type=record.remote_type,
        remote_traceback=record.remote_traceback,
        reason=record.reason,
    )
