"""The blobs of one queue in memory."""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass, field

from headrace.broker.port import StoredMessage
from headrace.errors import BlobStoreFull, PayloadTooLarge


@dataclass(slots=True)
class _Stored:
    head: StoredMessage | None = None
    parts: list[StoredMessage] = field(default_factory=list)
    head_until: float = 0.0
    until: float = 0.0
    """Monotonic seconds."""


class MemoryBlobs:
    """The port's `BlobStore`. What has expired is dropped at the next call."""

    def __init__(self, queue: str, limit: int, max_payload: int) -> None:
        self.limit = limit
        self._queue, self._max_payload = queue, max_payload
        self._seq = 0
        self._bytes = 0
        self._blobs: dict[str, _Stored] = {}

    async def ensure(self) -> None:
        """It is there."""

    async def write_part(self, name: str, number: int, body: bytes, ttl: float) -> None:
        """Keep a part."""
        message = self._message(body)
        blob = self._blobs.setdefault(name, _Stored())
        blob.parts.append(message)
        blob.until = time.monotonic() + ttl

    async def write_head(self, name: str, body: bytes, ttl: float) -> None:
        """Keep the head."""
        message = self._message(body)
        blob = self._blobs.setdefault(name, _Stored())
        blob.head, blob.head_until = message, time.monotonic() + ttl
        blob.until = max(blob.until, blob.head_until)

    def _message(self, body: bytes) -> StoredMessage:
        if len(body) + 128 > self._max_payload:
            raise PayloadTooLarge("a part of a blob", len(body) + 128, self._max_payload)
        self._expire()
        if self._bytes + len(body) > self.limit:
            raise BlobStoreFull(self._queue, self.limit)
        self._bytes += len(body)
        self._seq += 1
        return StoredMessage("", bytes(body), self._seq, time.time())

    async def head(self, name: str) -> StoredMessage | None:
        """The head, unless it has expired."""
        self._expire()
        blob = self._blobs.get(name)
        return None if blob is None or blob.head_until <= time.monotonic() else blob.head

    async def part(self, name: str, after: int) -> StoredMessage | None:
        """The first part with a sequence above `after`."""
        self._expire()
        parts = self._blobs.get(name, _Stored()).parts
        index = bisect_right(parts, after, key=lambda part: part.seq)
        return parts[index] if index < len(parts) else None

    async def remove(self, name: str) -> bool:
        """Drop it."""
        there = await self.head(name) is not None
        self._drop(name)
        return there

    def _expire(self) -> None:
        now = time.monotonic()
        for name in [name for name, blob in self._blobs.items() if blob.until <= now]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        blob = self._blobs.pop(name, _Stored())
        self._bytes -= sum(len(part.body) for part in blob.parts)
        self._bytes -= 0 if blob.head is None else len(blob.head.body)
