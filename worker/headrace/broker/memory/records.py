"""The state stream of one queue in memory: records and dead letters, each with a time to live."""

from __future__ import annotations

import asyncio
import heapq
import time

from headrace.broker.memory.alarm import Alarm
from headrace.broker.port import StoredMessage, WrongSequence
from headrace.wire import DEAD_TTL, QueueNames


class StateStream:
    """One message a subject; all share one count of sequences."""

    def __init__(self, loop: asyncio.AbstractEventLoop, names: QueueNames) -> None:
        self._loop, self._names = loop, names
        self._seq = 0
        self._records: dict[str, StoredMessage] = {}
        self._dead: dict[str, StoredMessage] = {}  # by sequence
        self._ends: list[tuple[float, int, str, bool]] = []  # a heap; the replaced stay in it
        self._alarm = Alarm(loop, self._expire)

    def stop(self) -> None:
        """No timers any more."""
        self._alarm.cancel()

    @property
    def dead(self) -> int:
        """How many dead letters there are."""
        self._expire(self._loop.time())
        return len(self._dead)

    def read_record(self, task_id: str) -> StoredMessage | None:
        """The record, unless it has expired."""
        self._expire(self._loop.time())
        return self._records.get(task_id)

    def write_record(self, task_id: str, body: bytes, expected: int, ttl: float) -> int:
        """Write over the record with sequence `expected` (0: none). Raises `WrongSequence`."""
        old = self.read_record(task_id)
        if expected != (0 if old is None else old.seq):
            raise WrongSequence
        stored = self._records[task_id] = self._message(self._names.state + task_id, body)
        # Whole seconds, as on the server.
        self._keep(stored.seq, task_id, max(1, round(ttl)), is_dead=False)
        return stored.seq

    def read_dead(self, task_id: str) -> StoredMessage | None:
        """The dead letter, unless it has expired."""
        self._expire(self._loop.time())
        return self._dead.get(task_id)

    def write_dead(self, task_id: str, body: bytes) -> None:
        """Store a dead letter, as the newest."""
        self._dead.pop(task_id, None)
        stored = self._dead[task_id] = self._message(self._names.dead + task_id, body)
        self._keep(stored.seq, task_id, DEAD_TTL, is_dead=True)

    def remove_dead(self, task_id: str, seq: int | None = None) -> bool:
        """Drop a dead letter, with `seq` none that is newer; whether there was one."""
        found = self._dead.get(task_id)
        if found is not None and seq is not None and found.seq > seq:
            return False
        return self._dead.pop(task_id, None) is not None

    def list_dead(self, limit: int) -> list[StoredMessage]:
        """The oldest `limit` dead letters."""
        self._expire(self._loop.time())
        return [letter for letter, _ in zip(self._dead.values(), range(limit), strict=False)]

    def _message(self, subject: str, body: bytes) -> StoredMessage:
        self._seq += 1
        return StoredMessage(subject, body, self._seq, time.time())

    def _keep(self, seq: int, task_id: str, ttl: float, *, is_dead: bool) -> None:
        end = self._loop.time() + ttl
        heapq.heappush(self._ends, (end, seq, task_id, is_dead))
        self._alarm.set(end)

    def _expire(self, now: float) -> float | None:
        while self._ends and self._ends[0][0] <= now:
            _, seq, task_id, is_dead = heapq.heappop(self._ends)
            table = self._dead if is_dead else self._records
            found = table.get(task_id)
            if found is not None and found.seq == seq:
                del table[task_id]
        return self._ends[0][0] if self._ends else None
