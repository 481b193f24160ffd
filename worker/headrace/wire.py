"""The wire contract, version 1: the only module that spells a subject or a field of a message.

Documented for other languages in `docs/reference/wire.md`. A task is a JSON object published to

    headrace.q.<queue>.<priority>.<tag or _>.<task id>

and its outcome a JSON object stored under `headrace.state.<queue>.<task id>`.
"""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from headrace.errors import InvalidName
from headrace.jsondata import dumps, loads
from headrace.task import (
    NAME_PATTERN,
    Task,
    TaskPriority,
    TaskStatus,
    check_queue,
    check_tag,
)

VERSION = 1
API_LEVEL = 4  # JetStream's: flow-control sources (ADR-60), NATS 2.14

DEFAULT_TIMEOUT = 300.0  # seconds a run may take
DEFAULT_RESULT_TTL = 3600.0  # seconds a final record is kept
DEAD_TTL = 7 * 86400.0  # seconds a dead letter is kept
MAX_DELAY = 366 * 86400.0  # seconds; later is a mistake more often than a plan

LEVELS = (TaskPriority.CRITICAL, TaskPriority.HIGH, TaskPriority.NORMAL, TaskPriority.LOW)
LEVEL_NAMES = {level: level.name.lower() for level in LEVELS}
_LEVEL_BY_NAME = {name: level for level, name in LEVEL_NAMES.items()}

# HEADRACE_LATER_<queue> and HEADRACE_STATE_<queue> would be the work streams of these queues.
_RESERVED_QUEUE_PREFIXES = ("LATER_", "STATE_")
# Tokens that stand where a worker's id stands in control subjects.
_RESERVED_WORKERS = frozenset({"cancel", "holds"})


class Reason(StrEnum):
    """Why a task failed or became a dead letter; part of the wire contract and of metrics."""

    HANDLER = "handler"  # the handler raised, and no retry is left
    REJECTED = "rejected"  # the handler raised Reject
    TIMEOUT = "timeout"  # every attempt ran into its timeout
    INVALID_DATA = "invalid_data"  # the data does not fit the handler
    RESULT = "result"  # the result is not JSON, or too large
    UNKNOWN_TYPE = "unknown_type"  # no worker knew the type within the span
    WORKER_LOST = "worker_lost"  # workers died running it, again and again
    UNDECODABLE = "undecodable"  # the message is no task


class Lane(NamedTuple):
    """Tasks of one priority and one tag: what one durable consumer serves."""

    priority: TaskPriority
    tag: str | None = None

    @property
    def consumer(self) -> str:
        """The durable consumer's name: `high`, `high-gpu`."""
        name = LEVEL_NAMES[self.priority]
        return name if self.tag is None else f"{name}-{self.tag}"

    @property
    def tokens(self) -> str:
        """The two subject tokens of the lane: `high._`, `high.gpu`."""
        return f"{LEVEL_NAMES[self.priority]}.{self.tag or '_'}"


def lane_of_consumer(name: str) -> Lane | None:
    """The lane that a durable consumer of this name serves, or None for a foreign one."""
    level, dash, tag = name.partition("-")
    if level not in _LEVEL_BY_NAME or (dash and not re.fullmatch(NAME_PATTERN, tag)):
        return None
    return Lane(_LEVEL_BY_NAME[level], tag or None)


def lanes(tags: Iterable[str] = (), untagged: bool = True) -> tuple[Lane, ...]:
    """The lanes that a worker with these tags serves, highest priority first."""
    names: list[str | None] = [None] if untagged else []
    names += sorted({check_tag(tag) for tag in tags})
    return tuple(Lane(level, tag) for level in LEVELS for tag in names)


