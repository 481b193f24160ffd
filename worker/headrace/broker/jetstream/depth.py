"""How much is in a queue: counts that the leaders of its streams and consumers give."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.port import LaneDepth, QueueDepth
from headrace.wire import QueueNames, lane_of_consumer

_NO_SUBJECTS = 10**9  # an offset behind the last one: only their number is wanted


async def read_depth(connection: NatsConnection, names: QueueNames) -> QueueDepth:
    """The depth of this queue. Raises `BrokerError`."""
    rows = await streams.list_consumers(connection, names.work_stream)
    lanes = [
        LaneDepth(lane, row["num_pending"], row["num_ack_pending"], row["num_waiting"])
        for row in rows
        if (lane := lane_of_consumer(row["name"])) is not None
    ]
    try:
        work = await connection.api(f"STREAM.INFO.{names.work_stream}")
        dead = await _subjects(connection, names.state_stream, f"{names.dead}*")
        sources = work["config"].get("sources")
        delayed = await _delayed(connection, names) if sources else 0
    except ApiError as error:
        raise streams.refused(f"queue {names.queue}", error) from error
    return QueueDepth(
        lanes=tuple(sorted(lanes, key=_from_the_top)),
        messages=work["state"]["messages"],
        delayed=delayed,
        dead=dead["count"],
        max_size=work["config"]["max_msgs"],
        bytes=work["state"]["bytes"],
    )


async def _delayed(connection: NatsConnection, names: QueueNames) -> int:
    """What is not in its lane yet: schedules of tasks, and due copies on their way."""
    due, cron = await asyncio.gather(
        _subjects(connection, names.later_stream, f"{names.due}>"),
        _subjects(connection, names.later_stream, f"{names.cron}*"),
    )
    schedules = int(due["messages"]) - int(due["count"]) - int(cron["count"])
    return schedules + await _on_the_way(connection, names, due["count"])


async def _on_the_way(connection: NatsConnection, names: QueueNames, due: int) -> int:
    """How many of the due copies the work stream has not acknowledged."""
    if not due:
        return 0
    try:
        found = await connection.api(f"CONSUMER.INFO.{names.later_stream}.{streams.LATER_CONSUMER}")
    except ApiError as error:
        if error.code != streams.CONSUMER_NOT_FOUND:
            raise
        return due  # nothing brings them on
    return min(due, int(found["num_pending"]) + int(found["num_ack_pending"]))


async def _subjects(connection: NatsConnection, stream: str, subject: str) -> dict[str, Any]:
    """The stream's state, and as `count` how many of its subjects match."""
    query = {"subjects_filter": subject, "offset": _NO_SUBJECTS}
    answer = await connection.api(f"STREAM.INFO.{stream}", query)
    state: dict[str, Any] = answer["state"]
    return state | {"count": int(answer.get("total", 0))}


def _from_the_top(depth: LaneDepth) -> tuple[int, str]:
    return -depth.lane.priority, depth.lane.tag or ""
