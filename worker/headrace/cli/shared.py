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
from headrace.errors import AccessDenied, ConfigurationError, HeadraceError, TaskNotFound

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


class _NoQueue(TaskNotFound):
    """A queue that is not there: the exit code is that of anything not found."""

    def __init__(self, queue: str) -> None:
        HeadraceError.__init__(
            self, f"there is no queue {queue!r}", hint="See `headrace queue list`"
        )


def with_broker(
    url: str | None, queue: str, work: Callable[[Any], Awaitable[Any]], *, makes: bool = False
) -> Any:
    """What `work` gives with a broker. Raises `TaskNotFound` without the queue, unless the command
    `makes` it: a name that was mistyped should not be there afterwards."""
    import asyncio

    from headrace.broker.connect import open_broker
    from headrace.task import check_queue

    check_queue(queue)

    async def run() -> Any:
        broker = await open_broker(shared_url(url), "headrace-cli")
        try:
            if not makes and not await _is_there(broker, queue):
                raise _NoQueue(queue)
            return await work(broker)
        finally:
            await broker.close()

    return asyncio.run(run())


def with_client(
    url: str | None, queue: str, work: Callable[[Any], Awaitable[Any]], *, makes: bool = False
) -> Any:
    """The same with a client."""
    from headrace.broker.port import QueueSettings
    from headrace.client import Client

    async def on(broker: Any) -> Any:
        async with Client.on(broker, queue, QueueSettings()) as client:
            return await work(client)

    return with_broker(url, queue, on, makes=makes)


async def _is_there(broker: Any, queue: str) -> bool:
    try:
        return queue in await broker.queues()
    except AccessDenied:  # one who may not list them may not make them either
        return True


def form_of(output: Form, as_json: bool) -> Form:
    return Form.JSON if as_json else output


def task_row(task: Any) -> dict[str, Any]:
    row = asdict(task) | {"priority": task.priority.name.lower(), "status": task.status.value}
    for name in ("created_at", "started_at", "completed_at", "due_at"):
        row[name] = iso(row[name])
    return row


def result_row(result: Any) -> dict[str, Any]:
    return asdict(result) | {"status": result.status.value}
