"""The worker of the soak, as `headrace worker benchmarks.soak.app:worker` runs it."""

from __future__ import annotations

from headrace import Context, Worker, WorkerConfig

worker = Worker(config=WorkerConfig(max_concurrent_tasks=128, tags=["soak"]))


@worker.handler("noop")
async def noop(value: int) -> int:
    """Nothing."""
    return value


@worker.handler("flaky")
async def flaky(value: int, ctx: Context) -> int:
    """Fails the first time."""
    if ctx.attempt == 1:
        raise ValueError("the first attempt fails")
    return value
