"""The worker processes of a run, started again when they die, as a supervisor would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.check import Life, Run
from tests.support.nats_servers import _end_with_parent

_AGAIN_AFTER = 0.3


class Member:
    """One place in the crew: a worker process, then the next."""

    def __init__(self, number: int, folder: Path, config: dict[str, Any], env: dict[str, str]):
        self.number = number
        self._folder = folder
        self._clock = folder / f"clock-{number}"
        self._clock.write_bytes(struct.pack("d", 0.0))
        self._config = config | {"clock": str(self._clock)}
        self._env = env
        self._log = folder / f"worker-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self.deaths: dict[int, float] = {}
        """Monotonic time of the end of every process."""

    @property
    def pid(self) -> int:
        """Of the present process."""
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> None:
        """Start a process."""
        self._count = getattr(self, "_count", 0) + 1
        effects = self._folder / f"effects-{self.number}-{self._count}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker",
                 json.dumps(self._config | {"effects": str(effects)})],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | self._env, preexec_fn=_end_with_parent,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def step_clock(self, seconds: float) -> None:
        """Let its wall clock be wrong by so much from now on."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    async def keep(self) -> None:
        """Start it again whenever it has ended."""
        while True:
            assert self._process is not None
            while self._process.poll() is None:  # a process sets no event
                await asyncio.sleep(0.02)
            self.deaths[self._process.pid] = time.monotonic()
            await asyncio.sleep(_AGAIN_AFTER)
            self.spawn()

    def end(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Crew:
    """All of them."""

    def __init__(self, folder: Path, size: int, config: dict[str, Any], env: dict[str, str]):
        self.folder = folder / "workers"
        self.folder.mkdir()
        self.members = [Member(number, self.folder, config, env) for number in range(size)]
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start them; `up` tells when they are there."""
        for member in self.members:
            member.spawn()
        self._keepers = [asyncio.create_task(member.keep()) for member in self.members]

    async def up(self, count: int, within: float = 60.0) -> None:
        """Wait until so many have begun to take tasks, ever."""
        deadline = time.monotonic() + within
        while sum(line["event"] == "up" for line in self.lines()) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} workers did not start")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for member in self.members:
            member.end()

    def lines(self) -> list[dict[str, Any]]:
        """What the handlers of all processes noted."""
        found = []
        for path in sorted(self.folder.glob("effects-*")):
            found += [json.loads(line) for line in path.read_text().splitlines()]
        return found

    def keeper(self, pid: int) -> int | None:
        """The lease keeper that a worker process started with."""
        ups = [line for line in self.lines() if line["event"] == "up" and line["pid"] == pid]
        return ups[-1]["keeper"] if ups else None


def runs_of(lines: list[dict[str, Any]]) -> list[Run]:
    """The runs that the lines tell of."""
    open_runs: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    runs = []
    for line in sorted(lines, key=lambda line: line["at"]):
        if line["event"] not in ("start", "end"):
            continue
        key = line["pid"], line["task"], line["attempt"]
        if line["event"] == "start":
            open_runs.setdefault(key, []).append(line)
            continue
        begun = open_runs[key].pop(0)
        runs.append(Run(line["task"], line["attempt"], line["level"], line["pid"],
                        begun["at"], line["at"], line["how"]))  # fmt: skip
    for left in open_runs.values():
        runs += [
            Run(line["task"], line["attempt"], line["level"], line["pid"], line["at"])
            for line in left
        ]
    return runs


def lives_of(lines: list[dict[str, Any]], deaths: dict[int, float]) -> list[Life]:
    """The worker processes that the lines tell of."""
    return [
        Life(line["pid"], line["slots"], line["at"], deaths.get(line["pid"]))
        for line in lines
        if line["event"] == "up"
    ]
