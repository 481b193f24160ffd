"""Rows, ratios and the table: what every benchmark of this folder hands out."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.servers import nats_binary, redis_binary
from benchmarks.systems import System

Samples = dict[tuple[str, str], list[float]]
"""Values by metric and subject, one a round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `spread` is the largest value less the smallest of the rounds, None if there was
    one round only; `budget` and `within` are None where there is no budget."""

    metric: str
    subject: str
    value: float
    unit: str
    spread: float | None = None
    budget: float | None = None
    within: bool | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A ratio that the design promises: `subject` against `other` (None: the best peer)."""

    name: str
    metric: str
    subject: str
    other: str | None
    limit: float | None
    """None: a figure, no promise."""
    at_least: bool
    """True where more is better."""


def row(metric: str, subject: str, unit: str, values: Sequence[float]) -> Row:
    """The median of the rounds."""
    return Row(metric, subject, _round(statistics.median(values)), unit, _spread(values))


def rows_of(samples: Samples, unit: str) -> list[Row]:
    """A row for everything measured."""
    return [row(metric, subject, unit, values) for (metric, subject), values in samples.items()]


def judge(
    samples: Samples, budgets: Sequence[Budget], peers: Sequence[str]
) -> list[Row]:  # fmt: skip
    """The promised ratios, each from the figures of one round against the same round's."""
    rows = []
    for budget in budgets:
        other = budget.other or best(samples, budget.metric, peers, most=budget.at_least)
        ours = samples.get((budget.metric, budget.subject))
        theirs = samples.get((budget.metric, other)) if other else None
        if not ours or not theirs:
            continue  # left out by --only, or it failed
        if len(ours) != len(theirs):
            ours, theirs = [statistics.median(ours)], [statistics.median(theirs)]
        values = [mine / their for mine, their in zip(ours, theirs, strict=True)]
        value = _round(statistics.median(values))
        within = None
        if budget.limit is not None:
            within = value >= budget.limit if budget.at_least else value <= budget.limit
        rows.append(
            Row(budget.name, budget.subject, value, "×", _spread(values), budget.limit, within)
        )
    return rows


def best(samples: Samples, metric: str, peers: Sequence[str], *, most: bool) -> str | None:
    """The peer with the best median."""
    medians = {
        subject: statistics.median(values)
        for (name, subject), values in samples.items()
        if name == metric and subject in peers
    }
    if not medians:
        return None
    return (max if most else min)(medians, key=lambda subject: medians[subject])


def _spread(values: Sequence[float]) -> float | None:
    return _round(max(values) - min(values)) if len(values) > 1 else None


def _round(value: float) -> float:
    """Three or four digits: what repeats."""
    return float(f"{value:.4g}")


# --- the machine ---


def machine(systems: Sequence[System]) -> dict[str, Any]:
    """What it ran on, without names or paths."""
    needed = {server for system in systems for server in system.servers}
    versions = {"nats-py": version("nats-py"), "uvloop": version("uvloop")}
    if "nats" in needed:
        versions["nats-server"] = _said([nats_binary(), "--version"]).rpartition(" v")[2]
    if "redis" in needed:
        versions["redis-server"] = _said([redis_binary(), "--version"]).split("v=")[1].split()[0]
    for system in systems:
        for requirement in system.requires:
            name, _, number = requirement.partition("==")
            versions[name.partition("[")[0]] = number
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "python": platform.python_version(),
        "load_before": _round(os.getloadavg()[0]),
        "versions": dict(sorted(versions.items())),
    }


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (OSError, ValueError):
        return None


# --- handing out ---


def write_json(path: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The file of `--json`."""
    content = {"machine": dict(about), "rows": [asdict(each) for each in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def show_rows(console: Console, rows: Sequence[Row]) -> None:
    """One line a figure, for what has no peers to stand beside."""
    for each in rows:
        judged = "" if each.within is None else "within" if each.within else "MISSED"
        limit = "" if each.budget is None else f"budget {each.budget:g}"
        console.print(
            f"{each.metric:<22} {each.subject:<24} {each.value:>9} {each.unit:<6} {limit} {judged}"
        )


def show_machine(console: Console, about: Mapping[str, Any], started: float) -> None:
    """One line under the tables."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    console.print(
        f"{about['date']}, {about['cores']} cores of {about['processor']}, "
        f"{about['memory_gib']} GiB, {about['system']}, Python {about['python']}, load before "
        f"{about['load_before']}, {time.monotonic() - started:.0f} s. {versions}",
        style="dim",
    )


def table(
    title: str, samples: Samples, metrics: Sequence[str], peers: Sequence[str], bare: str,
    *, most: bool,
) -> Table:  # fmt: skip
    """Subjects by metrics; the last metric also against the bare loop and the best peer."""
    judged = metrics[-1]
    result = Table(title=title, title_justify="left")
    result.add_column("system")
    heads = [name.replace("_per_s", "/s").replace("latency_", "").replace("_", " ")
             for name in metrics]  # fmt: skip
    for name in (*heads, "spread", f"× {bare}", "× best peer"):
        result.add_column(name, justify="right")
    first = best(samples, judged, peers, most=most)
    for subject in dict.fromkeys(subject for _, subject in samples):
        values = samples.get((judged, subject))
        cells = [_cell(samples.get((metric, subject))) for metric in metrics]
        spread = _spread(values) if values else None
        cells.append(_number(spread) if spread is not None else "")
        for other in (bare, first):
            theirs = samples.get((judged, other)) if other else None
            cells.append(_ratio(values, theirs))
        result.add_row(subject, *cells, style="bold" if subject.startswith("headrace") else "")
    return result


def _cell(values: Sequence[float] | None) -> str:
    return _number(statistics.median(values)) if values else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> str:
    if not ours or not theirs:
        return ""
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


_WITHIN = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


def budget_table(rows: Sequence[Row]) -> Table:
    """What was promised, and what is."""
    result = Table(title="Budgets (medians of each round's ratio)", title_justify="left")
    result.add_column("ratio", overflow="fold")
    result.add_column("subject")
    for name in ("measured", "spread", "budget", "within"):
        result.add_column(name, justify="right")
    for each in rows:
        spread = "" if each.spread is None else f"{each.spread:.2f}"
        result.add_row(
            each.metric, each.subject, f"{each.value:.2f}", spread,
            "" if each.budget is None else f"{each.budget:g}", _WITHIN[each.within],
        )  # fmt: skip
    return result
