"""How soon a pool on Kubernetes wakes up from zero: the Deployment's size, not the pods.

    scripts/cluster/ns .venv/bin/python -m benchmarks.scaling [--quick] [--json FILE]

Needs a cluster (see pool_bench.py). The operator runs as a process beside it. Pods of these pools
find no node; `kubectl get -w` tells when the Deployment was patched.

| metric | from | to |
|---|---|---|
| `from_zero_ms` (plain, tagged) | the submit | the Deployment's size is 1 |
| `from_zero_ms` (delayed, retry) | the moment it is due | the same |
| `operator_start_ms` | an operator's start, with a task that came while there was none | the same |
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import report
from benchmarks.pool_bench import NOWHERE, PoolBench, rows_of
from benchmarks.report import Row
from headrace import Retry, Worker

BUDGET = 300.0  # ms, p95; docs/benchmarks.md
RETRY_AFTER = 5.0  # seconds: longer than the pool takes to go back to zero


def from_zero(bench: PoolBench, kind: str, tries: int) -> list[float]:
    """Milliseconds from a task's being ready to the patch, on an idle pool at zero."""
    tags = ["gpu"] if kind == "tagged" else []
    client, watch = bench.pool(kind, NOWHERE, tags=tags)
    chance, found = random.Random(1), []
    for _ in range(tries):
        time.sleep(chance.uniform(1.0, 2.0))  # anywhere between two sweeps
        asked = time.time()
        options: dict[str, Any] = {"tag": "gpu"} if tags else {}
        if kind == "delayed":
            options["delay"] = chance.uniform(1.5, 2.5)
        task = client.submit_async("none", {}, **options)
        ready = asked + options.get("delay", 0.0)
        at = watch.when(1, asked)
        found.append((at - ready) * 1000)
        client.cancel_task(task.id)
        watch.when(0, at)
    watch.close()
    client.stop()
    return found


async def run_once(url: str, queue: str) -> float:
    """Run the task that waits, which asks for another attempt; when that is due."""
    due: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    worker = Worker(url=url, queue=queue)

    @worker.handler("again", retries=1)
    async def again() -> None:
        due.set_result(time.time() + RETRY_AFTER)
        raise Retry(delay=RETRY_AFTER)

    await worker.start()
    try:
        return await asyncio.wait_for(due, 20)
    finally:
        await worker.stop()


def from_zero_by_retry(bench: PoolBench, tries: int) -> list[float]:
    """The same for the second attempt of a task whose first was run beside the pool."""
    client, watch = bench.pool("retry", NOWHERE)
    found = []
    for _ in range(tries):
        asked = time.time()
        task = client.submit_async("again", {})
        due = asyncio.run(run_once(bench.nats, client.queue))
        emptied = watch.when(0, watch.when(1, asked))
        if emptied > due:
            raise RuntimeError("the pool was not back at zero when the retry came due")
        at = watch.when(1, emptied)
        found.append((at - due) * 1000)
        client.cancel_task(task.id)
        watch.when(0, at)
    watch.close()
    client.stop()
    return found


def operator_down(bench: PoolBench, tries: int) -> list[float]:
    """Milliseconds from an operator's start to the patch for a task that came before it."""
    client, watch = bench.pool("down", NOWHERE)
    found = []
    for _ in range(tries):
        time.sleep(1.5)
        bench.operator.kill()
        task = client.submit_async("none", {})
        asked = time.time()
        bench.operator.start()
        at = watch.when(1, asked)
        found.append((at - asked) * 1000)
        client.cancel_task(task.id)
        watch.when(0, at)
    watch.close()
    client.stop()
    return found


def main(
    quick: Annotated[bool, typer.Option(help="A few tries of each.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """From zero, on a real API server."""
    console = Console()
    started = time.monotonic()
    about = report.machine([])
    tries, starts = (5, 2) if quick else (30, 10)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, PoolBench(Path(folder)) as bench:
        for kind in ("plain", "tagged", "delayed"):
            console.print(f"from zero, {kind}: {tries} tries")
            rows += rows_of("from_zero_ms", kind, from_zero(bench, kind, tries), BUDGET)
        console.print(f"from zero, retry: {tries} tries")
        rows += rows_of("from_zero_ms", "retry", from_zero_by_retry(bench, tries), BUDGET)
        console.print(f"tasks that come before the operator: {starts}")
        down = operator_down(bench, starts)
        rows += rows_of("operator_start_ms", "process start included", down, None)
    report.show_rows(console, rows)
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, rows)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
