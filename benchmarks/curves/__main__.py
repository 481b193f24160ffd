"""How the cost grows: with waiting tasks, with queues, with idle workers.

    python -m benchmarks.curves [--quick] [--only backlog,queues,workers] [--json FILE]

docs/scale.md says what is measured and what it means.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks import report
from benchmarks.curves import backlog, idle, queues
from benchmarks.curves.figures import Curve
from benchmarks.rounds import interruptible
from benchmarks.systems import OURS
from headrace.runtime.dispatch import PARK_EXPIRES

SIZES = {
    "backlog": [1_000, 10_000, 100_000, 1_000_000],
    "queues": [1, 10, 100, 1_000],
    "workers": [1, 50, 500],
}
QUICK = {"backlog": [1_000, 10_000], "queues": [1, 10], "workers": [1, 10]}


async def run(only: list[str], sizes: dict[str, list[int]], idle_for: float) -> list[Curve]:
    """The curves that are asked for."""
    console = Console(stderr=True)
    curves = []
    if "backlog" in only:
        curves.append(Curve("backlog", "tasks"))
        for size in sizes["backlog"]:
            await backlog.measure(curves[-1], size, console)
    if "queues" in only:
        curves.append(Curve("queues", "queues"))
        await queues.measure(curves[-1], sizes["queues"], idle_for, console)
    if "workers" in only:
        curves.append(Curve("workers", "workers"))
        for size in sizes["workers"]:
            await idle.measure(curves[-1], size, idle_for, console)
    return curves


def main(
    quick: Annotated[bool, typer.Option(help="The small sizes, less time idle.")] = False,
    only: Annotated[str, typer.Option(help="Curves, with commas.")] = ",".join(SIZES),
    most: Annotated[int, typer.Option(help="Leave out sizes above this.")] = 10**9,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Cost by size, on servers of its own."""
    interruptible()
    wanted = only.split(",")
    if unknown := set(wanted) - set(SIZES):
        raise SystemExit(f"--only: {', '.join(sorted(unknown))}: choose from {', '.join(SIZES)}")
    started = time.monotonic()
    about = report.machine(OURS[:1])
    sizes = {
        name: [size for size in each if size <= most]
        for name, each in (QUICK if quick else SIZES).items()
    }
    # idle workers renew their parked pulls once in this time, and all within a moment
    curves = uvloop.run(run(wanted, sizes, 3.0 if quick else PARK_EXPIRES))
    console = Console()
    for curve in curves:
        console.print(curve.table())
    report.show_machine(console, about, started)
    if json_file is not None:
        rows = [row for curve in curves for row in curve.rows]
        report.write_json(json_file, about, rows)
        console.print(f"written: {json_file}", style="dim")


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
