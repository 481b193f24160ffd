"""The blobs of one queue: an object store of NATS, so that `nats object` reads it too.

The store is the stream that nats-py and the other clients of NATS would make. Its parts are sent
and read here and not by nats-py's object store: that one knows no time to live of one object, waits
for ever for a part that has gone, and leaves the parts of an upload that is cancelled.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.jetstream.lasting_client import header_block
from headrace.broker.jetstream.publisher import Publisher
from headrace.broker.jetstream.reader import StreamReader
from headrace.broker.port import StoredMessage
from headrace.errors import BlobStoreFull, BrokerError, BrokerUnavailable
from headrace.wire import QueueNames

_FULL = (10077, 10047, 10122)  # the stream's limit; the account's storage


class JetStreamBlobs:
    """The port's `BlobStore`."""

    def __init__(
        self, connection: NatsConnection, publisher: Publisher, names: QueueNames, limit: int
    ) -> None:
        self.replicas = 1
        self._connection, self._publisher = connection, publisher
        self._names, self._limit = names, limit
        self._stream = names.blob_stream
        self._ready = False
        self._lock = asyncio.Lock()
        # A part never changes: any server that has it may answer.
        self._any = StreamReader(connection, clustered=False)
        self._leader = StreamReader(connection, clustered=True)

    async def ensure(self) -> None:
        """Make the stream."""
        async with self._lock:
            if self._ready:
                return
            wanted = streams.blob_config(self._names, self._limit, self.replicas)
            try:
                found = await streams.ensure_stream(self._connection, wanted)
                if 0 < found.get("max_bytes", -1) < self._limit:
                    found["max_bytes"] = self._limit
                    await streams.update_stream(self._connection, found)
            except streams.NoStorage:
                raise BlobStoreFull(
                    self._names.queue,
                    self._limit,
                    hint="The server has less storage than the store is to reserve: lower "
                    "QueueSettings.max_blob_bytes, or give JetStream more (max_file_store)",
                ) from None
            self._limit = found.get("max_bytes", self._limit)
            self._ready = True

    async def write_part(self, name: str, number: int, body: bytes, ttl: float) -> None:
        """Publish a part; sent once more without an answer, it is stored once."""
        await self._send(self._names.blob_parts(name), f"{name}.{number}", body, ttl)

    async def write_head(self, name: str, body: bytes, ttl: float) -> None:
        """Publish the head."""
        await self._send(self._names.blob_head(name), f"{name}.head", body, ttl)

    async def _send(self, subject: str, msg_id: str, body: bytes, ttl: float) -> None:
        headers = header_block({"Nats-Msg-Id": msg_id, "Nats-TTL": str(max(1, math.ceil(ttl)))})
        self._connection.check_size("a part of a blob", body, headers)
        try:
            await (await self._publisher.send(subject, body, headers, self._refused))
        except BrokerUnavailable:
            self._ready = False  # somebody may have deleted the stream: looked at the next time
            raise

    def _refused(self, error: ApiError) -> Exception:
        if error.code in _FULL:
            return BlobStoreFull(self._names.queue, self._limit)
        return BrokerError(f"JetStream refused a part of a blob: {error.text} ({error.code})")

    async def head(self, name: str) -> StoredMessage | None:
        """The last message of the head's subject."""
        return await self._get({"last_by_subj": self._names.blob_head(name)})

    async def part(self, name: str, after: int) -> StoredMessage | None:
        """The next message of the parts' subject."""
        return await self._get({"seq": after + 1, "next_by_subj": self._names.blob_parts(name)})

    async def _get(self, query: dict[str, Any]) -> StoredMessage | None:
        try:
            # One server of several may lag behind: what it does not have, the leader may.
            return await self._any.get(self._stream, query) or await self._leader.get(
                self._stream, query
            )
        except streams.StreamMissing:
            return None

    async def remove(self, name: str) -> bool:
        """Purge both subjects, the head first."""
        there = await self._purge(self._names.blob_head(name))
        await self._purge(self._names.blob_parts(name))
        return there > 0

    async def _purge(self, subject: str) -> int:
        try:
            return await streams.purge(self._connection, self._stream, subject)
        except streams.StreamMissing:
            return 0
