"""The command line on a real server: what it prints, and with which code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.nats_servers import NatsProcess, free_ports

APP = """
from headrace import Coordinator, Reject
app = Coordinator(queue="cli")

@app.handler("double")
async def double(x: int) -> int:
    return 2 * x

@app.handler("fail")
async def fail(data: dict) -> None:
    raise Reject("no such thing")

nothing = 1
"""
POOL = """
apiVersion: headrace.dev/v1alpha1
kind: WorkerPool
metadata: {name: p}
spec: {queue: q, app: "app:app", maxWorker: 3}
"""


class Cli:
    """Runs commands in a folder, against a server."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
        if url:
            self.env["HEADRACE_URL"] = url

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "headrace", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def cli(tmp_path: Path, nats_server: NatsProcess) -> Cli:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "pool.yaml").write_text(POOL)
    return Cli(tmp_path, nats_server.url)


@pytest.fixture
def worker(cli: Cli) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "worker", "app:app"],
        cwd=cli.folder,
        env=cli.env,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.kill()
    process.wait()


def test_version_is_json_when_asked(cli: Cli) -> None:
    row = json.loads(cli.run("version", "--json").stdout)
    assert {"headrace", "python", "nats-py", "pydantic"} <= row.keys()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["no-such-command"], 2, "No such command"),
        (["submit", "double", "{bad"], 2, "not JSON"),
        (["submit", "double", "1", "-p", "urgent"], 2, "low, normal, high or critical"),
        (["submit", "double", "@missing.json"], 2, "cannot be read"),
        (["worker", "app"], 2, "module:attribute"),
        (["worker", "missing:app"], 2, "there is no module 'missing'"),
        (["worker", "app:ap"], 2, "Did you mean app:app?"),
        (["worker", "app:nothing"], 2, "no handlers"),
        (["up", "-f", "pool.yaml"], 2, "Did you mean maxWorkers?"),
        (["up", "-f", "absent.yaml"], 2, "cannot be read"),
        (["task", "get", "task-unknown", "-q", "cli"], 4, "unknown or expired"),
        (["task", "wait", "task-unknown", "-q", "cli"], 4, "unknown or expired"),
        (["task", "cancel", "task-unknown", "-q", "cli"], 4, "unknown or expired"),
        (["dead", "show", "task-unknown", "-q", "cli"], 4, "unknown or expired"),
        (["dead", "drop", "task-unknown", "-q", "cli"], 4, "unknown or expired"),
        (["queue", "describe", "no-such-queue"], 4, "there is no queue"),
        (["submit", "double", "1", "-q", "a.b"], 2, "is not a queue name"),
        (["submit", "x", "--url", "memory://"], 2, "embedded:///"),
        (["submit", "x", "--url", "http://x"], 2, "nats://host:4222"),
    ],
)
def test_what_goes_wrong_has_a_code_and_says_what_to_do(
    cli: Cli, arguments: list[str], code: int, says: str
) -> None:
    if arguments[-2:] == ["-q", "cli"]:
        assert cli.run("queue", "create", "cli").returncode == 0
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "reading",
    [["task", "get", "x"], ["dead", "list"], ["schedule", "list"], ["workers", "list"]],
)
def test_a_command_that_reads_makes_no_queue(cli: Cli, reading: list[str]) -> None:
    """A name that was mistyped was told to be empty, and was a queue from then on."""
    done = cli.run(*reading, "-q", "ordres")
    assert (done.returncode, done.stdout) == (4, "")
    assert "there is no queue 'ordres'" in done.stderr
    assert "ordres" not in cli.run("queue", "list").stdout


def test_a_broker_that_is_not_there_is_code_3(tmp_path: Path) -> None:
    cli = Cli(tmp_path, f"nats://127.0.0.1:{free_ports(1)[0]}")
    done = cli.run("submit", "double", "1")
    assert done.returncode == 3
    assert "no NATS server answers" in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.usefixtures("worker")
