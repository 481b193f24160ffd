"""What a worker process does from its start to its end, alone or as one of several."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, NamedTuple

from headrace.broker.port import QueueSettings
from headrace.worker import Worker
from headrace.worker_info import WorkerConfig


def run(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    code: int = uvloop.run(coroutine)
    return code


class Options(NamedTuple):
    """What the command line and the environment say; None: what the app says."""

    url: str | None = None
    queue: str | None = None
    slots: int | None = None
    worker_id: str | None = None
    tags: list[str] = []  # noqa: RUF012  # never changed
    untagged: bool | None = None
    grace: float | None = None


def worker_of(app: Any, options: Options) -> Worker:
    """The worker that the app and the options describe, not started."""
    base = getattr(app, "worker_config", None) or getattr(app, "config", None)
    config = base if isinstance(base, WorkerConfig) else WorkerConfig()
    given: dict[str, Any] = {
        "max_concurrent_tasks": options.slots,
        "tags": options.tags or None,
        "serve_untagged": options.untagged,
        "graceful_shutdown_timeout": options.grace,
    }
    settings = getattr(app, "settings", None)
    return Worker(
        options.worker_id,
        replace(config, **{name: value for name, value in given.items() if value is not None}),
        url=options.url or app.url,
        queue=options.queue or app.queue,
        handlers=app.handlers,
        resources=getattr(app, "resources", None),
        settings=settings if isinstance(settings, QueueSettings) else None,
    )


class Signals:
    """SIGINT and SIGTERM: the first sets `stop`, the second `now`."""

    def __init__(self, first: Callable[[signal.Signals], None]) -> None:
        self.stop, self.now = asyncio.Event(), asyncio.Event()
        self._first = first
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told, number)

    def _told(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            self.now.set()
            return
        self.stop.set()
        self._first(number)

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it; False if a signal came before it was done. Raises what it raises."""
        doing = asyncio.ensure_future(work)
        told = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
            return False
        await doing
        return True


async def stop_worker(worker: Worker, now: asyncio.Event) -> int:
    """Let what runs finish, within its grace, until `now`; how many tasks were handed back."""
    draining = asyncio.ensure_future(worker.stop())
    hurry = asyncio.ensure_future(now.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        worker.hurry()
    hurry.cancel()
    return await draining


def say(text: str) -> None:
    """A line for who watches."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
