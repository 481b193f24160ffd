"""Case C39 on the command line: what a task says is shown, and never obeyed by the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console
from tests.support.nats_servers import NatsProcess

from headrace import CONTEXT, Client, Context, Worker
from headrace.cli import main
from headrace.cli.output import visible
from headrace.up.command import Screen

SCRIPT = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
HOSTILE = f"\x1b[2J\x1b]0;x\x07\x9b31m\u202e\r{SCRIPT}[bold]\nnext"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def test_c39_what_controls_a_terminal_is_written_out() -> None:
    assert visible("plain ü 漢 text") == "plain ü 漢 text"
    shown = visible(HOSTILE)
    assert not CONTROLS.search(shown)
    assert "\n" not in shown
    assert json.loads(f'"{shown}"') == HOSTILE  # nothing of it is lost
    assert SCRIPT in shown


@pytest.fixture
async def worker(nats_server: NatsProcess, queue_name: str) -> AsyncIterator[Worker]:
    worker = Worker(url=nats_server.url, queue=queue_name)

    @worker.handler("fails")
    async def fails(data: Any, *, ctx: Context = CONTEXT) -> None:
        await ctx.progress(0.5, HOSTILE)
        raise ValueError(HOSTILE)

    await worker.start()
    yield worker
    await worker.stop()


def _run(*arguments: str) -> tuple[str, str]:
    """What a command prints, on stdout and on stderr. In this process, but without its loop."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["headrace", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, 5), err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.mark.usefixtures("worker")
async def test_c39_every_view_of_the_command_line(
    nats_server: NatsProcess, queue_name: str
) -> None:
    async with Client(nats_server.url, queue_name) as client:
        task = await client.submit_async(
            "fails", {"text": HOSTILE}, metadata={HOSTILE: HOSTILE}, task_id="hostile"
        )
        assert (await client.wait_for(task.id, 20)).status == "failed"
    views = [["submit", "fails", json.dumps({"text": HOSTILE}), "--wait"]]
    for form in ("table", "json", "jsonl", "yaml"):
        views.append(["task", "get", task.id, "-o", form])
        views.append(["dead", "show", task.id, "-o", form])
        views.append(["dead", "list", "-o", form])
    views.append(["task", "wait", task.id])
    for view in views:
        where = ("-q", queue_name, "--url", nats_server.url)
        stdout, stderr = await asyncio.to_thread(_run, *view, *where)
        assert not CONTROLS.search(stdout), view
        assert not CONTROLS.search(stderr), view
        assert "<img src=x" in stdout + stderr, view
        if "json" in view:
            found = json.loads(stdout)
            row = found[0] if isinstance(found, list) else found
            assert row["error"] == f"ValueError: {HOSTILE}"  # whole, for programs


def test_c39_the_live_view_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen("docs")
    screen.say(HOSTILE)
    printed = capsys.readouterr().err
    assert not CONTROLS.search(printed)
    assert f"{SCRIPT}[bold]" in printed

    class Pool:
        class view:
            depth, workers, target, message = None, (), 1, HOSTILE

    console = Console(width=300, force_terminal=False)
    with console.capture() as capture:
        console.print(screen._render(Pool()))  # type: ignore[arg-type]
    shown = capture.get()
    assert not CONTROLS.search(shown)
    assert shown.count(f"{SCRIPT}[bold]") == 2
