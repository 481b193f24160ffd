"""What Headrace asks of a broker for large data: parts on one subject, and a head that names them.

A part of the broker port. Cutting, digests and times to live are written once above it, in
`headrace.blobs`. The head is that of an object store of NATS (ADR-20 there), on every broker.
"""

from __future__ import annotations

import base64
from typing import NamedTuple, Protocol

from headrace.broker.port import StoredMessage
from headrace.jsondata import dumps, loads
from headrace.wire import Undecodable


class BlobStore(Protocol):
    """The blobs of one queue. A blob is there once its head is; names are never used again."""

    async def ensure(self) -> None:
        """Make the store, or raise its limit. Known ones cost nothing."""

    async def write_part(self, name: str, number: int, body: bytes, ttl: float) -> None:
        """Store a part; parts are read in the order in which they were written.

        Raises `BlobStoreFull`, `PayloadTooLarge`.
        """

    async def write_head(self, name: str, body: bytes, ttl: float) -> None:
        """Store what makes the blob one. Raises `BlobStoreFull`, `PayloadTooLarge`."""

    async def head(self, name: str) -> StoredMessage | None:
        """The head; None where there is none, or no store."""

    async def part(self, name: str, after: int) -> StoredMessage | None:
        """The first part with a sequence above `after`."""

    async def remove(self, name: str) -> bool:
        """Drop head and parts; whether there was a head."""


class BlobHead(NamedTuple):
    """What an object store keeps of one object: `size` in bytes, in so many parts."""

    name: str
    size: int
    parts: int
    sha256: str


def encode_blob_head(head: BlobHead, bucket: str) -> bytes:
    """The body of a head's message, as every client of NATS reads it."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(head.sha256)).decode()
    body = {"name": head.name, "bucket": bucket, "nuid": head.name, "size": head.size}
    return dumps(body | {"chunks": head.parts, "digest": f"SHA-256={digest}"}, "blob")


def decode_blob_head(body: bytes) -> BlobHead | None:
    """The head in a message; None for one that says that the object was deleted.

    Raises `Undecodable`.
    """
    try:
        raw = loads(body)
        if raw.get("deleted"):
            return None
        digest = base64.urlsafe_b64decode(raw["digest"].removeprefix("SHA-256=")).hex()
        return BlobHead(raw["name"], int(raw["size"]), int(raw["chunks"]), digest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Undecodable(f"not the head of a blob: {error}") from None
