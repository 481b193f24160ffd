"""A work queue of keys: each key runs once at a time, and what is added meanwhile runs once more.

Many changes of one pool are one run, one slow pool holds up nobody, and one that fails is tried
again, later each time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from headrace_operator.errors import Conflict, OperatorError

K = TypeVar("K", bound=Hashable)
log = logging.getLogger("headrace_operator.loop")

_LONGEST_RUN = 30.0  # seconds
_AFTER_CONFLICT = 0.05
_FIRST_PAUSE, _MOST_PAUSE = 0.2, 60.0


class Keyed(Generic[K]):
    """`run(key)` answers in how many seconds the key should run again; None: when it is added."""

    def __init__(
        self,
        run: Callable[[K], Awaitable[float | None]],
        *,
        parallel: int = 8,
        failed: Callable[[K, BaseException], None] | None = None,
    ) -> None:
        self._run = run
        self._parallel = parallel
        self._failed = failed or (lambda key, error: None)
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        self._active: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._parallel)]

    async def stop(self) -> None:
        """End; what runs is cancelled."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def add(self, key: K) -> None:
        """Run this key soon; once, however often it is added until then."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key not in self._waiting:
            self._waiting[key] = time.monotonic()
            if key not in self._active:
                self._ready.put_nowait(key)

    def later(self, key: K, seconds: float) -> None:
        """Run this key in so many seconds; of two wishes the earlier one holds."""
        if key in self._waiting:
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def forget(self, key: K) -> None:
        """Its failures count no more."""
        self._failures.pop(key, None)

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the first key has been waiting; 0 if none waits."""
        now = time.monotonic()
        return now - min(self._waiting.values(), default=now)

    @property
    def alive(self) -> bool:
        """Whether it works as it should."""
        return bool(self._workers) and not any(each.done() for each in self._workers)

    async def _work(self) -> None:
        while not self._stopping:
            key = await self._ready.get()
            self._waiting.pop(key, None)
            self._active.add(key)
            again: float | None
            try:
                async with asyncio.timeout(_LONGEST_RUN):
                    again = await self._run(key)
                self._failures.pop(key, None)
            except Conflict:
                again = _AFTER_CONFLICT  # somebody wrote meanwhile: look again
            except Exception as error:  # one bad pool stops nobody
                again = self._pause(key, error)
            finally:
                self._active.discard(key)
                if key in self._waiting:
                    self._ready.put_nowait(key)
            if again is not None:
                self.later(key, again)

    def _pause(self, key: K, error: Exception) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        if isinstance(error, OperatorError | TimeoutError):
            log.warning("%s: %s", key, error or type(error).__name__)
        else:
            log.exception("%s failed", key)
        self._failed(key, error)
        most: float = min(_MOST_PAUSE, _FIRST_PAUSE * 2 ** min(count, 9))
        return most * random.uniform(0.5, 1)
