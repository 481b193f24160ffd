"""`headrace schedule`: what comes again and again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from headrace.cli.output import Form, iso, show
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
    with_client,
)
from headrace.errors import HeadraceError, InvalidSchedule, TaskNotFound

schedule_app = typer.Typer(help="Schedules: tasks that come again and again.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


class _NoSchedule(TaskNotFound):
    """A schedule that is not there: the exit code is that of anything not found."""

    def __init__(self, name: str) -> None:
        HeadraceError.__init__(
            self, f"there is no schedule {name!r}", hint="See `headrace schedule list`"
        )


def _row(schedule: Any, runs: int = 1) -> dict[str, Any]:
    row = asdict(schedule) | {"priority": schedule.priority.name.lower()}
    if schedule.cron is None:
        row["zone"] = None
    for name in ("registered_at", "last_run"):
        row[name] = iso(row[name])
    row["when"] = _words(schedule)
    row["next_runs"] = [iso(at) for at in schedule.next_runs(runs)]
    return row


def _seconds(text: str) -> float:
    """Seconds of an interval such as 1h30m, in the manifest's form."""
    from headrace.duration import seconds_of

    try:
        return seconds_of(text)
    except ValueError as error:
        raise InvalidSchedule("every", str(error)) from None


def _words(schedule: Any) -> str:
    """The rhythm as people say it."""
    if schedule.cron is None:
        from headrace.duration import text_of

        return f"every {text_of(schedule.every)}"
    from cron_descriptor import FormatException, Options, get_description

    try:
        said = get_description(schedule.cron, Options(use_24hour_time_format=True))
    except (FormatException, ValueError):
        said = schedule.cron
    return f"{said} ({schedule.zone})"


@schedule_app.command("list")
def schedule_list(
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """The schedules of a queue, those of code that is gone included."""
    found = with_client(url, queue, lambda client: client.schedules())
    rows = [_row(schedule) for schedule in found]
    form = form_of(output, as_json)
    if form is Form.TABLE:
        rows = [row | {"next_run": next(iter(row["next_runs"]), None)} for row in rows]
    show(rows, form, ("name", "type", "when", "last_run", "next_run"))


@schedule_app.command("add")
def schedule_add(
    name: Name,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The tasks' type.")],
    data: Data = None,
    url: Url = None,
    queue: Queue = "default",
    cron: Annotated[
        str | None, typer.Option("--cron", help="minute hour day month weekday.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", help="Where --cron is read, such as Europe/Paris.")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", help="An interval in place of --cron: 90s, 1h30m.")
    ] = None,
    priority: Priority = "normal",
    task_timeout: Annotated[float | None, typer.Option(help="Seconds one run may take.")] = None,
    retries: Annotated[int | None, typer.Option("--retries")] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """Register a schedule, or replace the one of this name."""
    options = {
        "cron": cron,
        "zone": zone,
        "every": None if every is None else _seconds(every),
        "priority": level_of(priority),
        "timeout": task_timeout,
        "retries": retries,
        "tag": tag,
    }
    value = task_data(data)

    async def work(client: Any) -> Any:
        return await client.schedule(name, type_, value, **options)

    found = with_client(url, queue, work, makes=True)
    show(_row(found, 3), form_of(output, as_json))


@schedule_app.command("remove")
def schedule_remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    url: Url = None,
    queue: Queue = "default",
) -> None:
    """Remove schedules. Runs that are tasks already go on."""

    async def work(client: Any) -> None:
        for name in names:
            if not await client.unschedule(name):
                raise _NoSchedule(name)
            typer.echo(name)

    with_client(url, queue, work)


@schedule_app.command("next")
def schedule_next(
    name: Name,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 5,
    url: Url = None,
    queue: Queue = "default",
    output: Output = Form.TABLE,
    as_json: AsJson = False,
) -> None:
    """When a schedule runs next, in its zone and in UTC."""
    found = with_client(url, queue, lambda client: client.schedules())
    schedule = next((one for one in found if one.name == name), None)
    if schedule is None:
        raise _NoSchedule(name)
    rows = [
        {"local": _local(at, schedule.zone), "utc": iso(at)} for at in schedule.next_runs(count)
    ]
    show(rows, form_of(output, as_json), ("local", "utc"))


def _local(at: float, zone: str) -> str:
    from zoneinfo import ZoneInfo

    return datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat(timespec="seconds")
