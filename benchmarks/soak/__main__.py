"""Whether anything grows: half an hour at half the rate of submit, run and answer.

    python -m benchmarks.soak [--minutes 30] [--svg docs/soak.svg] [--json FILE]

docs/scale.md says what runs and what is judged. The exit code is 1 if something is not flat.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import report
from benchmarks.children import Child, Scales, environment
from benchmarks.report import Row
from benchmarks.rounds import interruptible
from benchmarks.servers import ROOT, Process, free_port, start_nats
from benchmarks.soak.flat import Bound, Series, judge
from benchmarks.soak.plot import chart
from benchmarks.systems import OURS

QUEUE = "soak"
_EVERY = 5.0  # seconds between two samples
_DRAIN = 40_000  # tasks by which the drain rate is measured
_DRAIN_WITHIN = 120.0
MEMORY = Bound(0.05, 5.0)
SERVER = Bound(0.10, 10.0)
"""Of the server's memory: its collector lets it swing by more."""
COUNT = Bound(0.02, 3.0)
"""Descriptors, subscriptions, connections: a leak of one a minute is seen in half an hour."""
PANELS: dict[str, tuple[str, str, Bound]] = {
    "worker_memory": ("worker and its lease keeper: memory", "MiB", MEMORY),
    "client_memory": ("client: memory", "MiB", MEMORY),
    "operator_memory": ("operator’s NATS side: memory", "MiB", MEMORY),
    "server_memory": ("nats-server: memory", "MiB", SERVER),
    "descriptors": ("all processes: open descriptors", "open", COUNT),
    "subscriptions": ("nats-server: subscriptions", "open", COUNT),
}
OTHERS: dict[str, tuple[str, Bound]] = {
    "worker_descriptors": ("open", COUNT),
    "client_descriptors": ("open", COUNT),
    "operator_descriptors": ("open", COUNT),
    "server_descriptors": ("open", COUNT),
    "connections": ("open", COUNT),
}


class Soak:
    """The processes, and what they weigh over time."""

    def __init__(self, folder: Path, stack: ExitStack, ttl: float) -> None:
        monitor = free_port()
        self._monitor = f"http://127.0.0.1:{monitor}"
        server, url = start_nats(folder, monitor)
        stack.callback(server.stop)
        options = {"url": url, "queue": QUEUE, "ttl": ttl, "dedupe": ttl}
        self.client = stack.enter_context(Child("producer", folder, **options)).ready()
        command = [sys.executable, "-m", "headrace", "worker", "benchmarks.soak.app:worker"]
        self._worker = [*command, "--url", url, "--queue", QUEUE]
        self._folder, self._stack = folder, stack
        self._url = url
        self.scales = {"server": Scales.of(server), "client": Scales.of(self.client)}
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.operator: Child

    def start(self) -> float:
        """Start the worker on a filled queue, and the operator's side; tasks a second."""
        self.client.ask("bulk", 120.0, count=_DRAIN)
        log = self._folder / "worker.log"
        worker = Process(self._worker, log, environment())
        self._stack.callback(worker.stop)
        self.scales["worker"] = Scales.of(worker)
        begin = left = 0.0
        first = _DRAIN
        deadline = time.monotonic() + _DRAIN_WITHIN
        while time.monotonic() < deadline and worker.running:
            left = self.client.ask("depth")["messages"]
            if left < _DRAIN * 0.95 and not begin:
                begin, first = time.monotonic(), left  # it has warmed up
            if left <= _DRAIN * 0.05:
                break
            time.sleep(0.02)
        else:
            raise SystemExit(f"the worker did not drain the queue:\n{worker.tail()}")
        rate = (first - left) / (time.monotonic() - begin)
        self.operator = self._stack.enter_context(
            Child("sweeper", self._folder, url=self._url, queue=QUEUE)
        ).ready()
        self.scales["operator"] = Scales.of(self.operator)
        return rate

    def sample(self, at: float) -> None:
        """Write down what everything weighs now."""
        total = 0
        for name, scales in self.scales.items():
            self.put(f"{name}_memory", at, scales.memory())
            self.put(f"{name}_descriptors", at, scales.descriptors())
            total += scales.descriptors()
        self.put("descriptors", at, total)
        self.put("subscriptions", at, self._told("subsz")["num_subscriptions"])
        self.put("connections", at, self._told("varz")["connections"])

    def put(self, name: str, at: float, value: float) -> None:
        """One point of a series."""
        self.series.setdefault(name, []).append((round(at, 1), round(value, 2)))

    def _told(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._monitor}/{what}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def rows_of(series: dict[str, list[tuple[float, float]]]) -> list[Row]:
    """A verdict for each series: how much its line rises over the last two thirds."""
    bounds = {name: (unit, bound) for name, (_, unit, bound) in PANELS.items()} | OTHERS
    rows = []
    for name, (unit, bound) in bounds.items():
        verdict = judge(series[name], bound)
        rows.append(Row(name, "median", round(verdict.median, 1), unit))
        rows.append(
            Row(name, "rise", round(verdict.rise, 2), unit, None, round(verdict.allowed, 2),
                verdict.flat)
        )  # fmt: skip
    return rows


