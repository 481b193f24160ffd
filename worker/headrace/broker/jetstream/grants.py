"""What each user of NATS must be allowed, and no more: the one list that the command, the page and
the tests are made from.

A subject's wildcard is a whole token, and a stream's name one token, so rights are per queue. What
they cannot keep apart is said in docs/security.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from headrace.broker.jetstream.options import INBOX
from headrace.broker.jetstream.streams import LATER_CONSUMER
from headrace.errors import ConfigurationError
from headrace.wire import QueueNames

_API = "$JS.API."
_RESPONSES_WITHIN = 60  # seconds


class Role(StrEnum):
    """Who uses NATS."""

    OWNER = "owner"  # makes queues: `headrace queue create`, once
    PRODUCER = "producer"
    WORKER = "worker"
    OPERATOR = "operator"
    DASHBOARD = "dashboard"


@dataclass(frozen=True, slots=True)
class Grant:
    """One right, and what it is for."""

    publish: bool
    subject: str
    why: str


def _publish(why: str, *subjects: str) -> Iterator[Grant]:
    return (Grant(True, subject, why) for subject in subjects)


def _subscribe(why: str, *subjects: str) -> Iterator[Grant]:
    return (Grant(False, subject, why) for subject in subjects)


def _api(why: str, *calls: str) -> Iterator[Grant]:
    return _publish(why, *(_API + call for call in calls))


def _everybody(inbox: str) -> Iterator[Grant]:
    yield from _api("which version the server has", "INFO")
    yield from _subscribe("answers to its own questions", f"{inbox}.>")


def _read(*streams: str) -> Iterator[Grant]:
    """Single messages, by subject or sequence: from any replica, and from the leader."""
    for stream in streams:
        yield from _api(
            "read tasks and records", f"DIRECT.GET.{stream}", f"STREAM.MSG.GET.{stream}"
        )


def _blobs(names: QueueNames) -> Iterator[Grant]:
    yield from _publish("blobs: store", names.blobs + ">")
    yield from _read(names.blob_stream)
    yield from _api("blobs: their store", f"STREAM.INFO.{names.blob_stream}")
    yield from _api("blobs: delete", f"STREAM.PURGE.{names.blob_stream}")


def _look(names: QueueNames) -> Iterator[Grant]:
    streams = (names.work_stream, names.state_stream, names.later_stream)
    yield from _api("how much there is", *(f"STREAM.INFO.{stream}" for stream in streams))
    yield from _api(
        "how much there is",
        f"CONSUMER.LIST.{names.work_stream}",
        f"CONSUMER.INFO.{names.work_stream}.*",
        f"CONSUMER.INFO.{names.later_stream}.{LATER_CONSUMER}",
    )


def _owner(names: QueueNames) -> Iterator[Grant]:
    streams = (names.work_stream, names.state_stream, names.later_stream, names.blob_stream)
    for call in ("INFO", "CREATE", "UPDATE"):
        yield from _api("make the streams", *(f"STREAM.{call}.{stream}" for stream in streams))
    for stream, name in ((names.work_stream, "*"), (names.later_stream, LATER_CONSUMER)):
        yield from _api(
            "make the consumers",
            f"CONSUMER.INFO.{stream}.{name}",
            f"CONSUMER.DURABLE.CREATE.{stream}.{name}",
        )


def _producer(names: QueueNames) -> Iterator[Grant]:
    yield from _publish("submit, replay", names.work + ">")
    yield from _publish("delay=, at=", names.later + "*")
    yield from _publish("schedules", names.cron + "*")
    yield from _publish("cancel, unique=", names.state + "*")
    yield from _publish("tell the holder of a cancel", names.cancel("*"))
    yield from _publish("ask who runs a task", names.holds("*"))
    yield from _publish("tell who waits of a cancel", names.reply("*"))
    yield from _look(names)
    yield from _read(names.work_stream, names.state_stream, names.later_stream)
    yield from _api(
        "cancel: take it out of the queue",
        f"STREAM.PURGE.{names.work_stream}",
        f"STREAM.PURGE.{names.later_stream}",
    )
    yield from _api("drop or replay a dead letter", f"STREAM.PURGE.{names.state_stream}")
    yield from _publish("ask for workers", f"$SRV.STATS.{names.service}")
    yield from _subscribe("results", names.reply("*"))
    yield from _subscribe("progress and chunks", names.events + ">")
    yield from _blobs(names)


def _worker(names: QueueNames) -> Iterator[Grant]:
    work = names.work_stream
    yield from _look(names)
    yield from _read(work, names.state_stream, names.later_stream)
    yield from _api("serve a new tag, more slots", f"CONSUMER.DURABLE.CREATE.{work}.*")
    yield from _api("take tasks", f"CONSUMER.MSG.NEXT.{work}.*")
    # the second form is that of a server with a domain, or in 2.15 by option
    yield from _publish("settle, keep leases", f"$JS.ACK.{work}.>", f"$JS.ACK.*.*.{work}.>")
    yield from _publish("records and results", names.state + "*", names.reply("*"))
    yield from _publish("dead letters", names.dead + "*")
    yield from _api(
        "drop the letter of a task that ended well", f"STREAM.PURGE.{names.state_stream}"
    )
    yield from _publish("retries", names.later + "*")
    # Who may retry may submit: the subject below gives nothing that the one above does not.
    yield from _publish("runs of schedules", names.work + ">")
    yield from _api("drop the due copy of a delivered task", f"STREAM.PURGE.{names.later_stream}")
    yield from _publish("progress and chunks", names.events + "*")
    yield from _blobs(names)
    yield from _subscribe("cancel, drain, resume, who runs a task", names.control + "*.*")
    yield from _publish("ask who still runs a redelivered task", names.holds("*"))
    yield from _publish("ask whether another worker runs a type", f"$SRV.STATS.{names.service}")
    for verb in ("PING", "INFO", "STATS"):
        yield from _subscribe(
            "be seen",
            f"$SRV.{verb}",
            f"$SRV.{verb}.{names.service}",
            f"$SRV.{verb}.{names.service}.*",
        )


def _operator(names: QueueNames) -> Iterator[Grant]:
    yield from _api("the sweep", "STREAM.LIST", f"CONSUMER.LIST.{names.work_stream}")
    yield from _api("lanes that no worker has served yet", f"STREAM.INFO.{names.work_stream}")
    yield from _subscribe("from zero (headers only)", names.wake + ">")
    yield from _publish("who is there", f"$SRV.STATS.{names.service}")
    yield from _publish("scale in", names.worker("*", "drain"), names.worker("*", "resume"))


def _dashboard(names: QueueNames) -> Iterator[Grant]:
    yield from _api("the list of queues", "STREAM.LIST")
    yield from _look(names)
    yield from _read(names.work_stream, names.state_stream, names.later_stream, names.blob_stream)
    yield from _publish("who is there", f"$SRV.STATS.{names.service}")
    yield from _publish("ask who runs a task", names.holds("*"))
    yield from _subscribe("what happens", names.events + ">", names.wake + ">", names.reply("*"))


_OF: dict[Role, Callable[[QueueNames], Iterator[Grant]]] = {
    Role.OWNER: _owner,
    Role.PRODUCER: _producer,
    Role.WORKER: _worker,
    Role.OPERATOR: _operator,
    Role.DASHBOARD: _dashboard,
}
OF_ALL = frozenset({Role.OPERATOR, Role.DASHBOARD})
"""Roles that may be asked for without naming queues."""


def grants(
    roles: Iterable[Role], queues: Iterable[str] = (), inbox: str = INBOX
) -> tuple[Grant, ...]:
    """What one user in these roles needs, for these queues; for none, all of them.

    Raises `ConfigurationError` for a role that needs a queue, `InvalidName`.
    """
    names = [QueueNames(queue) for queue in queues]
    found: dict[tuple[bool, str], Grant] = {}
    for grant in _everybody(inbox):
        found[grant.publish, grant.subject] = grant
    for role in roles:
        if not names and role not in OF_ALL:
            raise ConfigurationError(
                f"the rights of a {role.value} are those of one queue",
                hint="Name it: `headrace rights worker --queue docs`",
            )
        for each in names or [QueueNames.of_all()]:
            for grant in _OF[role](each):
                found.setdefault((grant.publish, grant.subject), grant)
    return tuple(found.values())


def permissions(
    roles: Iterable[Role], queues: Iterable[str] = (), inbox: str = INBOX
) -> dict[str, Any]:
    """The same as nats-server's configuration has it under `permissions`."""
    roles = tuple(roles)
    rows = grants(roles, queues, inbox)
    made: dict[str, Any] = {
        "publish": {"allow": [row.subject for row in rows if row.publish]},
        "subscribe": {"allow": [row.subject for row in rows if not row.publish]},
    }
    if Role.WORKER in roles:
        # Answers to who asks it, on whatever inbox: once each. A delivered task is no question:
        # its reply subject is allowed already, so the server keeps no count of those.
        made["allow_responses"] = {"max": 1, "expires": f"{_RESPONSES_WITHIN}s"}
    return made


def as_configuration(made: dict[str, Any]) -> str:
    """`permissions` as text for the server's configuration file."""
    lines = ["permissions {"]
    for side in ("publish", "subscribe"):
        lines.append(f"  {side} {{ allow: [")
        lines += [f"    {json.dumps(subject)}" for subject in made[side]["allow"]]
        lines.append("  ] }")
    if responses := made.get("allow_responses"):
        lines.append(
            f'  allow_responses {{ max: {responses["max"]}, expires: "{responses["expires"]}" }}'
        )
    return "\n".join([*lines, "}"])


def as_nsc(made: dict[str, Any]) -> str:
    """`permissions` as arguments of `nsc add user` or `nsc edit user`."""
    options = [
        f"--allow-pub '{','.join(made['publish']['allow'])}'",
        f"--allow-sub '{','.join(made['subscribe']['allow'])}'",
    ]
    if responses := made.get("allow_responses"):
        options.append(
            f"--allow-pub-response={responses['max']} --response-ttl {responses['expires']}"
        )
    return " \\\n  ".join(options)
