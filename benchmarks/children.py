"""The processes of the scale benchmarks, from the parent's side: asked by JSON lines, weighed."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.servers import ROOT, Process

_ANSWER_WITHIN = 30.0  # seconds
MIB = 2**20


class ChildError(Exception):
    """A process of the benchmark did not do what it was asked."""


def environment(**more: str) -> dict[str, str]:
    """Nothing of the caller's settings, and the Headrace of this checkout."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "PYTHON"))}
    paths = [str(ROOT), str(ROOT / "worker"), str(ROOT / "operator")]
    return env | {"PYTHONPATH": os.pathsep.join(paths)} | more


class Child(Process):
    """A role of `benchmarks.actors`, in a process of its own."""

    def __init__(self, role: str, folder: Path, **options: Any) -> None:
        self.role = role
        self._read = b""
        super().__init__(
            [sys.executable, "-m", "benchmarks.actors", role, json.dumps(options)],
            folder / f"{role}-{time.monotonic_ns()}.log",
            environment(),
            pipes=True,
        )

    def ready(self, within: float = 60.0) -> Self:
        """Wait until it works."""
        self._answer(within)
        return self

    def ask(self, do: str, within: float = _ANSWER_WITHIN, **arguments: Any) -> dict[str, Any]:
        """Let it do something. Raises `ChildError`."""
        stream = self.child.stdin
        assert stream is not None
        stream.write(json.dumps({"do": do, **arguments}) + "\n")
        stream.flush()
        return self._answer(within)

    async def asked(
        self, do: str, within: float = _ANSWER_WITHIN, **arguments: Any
    ) -> dict[str, Any]:
        """`ask`, from an event loop that has other things to do."""
        return await asyncio.to_thread(self.ask, do, within, **arguments)

    def _answer(self, within: float) -> dict[str, Any]:
        line = self._line(within)
        answer = json.loads(line) if line else {"error": self.tail() or "no answer"}
        if "error" in answer:
            raise ChildError(f"{self.role}: {answer['error']}")
        found: dict[str, Any] = answer
        return found

    def _line(self, within: float) -> bytes:
        """From the descriptor itself: what a buffer holds back, `select` does not see."""
        assert self.child.stdout is not None
        descriptor = self.child.stdout.fileno()
        deadline = time.monotonic() + within
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return b""
            some = os.read(descriptor, 2**16)
            if not some:
                return b""
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        return line


class Scales:
    """Weighs processes, each with what it has started (a worker's keeper of leases)."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]

    @classmethod
    def of(cls, *processes: Process) -> Scales:
        """Of processes of this benchmark."""
        return cls(process.child.pid for process in processes)

    def _all(self) -> list[psutil.Process]:
        found = []
        for root in self._roots:
            found += [root, *root.children(recursive=True)]
        return found

    def memory(self) -> float:
        """Resident memory in MiB; pages that processes share are counted in each."""
        return sum(each.memory_info().rss for each in self._all()) / MIB

    def own_memory(self) -> float:
        """Memory in MiB that would come free if they ended."""
        return sum(each.memory_full_info().uss for each in self._all()) / MIB

    def descriptors(self) -> int:
        """Open files, sockets and pipes."""
        return sum(each.num_fds() for each in self._all())

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        times = [each.cpu_times() for each in self._all()]
        return sum(each.user + each.system for each in times)


async def idle_cpu(scales: Sequence[Scales], seconds: float) -> list[float]:
    """Share of a core in percent that each used over some time in which nothing is asked of it."""
    before, began = [each.cpu_seconds() for each in scales], time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return [
        (each.cpu_seconds() - first) / took * 100
        for each, first in zip(scales, before, strict=True)
    ]


async def settled(scales: Scales, within: float = 6.0) -> float:
    """Memory once it has stopped moving, in MiB."""
    deadline = time.monotonic() + within
    last = scales.memory()
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        now = scales.memory()
        if abs(now - last) < 0.5:
            return now
        last = now
    return last
