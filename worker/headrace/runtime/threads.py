"""Threads for handlers that are plain functions.

Not a ThreadPoolExecutor: its threads are joined at exit, so that one handler that never returns
keeps the process alive, and a slot whose thread is abandoned would stay taken. Threads here are
daemons, made when needed and used again; an abandoned one is simply not counted.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any

_numbers = itertools.count(1)


class _Job:
    __slots__ = ("context", "function", "future")

    def __init__(self, future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        self.future = future
        self.function = function
        self.context = contextvars.copy_context()


class _Thread:
    """One thread with a mailbox."""

    def __init__(self, free: list[_Thread]) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._free = free
        name = f"headrace-handler-{next(_numbers)}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                value, error = job.context.run(job.function), None
            except BaseException as raised:  # also SystemExit: it ends the task, not the worker
                value, error = None, raised
            loop = job.future.get_loop()
            try:
                loop.call_soon_threadsafe(self._done, job.future, value, error)
            except RuntimeError:
                return  # the loop has ended while the function ran on
            del job, value, error

    def _done(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._free.append(self)
        if future.cancelled():
            return
        if error is None:
            future.set_result(value)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            future.set_exception(ThreadExit(error))


class ThreadExit(Exception):
    """A handler in a thread raised what a future cannot carry, such as SystemExit."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


class Threads:
    """The threads of one worker."""

    def __init__(self) -> None:
        self._free: list[_Thread] = []

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Start the function in a thread. Cancelling the future abandons the thread."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        thread = self._free.pop() if self._free else _Thread(self._free)
        thread.jobs.put(_Job(future, function))
        return future

    def close(self) -> None:
        """End the idle threads; the others end with the process."""
        while self._free:
            self._free.pop().jobs.put(None)
