"""A handler that blocks its worker's event loop, or holds the GIL, for longer than three leases.

The tests run it with short leases; by hand it runs the true ones, 45 s at 15 s:

    python -m tests.contract.faults.blocked_loop [--type block|hold_gil] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when
from tests.support.workers import Finals, Journal, WorkerProcess

from headrace import Client, QueueSettings


@dataclass(slots=True)
class Seen:
    """What was seen of the blocked task."""

    runs: int
    """Starts of its handler, in two workers of which one was idle all the time."""
    states: list[str]
    """Its final states, each that was ever stored."""
    result: object
    seconds: float
    """From the start of the handler until the waiting client had the result."""
    livez: list[int]
    """Status codes of `/livez` while it was blocked."""
    status_meanwhile: str
    """What `get_task` said in the middle: a worker whose loop is blocked cannot say that it runs,
    so for a task that blocks from its first moment on this is `queued`."""


async def blocked(
    url: str, queue: str, journal: Journal, kind: str, seconds: float, ack_wait: float
) -> Seen:
    """Run one task that blocks for so long, beside an idle worker that would take it over."""
    config = {"url": url, "queue": queue, "ack_wait": ack_wait, "slots": 1}
    env = {"HEADRACE_HEALTH_PORT": "0"}
    workers = [WorkerProcess(journal, config, env) for _ in range(2)]
    try:
        for worker in workers:
            await worker.start()
        async with (
            Client(url, queue, settings=QueueSettings(ack_wait=ack_wait)) as client,
            Finals(url, queue) as finals,
        ):
            task = await client.submit_async(kind, {"seconds": seconds})
            waiter = asyncio.create_task(client.wait_for(task.id))
            (start,) = await journal.started(1)
            holder = next(worker for worker in workers if worker.pid == start["pid"])
            livez, status = [], ""
            while not waiter.done():
                livez.append(await probe(holder.ready_as["health_port"], "/livez"))
                if not status and time.monotonic() - start["at"] > seconds / 2:
                    found = await client.get_task(task.id)
                    status = found.status.value if found is not None else "unknown"
                await asyncio.wait([waiter], timeout=0.5)
            result = await waiter
            took = time.monotonic() - start["at"]
            # The other worker has taken and ended what came behind: nothing of this task is left.
            await client.submit("work", {}, wait_timeout=10)
            _, stored = await client.link()
            await depth_when(stored, lambda depth: depth.messages == 0)
            runs = journal.runs()[task.id]
            ends = (await finals.of([task.id]))[task.id]
            return Seen(runs, ends, result.result, took, livez, status)
    finally:
        for worker in workers:
            worker.close()


async def probe(port: int, path: str) -> int:
    """Status code of a health endpoint."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    return int(line.split()[1])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--type", choices=["block", "hold_gil"], default="block")
    parser.add_argument("--quick", action="store_true", help="7 s at 2 s")
    given = parser.parse_args()
    seconds, ack_wait = (7.0, 2.0) if given.quick else (46.0, 15.0)
    print(f"{given.type}: {seconds:g} s with leases of {ack_wait:g} s")
    with tempfile.TemporaryDirectory() as folder:
        server = NatsProcess(Path(folder) / "nats")
        try:
            server.start()
            journal = Journal(Path(folder) / "journal")
            seen = asyncio.run(
                blocked(server.url, "blocked", journal, given.type, seconds, ack_wait)
            )
        finally:
            server.stop()
    print(json.dumps(asdict(seen)))
    good = seen.runs == 1 and seen.states == ["completed"] and set(seen.livez) == {200}
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
