"""What became of a task: looking, cancelling, dead letters."""

from __future__ import annotations

import time

from headrace.broker.port import Broker, BrokerQueue, StoredMessage, WrongSequence
from headrace.client.outcome import letter_in, record_in, result_of
from headrace.errors import BrokerError, BrokerUnavailable, ConfigurationError, TaskNotFound
from headrace.task import Task, TaskResult, TaskStatus
from headrace.wire import (
    DeadLetter,
    Envelope,
    Record,
    Undecodable,
    decode_record,
    decode_task,
    encode_record,
    encode_task,
    lane_and_id,
    task_of_record,
)

_HOLDER_ANSWERS_WITHIN = 0.5
_CANCEL_TRIES = 20


class Inspector:
    """Looks into one queue."""

    def __init__(self, broker: Broker, queue: BrokerQueue) -> None:
        self._broker = broker
        self._queue = queue

    # --- looking ---

    async def task(self, task_id: str) -> Task | None:
        """The record; else the message, and whether a worker holds it; else nothing."""
        stored = await self._queue.read_record(task_id)
        message = None
        if stored is None or not record_in(stored).is_final:
            message = await self._message(task_id)
        if stored is None and message is None:
            stored = await self._queue.read_record(task_id)  # it may have ended between the looks
        if stored is not None:
            record = record_in(stored)
            task = task_of_record(record, message[1] if message else None)
            if not record.is_final and message is not None:
                task.status, task.due_at = record.status, message[1].due_at
            return task
        if message is None:
            return None
        found, envelope, waiting = message
        task = envelope.to_task()
        if waiting:
            return task
        position = await self._queue.delivered_up_to(envelope.lane)
        if found.seq <= position:
            await self._ask_holder(task)
        return task

    async def _message(self, task_id: str) -> tuple[StoredMessage, Envelope, bool] | None:
        """The task's message, decoded, and whether it waits in *later*."""
        found = await self._queue.find(task_id)
        later = False
        if found is None:
            found = await self._queue.find_scheduled(task_id)
            later = found is not None
        if found is None:
            found = await self._queue.find(task_id)  # it may have become due between the looks
        if found is None:
            return None
        try:
            return found, self._decode(found, task_id), later
        except Undecodable:
            return None  # no task: on its way to the dead letters

    def _decode(self, found: StoredMessage, task_id: str) -> Envelope:
        # of a waiting task and of one on its way there alike: ….<queue>.<priority>.<tag>.<id>
        lane, _ = lane_and_id("headrace.q." + found.subject.split(".", 2)[2])
        return decode_task(lane, task_id, found.body)

    async def _ask_holder(self, task: Task) -> None:
        answer = await self._broker.request(
            self._queue.names.holds(task.id), b"", _HOLDER_ANSWERS_WITHIN
        )
        if answer:
            record = decode_record(answer)
            task.status, task.worker_id = record.status, record.worker_id
            task.started_at = record.started_at

    # --- cancelling ---

    async def cancel(self, task_id: str) -> TaskResult:
        """Write the final record first: from then on no worker can end the task otherwise."""
        for _ in range(_CANCEL_TRIES):
            stored = await self._queue.read_record(task_id)
            record = None if stored is None else record_in(stored)
            message = await self._message(task_id)
            superseded = message is not None and stored is not None and (
                message[1].after == stored.seq
            )  # fmt: skip
            if record is not None and record.is_final and not superseded:
                if record.status is TaskStatus.CANCELLED:  # who wrote it may have come no further
                    await self._take_away(task_id, waits=message is not None)
                result = result_of(record)
                result.error = result.error or "Task already complete"
                return result
            if message is None and record is None:
                # It may have ended between the two looks: then there is a record by now.
                if await self._queue.read_record(task_id) is not None:
                    continue
                raise TaskNotFound(task_id)
            expected = stored.seq if stored is not None else 0
            envelope = message[1] if message is not None else None
            try:
                return await self._write_cancelled(task_id, record, envelope, expected)
            except WrongSequence:
                continue  # it has moved on: look again
        raise BrokerUnavailable(f"task {task_id} kept changing while it was to be cancelled")

    async def _write_cancelled(
        self, task_id: str, before: Record | None, task: Envelope | None, expected: int
    ) -> TaskResult:
        record = Record(
            task_id,
            TaskStatus.CANCELLED,
            attempt=before.attempt if before else (task.retry_count + 1 if task else 1),
            error="TaskCancelled: cancelled",
            started_at=before.started_at if before else None,
            completed_at=time.time(),
        )
        ttl = 3600.0
        body, reply = encode_record(record, None, None)
        if task is not None:
            ttl = task.result_ttl
            stored, _ = encode_record(record, task.lane, encode_task(task))
            if len(stored) < self._broker.max_payload - 1_024:
                body = stored
        await self._queue.write_record(task_id, body, expected, ttl)
        await self._take_away(task_id)
        if task is not None and task.reply:
            try:
                await self._broker.publish(self._queue.names.reply(task.reply), reply)
            except BrokerError:
                pass  # who waits reads the record
        return result_of(record)

    async def _take_away(self, task_id: str, waits: bool = True) -> None:
        """What follows the record of a cancel: nobody starts it, and who runs it stops."""
        if waits:
            await self._queue.remove(task_id)
        await self._broker.publish(self._queue.names.cancel(task_id), b"")

    # --- dead letters ---

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Oldest first."""
        return [letter_in(message) for message in await self._queue.list_dead(limit)]

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """One of them."""
        stored = await self._queue.read_dead(task_id)
        if stored is None:
            raise TaskNotFound(task_id)
        return await self._whole(stored)

    async def _whole(self, stored: StoredMessage) -> DeadLetter:
        """The letter with its message, also where that is a blob."""
        letter = letter_in(stored)
        if letter.raw_blob is not None:
            from headrace.blobs import Blobs

            letter.raw = await Blobs(self._link).open(letter.raw_blob).read()
        return letter

    async def _link(self) -> tuple[Broker, BrokerQueue]:
        return self._broker, self._queue

    async def drop(self, task_id: str) -> bool:
        """Delete one, and its blob; whether there was one."""
        stored = await self._queue.read_dead(task_id)
        return stored is not None and await self._drop(task_id, stored)

    async def _drop(self, task_id: str, stored: StoredMessage) -> bool:
        """Delete this one, and none that came after it."""
        there = await self._queue.remove_dead(task_id, stored.seq)
        if (blob := letter_in(stored).raw_blob) is not None:
            from headrace.blobs import Blobs

            await Blobs(self._link).delete(blob)
        return there

    async def replay(self, task_id: str) -> Task:
        """Put the task back with its attempts reset; the dead letter goes once it is stored."""
        found = await self._queue.read_dead(task_id)
        if found is None:
            raise TaskNotFound(task_id)
        letter = await self._whole(found)
        try:
            lane, _ = lane_and_id(letter.subject)
            task = decode_task(lane, task_id, letter.raw)
        except (Undecodable, ValueError) as error:
            raise ConfigurationError(
                f"dead letter {task_id!r} is no task: {error}",
                hint="Drop it with `headrace dead drop`, and submit the task anew",
            ) from None
        stored = await self._queue.read_record(task_id)
        task.after = stored.seq if stored is not None else 0
        task.retry_count, task.error, task.due_at, task.unknown_since = 0, None, None, None
        body = encode_task(task)
        # Of the letter: its record may have expired, and that of its last failure too.
        answer = await self._queue.put_soon(lane, task_id, body, f"{task_id}.r{found.seq}")
        await answer
        # Not one that the replayed task has left meanwhile.
        await self._drop(task_id, found)
        return task.to_task()
