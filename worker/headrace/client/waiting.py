"""Waiting for results: pushed by the worker, read from the record where a push was lost."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from dataclasses import dataclass

from headrace.broker.port import BrokerQueue
from headrace.client.outcome import record_in
from headrace.errors import BrokerError, NotRunning, TaskNotFound, WaitTimeout
from headrace.wire import Record, Undecodable, decode_record

log = logging.getLogger("headrace.client")

_FIRST_LOOK = 1.0  # seconds until a record is read, in case its reply was lost
_SLOWEST_LOOK = 5.0
_GONE_LOOKS = 3
"""Looks at replicated streams that find nothing, `_SLOWEST_LOOK` apart, until a task is unknown."""
_FOREIGN_LOOK = 0.05  # seconds; nobody pushes the results of tasks that others submitted
_TICK = 0.05
_LOOKS_AT_ONCE = 32
# Own tasks that are looked at in a tick: 640 a second. Their replies come by themselves, and looks
# that grow with what is under way would slow down a client and a server that are behind already.
_OWN_LOOKS = 32
_OWN_TASKS = 20_000  # remembered as submitted here, so that their replies come here


@dataclass(slots=True, eq=False)
class _Waiter:
    task_id: str
    future: asyncio.Future[Record]
    pause: float
    found_nothing: int = 0


class _Due:
    """Waiters by the time of their next look."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Waiter]] = []
        self._order = itertools.count()

    def push(self, at: float, waiter: _Waiter) -> None:
        """Look at this one then."""
        heapq.heappush(self._heap, (at, next(self._order), waiter))

    def take(self, now: float, most: int | None = None) -> list[_Waiter]:
        """Those whose time has come and who still wait, the most overdue first."""
        found: list[_Waiter] = []
        while self._heap and self._heap[0][0] <= now and (most is None or len(found) < most):
            waiter = heapq.heappop(self._heap)[2]
            if not waiter.future.done():
                found.append(waiter)
        return found

    def clear(self) -> None:
        """Look at nobody."""
        self._heap.clear()


class Waiters:
    """Who waits for which task, in one client on one event loop."""

    def __init__(self, queue: BrokerQueue) -> None:
        self._queue = queue
        self._waiters: dict[str, list[_Waiter]] = {}
        self._own: dict[str, None] = {}
        self._due = {False: _Due(), True: _Due()}  # own and foreign tasks
        self._loop = asyncio.get_running_loop()
        self._looker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    def submitted(self, task_id: str) -> None:
        """A task was submitted here: its reply will come here."""
        self._own[task_id] = None
        if len(self._own) > _OWN_TASKS:
            del self._own[next(iter(self._own))]

    def is_own(self, task_id: str) -> bool:
        """Whether a task was submitted here, not too long ago, and has not ended as far as is known
        here: its reply may still come."""
        return task_id in self._own

    def expect(self, task_id: str, *, foreign: bool = False) -> asyncio.Future[Record]:
        """A future for the task's final record; registered before the task is submitted, so that
        no reply can be missed."""
        future: asyncio.Future[Record] = self._loop.create_future()
        pause = _FOREIGN_LOOK if foreign else _FIRST_LOOK
        waiter = _Waiter(task_id, future, pause)
        self._waiters.setdefault(task_id, []).append(waiter)
        self._due[foreign].push(self._loop.time() + pause, waiter)
        if self._looker is None or self._looker.done():
            self._looker = self._loop.create_task(self._look(), name="headrace-waiters")
        return future

    def forget(self, task_id: str, future: asyncio.Future[Record]) -> None:
        """Nobody waits on this future any more."""
        future.cancel()  # if it has no end yet: it is looked at no more
        left = [w for w in self._waiters.get(task_id, ()) if w.future is not future]
        if left:
            self._waiters[task_id] = left
        else:
            self._waiters.pop(task_id, None)

    def receive(self, _: str, body: bytes, __: str) -> None:
        """A reply."""
        try:
            record = decode_record(body)
        except Undecodable as error:
            log.warning("a reply was not understood: %s", error)
            return
        self.resolve(record)

    def resolve(self, record: Record) -> None:
        """The task has ended."""
        if not record.is_final:
            return
        self._own.pop(record.id, None)  # its reply has come: from now on the record is to be read
        for waiter in self._waiters.pop(record.id, ()):
            if not waiter.future.done():
                waiter.future.set_result(record)

    async def wait(
        self, task_id: str, future: asyncio.Future[Record], timeout: float | None
    ) -> Record:
        """The final record. Raises `WaitTimeout`, and what the look found (`TaskNotFound`)."""
        try:
            if timeout is None:
                return await future
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise WaitTimeout(task_id, timeout or 0.0) from None
        finally:
            self.forget(task_id, future)

    async def look_now(self, task_id: str) -> None:
        """Read the record at once: the task may have ended before anybody waited."""
        stored = await self._queue.read_record(task_id)
        if stored is not None:
            self.resolve(record_in(stored))

    def close(self) -> None:
        """Nobody waits any more."""
        if self._looker is not None:
            self._looker.cancel()
        for task_id, waiters in self._waiters.items():
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(_stopped(task_id))
                    waiter.future.exception()  # whoever waits gets it; else nobody is to hear of it
        self._waiters.clear()

    # --- the net under the replies ---

    async def _look(self) -> None:
        while self._waiters:
            await asyncio.sleep(_TICK)
            now = self._loop.time()
            own = self._due[False].take(now, _OWN_LOOKS)
            await self._look_at_all(own, self._due[False])
            await self._look_at_all(self._due[True].take(now), self._due[True])
        for due in self._due.values():
            due.clear()  # nobody of them waits any more

    async def _look_at_all(self, waiters: list[_Waiter], due: _Due) -> None:
        reachable = True
        for start in range(0, len(waiters), _LOOKS_AT_ONCE):
            some = waiters[start : start + _LOOKS_AT_ONCE]
            try:
                if reachable:
                    await asyncio.gather(*(self._look_at(waiter) for waiter in some))
            except BrokerError as error:
                log.debug("records are not readable just now: %s", error)
                reachable = False
            for waiter in some:
                if not waiter.future.done():
                    due.push(self._loop.time() + waiter.pause, waiter)

    async def _look_at(self, waiter: _Waiter) -> None:
        task_id = waiter.task_id
        waiter.pause = min(_SLOWEST_LOOK, waiter.pause * 1.6)
        stored = await self._queue.read_record(task_id)
        if stored is not None:
            try:
                self.resolve(record_in(stored))
            except BrokerError as error:
                if not waiter.future.done():
                    waiter.future.set_exception(error)
            return
        if waiter.pause < _SLOWEST_LOOK:
            return
        waiter.found_nothing = 0 if await self._is_there(task_id) else waiter.found_nothing + 1
        if waiter.found_nothing < (_GONE_LOOKS if self._queue.replicated else 1):
            return
        if not waiter.future.done():  # its record has expired
            waiter.future.set_exception(TaskNotFound(task_id))

    async def _is_there(self, task_id: str) -> bool:
        if await self._queue.find(task_id) is not None:
            return True
        if await self._queue.find_scheduled(task_id) is not None:
            return True
        # Between the two looks it may have moved, or ended.
        return (
            await self._queue.find(task_id) is not None
            or await self._queue.read_record(task_id) is not None
        )


def _stopped(task_id: str) -> NotRunning:
    return NotRunning(
        f"the client was stopped while task {task_id!r} was waited for",
        hint="On a durable broker the task goes on: wait for it with another client",
    )
