"""The worker processes of a local pool."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from headrace.manifest import PoolSpec, Untagged
from headrace.scaling import UNKNOWN, WorkerFacts
from headrace.worker_info import WorkerInfo

_PROBE_WITHIN = 2.0  # seconds
_PROBES_FAILED = 3  # in a row, until a worker counts as stuck


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One of them. `info` is what it last said of itself, None until it has answered."""

    id: str
    process: asyncio.subprocess.Process
    started: float = field(default_factory=time.monotonic)
    info: WorkerInfo | None = None
    answered: bool = False
    leaving: bool = False
    """Told to end."""
    probes_failed: int = 0

    @property
    def ended(self) -> bool:
        """Whether the process has gone."""
        return self.process.returncode is not None

    def facts(self) -> WorkerFacts:
        """For the scaling core."""
        if self.leaving or self.ended:
            return WorkerFacts.of(self.id, "gone", 0)
        if self.info is None:
            return WorkerFacts.of(self.id, "starting", 0, started=self.started)
        running = self.info.current_tasks if self.answered else UNKNOWN
        return WorkerFacts.of(
            self.id,
            self.info.status.value,
            running,
            self.info.config.max_concurrent_tasks,
            self.started,
        )


class Processes:
    """Starts, signals and reaps workers; each writes to a log of its own in `folder`."""

    def __init__(self, spec: PoolSpec, url: str, folder: Path) -> None:
        self._arguments = [spec.app or "", "--queue", spec.queue, "-c", str(spec.concurrency)]
        self._arguments += ["--processes", str(spec.processes)]  # whatever the environment says
        if spec.untagged is Untagged.LEAVE:
            self._arguments.append("--no-untagged")
        for tag in spec.tags:
            self._arguments += ["--tag", tag]
        self._url = url
        self._folder = folder
        self.all: dict[str, WorkerProcess] = {}

    async def start(self, cwd: Path, grace: float) -> WorkerProcess:
        """One more."""
        worker_id = f"worker-{secrets.token_hex(4)}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{worker_id}.log", "wb") as output:  # noqa: ASYNC230
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "headrace",
                "worker",
                *self._arguments,
                "--id",
                worker_id,
                "--grace",
                f"{grace:g}",
                cwd=cwd,
                env=os.environ | {"HEADRACE_URL": self._url, "HEADRACE_HEALTH_PORT": "0"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C is for the supervisor, which drains them
            )
        worker = WorkerProcess(worker_id, process)
        self.all[worker_id] = worker
        return worker

    def tell(self, infos: list[WorkerInfo]) -> None:
        """What the workers answered; who did not is unknown."""
        for worker in self.all.values():
            worker.answered = False
        for info in infos:
            found = self.all.get(info.id)
            if found is not None:
                found.info, found.answered = info, True

    def end(self, worker_id: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell one to end: it finishes what runs, within its grace."""
        worker = self.all[worker_id]
        worker.leaving = True
        if not worker.ended:
            worker.process.send_signal(number)

    def reap(self) -> list[WorkerProcess]:
        """Forget those that have ended; the ones that nobody had told to."""
        ended = [worker for worker in self.all.values() if worker.ended]
        for worker in ended:
            del self.all[worker.id]
        return [worker for worker in ended if not worker.leaving]

    async def stuck(self) -> list[WorkerProcess]:
        """Those whose `/livez` has failed several times in a row."""
        found = []
        for worker in list(self.all.values()):
            port = worker.info.metadata.get("health_port") if worker.info else None
            if not port or worker.leaving or worker.ended:
                continue
            alive = await is_alive(int(port))
            worker.probes_failed = 0 if alive else worker.probes_failed + 1
            if worker.probes_failed >= _PROBES_FAILED:
                found.append(worker)
        return found

    def last_words(self, worker: WorkerProcess) -> str:
        """The last line of its log, or the error that a hint follows."""
        try:
            lines = (self._folder / f"{worker.id}.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1]


async def is_alive(port: int) -> bool:
    """Whether the worker whose probes are on this port says so."""
    try:
        async with asyncio.timeout(_PROBE_WITHIN):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
