"""A burst on an empty pool: how soon the Deployment has its size, its pods are ready, the queue is
drained.

    scripts/cluster/ns .venv/bin/python -m benchmarks.burst [--quick] [--json FILE]

Needs a cluster (see pool_bench.py). A pool with ten slots a worker gets ten tasks for each worker
that it may have: 0 to 10 and 0 to 50 workers. Each size is measured twice: with pods that find no
node, so that only the operator is measured (`patch_ms`, which has the budget), and with real ones
that start on the nodes there are (`real_…`; a task holds its slot for 100 ms).

| metric | from the first submit to |
|---|---|
| `patch_ms`, `real_patch_ms` | the Deployment's size is the final one |
| `real_ready_s` | all its pods are ready |
| `real_drained_s` | every task has ended |
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tests.cluster.kube import apply

from benchmarks import report
from benchmarks.pool_bench import NOWHERE, PoolBench, config_map, rows_of, running
from benchmarks.report import Row

BUDGET = 2000.0  # ms, p95; docs/benchmarks.md
EACH = 10  # tasks a worker
APP = """
import asyncio
from headrace import Coordinator

app = Coordinator()


@app.handler("work")
async def work() -> None:
    await asyncio.sleep(0.1)
"""


def patched(bench: PoolBench, size: int, tries: int) -> list[float]:
    """Milliseconds until the size is written."""
    client, watch = bench.pool(f"patch-{size}", NOWHERE, maxWorkers=size, concurrency=EACH)
    found = []
    for _ in range(tries):
        time.sleep(1.5)
        asked = time.time()
        tasks = client.submit_many([("none", {})] * (size * EACH))
        at = watch.when(size, asked)
        found.append((at - asked) * 1000)
        for task in tasks:
            client.cancel_task(task.id)
        watch.when(0, at, 60)
    watch.close()
    client.stop()
    return found


def drained(bench: PoolBench, size: int, tries: int) -> tuple[list[float], ...]:
    """Milliseconds to the size, seconds to ready pods, seconds to an empty queue.

    The pool must stay at its size until all its pods have been ready, however soon the first of
    them have done the work.
    """
    apply(config_map(bench.namespace, "app", APP))
    client, watch = bench.pool(
        f"real-{size}",
        running("app"),
        maxWorkers=size,
        concurrency=EACH,
        app="app:app",
        scaling={"scaleDownWindow": "3m"},
    )
    found: tuple[list[float], ...] = ([], [], [])
    for _ in range(tries):
        asked = time.time()
        tasks = client.submit_many([("work", None)] * (size * EACH))
        found[0].append((watch.when(size, asked) - asked) * 1000)
        for task in tasks:
            client.wait_for(task.id, timeout=300)
        found[2].append(time.time() - asked)
        ready = watch.when_ready(size, asked, 300)
        found[1].append(ready - asked)
        watch.when(0, ready, 600)
        watch.when_ready(0, ready, 300)
    watch.close()
    client.stop()
    return found


def main(
    quick: Annotated[bool, typer.Option(help="0 to 10 only, few tries.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Bursts, on a real API server and real nodes."""
    console = Console()
    started = time.monotonic()
    about = report.machine([])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, PoolBench(Path(folder)) as bench:
        for size in (10,) if quick else (10, 50):
            name, tries, real = f"0 to {size}", 2 if quick else 10, 1 if quick else 2
            console.print(f"{name}: {tries} bursts of {size * EACH} without nodes")
            rows += rows_of("patch_ms", name, patched(bench, size, tries), BUDGET)
            console.print(f"{name}: {real} bursts with real pods")
            sized, ready, empty = drained(bench, size, real)
            rows += [
                report.row("real_patch_ms", name, "ms", sized),
                report.row("real_ready_s", name, "s", ready),
                report.row("real_drained_s", name, "s", empty),
            ]
    report.show_rows(console, rows)
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, rows)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
