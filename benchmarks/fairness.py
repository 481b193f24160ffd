"""Who waits how long under floods: waits and shares of starts by level, and the stated bounds.

    python -m benchmarks.fairness [--quick] [--only flood,levels] [--json FILE]

Each task notes its start; a wait is from submit to start. docs/scale.md says what is judged.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.children import Child
from benchmarks.latency import percentile
from benchmarks.report import Row
from benchmarks.rounds import interruptible
from benchmarks.servers import start_nats
from benchmarks.systems import OURS
from headrace import Client, TaskPriority
from headrace.runtime.dispatch import SHARE

QUEUE = "fair"
LEVELS = (TaskPriority.CRITICAL, TaskPriority.HIGH, TaskPriority.NORMAL, TaskPriority.LOW)
SLACK = 0.05
"""Seconds that asking and starting may add to a bound: a turn takes about a millisecond, and two
cores carry the server, the producer and the workers."""
TOP_SHARE = 0.8  # of the starts, for a level that floods while another one trickles


@dataclass
class Seen:
    """What one scenario saw."""

    starts: list[tuple[str, float, float]]
    """Label, time of submit, time of start, in the order of the starts."""
    by_worker: list[list[str]]
    """Labels in the order of each worker's starts."""
    rows: list[Row] = field(default_factory=list)

    def waits(self, label: str) -> list[float]:
        """Seconds from submit to start."""
        return [start - at for name, at, start in self.starts if name == label]

    def longest_gap(self, label: str) -> int:
        """Most starts of one worker from one of this label to its next, that one included."""
        most = 0
        for labels in self.by_worker:
            places = [place for place, name in enumerate(labels) if name == label]
            most = max([most, *(b - a for a, b in itertools.pairwise(places))])
        return most


