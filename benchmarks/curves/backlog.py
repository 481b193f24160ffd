"""So many tasks wait in one queue: what everything else costs meanwhile.

Every size has a server of its own, so that its memory is that of this backlog.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.children import MIB, Child, Scales, settled
from benchmarks.curves.figures import Curve, Put, put_times, say, timed
from benchmarks.servers import start_nats
from headrace import Client, QueueSettings, TaskPriority

QUEUE = "bench"
_AT_ONCE = 10_000
_LOOKS = 100
_STARTS = 200
_NAP = 0.005  # seconds of a task that waits, while critical ones overtake it
_DRAIN_FOR = 8.0  # seconds; a smaller backlog is empty before
_KEPT = 400  # ids of waiting tasks that are looked at and cancelled


async def measure(curve: Curve, size: int, console: Console) -> None:
    """All figures of one size."""
    put = curve.put(size)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        server, url = start_nats(folder)
        try:
            async with Client(url, QUEUE, max_queue_size=size + 100_000) as client:
                say(console, f"{size:,} tasks: submit")
                ids = await _fill(client, size, Scales.of(server), put)
                filled = time.monotonic()
                say(console, f"{size:,} tasks: stats, look, cancel")
                await _look(client, ids, put)
                say(console, f"{size:,} tasks: dispatch, overtaking")
                await _dispatch(client, url, folder, put)
                # Hand-backs of tasks that are older than a lease have more to rule out.
                await asyncio.sleep(filled + QueueSettings().ack_wait - time.monotonic())
                await _overtake(client, url, folder, put)
                say(console, f"{size:,} tasks: drain")
                await _drain(client, url, folder, put)
        finally:
            server.stop()


async def _fill(client: Client, size: int, server: Scales, put: Put) -> list[str]:
    await client.depth()
    me = psutil.Process()
    before, own = await settled(server), me.memory_info().rss / MIB
    chance, kept = random.Random(1), []
    began = time.perf_counter()
    for start in range(0, size, _AT_ONCE):
        count = min(_AT_ONCE, size - start)
        tasks = await client.submit_many([("work", n) for n in range(start, start + count)])
        share = max(1, _KEPT * count // size)
        kept += [task.id for task in chance.sample(tasks, min(share, count))]
    put("submit", size / (time.perf_counter() - began), "tasks/s")
    put("client_memory", me.memory_info().rss / MIB - own, "MiB more")
    after = await settled(server)
    put("server_memory", after, "MiB")
    put("server_memory_a_task", (after - before) * MIB / size, "bytes")
    chance.shuffle(kept)
    return kept


async def _look(client: Client, ids: list[str], put: Put) -> None:
    looks = min(_LOOKS, len(ids) // 2)
    put_times(put, "stats", await timed(looks, lambda _: client.depth()))
    put_times(put, "get_task", await timed(looks, lambda n: client.get_task(ids[n])))
    put_times(put, "cancel", await timed(looks, lambda n: client.cancel_task(ids[looks + n])))


async def _starts(client: Client, count: int, pause: float, **options: object) -> list[float]:
    """Milliseconds from submit to start, one task at a time."""
    chance, taken = random.Random(2), []
    for number in range(count + 5):
        began = time.monotonic()
        at = await client.submit("work", number, wait_timeout=30, **options)  # type: ignore[arg-type]
        if number >= 5:  # the first ones make the lane's consumer and warm up
            taken.append((at - began) * 1000)
        await asyncio.sleep(chance.uniform(0, pause))
    return taken


async def _dispatch(client: Client, url: str, folder: Path, put: Put) -> None:
    """A worker with free slots: it serves a tag, and the backlog has none."""
    options = {"url": url, "queue": QUEUE, "slots": 16, "tags": ["fast"], "untagged": False}
    with Child("worker", folder, **options).ready():
        put_times(put, "dispatch", await _starts(client, _STARTS, 0.002, tag="fast"))


async def _overtake(client: Client, url: str, folder: Path, put: Put) -> None:
    """A worker whose only slot is never free while the backlog lasts."""
    with Child("worker", folder, url=url, queue=QUEUE, slots=1, nap=_NAP).ready():
        count = 100  # during which at most some hundred tasks of the backlog run
        taken = await _starts(client, count, 2 * _NAP, priority=TaskPriority.CRITICAL)
        depth = await client.depth()
        put("overtake_left", depth.waiting, "tasks")
        put_times(put, "overtake", taken)


async def _drain(client: Client, url: str, folder: Path, put: Put) -> None:
    """One worker of 128 slots, tasks that do nothing, durable results."""
    waiting = (await client.depth()).waiting
    with Child("worker", folder, url=url, queue=QUEUE, slots=128).ready() as worker:
        deadline = time.monotonic() + _DRAIN_FOR
        seen = {"count": 0}
        while seen["count"] < waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            seen = await worker.asked("report")
        end = seen["last"] if seen["count"] >= waiting else seen["now"]
        put("drain", seen["count"] / (end - seen["first"]), "tasks/s")
        put("worker_memory", Scales.of(worker).memory(), "MiB")
