"""`headrace task`: one task, from outside."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.output import Form, show
from headrace.cli.shared import (
    AsJson,
    Output,
    Queue,
    TaskId,
    Url,
    form_of,
    result_row,
    task_row,
    with_client,
)
from headrace.errors import TaskNotFound

task_app = typer.Typer(help="Look at tasks, wait for them, cancel them.", no_args_is_help=True)


@task_app.command("get")
def task_get(
    task_id: TaskId,
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """A task as it is now."""

    async def work(client: Any) -> Any:
        task = await client.get_task(task_id)
        if task is None:
            raise TaskNotFound(task_id)
        return task_row(task)

    show(with_client(url, queue, work), form_of(output, as_json))


@task_app.command("wait")
def task_wait(
    task_id: TaskId,
    url: Url = None,
    queue: Queue = "default",
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds.")] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """Wait for a task's end. The exit code says how it ended."""
    result = with_client(url, queue, lambda client: client.wait_for(task_id, timeout))
    show(result_row(result), form_of(output, as_json))
    codes = {"completed": 0, "failed": 5}
    raise typer.Exit(codes.get(result.status.value, 6))


@task_app.command("cancel")
def task_cancel(
    task_id: TaskId,
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """Cancel a waiting or running task."""
    result = with_client(url, queue, lambda client: client.cancel_task(task_id))
    show(result_row(result), form_of(output, as_json))


@task_app.command("watch")
def task_watch(task_id: TaskId, url: Url = None, queue: Queue = "default") -> None:
    """A task's progress and chunks as they come, one JSON object a line."""

    async def work(client: Any) -> None:
        async for event in client.watch(task_id).events():
            row = {"kind": event.kind, "n": event.n, "value": event.value, "text": event.text}
            show(row, Form.JSONL)

    with_client(url, queue, work)
