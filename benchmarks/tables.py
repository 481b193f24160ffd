"""The tables of docs/benchmarks.md and docs/scale.md, from the figures that benchmarks wrote.

    python -m benchmarks.curves --json benchmarks/figures/curves.json    # and so on
    python -m benchmarks.tables [--check]

Each table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is there is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from benchmarks.servers import ROOT

PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "scale.md")
FIGURES = ROOT / "benchmarks" / "figures"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

File = dict[str, Any]


def number(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    heads = list(head)
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine(file: File, command: str) -> str:
    """A line on what it ran on."""
    about = file["machine"]
    versions = about["versions"]
    return (
        f"\nFrom `{command}` on {about['date']}: {about['cores']} cores of {about['processor']}, "
        f"{about['memory_gib']} GiB, Python {about['python']}, nats-server "
        f"{versions['nats-server']}; load before {about['load_before']:g}. Client, workers and "
        "server share the cores.\n"
    )


# --- beside other systems ---

_DRAIN, _BULK, _ONE = "drain_per_s", "submit_bulk_per_s", "submit_per_s"
_P50, _P99 = "latency_p50_ms", "latency_p99_ms"


def _cells(file: File) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by subject and metric."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in file["rows"]:
        found.setdefault(row["subject"], {})[row["metric"]] = row
    return found


def _cell(row: dict[str, Any] | None, field: str = "value") -> str:
    return "–" if row is None else number(row[field])


def drain(twice: bool) -> Callable[[], str]:
    """The drains with one process, or with two."""

    def text() -> str:
        file = _read("throughput")
        body = [
            [_bold(subject), _cell(row.get(_DRAIN)), _cell(row.get(_DRAIN), "spread")]
            for subject, row in _cells(file).items()
            if _DRAIN in row and subject.endswith("-x2") == twice
        ]
        return table(["system", "tasks/s", "spread"], body)

    return text


def submit() -> str:
    """What one producer submits."""
    body = [
        [
            _bold(subject), _cell(row.get(_BULK)), _cell(row.get(_BULK), "spread"),
            _cell(row.get(_ONE)), _cell(row.get(_ONE), "spread"),
        ]
        for subject, row in _cells(_read("throughput")).items()
        if _ONE in row
    ]  # fmt: skip
    return table(["one producer", "bulk, tasks/s", "spread", "one by one, tasks/s", "spread"], body)


def latency() -> str:
    """From a submit to its result."""
    file = _read("latency")
    body = [
        [_bold(subject), _cell(row[_P50]), _cell(row[_P99])]
        for subject, row in _cells(file).items()
        if _P50 in row
    ]
    made = table(["submit → result", "p50, ms", "p99, ms"], body)
    return made + machine(file, "python -m benchmarks.latency")


def ratios() -> str:
    """Each ratio, and its budget where there is one."""
    body = []
    for name in ("throughput", "latency"):
        for row in _read(name)["rows"]:
            if "_vs_" not in row["metric"]:
                continue
            budget = "–"
            if row["budget"] is not None:
                sign = "≤" if name == "latency" else "≥"
                budget = f"{sign} {number(row['budget'])}"
            label = row["metric"].replace("_", " ")
            within = "–" if row["within"] is None else _yes(row["within"])
            body.append([label, number(row["value"]), number(row["spread"]), budget, within])
    made = table(["ratio", "measured", "spread", "budget", "within"], body)
    return made + machine(_read("throughput"), "python -m benchmarks.throughput")


def footprint() -> str:
    """Imports, starts and memory."""
    file = _read("footprint")
    body = [
        [f"{row['metric'].replace('_', ' ')}: {row['subject']}", _cell(row), row["unit"]]
        for row in file["rows"]
    ]
    made = table(["", "measured", "unit"], body)
    return made + machine(file, "python -m benchmarks.footprint")


def _bold(subject: str) -> str:
    return f"**{subject}**" if subject.startswith("headrace") else subject


# --- growth ---


def curve(name: str) -> Callable[[], str]:
    """The table of one curve: metrics by sizes."""

    def text() -> str:
        file = _read("curves")
        rows = [row for row in file["rows"] if row["metric"].startswith(name + "_")]
        subjects = list(dict.fromkeys(row["subject"] for row in rows))
        metrics = list(dict.fromkeys((row["metric"], row["unit"]) for row in rows))
        values = {(row["metric"], row["subject"]): row["value"] for row in rows}
        sizes = [f"{int(subject.split()[0]):,}" for subject in subjects]
        body = []
        for metric, unit in metrics:
            label = f"{metric.removeprefix(name + '_').replace('_', ' ')}, {unit}"
            each = [values.get((metric, subject)) for subject in subjects]
            body.append([label, *("–" if v is None else number(v) for v in each)])
        made = table([f"{subjects[0].split()[1]}", *sizes], body)
        return made + machine(file, "python -m benchmarks.curves")

    return text


def soak() -> str:
    """The medians and rises of the soak, each against its bound."""
    file = _read("soak")
    series = list(dict.fromkeys(row["metric"] for row in file["rows"] if row["subject"] == "rise"))
    rows = {(row["metric"], row["subject"]): row for row in file["rows"]}
    body = []
    for name in series:
        median, rise = rows[name, "median"], rows[name, "rise"]
        body.append(
            [
                f"{name.replace('_', ' ')}, {median['unit']}", number(median["value"]),
                number(rise["value"]), f"≤ {number(rise['budget'])}", _yes(rise["within"]),
            ]
        )  # fmt: skip
    plain = {row["metric"]: row["value"] for row in file["rows"]}
    made = table(["", "median", "rise over the last two thirds", "bound", "flat"], body)
    wrong = f"{plain['wrong']:,.0f} wrong"
    return (
        made
        + f"\n{plain['duration']:g} minutes, {number(plain['rate'])} tasks a second (the drain "
        f"rate was {number(plain['drain'])}), {plain['tasks']:,.0f} tasks, {wrong}, results kept "
        f"for {plain['result_ttl']:g} s.\n" + machine(file, "python -m benchmarks.soak")
    )


def waits() -> str:
    """Waits and shares by level."""
    file = _read("fairness")
    cells: dict[str, dict[str, float]] = {}
    for row in file["rows"]:
        if row["budget"] is None:
            cells.setdefault(row["subject"], {})[row["metric"]] = row["value"]
    columns = ("starts", "share", "wait_p50", "wait_p95", "wait_max")
    body = [
        [subject, *(number(values[name]) if name in values else "–" for name in columns)]
        for subject, values in cells.items()
    ]
    head = ["scenario: level", "starts", "share, %", "p50, s", "p95, s", "max, s"]
    return table(head, body)


def bounds() -> str:
    """What is promised, and what was measured."""
    file = _read("fairness")
    least = ("started", "share_of_top", "share_of_turns")
    body = [
        [
            f"{row['subject']}, {row['metric'].replace('_', ' ')}",
            f"{number(row['value'])} {row['unit']}",
            f"{'≥' if row['metric'] in least else '≤'} {number(row['budget'])}",
            _yes(row["within"]),
        ]
        for row in file["rows"]
        if row["budget"] is not None
    ]
    made = table(["", "measured", "bound", "within"], body)
    return made + machine(file, "python -m benchmarks.fairness")


TABLES: dict[str, Callable[[], str]] = {
    "backlog": curve("backlog"), "queues": curve("queues"), "workers": curve("workers"),
    "soak": soak, "waits": waits, "bounds": bounds,
    "drain": drain(twice=False), "drain_two": drain(twice=True), "submit": submit,
    "latency": latency, "ratios": ratios, "footprint": footprint,
}  # fmt: skip


def _read(name: str) -> File:
    found: File = json.loads((FIGURES / f"{name}.json").read_text())
    return found


def _yes(within: bool) -> str:
    return "yes" if within else "**no**"


def filled(page: str) -> str:
    """The page with all its tables as the figures have them."""
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}{block[3]}", page)


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; 1 if it differs.")] = False,
) -> None:
    """Fill in the tables of the pages."""
    for page in PAGES:
        text = page.read_text()
        wanted = filled(text)
        if check and wanted != text:
            print(f"{page.name} differs from benchmarks/figures: run python -m benchmarks.tables")
            sys.exit(1)
        if not check:
            page.write_text(wanted)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
