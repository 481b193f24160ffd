"""Large data by reference, as a client offers it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace.broker.port import Broker, BrokerQueue

if TYPE_CHECKING:  # pydantic is imported at the first use
    from headrace.blobs import Blob, BlobReader, Blobs, Source


class HasBlobs:
    """Stores, opens and deletes blobs of the queue that `link` gives."""

    async def link(self) -> tuple[Broker, BrokerQueue]:
        """The connection and the queue."""
        raise NotImplementedError

    def _blobs(self) -> Blobs:
        from headrace.blobs import Blobs

        return Blobs(self.link)

    async def put_blob(self, source: Source, *, ttl: float | timedelta = 86_400.0) -> Blob:
        """Store large data and get a small reference to it, for a task's data.

        `source` is bytes, a `Path`, or an iterable, async or not, of bytes; no more than a piece of
        it is held in memory. It is kept for `ttl` seconds, a day by default, whether a task names
        it or not. Raises `BlobStoreFull`; what was stored until then is taken back.
        """
        return await self._blobs().put(source, ttl)

    def open_blob(self, blob: Blob | Mapping[str, Any]) -> BlobReader:
        """Read a blob piece by piece, into memory or into a file; see `BlobReader`.

        `blob` is a `Blob`, or what became of one in a result.
        """
        return self._blobs().open(blob)

    async def get_blob(self, blob: Blob | Mapping[str, Any]) -> bytes:
        """All that a blob holds. Raises `BlobNotFound`, `BlobDamaged`."""
        return await self.open_blob(blob).read()

    async def delete_blob(self, blob: Blob | Mapping[str, Any]) -> bool:
        """Drop a blob before its time; whether it was there."""
        return await self._blobs().delete(blob)
