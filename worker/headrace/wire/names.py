"""Names on the wire: queues, lanes, subjects, streams."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from headrace.errors import InvalidName
from headrace.task import NAME_PATTERN, TaskPriority, check_queue, check_tag

VERSION = 1
API_LEVEL = 4  # JetStream's: flow-control sources (ADR-60), NATS 2.14

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
        self._spell(queue)

    @classmethod
    def of_all(cls) -> QueueNames:
        """Wildcards that stand for every queue, for rights. A stream's name is `*`: a wildcard is
        a whole token, so this also stands for streams that are not Headrace's."""
        names = cls.__new__(cls)
        names._spell("*")
        names.work_stream = names.later_stream = names.state_stream = names.service = "*"
        return names

    def _spell(self, queue: str) -> None:
        self.queue = queue
        self.work_stream = f"HEADRACE_{queue}"
        self.later_stream = f"HEADRACE_LATER_{queue}"
        self.state_stream = f"HEADRACE_STATE_{queue}"
        self.work = f"headrace.q.{queue}."
        self.later = f"headrace.later.{queue}."
        self.due = f"headrace.due.{queue}."
        self.cron = f"headrace.cron.{queue}."
        self.state = f"headrace.state.{queue}."
        self.dead = f"headrace.dead.{queue}."
        self.wake = f"headrace.wake.{queue}."
        self.events = f"headrace.events.{queue}."
        self.control = f"headrace.control.{queue}."
        self.service = f"headrace-{queue}"
        self.blob_bucket = f"headrace-{queue}"
        self.blob_stream = f"OBJ_{self.blob_bucket}"
        self.blobs = f"$O.{self.blob_bucket}."
        self.replies = f"headrace.reply.{queue}."

    def task(self, lane: Lane, task_id: str) -> str:
        """Subject of a waiting task."""
        return f"{self.work}{lane.tokens}.{task_id}"

    def any_lane(self, task_id: str) -> str:
        """Wildcard subject of a waiting task whose priority and tag are not known."""
        return f"{self.work}*.*.{task_id}"

    def blob_parts(self, name: str) -> str:
        """Subject of all parts of a blob."""
        return f"{self.blobs}C.{name}"

    def blob_head(self, name: str) -> str:
        """Subject of a blob's head."""
        return f"{self.blobs}M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def schedule(self, name: str) -> str:
        """Subject of a schedule in the *later* stream."""
        return f"{self.cron}{check_schedule(name)}"

    def cancel(self, task_id: str) -> str:
        """Subject that tells the holder of a task to cancel it."""
        return f"{self.control}cancel.{task_id}"

    def reply(self, client: str) -> str:
        """Subject on which a client receives the results of its tasks."""
        return self.replies + client

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


def check_schedule(name: object) -> str:
    """The schedule's name, if it can stand in a subject; else `InvalidName`."""
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise InvalidName("schedule name", name, NAME_PATTERN)
    return name


def tick_id(schedule: str) -> str:
    """What stands for the task id in the ticks of a schedule, and in the record of its last run."""
    return f"cron:{schedule}"


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
