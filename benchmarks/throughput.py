"""How many tasks a second: submitted by one producer, and drained by one worker process.

    python -m benchmarks.throughput [--quick] [--only headrace,celery] [--repeat 3] [--json FILE]

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
from benchmarks.systems import OURS, PEERS, TWICE, TWO, System

ONE, BULK, DRAIN = "submit_per_s", "submit_bulk_per_s", "drain_per_s"
_OURS, _BARE = "headrace-128", "bare-128"
_LIMITS = {"celery": 10.0}
BUDGETS = (
    Budget("drain_vs_bare", DRAIN, _OURS, _BARE, 0.5, at_least=True),
    *(
        Budget(
            f"drain_vs_{peer.subject}", DRAIN, _OURS, peer.subject, _LIMITS.get(peer.subject),
            at_least=True,
        )
        for peer in PEERS
    ),
    Budget("drain_vs_best_peer", DRAIN, _OURS, None, 5, at_least=True),
    Budget("submit_bulk_vs_bare", BULK, "headrace", "bare", 0.5, at_least=True),
    Budget("submit_vs_bare", ONE, "headrace", "bare", None, at_least=True),
)  # fmt: skip
TWO_BUDGETS = (
    Budget("drain_two_vs_one", DRAIN, _OURS + TWICE, _OURS, None, at_least=True),
    Budget("drain_two_vs_bare", DRAIN, _OURS + TWICE, _BARE + TWICE, None, at_least=True),
    *(
        Budget(
            f"drain_two_vs_{peer.subject}", DRAIN, _OURS + TWICE, peer.subject + TWICE, None,
            at_least=True,
        )
        for peer in PEERS
    ),
    Budget("drain_two_vs_best_peer", DRAIN, _OURS + TWICE, None, 5, at_least=True),
)  # fmt: skip
_SINGLE = 2_000  # tasks that are submitted one by one; the others in bulk
_QUICK = 4  # a quick run has so many times fewer tasks


def measure(
    system: System, python: str, options: dict[str, Any], share: int, tasks: int | None
) -> Measured:
    """Queue tasks, then let one worker drain them."""
    count = tasks or system.tasks // share
    single = min(_SINGLE // share, count // 2)
    found: Measured = {}
    with session(system, python, options, "throughput") as opened:
        bulk = opened.open()
        single = single if bulk else count
        one_by_one = opened.submit(0, single, bulk=False)
        if system.submits:
            found[ONE, system.submit_subject] = one_by_one
        if bulk:
            together = opened.submit(single, count - single, bulk=True)
            if system.submits:
                found[BULK, system.submit_subject] = together
        found[DRAIN, system.subject] = opened.drain(count)
    return found


def main(
    quick: Annotated[bool, typer.Option(help="A quarter of the tasks, one round.")] = False,
    only: Annotated[str | None, typer.Option(help="Systems, with commas between.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Rounds; 3, or 1 if quick.")] = None,
    tasks: Annotated[int | None, typer.Option(min=100, help="Tasks of every drain.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting: celery.concurrency=4")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Tasks a second, Headrace beside its peers, on servers of its own."""
    interruptible()
    started = time.monotonic()
    systems = systems_of(only, OURS + PEERS + TWO)
    about = report.machine(systems)
    share = _QUICK if quick else 1
    result = run(
        systems,
        repeat or (1 if quick else 3),
        lambda system, python, options: measure(system, python, options, share, tasks),
        options_of(set_ or []),
    )
    _show(result.samples, about, started, json_file)
    finish(result, Console(), json_file)


def _show(
    samples: report.Samples, about: dict[str, Any], started: float, json_file: Path | None
) -> None:
    peers = [system.subject for system in PEERS if system.records]
    twice = [subject + TWICE for subject in peers]
    console = Console()
    drains = {key: values for key, values in samples.items() if key[0] == DRAIN}
    one = {key: values for key, values in drains.items() if not key[1].endswith(TWICE)}
    two = {key: values for key, values in drains.items() if key[1].endswith(TWICE)}
    submits = {key: values for key, values in samples.items() if key[0] != DRAIN}
    budgets = report.judge(samples, BUDGETS, peers) + report.judge(samples, TWO_BUDGETS, twice)
    for title, found, metrics, others, bare in (
        ("Drain, one worker process", one, [DRAIN], peers, _BARE),
        ("Drain, two worker processes", two, [DRAIN], twice, _BARE + TWICE),
        ("Submit, one producer", submits, [ONE, BULK], peers, "bare"),
        ("Submit, one producer, one task at a time", submits, [BULK, ONE], peers, "bare"),
    ):
        if found:
            console.print(report.table(title, found, metrics, others, bare, most=True))
    if budgets:
        console.print(report.budget_table(budgets))
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, [*report.rows_of(samples, "tasks/s"), *budgets])


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