def test_a_task_from_submit_to_its_record(cli: Cli) -> None:
    done = cli.run("submit", "double", "21", "-q", "cli", "--wait", "--timeout", "30")
    assert (done.returncode, done.stdout) == (0, "42\n")

    task = json.loads(cli.run("submit", "double", "4", "-q", "cli", "--json").stdout)
    waited = cli.run("task", "wait", task["id"], "-q", "cli", "--json")
    assert waited.returncode == 0
    assert json.loads(waited.stdout)["result"] == 8
    got = json.loads(cli.run("task", "get", task["id"], "-q", "cli", "--json").stdout)
    assert (got["status"], got["priority"]) == ("completed", "normal")

    failed = cli.run("submit", "fail", "{}", "-q", "cli", "--wait")
    assert failed.returncode == 5
    assert "no such thing" in failed.stderr
    (letter,) = json.loads(cli.run("dead", "list", "-q", "cli", "--json").stdout)
    assert (letter["type"], letter["reason"]) == ("fail", "rejected")
    assert cli.run("dead", "drop", letter["id"], "-q", "cli").returncode == 0

    assert cli.run("submit", "double", "1", "-q", "cli", "--delay", "60", "--wait",
                   "--timeout", "0.5").returncode == 7  # fmt: skip
    row = json.loads(cli.run("queue", "describe", "cli", "--json").stdout)
    assert row["delayed"] == 1
    assert {"queue", "waiting", "running", "delayed", "dead", "max_size", "lanes"} == row.keys()
    (info,) = json.loads(cli.run("workers", "list", "-q", "cli", "--json").stdout)
    assert info["total_completed"] >= 2


def test_a_cancelled_task_is_code_6(cli: Cli) -> None:
    task_id = cli.run("submit", "nobody", "-q", "cli6").stdout.strip()
    assert cli.run("task", "cancel", task_id, "-q", "cli6").returncode == 0
    assert cli.run("task", "wait", task_id, "-q", "cli6").returncode == 6


def test_schedules_are_added_listed_and_removed(cli: Cli, worker: subprocess.Popen[bytes]) -> None:
    on = ["-q", "cli", "--json"]
    added = cli.run(
        "schedule", "add", "nightly", "double", "4", "--cron", "30 2 * * *",
        "--zone", "Europe/Paris", "-p", "high", *on,
    )  # fmt: skip
    row = json.loads(added.stdout)
    assert (row["name"], row["type"], row["data"]) == ("nightly", "double", 4)
    assert (row["priority"], row["when"]) == ("high", "At 02:30 (Europe/Paris)")
    assert len(row["next_runs"]) == 3
    cli.run("schedule", "add", "often", "double", "1", "--every", "1s", "-q", "cli")
    following = json.loads(cli.run("schedule", "next", "nightly", "-n", "400", *on).stdout)
    assert len({run["local"][:10] for run in following}) == 400  # once a day, each day
    local = {run["local"][11:] for run in following}
    assert local == {"02:30:00+01:00", "02:30:00+02:00", "03:30:00+02:00"}
    table = cli.run("schedule", "list", "-q", "cli").stdout.splitlines()
    assert table[0].split() == ["NAME", "TYPE", "WHEN", "LAST_RUN", "NEXT_RUN"]
    assert [line.split()[0] for line in table[1:]] == ["nightly", "often"]
    assert "every 1s" in table[2]
    deadline = time.monotonic() + 30
    while (rows := json.loads(cli.run("schedule", "list", *on).stdout))[1]["last_run"] is None:
        assert time.monotonic() < deadline, rows
    assert cli.run("schedule", "remove", "nightly", "often", "-q", "cli").stdout == (
        "nightly\noften\n"
    )
    assert json.loads(cli.run("schedule", "list", *on).stdout) == []
    for command in (["remove", "nightly"], ["next", "nightly"]):
        gone = cli.run("schedule", *command, "-q", "cli")
        assert (gone.returncode, gone.stdout) == (4, "")
        assert "there is no schedule 'nightly'" in gone.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "either cron= or every="),
        (["--cron", "70 * * * *"], "minute"),
        (["--cron", "* * * * *", "--zone", "Nowhere"], "'Nowhere' is no time zone"),
        (["--every", "soon"], "not a duration"),
        (["--every", "1500ms"], "whole number of seconds"),
    ],
)
def test_a_schedule_that_cannot_be_is_a_usage_error(
    cli: Cli, options: list[str], says: str
) -> None:
    found = cli.run("schedule", "add", "s", "double", "1", *options)
    assert (found.returncode, found.stdout) == (2, "")
    assert says in found.stderr
    assert "HR106" in found.stderr
