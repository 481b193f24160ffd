"""What many pools cost one operator: processor, memory, age of decisions.

    scripts/cluster/ns .venv/bin/python -m benchmarks.pools [--quick] [--json FILE]

1,000 pools (100 with --quick) in one namespace, each with a queue of its own; a tenth of them has
waiting tasks and two workers that find no node. Measured over a minute after all have settled.
Needs a cluster by KUBECONFIG (`make cluster-up`), with nothing else on it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from tests.cluster.kube import apply, kubectl, until

from benchmarks import report
from benchmarks.pool_bench import NOWHERE, PoolBench
from benchmarks.report import Row
from headrace import Client

CPU_BUDGET, MEMORY_BUDGET, AGE_BUDGET = 1.0, 300.0, 5.0
_AT_ONCE = 50


async def fill(url: str, queues: list[str], tasks: int) -> None:
    """Make the queues, with so many tasks each."""

    async def one(queue: str) -> None:
        async with Client(url, queue) as client:
            await client.depth()
            if tasks:
                await client.submit_many([("none", {})] * tasks)

    for start in range(0, len(queues), _AT_ONCE):
        await asyncio.gather(*(one(queue) for queue in queues[start : start + _AT_ONCE]))


def settled(bench: PoolBench, pools: int, active: int) -> bool:
    """Every pool has been decided on, and the active ones have their size."""
    rows = json.loads(kubectl("get", "workerpools", "-n", bench.namespace, "-o", "json"))["items"]
    sizes = [(each.get("status") or {}).get("desiredReplicas") for each in rows]
    return len(sizes) == pools and sizes.count(2) == active and None not in sizes


def main(
    quick: Annotated[bool, typer.Option(help="A tenth of the pools, half the time.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Many pools, one operator."""
    console = Console()
    started = time.monotonic()
    about = report.machine([])
    pools, seconds = (100, 30) if quick else (1000, 60)
    active = pools // 10
    with tempfile.TemporaryDirectory() as folder, PoolBench(Path(folder)) as bench:
        names = [f"p{n}" for n in range(pools)]
        queues = [f"{bench.namespace}-{name}" for name in names]
        console.print(f"making {pools} queues, {active} of them with tasks")
        asyncio.run(fill(bench.nats, queues[:active], 15))
        asyncio.run(fill(bench.nats, queues[active:], 0))
        console.print(f"applying {pools} pools")
        bodies = [bench.manifest(name, NOWHERE, maxWorkers=10, concurrency=1) for name in names]
        for start in range(0, pools, 100):
            apply(*bodies[start : start + 100])
        until(lambda: settled(bench, pools, active), 300, 2, what="all settled")
        console.print(f"measuring for {seconds} s")
        rows = measured(bench, pools, seconds)
    report.show_rows(console, rows)
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, rows)


def measured(bench: PoolBench, pools: int, seconds: int) -> list[Row]:
    """Means and maxima over some time."""
    assert bench.operator.process is not None
    process = psutil.Process(bench.operator.process.pid)
    before, began = process.cpu_times(), time.monotonic()
    requests = _requests(bench)
    oldest = memory = 0.0
    while time.monotonic() - began < seconds:
        time.sleep(2)
        ages = [
            value
            for name, value in bench.operator.metrics().items()
            if name.startswith("headrace_operator_decision_age_seconds{")
        ]
        oldest = max(oldest, *ages)
        memory = max(memory, process.memory_info().rss / 2**20)
    taken = time.monotonic() - began
    after = process.cpu_times()
    cores = (after.user + after.system - before.user - before.system) / taken
    subject = f"{pools} pools"
    return [
        Row("cores", subject, round(cores, 3), "cores", None, CPU_BUDGET, cores <= CPU_BUDGET),
        Row("memory", subject, round(memory), "MiB", None, MEMORY_BUDGET, memory <= MEMORY_BUDGET),
        Row("oldest_decision", subject, round(oldest, 1), "s", None, AGE_BUDGET,
            oldest <= AGE_BUDGET),
        Row("requests", subject, round((_requests(bench) - requests) / taken, 1), "1/s"),
    ]  # fmt: skip


def _requests(bench: PoolBench) -> float:
    name = "headrace_operator_kube_requests_total"
    return sum(value for key, value in bench.operator.metrics().items() if key.startswith(name))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
