"""Reads single messages out of streams."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.clock import epoch
from headrace.broker.jetstream.connection import REQUEST_TIMEOUT, ApiError, NatsConnection
from headrace.broker.port import StoredMessage
from headrace.errors import BrokerUnavailable

_NO_MESSAGE = 10037
_TARGET = "Nats-Schedule-Target"


class StreamReader:
    """Reads from the streams of one queue.

    A follower may answer a direct get with what was true a moment ago, so with replicas the
    leader is asked.
    """

    def __init__(self, connection: NatsConnection, clustered: bool) -> None:
        self._connection = connection
        self.clustered = clustered

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message of a subject, which may have wildcards."""
        return await self.get(stream, {"last_by_subj": subject})

    async def get(self, stream: str, query: dict[str, Any]) -> StoredMessage | None:
        """One message. A schedule is shown with the subject that it will fire to."""
        if self.clustered:
            return await self._from_leader(stream, query)
        deadline = asyncio.get_running_loop().time() + REQUEST_TIMEOUT
        body, pause = json.dumps(query).encode(), 0.05
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            msg = await self._connection.request(
                f"$JS.API.DIRECT.GET.{stream}", body, min(left, 3.0)
            )
            if msg is None:
                await self._check(stream)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
                continue
            headers = msg.headers or {}
            if "Nats-Subject" not in headers:
                return None  # 404
            return StoredMessage(
                headers.get(_TARGET) or headers["Nats-Subject"],
                msg.data,
                int(headers["Nats-Sequence"]),
                epoch(headers["Nats-Time-Stamp"]),
            )
        raise BrokerUnavailable(f"stream {stream} did not answer within {REQUEST_TIMEOUT:g} s")

    async def all(self, stream: str, subject: str, limit: int | None = None) -> list[StoredMessage]:
        """The messages of a subject with wildcards, oldest first, at most `limit`."""
        found: list[StoredMessage] = []
        seq = 1
        while limit is None or len(found) < limit:
            message = await self.get(stream, {"seq": seq, "next_by_subj": subject})
            if message is None:
                break
            found.append(message)
            seq = message.seq + 1
        return found

    async def _check(self, stream: str) -> None:
        """Nobody answered for this stream: raise at once if there is no such stream."""
        try:
            await self._connection.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            raise streams.refused(f"stream {stream}", error) from error

    async def _from_leader(self, stream: str, query: dict[str, Any]) -> StoredMessage | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{stream}", query)
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise streams.refused(f"stream {stream}", error) from error
        message = answer["message"]
        return StoredMessage(
            _target(message) or message["subject"],
            base64.b64decode(message.get("data", "")),
            message["seq"],
            epoch(message["time"]),
        )


def _target(message: Mapping[str, Any]) -> str | None:
    """The subject that a schedule will fire to, from the message's raw headers."""
    if "hdrs" not in message:
        return None
    for line in base64.b64decode(message["hdrs"]).decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name == _TARGET:
            return value.strip()
    return None
