"""Users of an embedded server in processes of their own, and what is left when they have gone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.nats_servers import _end_with_parent

from headrace.broker.embedded.files import read_server

PROGRAM = Path(__file__).with_name("program.py")
PATIENCE = 20.0  # seconds: a slow machine is no failure, a hang is one


class User:
    """One process: `with User(url) as user`. It ends with the test, however that ends."""

    def __init__(self, url: str, cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            preexec_fn=_end_with_parent,
        )

    async def ready(self) -> dict[str, Any]:
        """Wait until it is connected; `folder`, and the facts of the server."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        facts: dict[str, Any] = json.loads(line)
        return facts

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> User:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE if kind is None else 0.1)
        finally:
            self.kill()
            self._process.stdout.close()


def facts_of(folder: Path) -> dict[str, Any]:
    """What the folder says of its server."""
    facts = read_server(folder)
    assert facts is not None
    return facts


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # a system without /proc: no telling
    return state != "Z"


async def lives_on(pid: int, seconds: float) -> bool:
    """Whether a process still runs after so long; False as soon as it has ended."""
    try:
        await gone(pid, within=seconds)
    except AssertionError:
        return True
    return False


async def gone(*pids: int, within: float = PATIENCE) -> float:
    """Wait for the end of these processes; the seconds that it took."""
    start = time.monotonic()
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() - start < within, f"still there: {left}"
        await asyncio.sleep(0.01)
    return time.monotonic() - start
