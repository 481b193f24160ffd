"""The end of an attempt: record, then acknowledge, then reply.

The final record is written with the sequence that it expects to replace. That fence lets exactly
one outcome of a task through: a worker whose task was cancelled, or given to somebody else after
its lease lapsed, finds its own outcome refused and drops it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from headrace.broker.port import Broker, BrokerQueue, Delivery, Leases, WrongSequence
from headrace.errors import BrokerError, InvalidData, PayloadTooLarge, QueueFull
from headrace.runtime.letters import Letters
from headrace.runtime.outcome import ERROR_LIMIT, Outcome, describe
from headrace.runtime.persist import persist
from headrace.runtime.run import Run
from headrace.task import ID_PATTERN, TaskStatus
from headrace.wire import (
    DEFAULT_RESULT_TTL,
    DeadLetter,
    Envelope,
    Reason,
    Record,
    Undecodable,
    decode_record,
    encode_record,
    encode_task,
)

log = logging.getLogger("headrace.worker")

UNKNOWN_TYPE_SPAN = 600.0
"""Seconds for which a task whose type no worker knows is tried again: a rolling deploy."""
_RECORD_HEADERS = 128  # bytes; the expected sequence and the time to live
_TASK_HEADERS = 1_024  # bytes; of a schedule, which names the task twice
_FITS = 5  # times that a body is made anew because the server's limit fell meanwhile
_TYPES_FRESH = 2.0  # seconds for which the answer to "who runs this type" is used
LEAVE_TIME = 0.2
"""Seconds until a task that a stopping worker hands back is delivered again. The worker's parked
pulls are gone by then; one of them would be answered with it, and nobody would read the answer."""
_MAX_PAUSE = 2.0
_TTL_ROUNDED = 1.0  # seconds: the server counts whole ones

T = TypeVar("T")


class Settler:
    """Writes how tasks end, for one worker."""

    def __init__(self, broker: Broker, queue: BrokerQueue, leases: Leases, worker_id: str) -> None:
        self._broker = broker
        self._queue = queue
        self._leases = leases
        self._worker_id = worker_id
        self._letters = Letters(broker, queue)
        self._asking = asyncio.Lock()
        self._types: set[str] = set()
        """Types that workers of this queue run; current until the monotonic time that follows."""
        self._types_until = 0.0

    @property
    def _limit(self) -> int:
        """Bytes of a record's or a letter's body, so that its headers have room."""
        return self._broker.max_payload - _RECORD_HEADERS

    async def settle(self, run: Run, outcome: Outcome) -> TaskStatus | None:
        """Make the outcome durable; the final state, QUEUED if another attempt follows, None if
        the outcome was refused because the task is not this run's any more.

        `outcome` is changed where it cannot be stored: a result that is too large, or no JSON, is
        a failure.
        """
        outcome.bound()
        if outcome.status is not TaskStatus.COMPLETED and outcome.retry and run.retries_left > 0:
            return await self._retry(run, outcome)
        return await self._final(run, outcome)

    # --- the last attempt ---

    async def _final(self, run: Run, outcome: Outcome) -> TaskStatus | None:
        if not await self._still_ours(run):
            return None
        return await self._fitting(lambda: self._end(run, outcome))

    async def _end(self, run: Run, outcome: Outcome) -> TaskStatus | None:
        body, reply = self._encode(run, outcome)
        dead = outcome.status is not TaskStatus.COMPLETED
        if dead:
            letter = self._letter(run.delivery, run.task, outcome, run.attempt)
            await self._letters.store(letter)
        written = await self._write(run, body)
        if written is None:
            if dead:
                await self._drop_dead_unless_failed(run)
            return None
        await self._queue.ack(run.delivery, run.task.result_ttl)
        await self._reply(run.task, reply)
        return outcome.status

    def _encode(self, run: Run, outcome: Outcome) -> tuple[bytes, bytes]:
        """The record to store and the reply to send. The outcome becomes a failure if the result
        is not JSON or too large. The task's own message is left out where it does not fit."""

        def encode() -> tuple[bytes, bytes]:
            return encode_record(self._record(run, outcome), run.task.lane, run.delivery.body)

        try:
            stored, reply = encode()
            if len(reply) > self._limit and outcome.status is TaskStatus.COMPLETED:
                size = len(reply) + _RECORD_HEADERS
                raise PayloadTooLarge("the result", size, self._broker.max_payload)
        except (InvalidData, PayloadTooLarge) as error:
            outcome.become(describe(error, Reason.RESULT, traceback=False))
            stored, reply = encode()
        if len(reply) > self._limit:  # the texts of a failure, on a server with a small limit
            outcome.shorten()
            stored, reply = encode()
        return stored if len(stored) <= self._limit else reply, reply

    def _record(self, run: Run, outcome: Outcome) -> Record:
        return Record(
            run.task.id,
            outcome.status,
            run.id,
            run.attempt,
            run.lost,
            self._worker_id,
            outcome.result,
            outcome.error,
            outcome.reason,
            outcome.remote_type,
            outcome.remote_traceback,
            run.started_at,
            time.time(),
            run.chunks,
        )

    async def _still_ours(self, run: Run) -> bool:
        """Whether the record's fence can tell if somebody else has settled the task, or else
        nobody has.

        Who did so after our lease lapsed left a record that lives for `result_ttl`. Only after
        that does the message tell: where the broker has lost it, the outcome is all there is.
        """
        now = time.monotonic()
        lapsed = now >= self._leases.sure_until(run.delivery)
        if not lapsed or now - run.began < run.task.result_ttl - _TTL_ROUNDED:
            return True
        if await persist(lambda: self._queue.present(run.delivery)):
            return True
        log.warning("the outcome of %s is dropped: its lease had lapsed and somebody settled it",
                    run.task.id)  # fmt: skip
        return False

    async def _write(self, run: Run, body: bytes, ttl: float | None = None) -> int | None:
        """Write the run's record over what it expects; None if the task is not ours any more."""
        ttl = run.task.result_ttl if ttl is None else ttl
        while True:
            expected = run.expected
            try:
                try:
                    run.expected = await self._queue.write_record(run.task.id, body, expected, ttl)
                except (BrokerError, QueueFull):  # now the long way, which tries on
                    run.expected = await persist(
                        lambda expected=expected: self._queue.write_record(  # type: ignore[misc]
                            run.task.id, body, expected, ttl
                        )
                    )
                return run.expected
            except WrongSequence:
                if not await self._resolve(run):
                    return None

    async def _resolve(self, run: Run) -> bool:
        """After a refusal: whether to try again, with the sequence that is there now."""
        stored = await persist(lambda: self._queue.read_record(run.task.id))
        if stored is None:
            run.expected = 0
            return True
        try:
            record = decode_record(stored.body)
        except Undecodable:
            run.expected = stored.seq
            return True
        if record.is_final:
            if record.run == run.id:  # our own write, whose answer was lost
                await self._queue.ack(run.delivery)
                return False
            log.info("the outcome of %s is dropped: it is %s already", run.task.id, record.status)
            await self._queue.ack(run.delivery)
            return False
        if record.run in ("", run.id) or record.attempt < run.attempt:
            run.expected = stored.seq
            return True
        if record.attempt > run.attempt:
            log.info("the outcome of %s is dropped: a later attempt is under way", run.task.id)
            return False
        # Another run of the same attempt. Whoever finishes first has done the task.
        run.expected = stored.seq
        return True

    async def _drop_dead_unless_failed(self, run: Run) -> None:
        stored = await persist(lambda: self._queue.read_record(run.task.id))
        if stored is not None:
            record = decode_record(stored.body)
            if record.status not in (TaskStatus.FAILED, TaskStatus.TIMEOUT):
                await self._letters.drop(run.task.id)

    async def _reply(self, task: Envelope, body: bytes) -> None:
        if task.reply:
            try:
                await self._broker.publish(self._queue.names.reply(task.reply), body)
            except (BrokerError, PayloadTooLarge):
                pass  # the waiting client reads the record sooner or later

    # --- another attempt ---

    async def _retry(self, run: Run, outcome: Outcome) -> TaskStatus | None:
        if not await self._still_ours(run):
            return None
        delay = outcome.delay
        if delay is None:
            delay = run.handler.backoff.delay(run.attempt)
        task = replace(
            run.task,
            retry_count=run.task.retry_count + 1,
            error=outcome.error,
            due_at=self._queue.now() + delay,
            unknown_since=None,
        )
        body = encode_task(task)
        room = self._broker.max_payload - _TASK_HEADERS
        if len(body) > room:
            body = encode_task(replace(task, error=None))
        if len(body) > room:  # published by hand, or where the server's limit has fallen
            return await self._too_large_for_a_retry(run, outcome, len(body))
        record = Record(
            task.id,
            TaskStatus.QUEUED,
            attempt=task.retry_count + 1,
            error=outcome.error,
            started_at=run.started_at,
        )
        stored, _ = encode_record(record, None, None)
        if len(stored) > self._limit:
            record.error = None
            stored, _ = encode_record(record, None, None)
        # The fence decides who may schedule the next attempt.
        if await self._write(run, stored, _while_running(task)) is None:
            return None
        try:
            # Of this message: one that is replayed counts its attempts from 1 again.
            msg_id = f"{task.id}.{task.retry_count}.{run.delivery.seq}"
            await self._schedule(task, body, msg_id)
        except PayloadTooLarge as error:  # the limit fell since: the record must not stay `queued`
            return await self._too_large_for_a_retry(run, outcome, error.size)
        await self._queue.ack(run.delivery)
        return TaskStatus.QUEUED

    async def _too_large_for_a_retry(
        self, run: Run, outcome: Outcome, size: int
    ) -> TaskStatus | None:
        outcome.error = f"{outcome.error} {self._no_room(size)}"
        return await self._final(run, outcome)

    def _no_room(self, size: int) -> str:
        limit = self._broker.max_payload
        return f"(not tried again: a task of {size:,} bytes, the server's limit is {limit:,} bytes)"

    async def _schedule(self, task: Envelope, body: bytes, msg_id: str) -> None:
        at = task.due_at or 0.0
        await persist(lambda: self._queue.schedule(task.lane, task.id, body, at, msg_id))

    async def unknown_type(self, delivery: Delivery, task: Envelope, known: str) -> None:
        """Nobody here runs this type: back by way of *later*. Every second or so while another
        worker of the queue does; else further and further apart, and a dead letter after the span
        in which nobody did."""
        now = self._queue.now()
        since = min(task.unknown_since or now, now)
        outcome = Outcome(TaskStatus.FAILED, error=f"NoHandler: {known}",
                          reason=Reason.UNKNOWN_TYPE)  # fmt: skip
        if await self._known_elsewhere(task.type):
            since, wait = now, random.uniform(0.5, 1.5)
        elif now - since >= UNKNOWN_TYPE_SPAN:
            await self.give_up(delivery, task, outcome, task.after)
            return
        else:
            wait = min(60.0, 1.0 + now - since)  # 1, 2, 4, … seconds, whatever the fleet
        again = replace(task, unknown_since=since, due_at=now + wait)
        try:
            # The id is of the message, not of the time: the same one is given back once, and what
            # comes again for the same reason is another message.
            await self._schedule(again, encode_task(again), f"{task.id}.u{delivery.seq}")
        except PayloadTooLarge as error:  # published by hand, at the server's very limit
            outcome.error = f"{outcome.error} {self._no_room(error.size)}"
            await self.give_up(delivery, task, outcome, task.after)
        else:
            log.warning("%s: tried again in %.0f s", known, wait)
            await self._queue.ack(delivery)

    async def _known_elsewhere(self, task_type: str) -> bool:
        """Whether a worker that answers runs this type, as of a moment ago."""
        async with self._asking:
            if time.monotonic() >= self._types_until:
                try:
                    rows = await self._queue.workers()
                except BrokerError as error:  # also a missing right: then only the span counts
                    log.debug("nobody could be asked for its types: %s", error)
                    rows = []
                self._types = {name for row in rows for name in row.get("types") or ()}
                self._types_until = time.monotonic() + _TYPES_FRESH
        return task_type in self._types

    # --- without a run ---

    async def give_up(
        self, delivery: Delivery, task: Envelope, outcome: Outcome, expected: int, lost: int = 0
    ) -> None:
        """End a task that is not started: a failed record and a dead letter."""
        outcome.bound()
        await self._fitting(lambda: self._give_up(delivery, task, outcome, expected, lost))

    async def _give_up(
        self, delivery: Delivery, task: Envelope, outcome: Outcome, expected: int, lost: int
    ) -> None:
        await self._letters.store(self._letter(delivery, task, outcome, task.retry_count + 1))
        record = Record(task.id, TaskStatus.FAILED, attempt=task.retry_count + 1, lost=lost,
                        error=outcome.error, reason=outcome.reason,
                        completed_at=time.time())  # fmt: skip
        stored, reply = encode_record(record, task.lane, delivery.body)
        if len(stored) > self._limit:
            stored = reply
        try:
            await persist(
                lambda: self._queue.write_record(task.id, stored, expected, task.result_ttl)
            )
        except WrongSequence:
            log.info("%s was settled by somebody else", task.id)
        else:
            await self._reply(task, reply)
        await self._queue.ack(delivery)

    async def undecodable(self, delivery: Delivery, problem: str) -> None:
        """A message that is no task: a dead letter with its bytes, and a record for its id."""
        problem = problem[:ERROR_LIMIT]
        log.warning("%r is no task: %s", delivery.subject, problem)
        await self._fitting(lambda: self._undecodable(delivery, problem))

    async def _undecodable(self, delivery: Delivery, problem: str) -> None:
        task_id = delivery.task_id
        if not re.fullmatch(ID_PATTERN, task_id):  # such as `*`: nothing may be stored under it
            task_id = f"undecodable-{delivery.seq}"
        letter = DeadLetter(task_id, Reason.UNDECODABLE, problem, delivery.subject,
                            delivery.body, failed_at=time.time(),
                            worker_id=self._worker_id)  # fmt: skip
        await self._letters.store(letter)
        record = Record(task_id, TaskStatus.FAILED, error=f"Undecodable: {problem}",
                        reason=Reason.UNDECODABLE, completed_at=time.time())  # fmt: skip
        stored, _ = encode_record(record, None, None)
        try:
            await persist(lambda: self._queue.write_record(task_id, stored, 0, DEFAULT_RESULT_TTL))
        except WrongSequence:
            pass  # a task of this id has ended before; its record stands
        await self._queue.ack(delivery)

    async def dropped(self, delivery: Delivery, task: Envelope, record: Record | None) -> None:
        """A task that has ended before: acknowledge, and reply once more, since the worker that
        ended it may have died before its reply."""
        await self._queue.ack(delivery)
        if record is not None and record.is_final:
            record.task = None
            await self._reply(task, encode_record(record, None, None)[1])

    # --- marks ---

    async def mark_running(self, run: Run) -> bool:
        """Write that the task runs; False if it is not ours any more."""
        run.marked = True
        return (
            await self._write(run, self.running_record(run), _while_running(run.task)) is not None
        )

    def running_record(self, run: Run) -> bytes:
        """The body of the record that says so."""
        record = Record(run.task.id, TaskStatus.RUNNING, run.id, run.attempt, run.lost,
                        self._worker_id, started_at=run.started_at)  # fmt: skip
        return encode_record(record, None, None)[0]

    async def hand_back(self, run: Run) -> None:
        """The worker stops before the task has ended: it is queued again, and nobody is lost."""
        if run.marking is not None:
            await run.marking
        record = Record(run.task.id, TaskStatus.QUEUED, attempt=run.attempt, lost=run.lost,
                        started_at=run.started_at)  # fmt: skip
        stored, _ = encode_record(record, None, None)
        if await self._write(run, stored, _while_running(run.task)) is not None:
            await self._queue.nak(run.delivery, LEAVE_TIME)

    def _letter(
        self, delivery: Delivery, task: Envelope, outcome: Outcome, attempts: int
    ) -> DeadLetter:
        return DeadLetter(
            task.id,
            outcome.reason,
            outcome.error or "",
            delivery.subject,
            delivery.body,
            task.type,
            outcome.remote_type,
            outcome.remote_traceback,
            attempts,
            time.time(),
            self._worker_id,
        )

    async def _fitting(self, settle: Callable[[], Awaitable[T]]) -> T:
        """Do it, and again if the server's limit fell between the making of a body and its
        sending: what was made anew fits."""
        for _ in range(_FITS):
            try:
                return await settle()
            except PayloadTooLarge as error:
                log.warning("not settled yet, the server takes less: %s", error.message)
        return await settle()


def _while_running(task: Envelope) -> float:
    """Seconds to keep a record that is not final: beyond the longest run and the longest wait."""
    wait = max(0.0, (task.due_at or 0.0) - time.time())
    return max(task.result_ttl, 86_400.0, wait + 86_400.0, 2 * (task.timeout or 0.0))
