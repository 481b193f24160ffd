"""Workers as processes of their own, for tests that kill them.

What their handlers do stands in a journal: a file to which every process appends whole lines, so
that a test sees the effects of the tasks and not what the queue says of them. Every process ends
with the test: at the fixture's end, at exit, and on Linux also when the test process is killed.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from tests.support.nats_servers import _end_with_parent

from headrace import Client
from headrace.task import TaskStatus

MakeClient = Callable[..., Awaitable[Client]]
MakeWorker = Callable[..., Awaitable["WorkerProcess"]]

PATIENCE = 30.0  # seconds: a slow machine is no failure, a hang is one
PROGRAM = Path(__file__).parents[1] / "contract" / "faults" / "program.py"
_STEP = 0.01


class Journal:
    """What the handlers of all processes did, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def entries(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """All entries, or those of one event and with these fields."""
        lines = self.path.read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [
            entry
            for entry in found
            if (event is None or entry["event"] == event)
            and all(entry.get(name) == value for name, value in fields.items())
        ]

    def starts(self, **fields: Any) -> list[dict[str, Any]]:
        """The starts of handlers."""
        return self.entries("start", **fields)

    def runs(self) -> Counter[str]:
        """How often the handler of each task started."""
        return Counter(entry["task"] for entry in self.starts())

    async def until(
        self, condition: Callable[[Journal], Any], within: float = PATIENCE, what: str = ""
    ) -> Any:
        """Wait until `condition` is true of the journal; what it then was."""
        deadline = time.monotonic() + within
        while not (found := condition(self)):
            assert time.monotonic() < deadline, f"{what or 'it'} did not happen:\n{self._tail()}"
            await asyncio.sleep(_STEP)
        return found

    async def started(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """Wait for so many starts."""
        found: list[dict[str, Any]] = await self.until(
            lambda journal: found if len(found := journal.starts(**fields)) >= count else None,
            what=f"{count} starts with {fields}",
        )
        return found

    def _tail(self) -> str:
        return "\n".join(self.path.read_text().splitlines()[-20:])


class WorkerProcess:
    """One worker; `config` as the program's `Config` reads it."""

    def __init__(
        self, journal: Journal, config: dict[str, Any], env: dict[str, str] | None = None
    ) -> None:
        self.journal = journal
        self._config = config | {"journal": str(journal.path)}
        self._env = env or {}
        self._log = journal.path.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self.ready_as: dict[str, Any] = {}
        """What it said of itself when it was ready: `worker` (its id), `health_port`, `keeper`
        (the process id of its lease keeper)."""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._env,
                preexec_fn=_end_with_parent,
            )
        _running.add(self)

    async def start(self) -> WorkerProcess:
        """Start it and wait until it takes tasks."""
        self.spawn()
        await self.ready()
        return self

    async def ready(self) -> None:
        """Wait until it takes tasks."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.journal.entries("ready", pid=self.pid)):
            assert self.running, f"the worker has ended:\n{self._log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no start:\n{self._log.read_text()[-3000:]}"
            await asyncio.sleep(_STEP)
        self.ready_as = found[-1]

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        while self._process.poll() is None:  # a process sets no event
            await asyncio.sleep(_STEP)
        return self._process.returncode

    def kill(self, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal, SIGKILL by default; the monotonic time of it."""
        os.kill(self.pid, number)
        return time.monotonic()

    def close(self) -> None:
        """End it at once, if it lives."""
        _running.discard(self)
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Fleet:
    """Some workers that are started again when they die: `async with Fleet(…) as fleet`."""

    def __init__(
        self,
        journal: Journal,
        config: dict[str, Any],
        size: int,
        env: dict[str, str] | None = None,
    ) -> None:
        self.workers = [WorkerProcess(journal, config, env) for _ in range(size)]
        self.deaths: list[tuple[int, float]] = []
        """Process id and monotonic time of every end."""
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Fleet:
        for worker in self.workers:
            worker.spawn()
        try:
            for worker in self.workers:
                await worker.ready()
        except BaseException:
            self._close()
            raise
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        return self

    async def _keep(self, worker: WorkerProcess) -> None:
        while True:
            await worker.ended()
            self.deaths.append((worker.pid, time.monotonic()))
            worker.spawn()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        results = await asyncio.gather(*self._keepers, return_exceptions=True)
        self._close()
        for result in results:
            if not isinstance(result, asyncio.CancelledError):
                raise RuntimeError("the fleet lost its keeper") from result

    def _close(self) -> None:
        for worker in self.workers:
            worker.close()


class Finals:
    """Every final record that is stored, as the state stream delivers it: also one that another
    would have replaced. `async with Finals(url, queue) as finals`, once the queue is there."""

    def __init__(self, url: str, queue: str) -> None:
        self._url, self._queue = url, queue
        self._nats = NatsClient()
        self.statuses: dict[str, list[str]] = {}

    async def __aenter__(self) -> Finals:
        await self._nats.connect(self._url.split(","), max_reconnect_attempts=-1)
        await self._nats.jetstream().subscribe(
            f"headrace.state.{self._queue}.*", cb=self._receive, ordered_consumer=True
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._nats.close()

    async def _receive(self, msg: Msg) -> None:
        record = json.loads(msg.data)
        if TaskStatus(record["status"]).is_final:
            self.statuses.setdefault(record["id"], []).append(record["status"])

    async def of(self, ids: Iterable[str], within: float = PATIENCE) -> dict[str, list[str]]:
        """The final states of these tasks, once each has one."""
        wanted = set(ids)
        deadline = time.monotonic() + within
        while missing := wanted - self.statuses.keys():
            assert time.monotonic() < deadline, f"{len(missing)} have not ended: {missing}"
            await asyncio.sleep(_STEP)
        return {task_id: self.statuses[task_id] for task_id in wanted}


_running: set[WorkerProcess] = set()


@atexit.register
def _kill_the_rest() -> None:
    for worker in list(_running):
        worker.close()