class QueueNames:
    """Streams and subjects of one queue.

    Raises `InvalidName` for a name that could not stand in a subject.
    """

    def __init__(self, queue: str) -> None:
        check_queue(queue)
        if queue.startswith(_RESERVED_QUEUE_PREFIXES):
            raise InvalidName("queue name", queue, f"{NAME_PATTERN}, not LATER_… or STATE_…")
        self.queue = queue
        self.work_stream = f"HEADRACE_{queue}"
        self.later_stream = f"HEADRACE_LATER_{queue}"
        self.state_stream = f"HEADRACE_STATE_{queue}"
        self.work = f"headrace.q.{queue}."
        self.later = f"headrace.later.{queue}."
        self.due = f"headrace.due.{queue}."
        self.state = f"headrace.state.{queue}."
        self.dead = f"headrace.dead.{queue}."
        self.wake = f"headrace.wake.{queue}."
        self.events = f"headrace.events.{queue}."
        self.control = f"headrace.control.{queue}."
        self.service = f"headrace-{queue}"

    def task(self, lane: Lane, task_id: str) -> str:
        """Subject of a waiting task."""
        return f"{self.work}{lane.tokens}.{task_id}"

    def any_lane(self, task_id: str) -> str:
        """Wildcard subject of a waiting task whose priority and tag are not known."""
        return f"{self.work}*.*.{task_id}"

    def cancel(self, task_id: str) -> str:
        """Subject that tells the holder of a task to cancel it."""
        return f"{self.control}cancel.{task_id}"

    def holds(self, task_id: str) -> str:
        """Subject that asks who runs a task; only the holder answers."""
        return f"{self.control}holds.{task_id}"

    def worker(self, worker_id: str, verb: str) -> str:
        """Subject of a worker's own endpoint: `drain` or `resume`."""
        return f"{self.control}{worker_id}.{verb}"


def check_worker_id(name: str) -> str:
    """The worker id, if it can stand in a subject; else `InvalidName`."""
    if not re.fullmatch(NAME_PATTERN, name) or name in _RESERVED_WORKERS:
        raise InvalidName("worker id", name, f"{NAME_PATTERN}, not cancel or holds")
    return name


def reply_subject(client: str) -> str:
    """Subject on which a client receives the results of its tasks."""
    return f"headrace.reply.{client}"


def lane_and_id(subject: str) -> tuple[Lane, str]:
    """Lane and task id in a subject of the work stream.

    Raises ValueError for a subject that is not one.
    """
    tokens = subject.split(".")
    if len(tokens) != 6:
        raise ValueError(f"{subject!r} is not the subject of a task")
    try:
        level = _LEVEL_BY_NAME[tokens[3]]
    except KeyError:
        raise ValueError(f"{subject!r} names no priority level") from None
    return Lane(level, None if tokens[4] == "_" else tokens[4]), tokens[5]


# --- tasks ---------------------------------------------------------------------------------------


class Undecodable(ValueError):
    """A message that is no task; its text is the reason that the dead letter gives."""


@dataclass(slots=True)
class Envelope:
    """A task as it travels: what the body says, with defaults for what it leaves out.

    Any NATS client may publish `{"type": …, "data": …}`; all other fields are optional.
    """

    id: str
    lane: Lane
    type: str
    data: Any
    timeout: float = DEFAULT_TIMEOUT
    retries: int = 0
    retry_count: int = 0
    created_at: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    result_ttl: float = DEFAULT_RESULT_TTL
    reply: str | None = None
    """Token of the client that waits for the result, for `reply_subject`."""
    after: int = 0
    """Replays: sequence of the failed record that this run supersedes."""
    error: str | None = None
    """Retries: why the attempt before this one failed."""
    due_at: float | None = None
    """When a delayed task or a retry became due."""
    unknown_since: float | None = None
    """When a worker first did not know the type."""
    traceparent: str | None = None

    def to_task(self, status: TaskStatus = TaskStatus.QUEUED) -> Task:
        """The task as the public API shows it."""
        return Task(
            type=self.type,
            data=self.data,
            id=self.id,
            priority=self.lane.priority,
            status=status,
            error=self.error,
            created_at=self.created_at,
            timeout=self.timeout,
            retries=self.retries,
            retry_count=self.retry_count,
            metadata=self.metadata,
            tag=self.lane.tag,
            due_at=self.due_at,
        )


