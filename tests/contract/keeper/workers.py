"""Worker processes that hold leases, and their probes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.support.nats_servers import _end_with_parent

ROOT = Path(__file__).parents[3]


class Answer(NamedTuple):
    """Of a probe."""

    code: int
    ok: bool
    reason: str


class HoldingWorker:
    """Holds the next task of a queue in a process of its own: `with HoldingWorker(…) as worker`."""

    def __init__(
        self, url: str, queue: str, ack_wait: float, env: dict[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.contract.keeper.program"),
                *(url, queue, str(ack_wait)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | (env or {}),
            preexec_fn=_end_with_parent,
        )
        self.pid = self._process.pid
        self._children: list[int] = []

    async def says(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        said: dict[str, Any] = json.loads(line)
        if "child" in said:
            self._children.append(said["child"])
        return said

    def tell(self, command: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def kill(self) -> float:
        """End it at once; the monotonic time of it."""
        self._process.kill()
        self._process.wait()
        return time.monotonic()

    def __enter__(self) -> HoldingWorker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for child in self._children:
            os.kill(child, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


async def probe(port: int, path: str) -> Answer:
    """Ask a health endpoint."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    answer = json.loads(body)
    assert f"Content-Length: {len(body)}".encode() in head
    return Answer(int(head.split()[1]), answer["ok"], answer.get("reason", ""))
