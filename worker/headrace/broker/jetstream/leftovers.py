"""Due copies that stay in *later* although the work stream has them.

A server that is killed may forget that it had dropped what was sourced, and remember that it was
(2.15.1): such a copy is never delivered again and never leaves. It would count as delayed, and be
taken for its task once that task's record has expired.
"""

from __future__ import annotations

import asyncio
import logging

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.errors import BrokerError
from headrace.wire import QueueNames

log = logging.getLogger("headrace.broker")


class Leftovers:
    """Drops them: when a worker starts, and after each reconnect, which may be a restart's."""

    def __init__(self, connection: NatsConnection, names: QueueNames) -> None:
        self._connection, self._names = connection, names
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look now, and whenever the connection is new."""
        self._connection.on_reconnect.append(self._look)
        self._look()

    def end(self) -> None:
        """Look no more."""
        if self._look in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._look)
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drop())

    async def _drop(self) -> None:
        stream = self._names.later_stream
        try:
            found = await self._connection.api(f"CONSUMER.INFO.{stream}.{streams.LATER_CONSUMER}")
            floor = int(found["ack_floor"]["stream_seq"])
            query = {"filter": f"{self._names.due}>", "seq": floor + 1}  # all below it
            answer = await self._connection.api(f"STREAM.PURGE.{stream}", query)
        except ApiError as error:
            if error.code not in (streams.STREAM_NOT_FOUND, streams.CONSUMER_NOT_FOUND):
                log.debug("what is left in %s is not known: %s", stream, error)
        except BrokerError as error:
            log.debug("what is left in %s is not known: %s", stream, error)
        else:
            if count := answer.get("purged", 0):
                log.info("dropped %d due copies of tasks that were sourced before", count)
