"""Registering schedules, and looking at them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from headrace.broker.port import Broker, BrokerQueue, StoredMessage, WrongSequence
from headrace.client.submission import Submission, encode
from headrace.errors import BrokerError, BrokerUnavailable, InvalidSchedule
from headrace.rhythm import Rhythm
from headrace.schedule import Plan, Schedule, decode_last_run, decode_plan, encode_plan
from headrace.task import TaskPriority
from headrace.wire import Undecodable, check_schedule, tick_id

_TRIES = 20


class ScheduleOptions(TypedDict, total=False):
    """The keywords of `schedule`: when (`cron` in `zone`, or `every`), and those of a submit that
    every run is to have."""

    cron: str | None
    zone: str | None
    every: timedelta | float | None
    priority: TaskPriority
    timeout: float | None
    retries: int | None
    tag: str | None
    metadata: dict[str, Any] | None
    result_ttl: float


class Scheduling:
    """What whoever submits to a queue can ask of its schedules."""

    async def schedule(
        self,
        name: str,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Have a task of this type come again and again, from now on, also when this process ends.

            await client.schedule("nightly", "report", cron="30 2 * * *", zone="Europe/Paris")
            await client.schedule("poll", "fetch", {"url": url}, every=timedelta(minutes=5))

        The server holds it. Registered again just so it stays as it is; otherwise this replaces
        the one of that name, and the last to register wins. Each run is a task with the id
        `<name>@<time in UTC>`. `cron` has five fields, or six with seconds first, and is read in
        `zone` (default UTC); `every` is a timedelta or whole seconds, at least one.

        Raises `InvalidSchedule`, and what a submit raises for a task that was not stored.
        """
        plan = _plan(name, type, data, options)
        return await (await self._scheduler()).register(plan)

    async def schedules(self) -> list[Schedule]:
        """The schedules of the queue by name, those of code that is gone included."""
        return await (await self._scheduler()).all()

    async def unschedule(self, name: str) -> bool:
        """Remove a schedule; whether there was one. Runs that are tasks already go on."""
        return await (await self._scheduler()).remove(name)

    async def _scheduler(self) -> Scheduler:
        raise NotImplementedError


def _plan(name: str, type: str, data: Any, options: Mapping[str, Any]) -> Plan:  # noqa: A002
    check_schedule(name)
    rest = dict(options)
    when = {field: rest.pop(field, None) for field in ("cron", "zone", "every")}
    for field in rest:
        if field not in ScheduleOptions.__annotations__:
            raise InvalidSchedule(field, "is not for a schedule", hint="Each run is a task anew")
    rhythm = Rhythm.of(**when)
    task = Submission(type, data, **rest).envelope(None, time.time())
    return Plan(name, rhythm, rhythm.ticks(), task)


class Scheduler:
    """The schedules of one queue."""

    def __init__(self, broker: Broker, queue: BrokerQueue) -> None:
        self._broker = broker
        self._queue = queue

    async def register(self, plan: Plan) -> Schedule:
        """Store it, unless it is there just so. Of several at once one stores it."""
        encode(plan.task, self._broker.max_payload)  # a run must fit too
        for _ in range(_TRIES):
            stored = await self._queue.read_schedule(plan.name)
            wanted = plan
            if stored is not None:
                wanted = _after(plan, stored)
                if encode_plan(wanted) == stored.body:
                    return await self._shown(wanted, stored)
            try:
                await self._queue.put_schedule(
                    plan.name,
                    plan.task.lane,
                    encode_plan(wanted),
                    plan.ticks,
                    0 if stored is None else stored.seq,
                )
            except WrongSequence:
                continue  # somebody was quicker, or this is our own write whose answer was lost
            stored = await self._queue.read_schedule(plan.name)
            if stored is not None:
                return await self._shown(wanted, stored)
        raise BrokerUnavailable(f"schedule {plan.name!r} kept changing while it was registered")

    async def all(self) -> list[Schedule]:
        """Those that are there, by name."""
        found = []
        for stored in await self._queue.list_schedules():
            try:
                found.append(await self._shown(decode_plan(stored.body), stored))
            except Undecodable as error:
                raise BrokerError(
                    f"{stored.subject} holds no schedule: {error}",
                    hint="Purge that subject of the queue's LATER stream",
                ) from None
        return sorted(found, key=lambda schedule: schedule.name)

    async def remove(self, name: str) -> bool:
        """Remove a schedule and what is known of its last run; whether there was one."""
        found = await self._queue.remove_schedule(check_schedule(name))
        mark = await self._queue.read_record(tick_id(name))
        if mark is not None:
            try:
                await self._queue.write_record(tick_id(name), mark.body, mark.seq, 1.0)
            except WrongSequence:
                pass  # a run has just been made of a tick that was under way
        return found

    async def _shown(self, plan: Plan, stored: StoredMessage) -> Schedule:
        mark = await self._queue.read_record(tick_id(plan.name))
        last = None if mark is None else decode_last_run(mark.body) or None
        return plan.shown(stored.stored_at, last)


def _after(plan: Plan, stored: StoredMessage) -> Plan:
    """The plan that replaces this one: with the same rhythm, what was missed stays missed."""
    try:
        old = decode_plan(stored.body)
    except Undecodable:
        return plan
    if old.rhythm != plan.rhythm:
        return plan
    if encode_plan(replace(old, since=None)) == encode_plan(plan):
        return replace(plan, since=old.since)  # nothing has changed
    return replace(plan, since=old.since or stored.stored_at)
