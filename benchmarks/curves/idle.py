"""So many idle workers of 16 slots on one queue.

Each has a connection, its parked pulls and its announcement, as in a process of its own; but they
share a few processes, and those have one keeper of leases each: 500 interpreters would measure
Python. What a process with one worker takes is the row of one worker.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.children import Child, Scales, idle_cpu, settled
from benchmarks.curves.backlog import QUEUE, _starts
from benchmarks.curves.figures import Curve, put_times, say, timed
from benchmarks.servers import start_nats
from headrace import Client

_A_PROCESS = 50  # workers
_STARTS = 200


async def measure(curve: Curve, size: int, idle_for: float, console: Console) -> None:
    """All figures of one size."""
    say(console, f"{size:,} workers")
    put = curve.put(size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        server, url = start_nats(folder)
        stack.callback(server.stop)
        async with Client(url, QUEUE) as client:
            await client.depth()
            scales = Scales.of(server)
            before = await settled(scales)
            workers = []
            for start in range(0, size, _A_PROCESS):
                count = min(_A_PROCESS, size - start)
                options = {"url": url, "queue": QUEUE, "slots": 16, "workers": count}
                child = stack.enter_context(Child("worker", folder, **options))
                workers.append(child.ready())
            fleet = Scales.of(*workers)
            put("server_memory_a_worker", (await settled(scales) - before) * 1024 / size, "KiB")
            put("memory_a_worker", fleet.own_memory() / size, "MiB")
            server_cpu, fleet_cpu = await idle_cpu([scales, fleet], idle_for)
            put("server_idle_cpu", server_cpu, "% of a core")
            put("idle_cpu_a_worker", fleet_cpu / size, "% of a core")
            put_times(put, "dispatch", await _starts(client, _STARTS, 0.002))
            put_times(put, "stats", await timed(20, lambda _: client.depth()))
            answers: list[int] = []

            async def ask(_: int) -> None:
                answers.append(len(await client.get_workers()))

            put_times(put, "get_workers", await timed(5, ask))
            put("workers_seen", min(answers), "workers")
