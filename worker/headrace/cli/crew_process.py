"""One process of a crew, from the crew's side."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from headrace.cli.serving import Options
from headrace.errors import HeadraceError

log = logging.getLogger("headrace.worker")

_OBEYS_WITHIN = 2.0  # seconds
_COUNTED = ("total_completed", "total_failed")
_LINE = 1 << 20  # bytes of the longest line: the facts name up to 200 tasks


class CrewProcess:
    """Starts it, tells it, and knows what it last said of itself."""

    def __init__(self, app_name: str, options: Options, patient: bool) -> None:
        self.options = options
        self.facts: dict[str, Any] = {}
        self.starts = 0
        self._app_name = app_name
        self._patient = patient
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ready: asyncio.Event
        self._before = dict.fromkeys(_COUNTED, 0)  # by the processes that this one replaces
        self._runs_before: dict[str, tuple[int, float]] = {}
        self._orders = 0
        self._asked: dict[int, asyncio.Future[None]] = {}

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> int:
        """Tasks that it has taken and not settled: at least 1 while it has not obeyed an order,
        since it may take one until then."""
        running = int(self.facts.get("current_tasks", 0))
        return max(1, running) if self._asked else running

    @property
    def health_port(self) -> int | None:
        """Where its keeper answers for it."""
        port = self.facts.get("metadata", {}).get("health_port")
        return int(port) if port else None

    def total(self, name: str) -> int:
        """Since the crew began."""
        return self._before[name] + int(self.facts.get(name, 0))

    @property
    def runs(self) -> dict[str, tuple[int, float]]:
        """`WorkerInfo.runs` since the crew began."""
        found = dict(self._runs_before)
        for level, (runs, seconds) in self.facts.get("runs", {}).items():
            before = found.get(level, (0, 0.0))
            found[level] = before[0] + runs, before[1] + seconds
        return found

    async def start(self, drain: Callable[[], float]) -> None:
        """Start it and wait until it works, drained for so many seconds: asked for when it is
        told, since an order that comes before finds nobody.

        Raises `HeadraceError` if it ends before.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "headrace.cli.member", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Its probes are the crew's to ask, and its figures the crew's to tell.
                env={k: v for k, v in os.environ.items() if k != "HEADRACE_METRICS_PORT"}
                | {"HEADRACE_HEALTH_PORT": "0", "HEADRACE_HEALTH_HOST": "127.0.0.1"},
                start_new_session=True,  # a Ctrl-C is for the crew, which drains them
            )
        self.starts += 1
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE)
        config = {
            "app": self._app_name,
            "options": self.options._asdict(),
            "patient": self._patient,
            "drain": drain(),
        }
        self._say(config)
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(reader))
        ready = asyncio.create_task(self._ready.wait())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not self._ready.is_set():
            code = await self.ended()
            raise HeadraceError(
                f"a process of the worker has ended with {code} before it took tasks",
                hint="Its reason is on stderr",
            )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                said = json.loads(line)
                self.facts = said["facts"]
                self._ready.set()
                asked = self._asked.pop(said.get("answers", 0), None)
                if asked is not None and not asked.done():
                    asked.set_result(None)
        except OSError:
            pass  # it has died

    async def order(self, what: dict[str, Any]) -> None:
        """Tell it, and wait a moment until it has obeyed; not one that is just not there."""
        if self._process is None or self._process.returncode is not None or self._writer is None:
            return  # one that is still loading its app obeys later, and counts as busy until then
        self._orders += 1
        answer = asyncio.get_running_loop().create_future()
        self._asked[self._orders] = answer
        self._say({"n": self._orders, **what})
        try:
            async with asyncio.timeout(_OBEYS_WITHIN):
                await answer
        except TimeoutError:
            log.warning("process %s does not answer", self.options.worker_id)

    def _say(self, what: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(what).encode() + b"\n")

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        assert self._process is not None
        code = await self._process.wait()
        if self._listening is not None:
            await self._listening  # its last words
        for name in _COUNTED:
            self._before[name] = self.total(name)
        self._runs_before = self.runs
        self.facts = {}
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
        self._asked.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def close(self) -> None:
        """End it at once, if it lives."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        await self._process.wait()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
