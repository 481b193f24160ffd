"""A task as a message."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from headrace.jsondata import dumps, loads
from headrace.task import ID_PATTERN, NAME_PATTERN, Task, TaskStatus
from headrace.wire.names import VERSION, Lane

DEFAULT_TIMEOUT = 300.0  # seconds a run may take
DEFAULT_RESULT_TTL = 3600.0  # seconds a final record is kept
MAX_TYPE = 200  # characters of a task type
MAX_SECONDS = 1e11  # of any time and any span: 3,170 years, within what `datetime` has
_MAX = 2.0**63
_ID = re.compile(ID_PATTERN)
_NAME = re.compile(NAME_PATTERN)


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
    timeout: float | None = None
    """Seconds one attempt may run; None: what the handler or the worker says."""
    retries: int | None = None
    """Attempts that may follow a failed one; None: what the handler says."""
    retry_count: int = 0
    created_at: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    result_ttl: float = DEFAULT_RESULT_TTL
    reply: str | None = None
    """Token of the client that waits for the result, for `QueueNames.reply`."""
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
            timeout=DEFAULT_TIMEOUT if self.timeout is None else self.timeout,
            retries=self.retries or 0,
            retry_count=self.retry_count,
            metadata=self.metadata,
            tag=self.lane.tag,
            due_at=self.due_at,
        )


def encode_task(task: Envelope) -> bytes:
    """The body of a task's message. Raises `InvalidData`."""
    # Put together by hand: at half of the cost of a dict. Ids match patterns: nothing to escape.
    body = b'{"v":%d,"id":"%b","type":%b,"data":%b,"created_at":%a' % (
        VERSION, task.id.encode(), dumps(task.type, "type"), dumps(task.data, "data"),
        task.created_at,
    )  # fmt: skip
    if task.timeout is not None:
        body += b',"timeout":%a' % task.timeout
    if task.retries is not None:
        body += b',"retries":%d' % task.retries
    if task.reply:
        body += b',"reply":"%b"' % task.reply.encode()
    if task.result_ttl != DEFAULT_RESULT_TTL:
        body += b',"result_ttl":%a' % task.result_ttl
    for name in _OFTEN_EMPTY:
        if value := getattr(task, name):
            body += b',"%b":%b' % (name.encode(), dumps(value, name))
    return body + b"}"


_OFTEN_EMPTY = ("retry_count", "metadata", "after", "error", "due_at", "unknown_since",
                "traceparent")  # fmt: skip


def decode_task(lane: Lane, task_id: str, body: bytes) -> Envelope:
    """The task in a message.

    The subject decides on priority, tag and id: it is what the server routed and what a cancel
    finds. Raises `Undecodable` for a body that is no task.
    """
    if not _ID.fullmatch(task_id):
        raise Undecodable(f"the id {task_id!r:.140} in the subject does not match {ID_PATTERN}")
    try:
        raw = loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the body is not JSON: {error}") from None
    if type(raw) is not dict:
        raise Undecodable(f"the body is a JSON {_json_type(raw)}, not an object")
    get = raw.get
    task_type = get("type")
    if type(task_type) is not str or not task_type:
        raise Undecodable(
            f"`type` is {task_type!r:.80}, not text" if "type" in raw else "no `type`"
        )
    if len(task_type) > MAX_TYPE:
        raise Undecodable(f"`type` has {len(task_type):,} characters, more than {MAX_TYPE}")
    if (named := get("id", task_id)) != task_id:
        raise Undecodable(f"`id` is {named!r:.80} but the subject says {task_id!r}")
    if get("v", VERSION) != VERSION:
        raise Undecodable(f"`v` is {get('v')!r:.40}; this worker reads version {VERSION}")
    reply = get("reply")
    if reply and not (type(reply) is str and _NAME.fullmatch(reply)):
        _text(raw, "reply")
        raise Undecodable(f"`reply` is {reply!r:.80}, which does not match {NAME_PATTERN}")
    task = Envelope(
        task_id,
        lane,
        task_type,
        get("data"),
        None if get("timeout") is None else _number(raw, "timeout", 0.0, above=0.0),
        None if get("retries") is None else int(_number(raw, "retries", 0, most=_MAX)),
        created_at=_number(raw, "created_at", 0.0) or time.time(),
        reply=_text(raw, "reply") if reply is not None else None,
    )
    if not _SELDOM.isdisjoint(raw):
        _decode_seldom(task, raw)
    return task


_SELDOM = frozenset((*_OFTEN_EMPTY, "result_ttl"))


def _decode_seldom(task: Envelope, raw: dict[str, Any]) -> None:
    """What a task has that is retried, delayed, replayed or decorated."""
    metadata = raw.get("metadata") or {}
    if type(metadata) is not dict:
        raise Undecodable("`metadata` is not an object")
    task.metadata = metadata
    task.retry_count = int(_number(raw, "retry_count", 0, most=_MAX))
    task.result_ttl = _number(raw, "result_ttl", DEFAULT_RESULT_TTL, above=0.0)
    task.after = int(_number(raw, "after", 0, most=_MAX))
    task.error = _text(raw, "error")
    task.due_at = _number(raw, "due_at", 0.0) or None
    task.unknown_since = _number(raw, "unknown_since", 0.0) or None
    task.traceparent = _text(raw, "traceparent")


def _number(
    raw: dict[str, Any], name: str, default: float, above: float = -1.0, most: float = MAX_SECONDS
) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if type(value) in (int, float) and above < value <= most:
        return value  # type: ignore[no-any-return]  # its type was compared above
    raise Undecodable(f"`{name}` is {value!r:.80}")


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and type(value) is not str:
        raise Undecodable(f"`{name}` is {value!r:.80}, not text")
    return value


def _json_type(value: Any) -> str:
    names = {list: "array", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
