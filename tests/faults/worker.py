"""The worker of a run. What its handlers do stands in a file of its own, whole lines at once.

python -m tests.faults.worker '{"url": …, "queue": …, "effects": …, "clock": …, "slots": 4}'
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CONFIG: dict[str, Any] = json.loads(sys.argv[1])

# The wall clock of this process: the true one and what the driver has written to the file. The
# whole of Headrace asks `time.time`; `datetime.now` is not stepped.
_clock = mmap.mmap(os.open(CONFIG["clock"], os.O_RDONLY), 8, prot=mmap.PROT_READ)
_true_time = time.time
time.time = lambda: _true_time() + struct.unpack("d", _clock[:8])[0]

from headrace import CONTEXT, Context, QueueSettings, Retry, Worker, WorkerConfig  # noqa: E402
from headrace.runtime import engine  # noqa: E402

engine.CANCEL_GRACE = CONFIG["grace"]
_effects = os.open(CONFIG["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(event: str, **fields: Any) -> None:
    """One line, in one write: whole also when the process is killed right after."""
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **fields}
    os.write(_effects, json.dumps(line).encode() + b"\n")


worker = Worker(
    config=WorkerConfig(
        max_concurrent_tasks=CONFIG["slots"],
        graceful_shutdown_timeout=CONFIG["drain"],
        starvation_limit=CONFIG["starvation_limit"],
    ),
    url=CONFIG["url"],
    queue=CONFIG["queue"],
    settings=QueueSettings(
        ack_wait=CONFIG["ack_wait"], replicas=CONFIG["replicas"], max_size=CONFIG["max_size"]
    ),
)


@contextmanager
def _noted(ctx: Context) -> Iterator[None]:
    who = {"task": ctx.task.id, "attempt": ctx.attempt, "level": int(ctx.task.priority)}
    note("start", **who)
    how = "ended"
    try:
        yield
    except asyncio.CancelledError:
        how = "cut"
        raise
    except Exception:
        how = "raised"
        raise
    finally:
        note("end", how=how, **who)


def _fail(data: dict, ctx: Context) -> None:
    if ctx.attempt <= data["fails"]:
        raise Retry(f"attempt {ctx.attempt}", delay=data["pause"])


@worker.handler("work")
async def work(data: dict, *, ctx: Context = CONTEXT) -> dict:
    """Take `seconds`; the first `fails` attempts raise."""
    with _noted(ctx):
        await asyncio.sleep(data["seconds"])
        _fail(data, ctx)
        return {"did": ctx.task.id}


@worker.handler("plain")
def plain(data: dict, *, ctx: Context = CONTEXT) -> dict:
    """The same in a thread."""
    with _noted(ctx):
        time.sleep(data["seconds"])
        return {"did": ctx.task.id}


@worker.handler("block")
async def block(data: dict, *, ctx: Context = CONTEXT) -> dict:
    """Block the event loop."""
    with _noted(ctx):
        time.sleep(data["seconds"])  # noqa: ASYNC251  # that is the point
        return {"did": ctx.task.id}


@worker.handler("gil")
def gil(data: dict, *, ctx: Context = CONTEXT) -> dict:
    """Hold the GIL: no thread of the process runs."""
    with _noted(ctx):
        ctypes.PyDLL(None).usleep(int(data["seconds"] * 1e6))
        return {"did": ctx.task.id}


@worker.handler("hang")
async def hang(data: dict, *, ctx: Context = CONTEXT) -> None:
    """Go on for `seconds`, whatever it is told."""
    end = time.monotonic() + data["seconds"]
    with _noted(ctx):
        while (left := end - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                pass


@worker.handler("poison")
async def poison(data: dict, *, ctx: Context = CONTEXT) -> None:
    """End the process, as the kernel does when memory runs out."""
    with _noted(ctx):
        await asyncio.sleep(data["seconds"])
        os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    """Until SIGTERM; a second one hands back at once."""
    stop = asyncio.Event()
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1
        stop.set()
        if told > 1:
            worker.hurry()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tell)
    await worker.start(patient=True)
    leases: Any = worker.leases
    note("up", worker=worker.id, keeper=leases.pid, slots=CONFIG["slots"])
    await stop.wait()
    await worker.stop()
    note("down")


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    asyncio.run(main())
