"""Schedules in memory, and their ticks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from headrace.broker.memory.alarm import Alarm
from headrace.broker.port import StoredMessage, WrongSequence
from headrace.rhythm import next_tick
from headrace.wire import Lane, QueueNames, tick_id

Tick = Callable[[Lane, str, bytes, float], None]
"""Lane, task id, body, and when the next one comes."""


class _Entry:
    __slots__ = ("lane", "next_at", "stored", "ticks")

    def __init__(self, stored: StoredMessage, lane: Lane, ticks: str) -> None:
        self.stored, self.lane, self.ticks = stored, lane, ticks
        self.next_at = next_tick(ticks, stored.stored_at)


class Schedules:
    """The schedules of one queue by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop, names: QueueNames, tick: Tick) -> None:
        self._loop, self._names, self._tick = loop, names, tick
        self._entries: dict[str, _Entry] = {}
        self._seq = 0
        self._alarm = Alarm(loop, self._due)

    def stop(self) -> None:
        """No timers any more."""
        self._alarm.cancel()

    def put(self, name: str, lane: Lane, body: bytes, ticks: str, expected: int) -> int:
        """Store it over the one with sequence `expected` (0: none). Raises `WrongSequence`."""
        old = self._entries.get(name)
        if expected != (0 if old is None else old.stored.seq):
            raise WrongSequence
        self._seq += 1
        subject = self._names.schedule(name)
        stored = StoredMessage(subject, body, self._seq, time.time())
        entry = self._entries[name] = _Entry(stored, lane, ticks)
        self._alarm.set(self._loop.time() + max(0.0, entry.next_at - time.time()))
        return self._seq

    def get(self, name: str) -> StoredMessage | None:
        """The schedule of this name."""
        found = self._entries.get(name)
        return None if found is None else found.stored

    def remove(self, name: str) -> bool:
        """Forget it; whether there was one."""
        return self._entries.pop(name, None) is not None

    def all(self) -> list[StoredMessage]:
        """The schedules, in the order in which they were stored."""
        return sorted((entry.stored for entry in self._entries.values()), key=lambda one: one.seq)

    def _due(self, now: float) -> float | None:
        wall = time.time()
        for name, entry in self._entries.items():
            if entry.next_at <= wall:
                following = next_tick(entry.ticks, entry.next_at)
                if following < wall:  # as a server that was away: one tick for all
                    following = next_tick(entry.ticks, wall)
                entry.next_at = following
                self._tick(entry.lane, tick_id(name), entry.stored.body, entry.next_at)
        waits = [max(0.0, entry.next_at - wall) for entry in self._entries.values()]
        return now + min(waits) if waits else None
