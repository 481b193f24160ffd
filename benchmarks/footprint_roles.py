"""The programs whose memory `benchmarks.footprint` looks at: a client, a worker. Public API only.

Told by lines on stdin, each answered by a line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import uvloop

from headrace import Client, Worker, WorkerConfig
from headrace.runtime.collector import tune_collector

QUEUE = "footprint"
_ROOM = 1_000_000
_AT_ONCE = 5_000

Answer = dict[str, Any]
Commands = dict[str, Callable[..., Awaitable[Answer]]]


async def _memory() -> Answer:
    gc.collect()
    return {"rss": psutil.Process(os.getpid()).memory_info().rss}


async def _submit(client: Client, type_: str, count: int) -> None:
    for start in range(0, count, _AT_ONCE):
        items = [(type_, value) for value in range(start, min(start + _AT_ONCE, count))]
        await client.submit_many(items)


async def client(url: str) -> Commands:
    """Submits, and waits for one task."""
    connected = await Client(url, QUEUE, max_queue_size=_ROOM).start()
    waiting: list[str] = []

    async def submit(type_: str) -> Answer:
        waiting.append((await connected.submit_async(type_, 1)).id)
        return {}

    async def wait() -> Answer:
        await connected.wait_for(waiting.pop(), timeout=60)
        return {}

    async def submit_many(count: str) -> Answer:
        await _submit(connected, "work", int(count))
        return {}

    return {"submit": submit, "wait": wait, "submit_many": submit_many, "warm": submit_many}


async def worker(url: str, slots: str) -> Commands:
    """Runs tasks that end at once, and some that do not."""
    one = Worker(config=WorkerConfig(max_concurrent_tasks=int(slots)), url=url, queue=QUEUE)
    held = asyncio.Semaphore(0)
    done = holding = 0
    changed = asyncio.Condition()

    async def work(value: int) -> int:
        return value

    async def hold(value: int) -> int:
        nonlocal holding
        holding += 1
        async with changed:
            changed.notify_all()
        await held.acquire()
        return value

    one.register_handler("work", work)
    one.register_handler("hold", hold)

    async def counted(_: str, __: Any) -> None:
        nonlocal done
        done += 1
        async with changed:
            changed.notify_all()

    one.on_task_complete(counted)

    async def start() -> Answer:
        await one.start()
        tune_collector()
        return {}

    async def finish(count: str) -> Answer:
        nonlocal done
        async with changed:
            await changed.wait_for(lambda: done >= int(count))
        done = 0
        return {}

    async def again(count: str) -> Answer:
        async with Client(url, QUEUE, max_queue_size=_ROOM) as submitter:
            await _submit(submitter, "work", int(count))
            return await finish(count)

    async def hold_some(count: str) -> Answer:
        async with Client(url, QUEUE, max_queue_size=_ROOM) as submitter:
            await _submit(submitter, "hold", int(count))
            async with changed:
                await changed.wait_for(lambda: holding >= int(count))
        return {}

    return {"start": start, "finish": finish, "again": again, "hold": hold_some}


async def _serve(make: Callable[..., Awaitable[Commands]], arguments: list[str]) -> None:
    commands = {"memory": _memory} | await make(*arguments)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *given = line.split()
        print(json.dumps(await commands[name](*given)), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve({"client": client, "worker": worker}[sys.argv[1]], sys.argv[2:]))
