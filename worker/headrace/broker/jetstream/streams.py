"""The streams and consumers of a queue: how they are configured, made and raised."""

from __future__ import annotations

from typing import Any

from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.port import MAX_COPIES, QueueSettings
from headrace.errors import BrokerError, BrokerUnavailable
from headrace.wire import LEVEL_NAMES, Lane, QueueNames

NS = 1_000_000_000


class StreamMissing(BrokerError):
    """There is no such stream."""


class NoStorage(BrokerError):
    """The server or the account has less room than the stream is to have."""


MAX_CONSUMERS = 5_000
"""Of the work stream: 4 a tag. 2.15 limits a stream to 1,000 unless a number is given."""
MAX_WAITING = 20_000
"""Parked pulls of a consumer: cannot be raised later, so it is ample from the start."""
LATER_CONSUMER = "work"

# error codes of the JetStream API
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
_NO_STORAGE = 10047
_NAME_IN_USE = 10058  # a stream of this name with another configuration
_CONSUMER_EXISTS = (10148, 10105, 10013)


def work_config(names: QueueNames, settings: QueueSettings) -> dict[str, Any]:
    """The work stream. Its four subjects let the server refuse an unknown level."""
    return {
        "name": names.work_stream,
        "description": f"Headrace queue {names.queue}: tasks",
        "subjects": [f"{names.work}{level}.*.*" for level in LEVEL_NAMES.values()],
        "retention": "workqueue",
        "discard": "new",
        "max_msgs": settings.max_size,
        "max_msgs_per_subject": MAX_COPIES,
        "max_consumers": MAX_CONSUMERS,
        "duplicate_window": int(settings.dedupe_window * NS),
        "storage": "file",
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "republish": {"src": f"{names.work}>", "dest": f"{names.wake}>", "headers_only": True},
    }


def later_config(names: QueueNames, settings: QueueSettings) -> dict[str, Any]:
    """The stream of schedules and of what they fire."""
    return {
        "name": names.later_stream,
        "description": f"Headrace queue {names.queue}: delayed tasks, retries, schedules",
        "subjects": [f"{names.later}*", f"{names.due}>", f"{names.cron}*"],
        "retention": "limits",  # an acknowledgement drops nothing (ADR 18)
        "max_msgs_per_subject": 1,
        "duplicate_window": int(settings.dedupe_window * NS),
        "storage": "file",
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "allow_msg_schedules": True,
        "allow_msg_ttl": True,
    }


def later_consumer(names: QueueNames) -> dict[str, Any]:
    """What the work stream sources *later* through: acknowledged by flow control (ADR-60)."""
    return {
        "durable_name": LATER_CONSUMER,
        "deliver_subject": f"headrace.sourcing.{names.queue}",
        "filter_subject": f"{names.due}>",
        "deliver_policy": "all",
        "ack_policy": "flow_control",
        "flow_control": True,
        "idle_heartbeat": NS,
    }


def later_source(names: QueueNames) -> dict[str, Any]:
    """The work stream's source for what is due."""
    return {
        "name": names.later_stream,
        "subject_transforms": [{"src": f"{names.due}>", "dest": f"{names.work}>"}],
        "consumer": {
            "name": LATER_CONSUMER,
            "deliver_subject": f"headrace.sourcing.{names.queue}",
        },
    }


def state_config(names: QueueNames, settings: QueueSettings) -> dict[str, Any]:
    """The stream of records and dead letters: one message a subject, each with its own TTL."""
    return {
        "name": names.state_stream,
        "description": f"Headrace queue {names.queue}: results and dead letters",
        "subjects": [f"{names.state}*", f"{names.dead}*"],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }


def blob_config(names: QueueNames, limit: int, replicas: int) -> dict[str, Any]:
    """The object store, as NATS defines it; here every message has its own TTL."""
    return {
        "name": names.blob_stream,
        "description": f"Headrace queue {names.queue}: blobs",
        "subjects": [f"{names.blobs}C.>", f"{names.blobs}M.>"],
        "retention": "limits",
        "discard": "new",
        "max_bytes": limit,
        "storage": "file",
        "num_replicas": replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
    }


def lane_consumer(names: QueueNames, lane: Lane, settings: QueueSettings) -> dict[str, Any]:
    """The durable pull consumer of a lane."""
    return {
        "durable_name": lane.consumer,
        "filter_subject": f"{names.work}{lane.tokens}.*",
        "ack_policy": "explicit",
        "ack_wait": int(settings.ack_wait * NS),
        "max_deliver": -1,
        "max_ack_pending": settings.max_ack_pending,
        "max_waiting": MAX_WAITING,
    }


