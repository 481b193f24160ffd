"""What the commands have in common: options, a client for one command, rows of tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.output import Form, iso
from headrace.errors import ConfigurationError

Url = Annotated[str | None, typer.Option("--url", envvar="HEADRACE_URL", help="Broker's url.")]
Queue = Annotated[str, typer.Option("--queue", "-q", envvar="HEADRACE_QUEUE", help="Queue.")]
Output = Annotated[Form, typer.Option("-o", "--output", help="Form of the output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Short for -o json.")]
Data = Annotated[str | None, typer.Argument(help="JSON, @file, or - for stdin.")]
Priority = Annotated[str, typer.Option("-p", "--priority", help="low, normal, high or critical.")]
TaskId = Annotated[str, typer.Argument(help="A task's id.")]


def shared_url(url: str | None) -> str:
    if not url or url.startswith("memory:"):
        raise ConfigurationError(
            "no broker that this command could share with workers",
            hint="Give --url or HEADRACE_URL: embedded:///some/folder or nats://host:4222",
        )
    return url


def level_of(priority: str) -> Any:
    """The `TaskPriority` of this name."""
    from headrace.task import TaskPriority

    try:
        return TaskPriority[priority.upper()]
    except KeyError:
        raise ConfigurationError(
            f"{priority!r} is no priority", hint="low, normal, high or critical"
        ) from None


def task_data(text: str | None) -> Any:
    """The value that an argument stands for."""
    if text is None:
        return {}
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{text[1:]} cannot be read: {error}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"the data is not JSON: {error}", hint="Text needs quotes of its own: '\"hello\"'"
        ) from None


def with_client(url: str | None, queue: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    import asyncio

    from headrace.client import Client

    async def run() -> Any:
        async with Client(shared_url(url), queue, name="headrace-cli") as client:
            return await work(client)

    return asyncio.run(run())


def form_of(output: Form, as_json: bool) -> Form:
    return Form.JSON if as_json else output


def task_row(task: Any) -> dict[str, Any]:
    row = asdict(task) | {"priority": task.priority.name.lower(), "status": task.status.value}
    for name in ("created_at", "started_at", "completed_at", "due_at"):
        row[name] = iso(row[name])
    return row


def result_row(result: Any) -> dict[str, Any]:
    return asdict(result) | {"status": result.status.value}
