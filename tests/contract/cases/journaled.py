"""The app that the tests of signals run by `headrace worker`; its handlers write a journal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

from headrace import CONTEXT, Context, Coordinator, CoordinatorConfig, QueueSettings, WorkerConfig

coordinator = Coordinator(
    CoordinatorConfig(auto_scale=False),
    WorkerConfig(max_concurrent_tasks=4, graceful_shutdown_timeout=20.0),
    queue=os.environ["HEADRACE_QUEUE"],
    settings=QueueSettings(ack_wait=15.0),
)


def note(event: str, ctx: Context) -> None:
    """One line, in one write."""
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), "task": ctx.task.id}
    with open(os.environ["JOURNAL"], "ab", buffering=0) as journal:
        journal.write(json.dumps(line).encode() + b"\n")


@coordinator.handler("work")
async def work(data: dict[str, Any], *, ctx: Context = CONTEXT) -> int:
    """Take `seconds`."""
    note("start", ctx)
    await asyncio.sleep(data["seconds"])
    note("end", ctx)
    return int(data.get("n", 0))


@coordinator.handler("leave")
async def leave(how: str, *, ctx: Context = CONTEXT) -> None:
    """What would end a process that is not careful, or does."""
    note("start", ctx)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "exit":
        raise SystemExit(0)
    if how == "_exit":
        os._exit(139)
    os.kill(os.getpid(), signal.SIGKILL)