async def ensure_stream(connection: NatsConnection, config: dict[str, Any]) -> dict[str, Any]:
    """Make a stream; the configuration of the one that is there, if there is one.

    Reads first: an existing queue may belong to somebody who configured it otherwise, and a
    producer may lack the right to create.
    """
    name = config["name"]
    try:
        answer = await connection.api(f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise refused(f"stream {name}", error) from error
        try:
            answer = await connection.api(f"STREAM.CREATE.{name}", config, needs_level=True)
        except ApiError as created:
            if created.code != _NAME_IN_USE:
                raise refused(f"stream {name}", created) from created
            answer = await connection.api(f"STREAM.INFO.{name}")  # somebody was faster
    found: dict[str, Any] = answer["config"]
    return found


async def update_stream(connection: NatsConnection, config: dict[str, Any]) -> None:
    """Change a stream to this configuration."""
    try:
        await connection.api(f"STREAM.UPDATE.{config['name']}", config, needs_level=True)
    except ApiError as error:
        raise refused(f"stream {config['name']}", error) from error


async def ensure_consumer(
    connection: NatsConnection, stream: str, config: dict[str, Any]
) -> dict[str, Any]:
    """Make a durable consumer; the configuration of the one that is there, if there is one."""
    name = config["durable_name"]
    try:
        answer = await connection.api(f"CONSUMER.INFO.{stream}.{name}")
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise refused(f"consumer {name} of {stream}", error) from error
        answer = await put_consumer(connection, stream, config, "create")
    found: dict[str, Any] = answer["config"]
    return found


async def put_consumer(
    connection: NatsConnection, stream: str, config: dict[str, Any], action: str
) -> dict[str, Any]:
    """Create or update a durable consumer."""
    name = config["durable_name"]
    body = {"stream_name": stream, "config": config, "action": action}
    try:
        return await connection.api(
            f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body, needs_level=True
        )
    except ApiError as error:
        if action == "create" and error.code in _CONSUMER_EXISTS:  # somebody was faster
            return await connection.api(f"CONSUMER.INFO.{stream}.{name}")
        raise refused(f"consumer {name} of {stream}", error) from error


async def list_consumers(connection: NatsConnection, stream: str) -> list[dict[str, Any]]:
    """All consumers of a stream with their counts, from their leaders.

    Raises `BrokerUnavailable` where some did not answer: a part is not the whole.
    """
    return await _paged(connection, f"CONSUMER.LIST.{stream}", "consumers", {})


async def list_streams(connection: NatsConnection, subject: str) -> list[dict[str, Any]]:
    """All streams with a subject that overlaps this one."""
    return await _paged(connection, "STREAM.LIST", "streams", {"subject": subject})


async def _paged(
    connection: NatsConnection, call: str, field: str, body: dict[str, Any]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while True:
        try:
            page = await connection.api(call, body | {"offset": len(rows)})
        except ApiError as error:
            raise refused(call, error) from error
        if page.get("missing"):
            raise BrokerUnavailable(f"{call}: no answer for {', '.join(page['missing'])[:200]}")
        rows += page.get(field) or []
        if len(rows) >= page["total"] or not page.get(field):
            return rows


async def purge(
    connection: NatsConnection, stream: str, subject: str, seq: int | None = None
) -> int:
    """Remove the messages of a subject, with `seq` up to that one; how many there were."""
    body: dict[str, Any] = {"filter": subject}
    if seq is not None:
        body["seq"] = seq + 1
    try:
        answer = await connection.api(f"STREAM.PURGE.{stream}", body)
    except ApiError as error:
        raise refused(f"stream {stream}", error) from error
    return int(answer.get("purged", 0))


def raised(config: dict[str, Any], settings: QueueSettings) -> bool:
    """Whether `settings` ask for more room than the stream has; then `config` is changed."""
    if 0 < config.get("max_msgs", -1) < settings.max_size:
        config["max_msgs"] = settings.max_size
        return True
    return False


def refused(what: str, error: ApiError) -> BrokerError:
    """A typed error for a refusal of the JetStream API."""
    if error.code == STREAM_NOT_FOUND:
        return StreamMissing(
            f"{what}: its stream does not exist",
            hint="A client or a worker of the queue makes it when it starts",
        )
    if error.code == _NO_STORAGE:
        return NoStorage(f"JetStream has no room for {what}: {error.text}")
    return BrokerError(f"JetStream refused {what}: {error.text} ({error.code})")
