"""What Headrace costs before and beside the work: imports, start-up, memory for each task.

    python -m benchmarks.footprint [--quick] [--json FILE]

docs/benchmarks.md says what each figure is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from benchmarks import report
from benchmarks.report import Row
from benchmarks.rounds import interruptible
from benchmarks.servers import ROOT, Process, start_nats
from benchmarks.systems import OURS

IMPORTS = {
    "nats+pydantic": "import nats, pydantic",
    "headrace": "import headrace",
    "headrace, used": "from headrace import Client, Worker; import headrace.broker.jetstream",
}
"""What a program loads; the last is all that a client or a worker on NATS comes to load."""
COMMANDS = {"headrace --help": ["--help"], "headrace version": ["version"]}
_APP = """
from headrace import Coordinator
app = Coordinator(queue="footprint")

@app.handler("first")
async def first(x: int) -> int:
    return x
"""
_LIMIT = 2.0  # times the import of nats and pydantic
_ROUNDS, _QUICK_ROUNDS = 10, 3
_TASKS, _QUICK_TASKS = 50_000, 5_000
_RUNNING, _QUICK_RUNNING = 2_000, 500


def environment(**more: str) -> dict[str, str]:
    """Nothing of the caller's Headrace; this checkout's, wherever the installed one comes from."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return env | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "worker")]), **more}


def imports(rounds: int) -> list[Row]:
    """Milliseconds of each import in a fresh interpreter, without the interpreter's own start."""
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, line in IMPORTS.items():
            code = f"import time; t = time.perf_counter(); {line}; print(time.perf_counter() - t)"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment(), cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            taken[name].append(float(done.stdout) * 1000)
    rows = [report.row("import_ms", name, "ms", values) for name, values in taken.items()]
    for name in ("headrace", "headrace, used"):
        pairs = zip(taken[name], taken["nats+pydantic"], strict=True)
        ratio = report.row("import_ratio", name, "×", [ours / theirs for ours, theirs in pairs])
        rows.append(
            Row(*(ratio.metric, name, ratio.value, "×", ratio.spread, _LIMIT),
                within=ratio.value <= _LIMIT)
        )  # fmt: skip
    return rows


def commands(rounds: int) -> list[Row]:
    """Milliseconds of a whole command, interpreter included."""
    rows = []
    for name, arguments in COMMANDS.items():
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "headrace", *arguments],
                env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            taken.append((time.perf_counter() - start) * 1000)
        rows.append(report.row("command_ms", name, "ms", taken))
    return rows


class Role:
    """A program of `footprint_roles` that answers lines."""

    def __init__(self, name: str, url: str, folder: Path, *arguments: str) -> None:
        self.process = Process(
            [sys.executable, "-m", "benchmarks.footprint_roles", name, url, *arguments],
            folder / f"{name}.log", environment(), pipes=True,
        )  # fmt: skip

    def ask(self, line: str) -> dict[str, Any]:
        """What it answers."""
        stdin, stdout = self.process.child.stdin, self.process.child.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise SystemExit(f"a program of the benchmark has ended:\n{self.process.tail()}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def _server() -> Iterator[tuple[Path, Process, str]]:
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        process, url = start_nats(Path(folder))
        with process:
            yield Path(folder), process, url


def start(rounds: int) -> list[Row]:
    """Milliseconds from the command `headrace worker` to the end of a task that waited for it."""
    taken = []
    with _server() as (folder, _, url):
        (folder / "app.py").write_text(_APP)
        role = Role("client", url, folder)
        with role.process:
            for _ in range(rounds):
                role.ask("submit first")
                log = folder / "worker.log"
                begin = time.perf_counter()
                command = [sys.executable, "-m", "headrace", "worker", "app:app"]
                with Process(command, log, environment(HEADRACE_URL=url), cwd=folder):
                    role.ask("wait")
                    taken.append((time.perf_counter() - begin) * 1000)
    return [report.row("start_ms", "worker, first task", "ms", taken)]


def memory(tasks: int, running: int) -> list[Row]:
    """Bytes for each task: resident memory after, less before, over the number."""
    rows = []

    def each(subject: str, before: int, after: int, count: int) -> None:
        rows.append(report.row("bytes_per_task", subject, "B", [max(0, after - before) / count]))

    with _server() as (folder, server, url):
        client = Role("client", url, folder)
        with client.process:
            rss = _rss_of(server.child.pid)
            idle = client.ask("memory")["rss"]
            rows.append(report.row("memory_mib", "client, idle", "MiB", [idle / 2**20]))
            client.ask(f"warm {tasks // 10}")
            before, at_server = client.ask("memory")["rss"], rss()
            client.ask(f"submit_many {tasks}")
            each("client, submitted", before, client.ask("memory")["rss"], tasks)
            each("server, queued", at_server, rss(), tasks)
        worker = Role("worker", url, folder, str(running))
        with worker.process:
            count = tasks + tasks // 10
            worker.ask("start")
            worker.ask(f"finish {count}")
            rows.append(
                report.row(
                    "memory_mib", "worker, idle", "MiB", [worker.ask("memory")["rss"] / 2**20]
                )
            )
            each("server, finished", at_server, rss(), tasks)
            at_worker = worker.ask("memory")["rss"]
            worker.ask(f"again {count}")
            each("worker, finished", at_worker, worker.ask("memory")["rss"], count)
    with _server() as (
        folder,
        _,
        url,
    ):  # one that has run nothing: freed memory would be used again
        worker = Role("worker", url, folder, str(running))
        with worker.process:
            worker.ask("start")
            worker.ask("again 100")
            at_worker = worker.ask("memory")["rss"]
            worker.ask(f"hold {running}")
            each("worker, running", at_worker, worker.ask("memory")["rss"], running)
            children = psutil.Process(worker.process.child.pid).children()
            keeper = sum(child.memory_info().rss for child in children)
            rows.append(report.row("memory_mib", "lease keeper", "MiB", [keeper / 2**20]))
    return rows


def _rss_of(pid: int) -> Callable[[], int]:
    process = psutil.Process(pid)
    return lambda: int(process.memory_info().rss)


def main(
    quick: Annotated[bool, typer.Option(help="A tenth of the tasks, three rounds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Imports, start-up and memory, on a server of its own."""
    interruptible()
    started = time.monotonic()
    about = report.machine(OURS)
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    tasks, running = (_QUICK_TASKS, _QUICK_RUNNING) if quick else (_TASKS, _RUNNING)
    console = Console()
    rows: list[Row] = []
    parts: tuple[tuple[str, Callable[[], list[Row]]], ...] = (
        ("imports", lambda: imports(rounds)),
        ("commands", lambda: commands(rounds)),
        ("start", lambda: start(rounds)),
        ("memory", lambda: memory(tasks, running)),
    )
    for name, part in parts:
        with console.status(name):
            found = part()
        report.show_rows(console, found)
        rows += found
    report.show_machine(console, about, started)
    if json_file is not None:
        report.write_json(json_file, about, rows)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
