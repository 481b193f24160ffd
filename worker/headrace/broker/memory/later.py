"""Delayed tasks in memory, and the memory of message ids."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from headrace.broker.memory.alarm import Alarm
from headrace.broker.memory.schedules import Schedules
from headrace.broker.port import StoredMessage
from headrace.wire import Lane, QueueNames


class Window:
    """Message ids seen in the last `seconds`, with what they were stored as."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self._seqs: dict[str, int] = {}
        self._ends: deque[tuple[float, str]] = deque()

    def get(self, msg_id: str) -> int:
        """The sequence it was stored at, or 0."""
        now = self._loop.time()
        while self._ends and self._ends[0][0] <= now:
            del self._seqs[self._ends.popleft()[1]]
        return self._seqs.get(msg_id, 0)

    def add(self, msg_id: str, seq: int) -> None:
        """Remember an id that `get` has just not found."""
        self._seqs[msg_id] = seq
        self._ends.append((self._loop.time() + self._seconds, msg_id))


class Scheduled:
    """A delayed task."""

    __slots__ = ("body", "lane", "next_at", "seq", "stored_at", "task_id")

    def __init__(
        self, lane: Lane, task_id: str, body: bytes, seq: int, next_at: float | None = None
    ) -> None:
        self.lane, self.task_id, self.body, self.seq = lane, task_id, body, seq
        self.next_at = next_at
        self.stored_at = time.time()

    def stored(self, names: QueueNames) -> StoredMessage:
        """As the port shows it: with the subject under which it will be due."""
        subject = f"{names.due}{self.lane.tokens}.{self.task_id}"
        return StoredMessage(subject, self.body, self.seq, self.stored_at)


class Later:
    """The delayed tasks of one queue: one a task id, a newer one replaces the older.

    What is due enters the work stream in order; while that is full, it waits.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        names: QueueNames,
        dedupe_window: float,
        enter: Callable[[Scheduled], bool],
    ) -> None:
        self.overdue: OrderedDict[str, Scheduled] = OrderedDict()
        """Due, and waiting for room in the work stream."""
        self._loop, self._names, self._enter_work = loop, names, enter
        self._seen = Window(loop, dedupe_window)
        self._seq = 0
        self._waiting: dict[str, Scheduled] = {}
        self._times: list[tuple[float, int, Scheduled]] = []  # a heap; the replaced stay in it
        self._alarm = Alarm(loop, self._due)
        self.schedules = Schedules(loop, names, self._tick)

    def __len__(self) -> int:
        return len(self._waiting) + len(self.overdue)

    def stop(self) -> None:
        """No timers any more."""
        self._alarm.cancel()
        self.schedules.stop()

    def schedule(
        self, lane: Lane, task_id: str, body: bytes, at: float, msg_id: str
    ) -> tuple[int, bool]:
        """Store a task for later: its sequence here, and whether it was there."""
        if known := self._seen.get(msg_id):
            return known, True
        self._seq += 1
        scheduled = self._waiting[task_id] = Scheduled(lane, task_id, body, self._seq)
        self._seen.add(msg_id, self._seq)
        due = self._loop.time() + max(0.0, at - time.time())
        heapq.heappush(self._times, (due, self._seq, scheduled))
        self._alarm.set(due)
        return self._seq, False

    def find(self, task_id: str) -> StoredMessage | None:
        """The delayed task with this id."""
        found = self._waiting.get(task_id) or self.overdue.get(task_id)
        return None if found is None else found.stored(self._names)

    def remove(self, task_id: str) -> None:
        """Forget the delayed task with this id."""
        self._waiting.pop(task_id, None)
        self.overdue.pop(task_id, None)

    def enter(self) -> None:
        """Move what is due to the work stream, as far as there is room."""
        while self.overdue:
            task_id, first = next(iter(self.overdue.items()))
            if not self._enter_work(first):
                return
            self.overdue.pop(task_id)

    def _tick(self, lane: Lane, task_id: str, body: bytes, next_at: float) -> None:
        self._seq += 1
        self.overdue.pop(task_id, None)  # while the queue is full the newest takes its place
        self.overdue[task_id] = Scheduled(lane, task_id, body, self._seq, next_at)
        self.enter()

    def _due(self, now: float) -> float | None:
        while self._times and self._times[0][0] <= now:
            _, _, scheduled = heapq.heappop(self._times)
            if self._waiting.get(scheduled.task_id) is scheduled:  # else replaced or removed
                del self._waiting[scheduled.task_id]
                self.overdue[scheduled.task_id] = scheduled
        self.enter()
        return self._times[0][0] if self._times else None