def run(soak: Soak, minutes: float, share: float, console: Console) -> list[Row]:
    """All of it; the rows."""
    console.print("measuring the drain rate")
    drain = soak.start()
    # What one worker drains while nobody else wants the cores is more than client, server and
    # worker can do together on two of them: the share is of that.
    whole = soak.client.ask("closed", 60.0, seconds=10.0, at_once=256)["rate"]
    rate = whole * share
    console.print(
        f"drain {drain:,.0f} tasks/s, with their client {whole:,.0f}; "
        f"submitting {rate:,.0f} a second for {minutes} min"
    )
    soak.client.ask("rate", rate=rate)
    began, seconds = time.monotonic(), minutes * 60
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("soak", total=seconds)
        while (at := time.monotonic() - began) < seconds:
            soak.sample(at)
            state = soak.client.ask("state")
            soak.put("under_way", at, state["waiting"])
            weights = ", ".join(
                f"{name} {soak.series[f'{name}_memory'][-1][1]:.0f}" for name in soak.scales
            )
            text = f"{state['completed']:,} done, {state['wrong']} wrong; MiB: {weights}"
            progress.update(bar, completed=at, description=text)
            left = _EVERY - (time.monotonic() - began - at)
            time.sleep(max(0.1, left))
    told = soak.client.ask("state")
    done = float(f"{told['completed'] / seconds:.4g}")
    swept = soak.operator.ask("report")
    console.print(f"{told}, operator {swept}")
    wrong = told["wrong"] + swept["failed"]
    return [
        Row("drain", "headrace-128", float(f"{drain:.4g}"), "tasks/s"),
        Row("drain_with_client", "headrace-128", float(f"{whole:.4g}"), "tasks/s"),
        Row("rate_wanted", "client", float(f"{rate:.4g}"), "tasks/s"),
        Row("rate", "client", done, "tasks/s", None, float(f"{0.95 * rate:.4g}"),
            done >= 0.95 * rate),
        Row("tasks", "client", told["completed"], "tasks"),
        Row("wrong", "client and operator", wrong, "answers", None, 0.0, wrong == 0),
        Row("duration", "soak", minutes, "min"),
        Row("under_way", "most", max(value for _, value in soak.series["under_way"]), "tasks"),
        *rows_of(soak.series),
    ]  # fmt: skip


def panels(series: dict[str, list[tuple[float, float]]]) -> dict[str, tuple[str, Series]]:
    """What the chart shows."""
    return {text: (unit, series[name]) for name, (text, unit, _) in PANELS.items()}


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30.0,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Of the rate with a client.")
    ] = 0.5,
    ttl: Annotated[float | None, typer.Option(help="Seconds that results are kept.")] = None,
    svg: Annotated[Path, typer.Option(help="Where the chart goes.")] = ROOT / "docs" / "soak.svg",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """A long run at an even rate; memory, descriptors and subscriptions must be flat."""
    interruptible()
    started = time.monotonic()
    about = report.machine(OURS[:1])
    console = Console(stderr=True)
    # Results and message ids must have begun to leave when the last two thirds begin.
    kept = ttl or min(60.0, max(2.0, minutes * 60 / 12))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-soak-")))
        soak = Soak(folder, stack, kept)
        rows = run(soak, minutes, share, console)
    rows.append(Row("result_ttl", "soak", kept, "s"))
    rate = next(row.value for row in rows if row.metric == "rate")
    note = f"{rate:,.0f} tasks a second, results kept {kept:g} s; shaded: not judged"
    svg.write_text(chart(f"Headrace, {minutes:g} minutes", note, panels(soak.series)))
    out = Console()
    report.show_rows(out, rows)
    report.show_machine(out, about, started)
    out.print(f"written: {svg.name}", style="dim")
    if json_file is not None:
        report.write_json(json_file, about, rows)
        out.print(f"written: {json_file}", style="dim")
    if failed := [row.metric for row in rows if row.within is False]:
        out.print(f"not within: {', '.join(failed)}", style="red")
        sys.exit(1)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
