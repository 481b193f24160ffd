"""How long from submit to result: one task after the other, on an idle system with one worker.

    python -m benchmarks.latency [--quick] [--only headrace,celery] [--repeat 3] [--json FILE]

docs/benchmarks.md says what is measured and how each system is set up.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import report
from benchmarks.report import Budget
from benchmarks.rounds import Measured, finish, interruptible, options_of, run, systems_of
from benchmarks.session import session
from benchmarks.systems import OURS, PEERS, System

P50, P99 = "latency_p50_ms", "latency_p99_ms"
BUDGETS = (
    Budget("latency_p50_vs_bare", P50, "headrace-16", "bare-16", 1.6, at_least=False),
    Budget("latency_p99_vs_bare", P99, "headrace-16", "bare-16", 2, at_least=False),
    *(
        Budget(
            f"latency_p50_vs_{peer.subject}", P50, "headrace-16", peer.subject, None, at_least=False
        )
        for peer in PEERS
    ),
)
_TASKS = 2_000
_WITHIN = 15.0  # seconds for one system: a slow one is measured on fewer tasks
_QUICK = 4
SYSTEMS = tuple(system for system in OURS if system.slots <= 16) + PEERS


def percentile(values: list[float], part: float) -> float:
    """The smallest value that this part of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure(system: System, python: str, options: dict[str, Any], share: int) -> Measured:
    """Submit, wait, repeat."""
    with session(system, python, options, "latency") as opened:
        opened.open()
        taken = opened.latency(_TASKS // share, _WITHIN / share)
    return {
        (P50, system.subject): percentile(taken, 0.5) * 1000,
        (P99, system.subject): percentile(taken, 0.99) * 1000,
    }


def main(
    quick: Annotated[bool, typer.Option(help="A quarter of the tasks, one round.")] = False,
    only: Annotated[str | None, typer.Option(help="Systems, with commas between.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Rounds; 3, or 1 if quick.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting: arq.poll_delay=0.01")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Milliseconds from submit to result, Headrace beside its peers, on servers of its own."""
    interruptible()
    started = time.monotonic()
    systems = systems_of(only, SYSTEMS)
    about = report.machine(systems)
    share = _QUICK if quick else 1
    result = run(
        systems,
        repeat or (1 if quick else 3),
        lambda system, python, options: measure(system, python, options, share),
        options_of(set_ or []),
    )
    peers = [system.subject for system in PEERS if system.records]
    budgets = report.judge(result.samples, BUDGETS, peers)
    console = Console()
    console.print(
        report.table(
            "Submit → durable result, ms", result.samples, [P99, P50], peers, "bare-16", most=False
        ),
    )
    if budgets:
        console.print(report.budget_table(budgets))
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, [*report.rows_of(result.samples, "ms"), *budgets])
    finish(result, console, json_file)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
