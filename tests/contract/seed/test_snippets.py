"""Every snippet of the seed page, as a user would run it, and what it prints."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tests.support.nats_servers import NatsProcess

import headrace

SEED = Path(__file__).parents[3] / "examples" / "seed"

PRINTED = {
    "quick_start": [
        "Document: {'processed': True, 'pages': 10}",
        "Summary: completed {'summary': '...'}",
    ],
    "workers": [
        "Result: {'result': 42}",
        "ID: worker-1",
        "Status: idle",
        "Current tasks: 0",
        "Total completed: 1",
        "Total failed: 0",
        re.compile(r"Uptime: [0-9.e-]+s"),
        "Available: True",
        "Stopped: stopped",
    ],
    "worker_pools": [
        "Result: {'processed': '...'}",
        "Workers: 5",
        "Current tasks: 0",
        "Completed: 1",
    ],
    "task_queue": [
        "Dequeued: analyze by worker-1, {'user_id': 'user-123'}",
        "Complete: completed {'analysis': '...'}",
        "Fail: completed None",
        "Cancel: completed Task already complete",
        "Wait: completed {'analysis': '...'}",
    ],
    "coordinator": [
        "Result: {'result': '...'}",
        "Status: completed",
        "Cancel: completed Task already complete",
        "Workers: 5",
        "Running: True",
        "Queue size: 0",
        "Worker count: 5",
    ],
    "auto_scaling": [
        "Before: 2",
        re.compile("Decision: .*60.*"),
        "After: 6",
        "Done: 60",
    ],
    "health_checks": ["Alive: ['idle']"],
    "registry": ["Found: ['worker-1']", "Left: []"],
}


def assert_printed(name: str, text: str) -> None:
    lines = text.strip().splitlines()
    expected = PRINTED[name]
    assert len(lines) == len(expected), text
    for line, want in zip(lines, expected, strict=True):
        if isinstance(want, str):
            assert line == want
        else:
            assert want.fullmatch(line), line


def test_every_snippet_is_tested() -> None:
    assert {path.stem for path in SEED.glob("*.py")} == {*PRINTED, "statuses"}


@pytest.mark.parametrize("name", PRINTED)
def test_in_memory(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_URL", raising=False)
    runpy.run_path(str(SEED / f"{name}.py"), run_name="__main__")
    assert_printed(name, capsys.readouterr().out)


# One after the other on the same queue, so that each must leave it as it found it.
@pytest.mark.parametrize("name", PRINTED)
def test_on_nats(
    name: str,
    nats_server: NatsProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_URL", nats_server.url)
    runpy.run_path(str(SEED / f"{name}.py"), run_name="__main__")
    assert_printed(name, capsys.readouterr().out)


def test_the_quick_start_as_a_program(broker_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(SEED / "quick_start.py")],
        env=os.environ | {"HEADRACE_URL": broker_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert_printed("quick_start", ran.stdout)
    assert ran.stderr == ""  # no warning, no stray log line


def test_the_enumerations_are_those_of_the_page() -> None:
    page = runpy.run_path(str(SEED / "statuses.py"))
    for name in ("WorkerStatus", "TaskPriority", "TaskStatus"):
        ours = getattr(headrace, name)
        assert {each.name: each.value for each in page[name]} == {
            each.name: each.value for each in ours
        }


def test_the_page_imports_nothing_that_headrace_does_not_have() -> None:
    for path in SEED.glob("*.py"):
        for names in re.findall(r"from headrace import (\([^)]*\)|.*)", path.read_text()):
            for name in re.findall(r"\w+", names):
                assert hasattr(headrace, name), f"{path.name}: {name}"


def test_fields_and_defaults_are_those_of_the_original() -> None:
    """Field by field against the real package: what its code reads and sets is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastagentic import cluster
        from fastagentic.cluster.worker import WorkerInfo as TheirWorkerInfo

    theirs_and_ours = [
        (cluster.CoordinatorConfig(), headrace.CoordinatorConfig()),
        (cluster.WorkerConfig(), headrace.WorkerConfig()),
        (cluster.Task(type="t", data={}), headrace.Task(type="t", data={})),
        (TheirWorkerInfo(id="w"), headrace.WorkerInfo(id="w")),
        (
            cluster.TaskResult(task_id="t", status=cluster.TaskStatus.COMPLETED),
            headrace.TaskResult(task_id="t", status=headrace.TaskStatus.COMPLETED),
        ),
    ]
    varies = {"id", "created_at", "started_at", "last_heartbeat", "config"}
    for theirs, ours in theirs_and_ours:
        for name in type(theirs).__dataclass_fields__:
            value = getattr(ours, name)
            if name not in varies:
                assert value == getattr(theirs, name), f"{type(theirs).__name__}.{name}"
    # Public methods and properties too.
    pairs = [
        (cluster.Coordinator, headrace.Coordinator),
        (cluster.Worker, headrace.Worker),
        (cluster.WorkerPool, headrace.WorkerPool),
        (cluster.TaskQueue, headrace.TaskQueue),
        (cluster.Task, headrace.Task),
        (TheirWorkerInfo, headrace.WorkerInfo),
    ]
    for theirs_type, ours_type in pairs:
        public = {name for name in dir(theirs_type) if not name.startswith("_")}
        assert public <= set(dir(ours_type)), theirs_type.__name__
