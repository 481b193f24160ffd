"""Due copies that stay in *later* although their acknowledgement is there.

A server that is killed may forget that it had dropped what was sourced, and remember that it was
(2.15.1): such a copy is never delivered again and never leaves. It would count as delayed, and be
taken for its task once that task's record has expired.

Acknowledgements of what is sourced are cumulative, so one may stand for a copy that never arrived.
That one is scheduled again before it is dropped.
"""

from __future__ import annotations

import asyncio
import logging

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.jetstream.reader import StreamReader
from headrace.broker.port import BrokerQueue, StoredMessage
from headrace.errors import HeadraceError
from headrace.task import TaskStatus
from headrace.wire import (
    Undecodable,
    decode_record,
    decode_task,
    lane_and_id,
    tick_id,
)

log = logging.getLogger("headrace.broker")

_AT_ONCE = 1_000  # copies that are looked at after one reconnect
_ARRIVES = 2.0  # seconds in which what is acknowledged is stored


class Leftovers:
    """Drops them: when a worker starts, and after each reconnect, which may be a restart's."""

    def __init__(
        self, connection: NatsConnection, queue: BrokerQueue, reader: StreamReader
    ) -> None:
        self._connection, self._names = connection, queue.names
        self._queue, self._reader = queue, reader
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look now, and whenever the connection is new."""
        self._connection.on_reconnect.append(self._look)
        self._look()

    def end(self) -> None:
        """Look no more."""
        if self._look in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._look)
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._look_and_log())

    async def _look_and_log(self) -> None:
        stream = self._names.later_stream
        try:
            await self._drop(stream)
        except ApiError as error:
            if error.code not in (streams.STREAM_NOT_FOUND, streams.CONSUMER_NOT_FOUND):
                log.debug("what is left in %s is not known: %s", stream, error)
        except HeadraceError as error:
            log.debug("what is left in %s is not known: %s", stream, error)

    async def _drop(self, stream: str) -> None:
        found = await self._connection.api(f"CONSUMER.INFO.{stream}.{streams.LATER_CONSUMER}")
        copies = await self._copies(stream, int(found["ack_floor"]["stream_seq"]))
        if not copies:
            return
        missing = [copy for copy in copies if not await self._arrived(copy)]
        if missing:
            await asyncio.sleep(_ARRIVES)
            for copy in missing:
                if not await self._arrived(copy):
                    await self._schedule_again(copy)
        every = f"{self._names.due}>"
        count = await streams.purge(self._connection, stream, every, copies[-1].seq)
        log.info("dropped %d due copies that were acknowledged before", count)

    async def _copies(self, stream: str, floor: int) -> list[StoredMessage]:
        """Due copies up to this sequence, oldest first."""
        copies: list[StoredMessage] = []
        seq = 1
        while seq <= floor and len(copies) < _AT_ONCE:
            query = {"seq": seq, "next_by_subj": f"{self._names.due}>"}
            copy = await self._reader.get(stream, query)
            if copy is None or copy.seq > floor:
                break
            copies.append(copy)
            seq = copy.seq + 1
        return copies

    async def _arrived(self, copy: StoredMessage) -> bool:
        """Whether the work stream has the task, or its record tells of it, or may have expired."""
        lane, task_id = lane_and_id(copy.subject)
        if task_id.startswith(tick_id("")):  # the next tick makes up for it
            return True
        if await self._queue.find(task_id, lane) is not None:
            return True
        waiting = await self._queue.find_scheduled(task_id)
        if waiting is not None and waiting.seq != copy.seq:
            return True  # a later attempt, or this one once more
        stored = await self._queue.read_record(task_id)
        try:
            task = decode_task(lane, task_id, copy.body)
            record = None if stored is None else decode_record(stored.body)
        except Undecodable:
            return True
        if record is None:
            return self._queue.now() - (task.due_at or 0.0) >= task.result_ttl
        if record.is_final:
            return stored is None or task.after != stored.seq  # else it is a failure's replay
        attempt = task.retry_count + 1
        return record.attempt > attempt or record.status is TaskStatus.RUNNING

    async def _schedule_again(self, copy: StoredMessage) -> None:
        lane, task_id = lane_and_id(copy.subject)
        log.warning("task %s was due and never arrived: it is scheduled again", task_id)
        msg_id = f"{task_id}.due.{copy.seq}"  # the same one of all who look
        await self._queue.schedule(lane, task_id, copy.body, self._queue.now(), msg_id)
