"""`headrace rights`: what a user of NATS must be allowed, as the server's configuration has it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Form, show
from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from headrace.broker.jetstream.grants import Role


class RightsForm(StrEnum):
    """Where the rights are to be put."""

    CONFIG = "config"  # nats-server's configuration file
    JSON = "json"
    NSC = "nsc"  # arguments of `nsc add user`
    YAML = "yaml"


def rights(
    roles: Annotated[
        list[str],
        typer.Argument(metavar="ROLE...", help="owner, producer, worker, operator, dashboard."),
    ],
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="A queue; none for operator, dashboard: all queues."),
    ] = None,
    inbox: Annotated[
        str | None, typer.Option("--inbox", help="The user's HEADRACE_NATS_INBOX.")
    ] = None,
    output: Annotated[
        RightsForm, typer.Option("-o", "--output", help="Form of the output.")
    ] = RightsForm.CONFIG,
) -> None:
    """Print the permissions of a NATS user in these roles. Asks no server."""
    from headrace.broker.jetstream import grants
    from headrace.broker.jetstream.options import INBOX, check_inbox

    prefix = check_inbox(inbox) if inbox else INBOX
    made = grants.permissions([_role(name) for name in roles], queue or (), prefix)
    if output is RightsForm.CONFIG:
        typer.echo(grants.as_configuration(made))
    elif output is RightsForm.NSC:
        typer.echo(grants.as_nsc(made))
    else:
        show(made, Form(output.value))


def _role(name: str) -> Role:
    from headrace.broker.jetstream.grants import Role

    try:
        return Role(name)
    except ValueError:
        raise ConfigurationError(
            f"{name!r} is no role", hint=", ".join(role.value for role in Role)
        ) from None
