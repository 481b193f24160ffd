"""The figures of a curve: one table a curve, one column a size."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.latency import percentile
from benchmarks.report import Row

Put = Callable[[str, float, str], None]
"""Writes down a metric, its value and its unit."""


class Curve:
    """Rows by metric and size."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.rows: list[Row] = []

    def put(self, size: int) -> Put:
        """Where the figures of one size go."""
        subject = f"{size} {self.unit}"

        def put(metric: str, value: float, unit: str) -> None:
            self.rows.append(Row(f"{self.name}_{metric}", subject, float(f"{value:.4g}"), unit))

        return put

    def table(self) -> Table:
        """Metrics by sizes, and how much the last one is above the first."""
        subjects = list(dict.fromkeys(row.subject for row in self.rows))
        metrics = list(dict.fromkeys((row.metric, row.unit) for row in self.rows))
        values = {(row.metric, row.subject): row.value for row in self.rows}
        result = Table(title=f"{self.name}, by {self.unit}", title_justify="left")
        result.add_column("")
        for subject in subjects:
            result.add_column(f"{int(subject.split()[0]):,}", justify="right")
        result.add_column("growth", justify="right")
        for metric, unit in metrics:
            row = [values.get((metric, subject)) for subject in subjects]
            ends = [value for value in row if value is not None]
            growth = f"× {ends[-1] / ends[0]:.3g}" if len(ends) > 1 and ends[0] else ""
            label = f"{metric.removeprefix(self.name + '_').replace('_', ' ')}, {unit}"
            result.add_row(label, *("–" if v is None else f"{v:,.4g}" for v in row), growth)
        return result


async def timed(times: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds that each call took, one after the other."""
    taken = []
    for number in range(times):
        began = time.perf_counter()
        await work(number)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def put_times(put: Put, metric: str, taken: Sequence[float]) -> None:
    """Median and tail."""
    put(f"{metric}_p50", percentile(list(taken), 0.5), "ms")
    put(f"{metric}_p99", percentile(list(taken), 0.99), "ms")


def say(console: Console, text: str) -> None:
    """Progress."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")
