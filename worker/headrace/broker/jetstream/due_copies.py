"""Due copies: what the server's schedules fire, kept in *later* until its task has arrived.

The work stream sources them, and may acknowledge one that it never stored: acknowledgements of what
is sourced are cumulative, and a server that was cut off has been sent some for nothing (ADR 18).
So they are not dropped by that. The worker that is given the task drops its copy; one that is
acknowledged and stays is compared with the work stream, and scheduled again if it never arrived.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.jetstream.reader import StreamReader
from headrace.broker.port import BrokerQueue, StoredMessage
from headrace.errors import HeadraceError
from headrace.task import TaskStatus
from headrace.wire import (
    Lane,
    Undecodable,
    decode_record,
    decode_task,
    lane_and_id,
    tick_id,
)

log = logging.getLogger("headrace.broker")

_PURGES_AT_ONCE = 8
_LAST_PURGES = 1.0  # seconds that a worker which stops gives them
_LOOK_EVERY = 30.0  # seconds, on average
_AT_ONCE = 1_000  # copies that are looked at in one go
_ARRIVES = 2.0  # seconds in which what is acknowledged is stored


class DueCopies:
    """What one worker does about the due copies of its queue."""

    def __init__(
        self, connection: NatsConnection, queue: BrokerQueue, reader: StreamReader
    ) -> None:
        self._connection, self._names = connection, queue.names
        self._queue, self._reader = queue, reader
        self._arrived: deque[tuple[str, int]] = deque()
        self._purges: set[asyncio.Task[None]] = set()
        self._reconnected = asyncio.Event()
        self._looks: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look now, whenever the connection is new, which may be a restart's, and every while."""
        self._connection.on_reconnect.append(self._reconnected.set)
        self._looks = asyncio.get_running_loop().create_task(self._look_always())

    async def end(self) -> None:
        """Look no more, and drop what was delivered, if that takes no time."""
        if self._reconnected.set in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._reconnected.set)
        if self._looks is not None:
            self._looks.cancel()
        if self._purges:
            await asyncio.wait(self._purges, timeout=_LAST_PURGES)
        for task in self._purges:
            task.cancel()

    def arrived(self, lane: Lane, task_id: str, seq: int) -> None:
        """Drop this copy: its task was delivered. Not waited for; what fails is looked at later."""
        self._arrived.append((f"{self._names.due}{lane.tokens}.{task_id}", seq))
        if len(self._purges) < _PURGES_AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._purge_arrived())
            self._purges.add(task)
            task.add_done_callback(self._purges.discard)

    async def _purge_arrived(self) -> None:
        while self._arrived:
            subject, seq = self._arrived.popleft()
            try:
                await streams.purge(self._connection, self._names.later_stream, subject, seq)
            except HeadraceError as error:
                log.debug("due copies were not dropped: %s", error)
                self._arrived.clear()

    async def _look_always(self) -> None:
        while True:
            self._reconnected.clear()
            await self._look_and_log()
            try:
                # not all workers at the same time: one of them is enough
                pause = _LOOK_EVERY * random.uniform(0.5, 1.5)
                await asyncio.wait_for(self._reconnected.wait(), pause)
            except TimeoutError:
                pass

    async def _look_and_log(self) -> None:
        try:
            await self._look()
        except ApiError as error:
            if error.code not in (streams.STREAM_NOT_FOUND, streams.CONSUMER_NOT_FOUND):
                log.debug("the due copies of %s are not known: %s", self._names.queue, error)
        except HeadraceError as error:
            log.debug("the due copies of %s are not known: %s", self._names.queue, error)

    async def _look(self) -> None:
        """Drop what was acknowledged, and what of it never arrived is scheduled again first."""
        stream = self._names.later_stream
        if await self._next_copy(1) is None:
            return
        found = await self._connection.api(f"CONSUMER.INFO.{stream}.{streams.LATER_CONSUMER}")
        copies = await self._copies(int(found["ack_floor"]["stream_seq"]))
        if not copies:
            return
        missing = [copy for copy in copies if not await self._has_arrived(copy)]
        if missing:
            await asyncio.sleep(_ARRIVES)
            for copy in missing:
                if not await self._has_arrived(copy):
                    await self._schedule_again(copy)
        every = f"{self._names.due}>"
        count = await streams.purge(self._connection, stream, every, copies[-1].seq)
        log.debug("dropped %d due copies that were acknowledged before", count)

    async def _next_copy(self, seq: int) -> StoredMessage | None:
        query = {"seq": seq, "next_by_subj": f"{self._names.due}>"}
        return await self._reader.get(self._names.later_stream, query)

    async def _copies(self, floor: int) -> list[StoredMessage]:
        """Due copies up to this sequence, oldest first."""
        copies: list[StoredMessage] = []
        seq = 1
        while seq <= floor and len(copies) < _AT_ONCE:
            copy = await self._next_copy(seq)
            if copy is None or copy.seq > floor:
                break
            copies.append(copy)
            seq = copy.seq + 1
        return copies

    async def _has_arrived(self, copy: StoredMessage) -> bool:
        """Whether the work stream has the task, or its record tells of it."""
        lane, task_id = lane_and_id(copy.subject)
        if task_id.startswith(tick_id("")):  # the next tick makes up for it
            return True
        if await self._queue.find(task_id, lane) is not None:
            return True
        waiting = await self._queue.find_scheduled(task_id)
        if waiting is None or waiting.seq != copy.seq:
            return True  # dropped meanwhile; or a later attempt, or this one once more
        stored = await self._queue.read_record(task_id)
        if stored is None:
            return False
        try:
            task, record = decode_task(lane, task_id, copy.body), decode_record(stored.body)
        except Undecodable:
            return True
        if record.is_final:
            return task.after != stored.seq  # else it is a failure's replay
        attempt = task.retry_count + 1
        return record.attempt > attempt or record.status is TaskStatus.RUNNING

    async def _schedule_again(self, copy: StoredMessage) -> None:
        lane, task_id = lane_and_id(copy.subject)
        log.warning("task %s was due and never arrived: it is scheduled again", task_id)
        msg_id = f"{task_id}.due.{copy.seq}"  # the same one of all who look
        await self._queue.schedule(lane, task_id, copy.body, self._queue.now(), msg_id)
