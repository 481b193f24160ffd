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
from headrace.errors import HeadraceError, PayloadTooLarge
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
_SPREAD = 5.0  # seconds in which workers that started or came back together begin to look
_AT_ONCE = 1_000  # copies that are looked at in one go
_ARRIVES = 2.0  # seconds in which what is acknowledged is stored


class DueCopies:
    """What one worker does about the due copies of its queue."""

    def __init__(
        self, connection: NatsConnection, queue: BrokerQueue, reader: StreamReader
    ) -> None:
        self._connection, self._names = connection, queue.names
        self._queue, self._reader = queue, reader
        self._to_drop: deque[tuple[str, int]] = deque()  # subjects and sequences
        self._purges: set[asyncio.Task[None]] = set()
        self._reconnected = asyncio.Event()
        self._looks: asyncio.Task[None] | None = None
        self._ended = False

    def begin(self) -> None:
        """Look soon, whenever the connection is new, which may be a restart's, and every while."""
        self._connection.on_reconnect.append(self._reconnected.set)
        self._looks = asyncio.get_running_loop().create_task(self._look_always())

    async def end(self) -> None:
        """Look no more, and drop what was delivered, if that takes no time."""
        self._ended = True
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
        self._drop(f"{self._names.due}{lane.tokens}.{task_id}", seq)

    def _drop(self, subject: str, seq: int) -> None:
        self._to_drop.append((subject, seq))
        if len(self._purges) < _PURGES_AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._purge())
            self._purges.add(task)
            task.add_done_callback(self._purges.discard)

    async def _purge(self) -> None:
        while self._to_drop:
            subject, seq = self._to_drop.popleft()
            try:
                await streams.purge(self._connection, self._names.later_stream, subject, seq)
            except HeadraceError as error:
                log.debug("due copies were not dropped: %s", error)
                self._to_drop.clear()

    async def _look_always(self) -> None:
        pause = random.uniform(0.0, _SPREAD)
        # Not only cancelled: nats-py's `wait_for` swallows that together with an answer.
        while not self._ended:
            await asyncio.sleep(pause)
            self._reconnected.clear()
            await self._look_and_log()
            pause = random.uniform(0.0, _SPREAD)
            try:
                async with asyncio.timeout(_LOOK_EVERY * random.uniform(0.5, 1.5)):
                    await self._reconnected.wait()
            except TimeoutError:
                pause = 0.0

    async def _look_and_log(self) -> None:
        try:
            await self._look()
        except (ApiError, HeadraceError) as error:
            code = getattr(error, "code", None)
            if code not in (streams.STREAM_NOT_FOUND, streams.CONSUMER_NOT_FOUND):
                log.debug("the due copies of %s are not known: %s", self._names.queue, error)
        except Exception:  # a fault of ours must not end the looks for good
            log.exception("due copies were not looked at")

    async def _look(self) -> None:
        """Drop what was acknowledged; what of it never arrived is scheduled again first."""
        copy = await self._next_copy(1)
        if copy is None:
            return
        call = f"CONSUMER.INFO.{self._names.later_stream}.{streams.LATER_CONSUMER}"
        floor = int((await self._connection.api(call))["ack_floor"]["stream_seq"])
        missing: list[StoredMessage] = []
        for _ in range(_AT_ONCE):
            if copy is None or copy.seq > floor:
                break
            if await self._has_arrived(copy):
                self._drop(copy.subject, copy.seq)
            else:
                missing.append(copy)
            copy = await self._next_copy(copy.seq + 1)
        if missing:
            await asyncio.sleep(_ARRIVES)
        for copy in missing:
            if await self._has_arrived(copy) or await self._scheduled_again(copy):
                self._drop(copy.subject, copy.seq)

    async def _next_copy(self, seq: int) -> StoredMessage | None:
        query = {"seq": seq, "next_by_subj": f"{self._names.due}>"}
        return await self._reader.get(self._names.later_stream, query)

    async def _has_arrived(self, copy: StoredMessage) -> bool:
        """Whether the work stream has the task, or its record tells of it."""
        try:
            lane, task_id = lane_and_id(copy.subject)
        except ValueError:
            return True  # no task's
        if task_id.startswith(tick_id("")):  # the next tick makes up for it
            return True
        found = await self._queue.find(task_id, lane)
        if found is not None and (found.body == copy.body or found.stored_at > copy.stored_at):
            return True  # itself or what came after it; else the attempt before it
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
        # A record that says *running* may be of a worker that died, or handed it back.
        return record.attempt > task.retry_count + 1

    async def _scheduled_again(self, copy: StoredMessage) -> bool:
        lane, task_id = lane_and_id(copy.subject)
        msg_id = f"{task_id}.due.{copy.seq}"  # the same one of all who look
        try:
            await self._queue.schedule(lane, task_id, copy.body, self._queue.now(), msg_id)
        except PayloadTooLarge as error:
            log.warning("task %s was due and never arrived, and stays there: %s", task_id, error)
            return False
        log.warning("task %s was due and never arrived: it is scheduled again", task_id)
        return True
