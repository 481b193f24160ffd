"""The worker that these tests start, stop and kill: its handlers write what they do to a journal.

python -m tests.contract.faults.program '{"url": …, "queue": …, "journal": …, "slots": 1}'
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

CONFIG: dict[str, Any] = {
    "slots": 1,
    "ack_wait": 2.0,
    "replicas": 1,
    "skew": 0.0,  # seconds that this process's wall clock is wrong by
    "grace": 10.0,  # CANCEL_GRACE
    **json.loads(sys.argv[1]),
}

if CONFIG["skew"]:
    _true_time = time.time
    time.time = lambda: _true_time() + CONFIG["skew"]  # before anything of headrace looks at it

from headrace import CONTEXT, Context, QueueSettings, Worker, WorkerConfig  # noqa: E402
from headrace.runtime import engine  # noqa: E402

engine.CANCEL_GRACE = CONFIG["grace"]
_journal = os.open(CONFIG["journal"], os.O_WRONLY | os.O_APPEND)


def note(event: str, **fields: Any) -> None:
    """One line, in one write: whole even if the process is killed right after."""
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **fields}
    os.write(_journal, json.dumps(line).encode() + b"\n")


worker = Worker(
    config=WorkerConfig(max_concurrent_tasks=CONFIG["slots"], graceful_shutdown_timeout=5.0),
    url=CONFIG["url"],
    queue=CONFIG["queue"],
    settings=QueueSettings(ack_wait=CONFIG["ack_wait"], replicas=CONFIG["replicas"]),
)


def _begin(ctx: Context) -> None:
    note("start", task=ctx.task.id, type=ctx.task.type, attempt=ctx.attempt)


def _end(ctx: Context) -> None:
    note("end", task=ctx.task.id, type=ctx.task.type)


@worker.handler("work")
async def work(data: dict, *, ctx: Context = CONTEXT) -> dict:
    """Take `seconds`."""
    _begin(ctx)
    await asyncio.sleep(data.get("seconds", 0.0))
    _end(ctx)
    return {"did": data.get("n")}


@worker.handler("die")
async def die(data: dict, *, ctx: Context = CONTEXT) -> None:
    """End the process as the kernel would when memory runs out, or as a fault in C code would."""
    _begin(ctx)
    await asyncio.sleep(data.get("after", 0.0))
    if data.get("how") == "exit":
        os._exit(139)
    os.kill(os.getpid(), signal.SIGKILL)


@worker.handler("block")
async def block(data: dict, *, ctx: Context = CONTEXT) -> str:
    """Block the event loop for `seconds`."""
    _begin(ctx)
    time.sleep(data["seconds"])  # noqa: ASYNC251  # that is the point
    _end(ctx)
    return "blocked"


@worker.handler("hold_gil")
def hold_gil(data: dict, *, ctx: Context = CONTEXT) -> str:
    """Hold the GIL for `seconds`: no other thread of the process runs."""
    _begin(ctx)
    ctypes.PyDLL(None).usleep(int(data["seconds"] * 1e6))
    _end(ctx)
    return "held"


async def main() -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await worker.start()
    leases: Any = worker.leases
    note("ready", worker=worker.id, health_port=leases.health_port, keeper=leases.pid)
    await stop.wait()
    await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
