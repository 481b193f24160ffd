"""Sends 200 MB up and takes them down again; prints by how many bytes its memory's peak grew."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator

from headrace import Blob, Client, QueueSettings

MIB = 1_048_576


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


async def there_and_back(client: Client, size: int) -> tuple[Blob, int, int]:
    blob = await client.put_blob(zeros(size), ttl=60)
    after_put = peak()
    async for _ in client.open_blob(blob):
        pass
    await client.delete_blob(blob)
    return blob, after_put, peak()


async def main(url: str, queue: str) -> None:
    settings = QueueSettings(max_blob_bytes=256 * MIB)
    async with Client(url, queue, settings=settings) as client:
        *_, before = await there_and_back(client, 2 * MIB)
        blob, after_put, after = await there_and_back(client, 200 * MIB)
    print(json.dumps({"size": blob.size, "put": after_put - before, "get": after - after_put}))


asyncio.run(main(*sys.argv[1:]))
