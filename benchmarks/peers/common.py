"""The line protocol between the benchmark and the systems it measures.

Imported in every peer's own venv, so it needs nothing but the standard library. A peer module is
run in two roles: `drive` submits, counts and checks, told by JSON lines on stdin; `work` becomes
the system's worker, started as its own documentation says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

SLOTS = int(os.environ.get("BENCH_SLOTS", "1"))
PROCESSES = int(os.environ.get("BENCH_PROCESSES", "1"))
"""Of the worker, for a system that starts them itself."""
NATS = os.environ.get("BENCH_NATS", "")
REDIS = os.environ.get("BENCH_REDIS", "")
ONE_BY_ONE = os.environ.get("BENCH_KIND") == "latency"
"""Whether latency is measured: a system whose best settings differ for that gets those."""
_POLL = 0.005  # seconds between two looks at the number of results: 0.5 % of the shortest drain
_WARM_UP = 100
_marked = False


def option(name: str, default: Any) -> Any:
    """A setting of this peer: the one documented here, unless `--set peer.name=value` differs."""
    return json.loads(os.environ.get("BENCH_OPTIONS", "{}")).get(name, default)


def mark_first() -> None:
    """Called by every task: writes down when the first one of this process ran.

    All drains count from there, so that no system pays for the start of its worker. The monotonic
    clock is one for all processes of a machine.
    """
    global _marked
    if not _marked:
        _marked = True
        path = Path(os.environ["BENCH_MARKS"]) / str(os.getpid())
        path.write_text(repr(time.monotonic()))


class Peer:
    """What the benchmark asks of a system. Values are small whole numbers; tasks return theirs."""

    bulk: ClassVar[bool] = False
    """Whether the system has a way to submit many tasks at once or without waiting for each."""

    async def open(self) -> None:
        """Connect as a producer."""

    async def submit_one(self, values: range) -> None:
        """Submit these, one after the other, each stored before the next is sent."""
        raise NotImplementedError

    async def submit_bulk(self, values: range) -> None:
        """Submit these the fastest way the system has; all are stored on return."""
        raise NotImplementedError

    async def leave(self) -> None:
        """The producer goes, so that nothing but the worker takes part in the drain."""

    async def stored(self) -> int:
        """How many results are in the store now."""
        raise NotImplementedError

    async def results(self) -> list[Any]:
        """The stored result of every task, in the order of submission."""
        raise NotImplementedError

    async def once(self, value: int) -> Any:
        """Submit one task and wait for its result."""
        raise NotImplementedError


async def _submit(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    values = range(request["first"], request["first"] + request["count"])
    submit = peer.submit_bulk if request["bulk"] else peer.submit_one
    start = time.perf_counter()
    await submit(values)
    return {"seconds": time.perf_counter() - start}


async def _leave(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
    await peer.leave()
    return {}


async def _drain(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + request["within"]
    count = stored = 0
    while (stored := await peer.stored()) < request["count"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stored} of {request['count']} results")
        await asyncio.sleep(_POLL)
        count += 1
    return {"end": time.monotonic()}


async def _check(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    found = await peer.results()
    right = sum(1 for index, value in enumerate(found) if value == index)
    return {"right": right, "found": len(found)}


async def _latency(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    for value in range(_WARM_UP):
        await peer.once(value)
    taken: list[float] = []
    deadline = time.monotonic() + request["within"]
    for value in range(request["count"]):
        start = time.perf_counter()
        result = await peer.once(value)
        taken.append(time.perf_counter() - start)
        if result != value:
            raise ValueError(f"task {value} gave {result!r}")
        if time.monotonic() > deadline:
            break
    return {"seconds": taken}


_COMMANDS: dict[str, Callable[[Peer, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "submit": _submit,
    "leave": _leave,
    "drain": _drain,
    "check": _check,
    "latency": _latency,
}


async def _serve(peer: Peer, answers: Any) -> None:
    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    await peer.open()
    say({"bulk": peer.bulk})
    loop = asyncio.get_running_loop()
    # Read in a thread: a client whose loop is blocked would miss its server's pings.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            say(await _COMMANDS[request["do"]](peer, request))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def main(peer: Callable[[], Peer], work: Callable[[], None]) -> None:
    """Take the role that the command line names."""
    if sys.argv[1] == "work":
        work()
        return
    # Libraries print; what they print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(peer(), answers))
    else:
        uvloop.run(_serve(peer(), answers))


def become(*arguments: str) -> None:
    """Replace this process by a module's command line: the worker that the system ships."""
    os.execv(sys.executable, [sys.executable, "-m", *arguments])
