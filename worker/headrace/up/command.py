"""`headrace up`: a local pool until Ctrl-C, with a live view on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from headrace.jsondata import visible
from headrace.manifest import WorkerPoolManifest
from headrace.up.pool import LocalPool

_REFRESH = 0.25  # seconds
INTERRUPTED = 130


def broker_for(manifest: WorkerPoolManifest, folder: Path, url: str | None) -> str:
    """The url given, else the manifest's, else an embedded server beside the manifest."""
    chosen = url or manifest.spec.nats.url
    if chosen and not chosen.startswith("memory:"):
        return chosen
    return f"embedded://{(folder / '.headrace' / 'nats').absolute()}"


class Screen:
    """Shows a pool: live on a terminal, else one line an event (as JSON if asked for)."""

    def __init__(self, title: str, *, as_json: bool = False) -> None:
        self._title = title
        self._json = as_json
        self._events: deque[str] = deque(maxlen=8)
        self.live = sys.stderr.isatty() and not as_json and not os.environ.get("CI")
        self._live: Any = None

    def report(self, event: dict[str, Any]) -> None:
        """An event of the pool."""
        if self._json:
            print(json.dumps(event), flush=True)  # noqa: T201
            return
        line = f"{time.strftime('%H:%M:%S')}  {event['event']:<9} {visible(event['message'])}"
        self._events.append(line)
        if self._live is None:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        self.report({"event": "up", "at": time.time(), "message": text})

    async def show(self, pool: LocalPool) -> None:
        """Keep the live view current, until cancelled."""
        if not self.live:
            await asyncio.Event().wait()
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
            self._live = live
            try:
                while True:
                    live.update(self._render(pool))
                    await asyncio.sleep(_REFRESH)
            finally:
                self._live = None

    def _render(self, pool: LocalPool) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        view = pool.view
        table = Table(title=self._title, expand=False)
        for name in ("level", "waiting", "running"):
            table.add_column(name, justify="left" if name == "level" else "right")
        for row in view.depth.lanes if view.depth else ():
            name = row.lane.consumer
            table.add_row(name, str(row.waiting), str(row.running))
        workers = Table(expand=False)
        for name in ("worker", "state", "busy", "done", "failed"):
            workers.add_column(name)
        for worker in view.workers:
            info = worker.info
            workers.add_row(
                worker.id,
                worker.facts().state.value,
                "-" if info is None else f"{info.current_tasks}/{info.config.max_concurrent_tasks}",
                "-" if info is None else str(info.total_completed),
                "-" if info is None else str(info.total_failed),
            )
        wanted = f"wanted {view.target}: {visible(view.message)}"
        return Group(table, workers, *map(Text, (wanted, *self._events)))  # text, no markup


async def up(
    manifest: WorkerPoolManifest, folder: Path, url: str | None, *, as_json: bool = False
) -> int:
    """Run the pool until told to stop; the exit code."""
    chosen = broker_for(manifest, folder, url)
    screen = Screen(f"{manifest.spec.queue}", as_json=as_json)
    pool = LocalPool(manifest, folder, chosen, screen.report)
    stop, again = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (again if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    await pool.start()
    screen.say(f"pool {manifest.name} follows queue {manifest.spec.queue}; Ctrl-C drains")
    if not url:
        screen.say(f"other programs reach it with HEADRACE_URL={chosen}")
    view = asyncio.create_task(screen.show(pool))
    told_to, ended = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(pool.ended())
    await asyncio.wait({told_to, ended}, return_when=asyncio.FIRST_COMPLETED)
    view.cancel()
    told_to.cancel()
    await asyncio.gather(view, return_exceptions=True)
    code = await drain(pool, screen, again)
    if ended.done() and not ended.cancelled():
        ended.result()  # raises, if it ended by itself
    return code


async def drain(pool: LocalPool, screen: Screen, again: asyncio.Event) -> int:
    """Stop a pool, drained; a second signal hurries it. The exit code."""
    busy = sum(w.info.current_tasks for w in pool.view.workers if w.info is not None)
    screen.say(f"draining {busy} tasks, again to stop now")
    stopping = asyncio.ensure_future(pool.stop())
    hurry = asyncio.ensure_future(again.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        pool.hurry()
    hurry.cancel()
    await stopping
    screen.say("stopped" if not again.is_set() else "stopped; what was not finished is queued")
    return INTERRUPTED if again.is_set() else 0