class Run:
    """A fresh server, a client, some workers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        server, self.url = start_nats(folder)
        stack.callback(server.stop)
        self.workers: list[Child] = []
        self.client: Client

    def work(self, count: int, **options: Any) -> None:
        """Start so many workers, in processes of their own."""
        for _ in range(count):
            child = Child("worker", self._folder, url=self.url, queue=QUEUE, **options)
            self.workers.append(self._stack.enter_context(child))
        for child in self.workers[-count:]:
            child.ready()

    async def fill(self, label: str, count: int, **options: Any) -> None:
        """Tasks that wait before anybody works."""
        now = time.monotonic()
        item = {"type": "work", "data": [label, now], **options}
        await self.client.submit_many([item] * count)

    async def submit(self, label: str, **options: Any) -> None:
        """One task."""
        await self.client.submit_async("work", [label, time.monotonic()], **options)

    async def pace(self, label: str, each: float, until: float, **options: Any) -> None:
        """A task every `each` seconds; what was missed is caught up with."""
        began, count = time.monotonic(), 0
        while time.monotonic() < until:
            while began + count * each <= time.monotonic():
                await self.submit(label, **options)
                count += 1
            await asyncio.sleep(max(0.0, began + count * each - time.monotonic()))

    async def seen(self, since: float = 0.0) -> Seen:
        """All starts so far, those from some time on."""
        reports = [await child.asked("report") for child in self.workers]
        starts, by_worker = [], []
        for each in reports:
            own = [(label, at, start) for label, at, start in each["starts"] if start >= since]
            starts += own
            by_worker.append([label for label, _, _ in own])
        return Seen(sorted(starts, key=lambda start: start[2]), by_worker)


def judged(metric: str, subject: str, value: float, unit: str, limit: float, *, most: bool) -> Row:
    """A figure against its bound: at most, or at least."""
    within = value <= limit if most else value >= limit
    return Row(metric, subject, float(f"{value:.4g}"), unit, None, float(f"{limit:.4g}"), within)


def described(seen: Seen, scenario: str, labels: Sequence[str]) -> list[Row]:
    """Waits and shares of each label."""
    rows = []
    for label in labels:
        waits, subject = seen.waits(label), f"{scenario}: {label}"
        if not waits:
            rows.append(Row("starts", subject, 0, "tasks"))
            continue
        rows += [
            Row("starts", subject, len(waits), "tasks"),
            Row("share", subject, float(f"{len(waits) / len(seen.starts) * 100:.3g}"), "%"),
            Row("wait_p50", subject, float(f"{percentile(waits, 0.5):.4g}"), "s"),
            Row("wait_p95", subject, float(f"{percentile(waits, 0.95):.4g}"), "s"),
            Row("wait_max", subject, float(f"{max(waits):.4g}"), "s"),
        ]
    return rows


async def trickle(
    run: Run, name: str, seconds: float, limit: float, nap: float, workers: int = 1, **low: Any
) -> list[Row]:
    """CRITICAL at twice the capacity, and now and then a LOW: no LOW waits longer than the limit
    and one service time, and CRITICAL keeps most of the starts."""
    run.work(workers, slots=1, nap=nap, limit=limit, tags=[low["tag"]] if low else [])
    began = time.monotonic()
    end = began + seconds
    quiet = end - limit - 1.0  # a LOW that comes later may rightly not have started at the end
    each = 1.5 * limit
    await asyncio.gather(
        run.pace("critical", nap / 2 / workers, end, priority=TaskPriority.CRITICAL),
        run.pace("low", each, quiet, priority=TaskPriority.LOW, **low),
    )
    seen = await run.seen()
    asked = int((quiet - began) / each) + 1
    lows = seen.waits("low")
    top = len(seen.waits("critical")) / len(seen.starts)
    longest = max(lows, default=seconds)
    return [
        *described(seen, name, ["critical", "low"]),
        judged("started", f"{name}: low", len(lows), "tasks", asked, most=False),
        judged("bound", f"{name}: low", longest, "s", limit + nap + SLACK, most=True),
        judged("share_of_top", f"{name}: critical", top * 100, "%", TOP_SHARE * 100, most=False),
    ]


async def flood(run: Run, quick: bool) -> list[Row]:
    """One worker with one slot (case C26)."""
    return await trickle(run, "flood", *((10.0, 2.0) if quick else (60.0, 5.0)), nap=0.1)


async def fleet(run: Run, quick: bool) -> list[Row]:
    """Three workers, each of them bound by itself."""
    given = (10.0, 2.0) if quick else (45.0, 5.0)
    return await trickle(run, "fleet", *given, nap=0.1, workers=3)


async def tagged(run: Run, quick: bool) -> list[Row]:
    """The LOW tasks have a tag: a lane of their own."""
    given = (10.0, 2.0) if quick else (30.0, 3.0)
    return await trickle(run, "tagged", *given, nap=0.05, tag="a")


async def levels(run: Run, quick: bool) -> list[Row]:
    """Every level has more than can be done. Young levels wait for the highest one; a level that
    is over the limit gets one of eight starts of the worker."""
    slots, nap, limit = 4, 0.01, 3.0
    seconds = 8.0 if quick else 40.0
    count = int(slots / nap * (seconds + 5))
    for level in LEVELS:
        await run.fill(level.name.lower(), count, priority=level)
    filled = time.monotonic()
    run.work(1, slots=slots, nap=nap, limit=limit)
    await asyncio.sleep(seconds)
    seen = await run.seen(filled + limit + 1.0)  # from when on all are over the limit
    names = [level.name.lower() for level in LEVELS]
    rows = described(seen, "levels", names)
    for label in names[1:]:
        gap = float(seen.longest_gap(label) or len(seen.starts))
        rows.append(judged("gap", f"levels: {label}", gap, "starts", SHARE, most=True))
    return rows


async def young(run: Run, quick: bool) -> list[Row]:
    """The same floods before anything is over the limit: strict order, but for one look at each
    lower level."""
    slots, nap = 4, 0.01
    seconds = 4.0 if quick else 15.0
    count = int(slots / nap * (seconds + 5))
    for level in LEVELS:
        await run.fill(level.name.lower(), count, priority=level)
    run.work(1, slots=slots, nap=nap, limit=300.0)
    await asyncio.sleep(seconds)
    seen = await run.seen()
    names = [level.name.lower() for level in LEVELS]
    top = len(seen.waits("critical")) / len(seen.starts) * 100
    return [
        *described(seen, "young", names),
        judged("share_of_top", "young: critical", top, "%", 99.0, most=False),
    ]


async def tags(run: Run, quick: bool) -> list[Row]:
    """Three lanes of one level, all full: they take turns."""
    slots, nap = 4, 0.01
    seconds = 4.0 if quick else 15.0
    count = int(slots / nap * (seconds + 5) / 2)
    lanes: dict[str, dict[str, Any]] = {
        "untagged": {}, "tag a": {"tag": "a"}, "tag b": {"tag": "b"}
    }  # fmt: skip
    for label, options in lanes.items():
        await run.fill(label, count, **options)
    run.work(1, slots=slots, nap=nap, limit=300.0, tags=["a", "b"])
    await asyncio.sleep(seconds)
    seen = await run.seen()
    rows = described(seen, "tags", list(lanes))
    for label in lanes:
        share = len(seen.waits(label)) / len(seen.starts) * 100
        rows.append(judged("share_of_turns", f"tags: {label}", share, "%", 30.0, most=False))
    return rows


SCENARIOS: dict[str, Callable[[Run, bool], Awaitable[list[Row]]]] = {
    "flood": flood, "fleet": fleet, "tagged": tagged, "young": young, "levels": levels,
    "tags": tags,
}  # fmt: skip


async def run_all(names: Sequence[str], quick: bool) -> list[Row]:
    """Each scenario on a server of its own."""
    console, rows = Console(stderr=True), []
    for name in names:
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {name}")
        with ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="headrace-fair-")
            run = Run(Path(stack.enter_context(folder)), stack)
            async with Client(run.url, QUEUE, max_queue_size=200_000) as client:
                run.client = client
                rows += await SCENARIOS[name](run, quick)
    return rows


def waits_table(rows: Sequence[Row]) -> Table:
    """Waits and shares, a line a level."""
    cells: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.budget is None:
            cells[row.subject][row.metric] = row.value
    result = Table(title="Waits from submit to start, s", title_justify="left")
    result.add_column("scenario: level")
    columns = ("starts", "share", "wait_p50", "wait_p95", "wait_max")
    for name in columns:
        result.add_column(name.replace("_", " "), justify="right")
    for subject, values in cells.items():
        texts = (f"{values[name]:,.4g}" if name in values else "" for name in columns)
        result.add_row(subject, *texts)
    return result


def main(
    quick: Annotated[bool, typer.Option(help="Shorter floods, lower limits.")] = False,
    only: Annotated[str, typer.Option(help="Scenarios, with commas.")] = ",".join(SCENARIOS),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Waits by level under floods, against the stated bounds."""
    interruptible()
    names = only.split(",")
    if unknown := set(names) - set(SCENARIOS):
        raise SystemExit(f"--only: {', '.join(unknown)}: choose from {', '.join(SCENARIOS)}")
    started = time.monotonic()
    about = report.machine(OURS[:1])
    rows = uvloop.run(run_all(names, quick))
    console = Console()
    console.print(waits_table(rows))
    report.show_rows(console, [row for row in rows if row.budget is not None])
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, rows)
        console.print(f"written: {json_file}", style="dim")
    if any(row.within is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
