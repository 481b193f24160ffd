"""`headrace queue`, `dead`, `workers`: what is in a queue, what was given up, who is there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from headrace.cli.output import Form, iso, show
from headrace.cli.shared import (
    AsJson,
    Output,
    Queue,
    TaskId,
    Url,
    form_of,
    shared_url,
    with_broker,
    with_client,
)
from headrace.errors import TaskNotFound

queue_app = typer.Typer(help="Look at queues.", no_args_is_help=True)
dead_app = typer.Typer(help="Dead letters: tasks that were given up.", no_args_is_help=True)
workers_app = typer.Typer(help="Who is there.", no_args_is_help=True)


def _depth_row(name: str, depth: Any) -> dict[str, Any]:
    return {
        "queue": name,
        "waiting": depth.waiting,
        "running": depth.running,
        "delayed": depth.delayed,
        "dead": depth.dead,
        "max_size": depth.max_size,
        "lanes": [
            {
                "priority": lane.lane.priority.name.lower(),
                "tag": lane.lane.tag,
                "waiting": lane.waiting,
                "running": lane.running,
            }
            for lane in depth.lanes
        ],
    }


@queue_app.command("list")
def queue_list(url: Url = None, output: Output = Form.TABLE, as_json: AsJson = False) -> None:
    """The queues and how much is in them."""
    import asyncio

    from headrace.broker.connect import open_broker

    async def run() -> list[dict[str, Any]]:
        broker = await open_broker(shared_url(url), "headrace-cli")
        try:
            names = sorted(await broker.queues())
            return [_depth_row(name, await broker.queue(name).depth()) for name in names]
        finally:
            await broker.close()

    columns = ("queue", "waiting", "running", "delayed", "dead", "max_size")
    show(asyncio.run(run()), form_of(output, as_json), columns)


@queue_app.command("create")
def queue_create(
    name: Annotated[str, typer.Argument(help="The queue's name.")],
    url: Url = None,
    max_size: Annotated[int, typer.Option(min=1, help="Tasks that it holds.")] = 10_000,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Servers that store it.")] = 1,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag of its tasks.")] = None,
    blobs: Annotated[
        bool, typer.Option("--blobs", help="With a store of 1 GiB for blobs.")
    ] = False,
) -> None:
    """Make a queue with all that it needs, so that its users need no right to.

    Workers and clients that may make streams do so by themselves. One that is there keeps its
    settings; only its size is raised.
    """
    import asyncio

    from headrace.broker.connect import open_broker
    from headrace.broker.port import QueueSettings
    from headrace.wire import lanes

    async def run() -> None:
        broker = await open_broker(shared_url(url), "headrace-cli")
        try:
            queue = broker.queue(name, QueueSettings(max_size=max_size, replicas=replicas))
            await queue.ensure()
            await queue.ensure_later()
            await queue.ensure_lanes(lanes(tag or ()))
            if blobs:
                await queue.blobs.ensure()
        finally:
            await broker.close()

    asyncio.run(run())
    typer.echo(name)


@queue_app.command("describe")
def queue_describe(
    name: Annotated[str, typer.Argument(help="The queue's name.")],
    url: Url = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """One queue by priority and tag."""
    row = _depth_row(name, with_broker(url, name, lambda broker: broker.queue(name).depth()))
    if form_of(output, as_json) is not Form.TABLE:
        show(row, form_of(output, as_json))
        return
    lanes = row.pop("lanes")
    show(row, Form.TABLE)
    show(lanes, Form.TABLE, ("priority", "tag", "waiting", "running"))


def _letter_row(letter: Any) -> dict[str, Any]:
    row = asdict(letter)
    row["failed_at"] = iso(row["failed_at"])
    row["raw"] = letter.raw.decode(errors="replace")
    return row


@dead_app.command("list")
def dead_list(
    url: Url = None,
    queue: Queue = "default",
    limit: Annotated[int, typer.Option("--limit", min=1)] = 100,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """The oldest dead letters."""
    letters = with_client(url, queue, lambda client: client.dead_letters(limit))
    columns = ("id", "type", "reason", "error", "attempts", "failed_at")
    show([_letter_row(letter) for letter in letters], form_of(output, as_json), columns)


@dead_app.command("show")
def dead_show(
    task_id: TaskId,
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """One dead letter with its traceback and data."""
    letter = with_client(url, queue, lambda client: client.dead_letter(task_id))
    show(_letter_row(letter), form_of(output, as_json))


@dead_app.command("replay")
def dead_replay(task_ids: list[str], url: Url = None, queue: Queue = "default") -> None:
    """Submit the tasks of dead letters once more."""

    async def work(client: Any) -> None:
        for task_id in task_ids:
            task = await client.replay(task_id)
            typer.echo(task.id)

    with_client(url, queue, work)


@dead_app.command("drop")
def dead_drop(task_ids: list[str], url: Url = None, queue: Queue = "default") -> None:
    """Delete dead letters."""

    async def work(client: Any) -> None:
        for task_id in task_ids:
            if not await client.drop_dead_letter(task_id):
                raise TaskNotFound(task_id)
            typer.echo(task_id)

    with_client(url, queue, work)


@workers_app.command("list")
def workers_list(
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """The workers that answer. Silence means unknown, not dead."""
    infos = with_client(url, queue, lambda client: client.get_workers())
    columns = ("id", "status", "current_tasks", "total_completed", "total_failed")
    show([info.to_json() for info in infos], form_of(output, as_json), columns)
