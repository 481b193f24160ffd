"""One measurement of one system: fresh servers, a producer, a worker, and what they answer."""

from __future__ import annotations

import json
import os
import select
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.servers import ROOT, Process
from benchmarks.systems import System

_SUBMIT_WITHIN = 90.0
_DRAIN_WITHIN = 90.0
_MARGIN = 15.0  # for an answer beyond the time that the work itself may take


class MeasurementError(Exception):
    """A system did not do what was measured."""


class Session:
    """A system that is up: its producer listens, its worker is started when asked for."""

    def __init__(
        self,
        system: System,
        python: str,
        folder: Path,
        stack: ExitStack,
        options: Mapping[str, Any],
    ) -> None:
        self.system = system
        self._folder = folder
        self._stack = stack
        self._marks = folder / "marks"
        self._marks.mkdir()
        self.env = self._environment(options)
        self._command = [python, "-m", f"benchmarks.peers.{system.module}"]
        self._workers: list[Process] = []
        self._driver: Process

    def _environment(self, options: Mapping[str, Any]) -> dict[str, str]:
        # Nothing of the caller's Headrace or Python settings may leak into what is measured.
        skip = ("HEADRACE_", "PYTHON", "CELERY_", "dramatiq_", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(skip)}
        return env | {
            # The Headrace of this checkout, wherever the installed one comes from.
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "worker")]),
            "BENCH_SLOTS": str(self.system.slots),
            "BENCH_PROCESSES": str(self.system.processes),
            "BENCH_MARKS": str(self._marks),
            "BENCH_OPTIONS": json.dumps(dict(options)),
        }

    def _start_servers(self) -> None:
        for name in self.system.servers:
            start = servers.start_nats if name == "nats" else servers.start_redis
            process, url = start(self._folder)
            self._stack.callback(process.stop)
            self.env[f"BENCH_{name.upper()}"] = url

    def open(self) -> bool:
        """Start the servers and the producer; whether it can submit in bulk."""
        self._start_servers()
        log = self._folder / "driver.log"
        self._driver = Process([*self._command, "drive"], log, self.env, pipes=True)
        self._stack.callback(self._driver.stop)
        return bool(self._answer(_MARGIN)["bulk"])

    def _answer(self, within: float) -> dict[str, Any]:
        stream = self._driver.child.stdout
        assert stream is not None
        ready, _, _ = select.select([stream], [], [], within)
        line = stream.readline() if ready else ""
        answer = json.loads(line) if line else {"error": self._driver.tail() or "no answer"}
        if "error" in answer:
            worker = f"\nits worker: {self._workers[-1].tail()}" if self._workers else ""
            raise MeasurementError(f"{self.system.subject}: {answer['error']}{worker}")
        found: dict[str, Any] = answer
        return found

    def ask(self, do: str, patience: float = _MARGIN, **arguments: Any) -> dict[str, Any]:
        """Let the producer do something. Raises `MeasurementError`."""
        stream = self._driver.child.stdin
        assert stream is not None
        stream.write(json.dumps({"do": do, **arguments}) + "\n")
        stream.flush()
        return self._answer(patience)

    def submit(self, first: int, count: int, *, bulk: bool) -> float:
        """Submit tasks; how many a second."""
        answer = self.ask("submit", _SUBMIT_WITHIN, first=first, count=count, bulk=bulk)
        return count / float(answer["seconds"])

    def start_worker(self) -> None:
        """Start the worker: one command, or as many as the system takes for several processes."""
        for _ in range(self.system.commands):
            worker = Process([*self._command, "work"], self._folder / "worker.log", self.env)
            self._workers.append(worker)
            self._stack.callback(worker.stop)

    def drain(self, count: int) -> float:
        """Start the worker and wait for all results; tasks a second from the first one's start."""
        self.ask("leave")
        self.start_worker()
        end = self.ask("drain", _DRAIN_WITHIN + _MARGIN, count=count, within=_DRAIN_WITHIN)["end"]
        first = min(float(mark.read_text()) for mark in self._marks.iterdir())
        self._stop_worker()
        checked = self.ask("check", _DRAIN_WITHIN)
        if checked["right"] != count:
            raise MeasurementError(f"{self.system.subject}: {checked} of {count} results")
        return count / (float(end) - first)

    def _stop_worker(self) -> None:
        for worker in self._workers:
            worker.stop()

    def latency(self, count: int, within: float) -> list[float]:
        """Seconds from submit to result, one task at a time."""
        self.start_worker()
        answer = self.ask("latency", within + 2 * _MARGIN, count=count, within=within)
        return [float(each) for each in answer["seconds"]]


@contextmanager
def session(
    system: System, python: str, options: Mapping[str, Any], kind: str
) -> Iterator[Session]:
    """A session with servers and a folder of its own; all of it is gone in the end.

    `kind` is "throughput" or "latency", for the systems whose best settings differ.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-"))
        opened = Session(system, python, Path(folder), stack, options)
        opened.env["BENCH_KIND"] = kind
        yield opened
