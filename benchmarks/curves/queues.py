"""So many queues on one server: each with its two streams and the consumers of a worker."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.children import Child, Scales, idle_cpu, settled
from benchmarks.curves.figures import Curve, put_times, say, timed
from benchmarks.servers import start_nats
from headrace.broker.connect import open_broker
from headrace.broker.port import Broker
from headrace.wire import lanes

_AT_ONCE = 16
_SWEEPS = 30


async def measure(curve: Curve, sizes: list[int], idle_for: float, console: Console) -> None:
    """All sizes on one server, which gets ever more of them."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        server, url = start_nats(folder)
        broker = await open_broker(url, "bench")
        try:
            made = 0
            scales = Scales.of(server)
            for size in sizes:
                say(console, f"{size:,} queues")
                put = curve.put(size)
                began = time.perf_counter()
                await _make(broker, range(made, size))
                put("create", (time.perf_counter() - began) * 1000 / (size - made), "ms a queue")
                made = size
                put("server_memory", await settled(scales), "MiB")
                put("server_files", scales.descriptors(), "open")
                put_times(put, "sweep", await timed(_SWEEPS, lambda _: broker.queues()))
                put("server_idle_cpu", (await idle_cpu([scales], idle_for))[0], "% of a core")
                options = {"url": url, "queue": "q0"}
                with Child("sweeper", folder, **options).ready() as sweeper:
                    await asyncio.sleep(2)
                    both = [Scales.of(sweeper), scales]
                    cpu = await idle_cpu(both, idle_for)
                    put("operator_sweep_cpu", cpu[0], "% of a core")
                    put("server_cpu_while_swept", cpu[1], "% of a core")
                    looks = await sweeper.asked("report")
                    if looks["failed"] or not looks["looks"]:
                        raise RuntimeError(f"the sweep failed: {looks}")
        finally:
            await broker.close()
            server.stop()


async def _make(broker: Broker, numbers: range) -> None:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with limit:
            queue = broker.queue(f"q{number}")
            await queue.ensure()
            await queue.ensure_lanes(lanes())

    await asyncio.gather(*(one(number) for number in numbers))
