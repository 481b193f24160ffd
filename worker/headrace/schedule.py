"""Schedules: what the public API shows of them, and their form in the *later* stream."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from headrace.jsondata import dumps, loads
from headrace.rhythm import Rhythm
from headrace.task import TaskPriority, TaskStatus
from headrace.wire import (
    DEFAULT_RESULT_TTL,
    VERSION,
    Envelope,
    Record,
    Undecodable,
    check_schedule,
    decode_record,
    decode_task,
    encode_record,
    encode_task,
    lane_and_id,
    tick_id,
)

_OF_A_RUN = ("v", "id", "created_at")  # what a task says that its schedule does not


@dataclass(frozen=True, slots=True)
class Schedule:
    """A task that comes again and again; times are seconds since the epoch.

    It runs by a `cron` expression, read in `zone`, or `every` so many seconds. `last_run` and
    `next_run` are times of runs, not when their handlers started.
    """

    name: str
    type: str
    data: Any = None
    cron: str | None = None
    zone: str = "UTC"
    every: int | None = None
    priority: TaskPriority = TaskPriority.NORMAL
    tag: str | None = None
    timeout: float | None = None
    retries: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    result_ttl: float = DEFAULT_RESULT_TTL
    registered_at: float = 0.0
    """Since when it has had this rhythm."""
    last_run: float | None = None

    @property
    def next_run(self) -> float | None:
        """When it runs next."""
        found = self.next_runs(1)
        return found[0] if found else None

    def next_runs(self, count: int = 5) -> list[float]:
        """When it runs next, so many times."""
        now = time.time()
        rhythm = Rhythm(self.cron, self.zone, self.every)
        after = now
        if rhythm.every is not None:  # counted from its last run on
            after = self.last_run or round(self.registered_at)
            after += max(0.0, (now - after) // rhythm.every * rhythm.every)
        return rhythm.next_after(after, count)


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule as it is stored: the task to be, and when.

    `ticks` is what the server was told; `since` the time before which nothing was missed, where
    that is not when the message was stored.
    """

    name: str
    rhythm: Rhythm
    ticks: str
    task: Envelope
    since: float | None = None

    def run(self, at: float, now: float) -> Envelope:
        """The task of the run at `at`. Its id is made of both, so that it is the same for all."""
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
        task = self.task
        return Envelope(
            id=f"{self.name}@{stamp}",
            lane=task.lane,
            type=task.type,
            data=task.data,
            timeout=task.timeout,
            retries=task.retries,
            created_at=now,
            metadata=task.metadata | {"schedule": self.name},
            result_ttl=task.result_ttl,
            due_at=at,
        )

    def shown(self, stored_at: float, last_run: float | None) -> Schedule:
        """As the public API shows it."""
        task, rhythm = self.task, self.rhythm
        return Schedule(
            self.name,
            task.type,
            deepcopy(task.data),  # the plan is kept, and who is shown it may change what it got
            rhythm.cron,
            rhythm.zone,
            rhythm.every,
            task.lane.priority,
            task.lane.tag,
            task.timeout,
            task.retries,
            deepcopy(task.metadata),
            task.result_ttl,
            self.since or stored_at,
            last_run,
        )


def encode_plan(plan: Plan) -> bytes:
    """The body of a schedule's message. Raises `InvalidData`."""
    task = loads(encode_task(plan.task))
    for name in _OF_A_RUN:
        task.pop(name, None)
    rhythm = plan.rhythm
    body: dict[str, Any] = {"v": VERSION, "name": plan.name, "ticks": plan.ticks}
    if rhythm.cron is not None:
        body |= {"cron": rhythm.cron, "zone": rhythm.zone}
    else:
        body["every"] = rhythm.every
    if plan.since is not None:
        body["since"] = plan.since
    return dumps(body | {"lane": plan.task.lane.tokens, "task": task}, "task")


@lru_cache(maxsize=1_000)
def decode_plan(body: bytes) -> Plan:
    """The schedule in a message, or in a tick. Raises `Undecodable`."""
    try:
        raw = loads(body)
        name = check_schedule(raw["name"])
        if raw["v"] != VERSION:
            raise Undecodable(f"`v` is {raw['v']!r:.40}")
        if not isinstance(raw["ticks"], str) or not isinstance(raw.get("since", 0), int | float):
            raise Undecodable("`ticks` is no text, or `since` no time")
        lane, _ = lane_and_id(f"headrace.q.x.{raw['lane']}.{name}")
        return Plan(
            name,
            Rhythm.of(raw.get("cron"), raw.get("zone"), raw.get("every")),
            raw["ticks"],
            decode_task(lane, name, dumps(raw["task"], "task")),
            raw.get("since"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Undecodable(f"not a schedule: {error}") from None


def encode_last_run(name: str, at: float) -> bytes:
    """The record of a schedule's newest run."""
    return encode_record(Record(tick_id(name), TaskStatus.PENDING, result=at), None, None)[0]


def decode_last_run(body: bytes) -> float:
    """The time in such a record; 0 for one that says none."""
    try:
        found = decode_record(body).result
    except Undecodable:
        return 0.0
    return float(found) if isinstance(found, int | float) else 0.0
