"""What is stored and told of a task: records, dead letters, events."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from headrace.jsondata import dumps, loads
from headrace.task import Task, TaskStatus
from headrace.wire.names import VERSION, Lane, lane_and_id
from headrace.wire.tasks import Envelope, Undecodable, decode_task


@dataclass(slots=True)
class Record:
    """What the state stream holds of a task: `running`, or one of the final states.

    `run` identifies one start of the handler, so that a worker can tell its own write from
    another's. `attempt` counts from 1; `lost` counts the workers that died while running it.
    """

    id: str
    status: TaskStatus
    run: str = ""
    attempt: int = 1
    lost: int = 0
    worker_id: str | None = None
    result: Any = None
    error: str | None = None
    reason: str = ""
    remote_type: str = ""
    remote_traceback: str = ""
    started_at: float | None = None
    completed_at: float | None = None
    chunks: int = 0
    """How many chunks a streaming handler sent."""
    task: Envelope | None = None

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.status.is_final

    @property
    def duration(self) -> float | None:
        """Seconds the last run took."""
        if self.started_at is None or self.completed_at is None:
            return None
        return max(0.0, self.completed_at - self.started_at)


def encode_record(record: Record, lane: Lane | None, body: bytes | None) -> tuple[bytes, bytes]:
    """A record's two forms: as stored, with the task's own message inside, and as replied.

    `body` is the task's message as it was received: it is put in as it is, not parsed again.
    Raises `InvalidData` for a result that JSON does not have.
    """
    # Put together by hand: at half of the cost of a dict.
    text = b'{"v":%d,"id":"%b","status":"%b"' % (
        VERSION,
        record.id.encode(),
        record.status.encode(),
    )
    for name in ("run", "worker_id", "error", "reason", "remote_type", "remote_traceback"):
        if value := getattr(record, name):
            text += b',"%b":%b' % (name.encode(), dumps(value, name))
    text += b',"attempt":%d' % record.attempt
    if record.lost:
        text += b',"lost":%d' % record.lost
    if record.chunks:
        text += b',"chunks":%d' % record.chunks
    if record.started_at is not None:
        text += b',"started_at":%a' % record.started_at
    if record.completed_at is not None:
        text += b',"completed_at":%a' % record.completed_at
    if lane is not None:
        text += b',"lane":"%b"' % lane.tokens.encode()
    text += b',"result":%b' % dumps(record.result, "result")
    if body is None:
        return text + b"}", text + b"}"
    return b'%b,"task":%b}' % (text, body), text + b"}"


def decode_record(body: bytes) -> Record:
    """The record in a message of the state stream or of a reply. Raises `Undecodable`."""
    try:
        raw = loads(body)
        record = Record(
            id=raw["id"],
            status=TaskStatus(raw["status"]),
            **{name: raw[name] for name in _RECORD_FIELDS if name in raw},
        )
        if raw.get("task") is not None and "lane" in raw:
            lane, _ = lane_and_id(f"headrace.q.x.{raw['lane']}.{record.id}")
            record.task = decode_task(lane, record.id, dumps(raw["task"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Undecodable(f"not a record: {error}") from None
    return record


_RECORD_FIELDS = tuple(
    name for name in Record.__dataclass_fields__ if name not in ("id", "status", "task")
)


@dataclass(slots=True)
class DeadLetter:
    """A task that was given up, or a message that was no task, kept until replayed or dropped.

    `raw` is the message's body as it came. `record_seq` is the sequence of the final record that
    a replay supersedes.
    """

    id: str
    reason: str
    error: str
    subject: str
    raw: bytes
    type: str = ""
    remote_type: str = ""
    remote_traceback: str = ""
    attempts: int = 0
    failed_at: float = 0.0
    worker_id: str | None = None
    raw_blob: dict[str, Any] | None = None
    """Where the body is, if it and the letter do not fit into one message: a `Blob`."""


def encode_dead(letter: DeadLetter) -> bytes:
    """The body of a dead letter's message; the original bytes as text where they are text."""
    body: dict[str, Any] = {"v": VERSION}
    for name in DeadLetter.__dataclass_fields__:
        if name != "raw" and (value := getattr(letter, name)):
            body[name] = value
    try:
        body["raw"] = letter.raw.decode()
    except UnicodeDecodeError:
        body["raw_base64"] = base64.b64encode(letter.raw).decode()
    return dumps(body, "dead letter")


def decode_dead(body: bytes) -> DeadLetter:
    """The dead letter in a message. Raises `Undecodable`."""
    try:
        raw = loads(body)
        names = set(DeadLetter.__dataclass_fields__) - {"raw"}
        original = raw.get("raw", "").encode() or base64.b64decode(raw.get("raw_base64", ""))
        known = {name: raw[name] for name in names if name in raw}
        return DeadLetter(**{"reason": "", "error": "", "subject": ""} | known, raw=original)
    except (ValueError, KeyError, TypeError) as error:
        raise Undecodable(f"not a dead letter: {error}") from None


# --- events --------------------------------------------------------------------------------------


@dataclass(slots=True)
class TaskEvent:
    """One message of a task's event subject; `n` counts the chunks of one run from 0.

    `kind` is `chunk` (a value that a streaming handler yielded) or `progress` (`value` from 0 to
    1, with a text). Progress carries the number of the next chunk, so that it leaves no gap.
    """

    kind: str
    run: str
    n: int
    value: Any = None
    text: str = ""


def encode_event(event: TaskEvent) -> bytes:
    """The body of an event. Raises `InvalidData`."""
    body = {"kind": event.kind, "run": event.run, "n": event.n, "value": event.value}
    if event.text:
        body["text"] = event.text
    return dumps(body, "chunk")


def decode_event(body: bytes) -> TaskEvent:
    """The event in a message. Raises `Undecodable`."""
    try:
        raw = loads(body)
        return TaskEvent(raw["kind"], raw["run"], raw["n"], raw.get("value"), raw.get("text", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise Undecodable(f"not an event: {error}") from None


def task_of_record(record: Record, task: Envelope | None) -> Task:
    """The public view of a task that has a record."""
    source = task or record.task
    shown = Task(type="", id=record.id, data=None) if source is None else source.to_task()
    shown.status, shown.result = record.status, record.result
    shown.error, shown.reason = record.error or shown.error, record.reason
    shown.started_at, shown.completed_at = record.started_at, record.completed_at
    shown.worker_id = record.worker_id
    shown.retry_count = max(shown.retry_count, record.attempt - 1)
    if record.is_final:
        shown.due_at = None
    return shown