def encode_task(task: Envelope) -> bytes:
    """The body of a task's message. Raises `InvalidData`."""
    body: dict[str, Any] = {"v": VERSION, "id": task.id, "type": task.type, "data": task.data}
    body["timeout"] = task.timeout
    body["created_at"] = task.created_at
    if task.retries:
        body["retries"] = task.retries
    if task.retry_count:
        body["retry_count"] = task.retry_count
    if task.metadata:
        body["metadata"] = task.metadata
    if task.result_ttl != DEFAULT_RESULT_TTL:
        body["result_ttl"] = task.result_ttl
    for name in ("reply", "after", "error", "due_at", "unknown_since", "traceparent"):
        if value := getattr(task, name):
            body[name] = value
    return dumps(body, "task")


def decode_task(lane: Lane, task_id: str, body: bytes) -> Envelope:
    """The task in a message.

    The subject decides on priority, tag and id: it is what the server routed and what a cancel
    finds. Raises `Undecodable` for a body that is no task.
    """
    try:
        raw = loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the body is not JSON: {error}") from None
    if type(raw) is not dict:
        raise Undecodable(f"the body is a JSON {_json_type(raw)}, not an object")
    get = raw.get
    task_type = get("type")
    if type(task_type) is not str or not task_type:
        raise Undecodable(f"`type` is {task_type!r}, not text" if "type" in raw else "no `type`")
    named = get("id", task_id)
    if named != task_id:
        raise Undecodable(f"`id` is {named!r:.80} but the subject says {task_id!r}")
    if get("v", VERSION) != VERSION:
        raise Undecodable(f"`v` is {get('v')!r:.40}; this worker reads version {VERSION}")
    metadata = get("metadata") or {}
    if type(metadata) is not dict:
        raise Undecodable("`metadata` is not an object")
    return Envelope(
        task_id,
        lane,
        task_type,
        get("data"),
        _number(raw, "timeout", DEFAULT_TIMEOUT, above=0.0),
        int(_number(raw, "retries", 0)),
        int(_number(raw, "retry_count", 0)),
        _number(raw, "created_at", 0.0) or time.time(),
        metadata,
        _number(raw, "result_ttl", DEFAULT_RESULT_TTL, above=0.0),
        _text(raw, "reply"),
        int(_number(raw, "after", 0)),
        _text(raw, "error"),
        _number(raw, "due_at", 0.0) or None,
        _number(raw, "unknown_since", 0.0) or None,
        _text(raw, "traceparent"),
    )


def _number(raw: dict[str, Any], name: str, default: float, above: float = -1.0) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not above < value < math.inf:
        raise Undecodable(f"`{name}` is {value!r:.80}")
    return value  # type: ignore[no-any-return]  # its type was compared above


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and type(value) is not str:
        raise Undecodable(f"`{name}` is {value!r:.80}, not text")
    return value


def _json_type(value: Any) -> str:
    names = {list: "array", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


# --- records -------------------------------------------------------------------------------------


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
    head: dict[str, Any] = {"v": VERSION, "id": record.id, "status": record.status.value}
    for name in ("run", "worker_id", "error", "reason", "remote_type", "remote_traceback"):
        if value := getattr(record, name):
            head[name] = value
    head["attempt"] = record.attempt
    if record.lost:
        head["lost"] = record.lost
    if record.chunks:
        head["chunks"] = record.chunks
    if record.started_at is not None:
        head["started_at"] = record.started_at
    if record.completed_at is not None:
        head["completed_at"] = record.completed_at
    if lane is not None:
        head["lane"] = lane.tokens
    head["result"] = record.result
    text = dumps(head, "")
    if body is None:
        return text, text
    return b'%b,"task":%b}' % (text[:-1], body), text


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
