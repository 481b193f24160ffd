"""Large data by reference: stored in parts beside the queue, and named in a task by a `Blob`.

The parts are written first and the head last: a blob is there as a whole or not at all. Its digest
is taken while it is written and checked while it is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import secrets
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.broker.blobs import BlobHead, BlobStore, decode_blob_head, encode_blob_head
from headrace.broker.port import Broker, BrokerQueue
from headrace.errors import (
    BlobDamaged,
    BlobNotFound,
    ConfigurationError,
    HeadraceError,
    InvalidData,
    InvalidTime,
)
from headrace.task import ID_PATTERN, NAME_PATTERN
from headrace.wire import MAX_DELAY, Undecodable

DEFAULT_BLOB_TTL = 86_400.0
"""Seconds that a blob is kept."""
PART = 131_072  # bytes; the chunk of an object store of NATS
GRACE = 600.0
"""Seconds that parts outlive their blob: for a download that began before its end."""
_HEADERS = 128  # bytes of a part's headers
_FORGET_WITHIN = 5.0

Source = bytes | bytearray | memoryview | os.PathLike[str] | AsyncIterable[bytes] | Iterable[bytes]
Link = Callable[[], Awaitable[tuple[Broker, BrokerQueue]]]


class Blob(BaseModel):
    """A reference to large data: put it into a task's data or a result, as it is.

    `size` is in bytes, `sha256` the digest in hexadecimal, `expires` when it goes, in seconds since
    the epoch by the clock of who stored it. `queue` is where it is stored.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=f"^{ID_PATTERN}$")
    queue: str = Field(pattern=f"^{NAME_PATTERN}$")
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    expires: float

    def __headrace_json__(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def of(cls, value: Blob | Mapping[str, Any]) -> Blob:
        """The blob that a result or a task's data names. Raises `InvalidData`."""
        if isinstance(value, Blob):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(["blob", *map(str, first["loc"])])
            raise InvalidData(path, first["msg"], hint="Pass on what put_blob gave") from None


class BlobReader:
    """What a blob holds: `async for piece in reader`, or all of it with `read` or `save`.

    All three raise `BlobNotFound` where it is missing or has expired, and `BlobDamaged` where what
    was read is not what was stored: the pieces of a loop count only once the loop has ended.
    """

    def __init__(self, link: Link, blob: Blob) -> None:
        self.blob = blob
        self._link = link

    async def __aiter__(self) -> AsyncIterator[bytes]:
        broker, _ = await self._link()
        store, blob = broker.queue(self.blob.queue).blobs, self.blob
        head = await _head(store, blob)
        digest, size, after = hashlib.sha256(), 0, 0
        while size < head.size:
            part = await store.part(blob.name, after)
            if part is None:
                raise BlobNotFound(blob.name, blob.queue, f"its parts end after {size:,} bytes")
            after = part.seq
            size += len(part.body)
            digest.update(part.body)
            if size > head.size:
                break
            yield part.body
        if size != head.size or digest.hexdigest() != head.sha256:
            raise BlobDamaged(blob.name, blob.queue, "its digest is another")

    async def read(self) -> bytes:
        """All of it, in memory."""
        return b"".join([piece async for piece in self])

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, which appears once it is whole and checked; its path."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with await asyncio.to_thread(unfinished.open, "xb") as file:
                async for piece in self:
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(os.replace, unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return target


async def _head(store: BlobStore, blob: Blob) -> BlobHead:
    stored = await store.head(blob.name)
    if stored is None:
        raise BlobNotFound(blob.name, blob.queue)
    try:
        head = decode_blob_head(stored.body)
    except Undecodable as error:
        raise BlobDamaged(blob.name, blob.queue, str(error)) from None
    if head is None:
        raise BlobNotFound(blob.name, blob.queue, "it was deleted")
    if (head.size, head.sha256) != (blob.size, blob.sha256):
        raise BlobDamaged(blob.name, blob.queue, "what is stored is not what the reference says")
    return head


class Blobs:
    """Stores and opens the blobs of one queue; `link` gives the connection and the queue."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def put(self, source: Source, ttl: float | timedelta) -> Blob:
        """Store what `source` holds; it is there when this returns. See `Client.put_blob`."""
        seconds = _seconds(ttl)
        if isinstance(source, str):
            raise ConfigurationError(
                "a text is no blob", hint="Path(…) for a file, .encode() for the text itself"
            )
        broker, queue = await self._link()
        store = queue.blobs
        await store.ensure()
        name = f"blob-{secrets.token_hex(12)}"
        try:
            return await self._write(broker, queue, name, source, seconds)
        except BaseException:  # a cancel too
            await _forget(store, name)
            raise

    async def _write(
        self, broker: Broker, queue: BrokerQueue, name: str, source: Source, ttl: float
    ) -> Blob:
        digest, size, count, begun = hashlib.sha256(), 0, 0, time.monotonic()
        async for part in parts(source, min(PART, broker.max_payload - _HEADERS)):
            digest.update(part)
            await queue.blobs.write_part(name, count, part, ttl + GRACE)
            count += 1
            size += len(part)
        # The parts' time began with the first of them.
        left = min(ttl, ttl + GRACE - (time.monotonic() - begun))
        if left <= 0:
            raise InvalidTime(
                f"ttl={ttl:g}: the upload took longer", hint="Give the blob more time to live"
            )
        head = BlobHead(name, size, count, digest.hexdigest())
        names = queue.names
        await queue.blobs.write_head(name, encode_blob_head(head, names.blob_bucket), left)
        return Blob(
            name=name, queue=names.queue, size=size, sha256=head.sha256, expires=time.time() + left
        )

    def open(self, blob: Blob | Mapping[str, Any]) -> BlobReader:
        """A reader. Raises `InvalidData` for what is no reference."""
        return BlobReader(self._link, Blob.of(blob))

    async def delete(self, blob: Blob | Mapping[str, Any]) -> bool:
        """Drop it before its time; whether it was there."""
        found = Blob.of(blob)
        broker, _ = await self._link()
        return await broker.queue(found.queue).blobs.remove(found.name)


def _seconds(ttl: float | timedelta) -> float:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if type(seconds) not in (int, float) or not math.isfinite(seconds) or not (
        1 <= seconds <= MAX_DELAY
    ):  # fmt: skip
        raise InvalidTime(f"ttl={ttl!r} is not a number of seconds from 1 to {MAX_DELAY:,.0f}")
    return float(seconds)


async def _forget(store: BlobStore, name: str) -> None:
    """Take back the parts of an upload that has failed; else their time to live does."""
    try:
        async with asyncio.timeout(_FORGET_WITHIN):
            await store.remove(name)
    except (HeadraceError, TimeoutError):
        pass


async def parts(source: Source, size: int) -> AsyncIterator[bytes]:
    """What `source` holds in pieces of `size` bytes, the last one shorter; no more than one piece,
    and what the source itself gives at once, is held."""
    rest = bytearray()
    async for piece in _pieces(source, size):
        if not rest and len(piece) == size:
            yield bytes(piece)
            continue
        view = memoryview(piece)
        while view:
            taken = view[: size - len(rest)]
            rest += taken
            view = view[len(taken) :]
            if len(rest) == size:
                yield bytes(rest)
                rest.clear()
    if rest:
        yield bytes(rest)


async def _pieces(source: Source, size: int) -> AsyncIterator[bytes | memoryview]:
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        for start in range(0, len(view), size):
            yield view[start : start + size]
    elif isinstance(source, os.PathLike):
        with await asyncio.to_thread(open, source, "rb") as file:
            while piece := await asyncio.to_thread(file.read, size):
                yield piece
    elif isinstance(source, AsyncIterable):
        async for piece in source:
            yield _checked(piece)
    elif isinstance(source, Iterable):
        iterator = iter(source)
        # In a thread: what it reads from may block.
        while (following := await asyncio.to_thread(_next, iterator)) is not None:
            yield _checked(following)
    else:
        raise ConfigurationError(
            f"a {type(source).__name__} is no blob", hint="Give bytes, a Path or pieces of bytes"
        )


def _next(iterator: Iterator[bytes]) -> bytes | None:
    return next(iterator, None)


def _checked(piece: object) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise ConfigurationError(f"a piece of the blob is a {type(piece).__name__}, not bytes")
