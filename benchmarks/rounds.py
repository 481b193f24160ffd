"""Runs the systems round by round: what the two benchmarks have in common.

The systems take turns within a round, so that a machine that is slow for a while is slow for all.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import Samples
from benchmarks.session import MeasurementError
from benchmarks.systems import System, chosen
from benchmarks.venvs import python_of

Options = dict[str, dict[str, Any]]
"""Settings of `--set`, by family."""
Measured = dict[tuple[str, str], float]
Measure = Callable[[System, str, dict[str, Any]], Measured]


@dataclass
class Run:
    """What came of all rounds."""

    samples: Samples = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def interruptible() -> None:
    """Let Ctrl-C and SIGTERM end the benchmark with everything that it started.

    The first one does; more of them must not cut short the cleaning up, which takes some seconds.
    Set here also for SIGINT: a shell starts background jobs with it ignored.
    """

    def end(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def systems_of(only: str | None, systems: tuple[System, ...]) -> list[System]:
    """`chosen`, with a word to the user for a name that is not there."""
    try:
        return chosen(only, systems)
    except ValueError as error:
        raise SystemExit(f"--only: {error}") from None


def options_of(settings: Sequence[str]) -> Options:
    """From `celery.concurrency=4` to what the peer's module reads."""
    options: Options = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        family, _, key = name.partition(".")
        if not key or not text:
            raise SystemExit(f"--set: {setting!r} is not peer.name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        options.setdefault(family, {})[key] = value
    return options


def run(systems: Sequence[System], repeat: int, measure: Measure, options: Options) -> Run:
    """Measure all systems `repeat` times. A system that fails is told and left out."""
    result = Run()
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(systems) * repeat)
        pythons = {
            system.module: python_of(system, lambda text: progress.console.print(text))
            for system in systems
        }
        for number in range(repeat):
            for system in systems:
                progress.update(bar, description=f"round {number + 1}: {system.subject}")
                start = time.monotonic()
                text = _one(system, pythons[system.module], measure, options, result)
                took = time.monotonic() - start
                progress.console.print(f"{number + 1} {system.subject}: {text} [dim]{took:.1f} s")
                progress.advance(bar)
    return result


def _one(
    system: System, python: str, measure: Measure, options: Options, result: Run
) -> str:  # fmt: skip
    try:
        found = measure(system, python, options.get(system.family, {}))
    except (MeasurementError, RuntimeError) as error:
        result.failures.append(f"{system.subject}: {error}")
        return f"[red]failed[/]: {error}"
    for key, value in found.items():
        result.samples.setdefault(key, []).append(value)
    return ", ".join(f"{metric} {value:,.4g}" for (metric, _), value in found.items())


def finish(result: Run, console: Console, json_file: Path | None) -> None:
    """Say what is written and what failed; the exit code tells the latter."""
    if json_file is not None:
        console.print(f"written: {json_file}", style="dim")
    if result.failures:
        console.print(f"{len(result.failures)} measurements failed", style="red")
        sys.exit(1)
