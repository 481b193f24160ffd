"""What a submit asks for, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from headrace.errors import ConfigurationError, InvalidTime, PayloadTooLarge
from headrace.task import (
    Task,
    TaskPriority,
    TaskStatus,
    check_tag,
    check_task_id,
    check_task_type,
    new_task_id,
)
from headrace.wire import DEFAULT_RESULT_TTL, MAX_DELAY, MAX_SECONDS, Envelope, Lane, encode_task

# A task grows on its way: the error of an attempt, its due time, the headers of a schedule.
_HEADROOM = 2_048


class SubmitOptions(TypedDict, total=False):
    """The keywords of every submit; `Submission` says what they mean."""

    priority: TaskPriority
    timeout: float | None
    retries: int | None
    tag: str | None
    metadata: dict[str, Any] | None
    delay: float | timedelta | None
    at: datetime | float | None
    unique: str | None
    task_id: str | None
    result_ttl: float


@dataclass(slots=True)
class Submission:
    """One task to submit.

    `timeout` is the longest run of one attempt and `result_ttl` how long the outcome is kept, both
    in seconds. `delay` is seconds or a timedelta from now; `at` an aware datetime or seconds since
    the epoch. `unique` is a key: while one task with it was submitted within the last two
    minutes, another is not stored and the first is returned.
    """

    type: str
    data: Any = None
    priority: TaskPriority = TaskPriority.NORMAL
    timeout: float | None = None
    retries: int | None = None
    tag: str | None = None
    metadata: dict[str, Any] | None = None
    delay: float | timedelta | None = None
    at: datetime | float | None = None
    unique: str | None = None
    task_id: str | None = None
    result_ttl: float = DEFAULT_RESULT_TTL

    @classmethod
    def of(cls, item: Submission | tuple[Any, ...] | Mapping[str, Any]) -> Submission:
        """A submission from what `submit_many` takes: (type, data) or a mapping of keywords."""
        if isinstance(item, Submission):
            return item
        try:
            if isinstance(item, Mapping):
                return cls(**item)
            return cls(*item)
        except TypeError as error:
            raise ConfigurationError(
                f"{item!r:.100} is no task to submit: {error}",
                hint="Give (type, data) or a dict with type, data, priority, …",
            ) from None

    def due_at(self, now: float) -> float | None:
        """When the task may start, in seconds since the epoch; None for at once.

        Raises `InvalidTime`.
        """
        if self.delay is not None and self.at is not None:
            raise InvalidTime("give delay= or at=, not both")
        if self.delay is not None:
            seconds = (
                self.delay.total_seconds() if isinstance(self.delay, timedelta) else self.delay
            )
            if not _is_number(seconds) or not 0 <= seconds <= MAX_DELAY:
                raise InvalidTime(
                    f"delay={self.delay!r} is not a number of seconds from 0 to {MAX_DELAY:,.0f}"
                )
            return now + seconds if seconds > 0 else None
        if self.at is None:
            return None
        return self._time_of(self.at, now)

    def _time_of(self, at: datetime | float, now: float) -> float | None:
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise InvalidTime(
                    f"at={at.isoformat()} has no time zone",
                    hint="Use datetime.now(UTC) + … or a datetime with tzinfo",
                )
            due = at.timestamp()
        else:
            due = at
        if not _is_number(due) or due - now > MAX_DELAY or due < 0:
            raise InvalidTime(
                f"at={at!r} is more than {MAX_DELAY / 86400:.0f} days ahead, or no time"
            )
        return due if due > now else None

    def envelope(self, reply: str | None, now: float) -> Envelope:
        """The task as it travels; `now` is the broker's time.

        Raises `ConfigurationError` and its kin.
        """
        check_task_type(self.type)
        if self.tag is not None:
            check_tag(self.tag)
        for name, value in (("timeout", self.timeout), ("result_ttl", self.result_ttl)):
            if value is not None and (not _is_number(value) or not 0 < value <= MAX_SECONDS):
                raise ConfigurationError(
                    f"{name}={value!r} is not a number of seconds above 0, at most 1e11",
                    hint="Leave it out for the default",
                )
        if self.retries is not None and (type(self.retries) is not int or self.retries < 0):
            raise ConfigurationError(f"retries={self.retries!r} is not a whole number from 0 up")
        if not isinstance(self.metadata, dict | None):
            raise ConfigurationError(f"metadata is a {type(self.metadata).__name__}, not a dict")
        try:
            priority = TaskPriority(self.priority)
        except ValueError:
            raise ConfigurationError(
                f"{self.priority!r} is no priority", hint="Use a TaskPriority: 0, 5, 10 or 20"
            ) from None
        due = self.due_at(now)
        return Envelope(
            new_task_id() if self.task_id is None else check_task_id(self.task_id),
            Lane(priority, self.tag),
            self.type,
            self.data,
            None if self.timeout is None else float(self.timeout),
            self.retries,
            created_at=now,
            metadata=self.metadata or {},
            result_ttl=self.result_ttl,
            reply=reply,
            due_at=due,
        )


def encode(envelope: Envelope, max_payload: int) -> bytes:
    """The body of the task. Raises `InvalidData`, `PayloadTooLarge`."""
    body = encode_task(envelope)
    if len(body) + _HEADROOM > max_payload:
        raise PayloadTooLarge("a task", len(body) + _HEADROOM, max_payload)
    return body


def submitted(envelope: Envelope, duplicate: bool = False) -> Task:
    """What a submit returns."""
    task = envelope.to_task(TaskStatus.QUEUED)
    task.duplicate = duplicate
    return task


def _is_number(value: object) -> bool:
    """Whether it is finite and has room in a float: whole numbers of Python may have none."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False
