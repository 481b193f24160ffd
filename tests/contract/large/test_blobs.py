"""Large data by reference, the same on every broker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.recorder import when

from headrace import (
    CONTEXT,
    Blob,
    BlobDamaged,
    BlobNotFound,
    BlobStoreFull,
    Client,
    ConfigurationError,
    Context,
    InvalidData,
    InvalidTime,
    QueueSettings,
    TaskFailed,
)
from headrace.blobs import PART
from headrace.broker.blobs import BlobHead, encode_blob_head
from headrace.wire import Reason

from .conftest import MIB, QUICK, Bench, running


@pytest.fixture
async def bench(broker_url: str, queue_name: str) -> AsyncIterator[Bench]:
    """A client of a queue whose store takes 2 MiB."""
    bench = Bench(broker_url, f"blobs-{queue_name}", MIB)
    bench.settings = QueueSettings(ack_wait=2.0, max_blob_bytes=2 * MIB)
    bench.client = Client(broker_url, bench.queue, settings=bench.settings)
    async with running(bench):
        yield bench


def noise(size: int) -> bytes:
    """Bytes of which no two parts are alike."""
    return hashlib.shake_128(str(size).encode()).digest(size)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


Make = Callable[[bytes, Path], Any]

SOURCES: dict[str, Make] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(data),
    "path": lambda data, folder: written(folder / "source", data),
    "small-pieces": lambda data, _: pieces(data, 7_001),
    "large-pieces": lambda data, _: pieces(data, 300_000),
    "iterable": lambda data, _: iter([data[:10], b"", data[10:]]),
}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("source", SOURCES)
async def test_what_is_put_comes_back(bench: Bench, source: str, tmp_path: Path) -> None:
    data = noise(3 * PART + 17)
    blob = await bench.client.put_blob(SOURCES[source](data, tmp_path))
    assert (blob.size, blob.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await bench.client.get_blob(blob) == data


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART])
async def test_every_size(bench: Bench, size: int, tmp_path: Path) -> None:
    data = noise(size)
    blob = await bench.client.put_blob(pieces(data, 50_000))
    read = [piece async for piece in bench.client.open_blob(blob)]
    assert b"".join(read) == data
    assert len(read) == -(-size // PART)
    path = await bench.client.open_blob(blob).save(tmp_path / "copy")
    assert path.read_bytes() == data
    assert files(tmp_path) == [path]


class Job(BaseModel):
    video: Blob
    width: int = 10


async def test_a_blob_in_the_data_and_in_the_result(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client

    @worker.handler("turn")
    async def turn(job: Job, *, ctx: Context = CONTEXT) -> Blob:
        data = await ctx.open_blob(job.video).read()
        return await ctx.put_blob(data[::-1], ttl=60)

    @worker.handler("plain")
    def plain(video: Blob, other: dict[str, Any], ctx: Context = CONTEXT) -> dict[str, Any]:
        both = ctx.wait(ctx.open_blob(video).read()) + ctx.wait(ctx.open_blob(other).read())
        return {"joined": ctx.wait(ctx.put_blob(both, ttl=60))}

    await worker.start()
    data = noise(2 * PART)
    blob = await client.put_blob(data)
    result = await client.submit("turn", {"video": blob}, wait_timeout=30)
    assert await client.get_blob(result) == data[::-1]
    result = await client.submit("plain", {"video": blob, "other": blob}, wait_timeout=30)
    assert await client.get_blob(result["joined"]) == data + data
    assert Blob.of(result["joined"]).queue == bench.queue


async def test_what_is_no_reference(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[int] = []

    @worker.handler("take", retries=3)
    async def take(video: Blob) -> None:
        runs.append(1)

    await worker.start()
    evil = {"name": "*", "queue": "q", "size": 1, "sha256": "0" * 64, "expires": 1.0}
    for wrong in ({"name": "x"}, evil, evil | {"name": "x", "queue": "a.>"}, "blob-1"):
        with pytest.raises(TaskFailed) as raised:
            await client.submit("take", wrong, wait_timeout=30)
        assert raised.value.reason == Reason.INVALID_DATA
        with pytest.raises(InvalidData):
            await client.get_blob(wrong)  # type: ignore[arg-type]
    assert not runs


async def test_a_handler_whose_blob_is_gone_fails_once(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[int] = []

    @worker.handler("read", retries=3, backoff=QUICK)
    async def read(video: Blob, ctx: Context = CONTEXT) -> int:
        runs.append(1)
        return len(await ctx.open_blob(video).read())

    await worker.start()
    blob = await client.put_blob(b"data")
    assert await client.submit("read", blob, wait_timeout=30) == 4
    assert await client.delete_blob(blob)
    assert not await client.delete_blob(blob)
    with pytest.raises(TaskFailed, match="BlobNotFound") as raised:
        await client.submit("read", blob, wait_timeout=30)
    assert (raised.value.reason, len(runs)) == (Reason.INVALID_DATA, 2)


async def test_its_time_ends(bench: Bench) -> None:
    client = bench.client
    short = await client.put_blob(noise(PART), ttl=timedelta(seconds=1))
    long = await client.put_blob(noise(PART), ttl=60)
    assert long.expires - short.expires == pytest.approx(59, abs=5)

    async def look() -> bool:
        try:
            await client.get_blob(short)
        except BlobNotFound as error:
            return (error.name, error.queue) == (short.name, bench.queue)
        return False

    await when(look, bool)
    assert await client.get_blob(long) == noise(PART)
    for ttl in (0, 0.5, -1, float("nan"), 1e9, "1h", True):
        with pytest.raises(InvalidTime):
            await client.put_blob(b"x", ttl=ttl)  # type: ignore[arg-type]


async def test_a_download_that_began_in_time_may_end_later(bench: Bench) -> None:
    """The parts outlive the head."""
    client = bench.client
    blob = await client.put_blob(noise(4 * PART), ttl=1)
    reading = aiter(client.open_blob(blob))
    read = [await anext(reading)]

    async def gone() -> bool:
        try:
            await client.get_blob(blob)
        except BlobNotFound:
            return True
        return False

    await when(gone, bool)
    read += [piece async for piece in reading]
    assert b"".join(read) == noise(4 * PART)


async def test_a_full_store_refuses_and_keeps_nothing_of_it(bench: Bench) -> None:
    client = bench.client
    for _ in range(3):
        with pytest.raises(BlobStoreFull) as refused:
            await client.put_blob(noise(3 * MIB))
        assert (refused.value.queue, refused.value.limit) == (bench.queue, 2 * MIB)
    kept = await client.put_blob(noise(MIB))  # what was refused is not in its way
    with pytest.raises(BlobStoreFull):
        await client.put_blob(noise(MIB + PART))
    assert await client.get_blob(kept) == noise(MIB)
    more = QueueSettings(max_blob_bytes=4 * MIB)
    other = Client(bench.url, bench.queue, settings=more)
    async with other:
        await other.put_blob(noise(2 * MIB))  # raised by who asks for more


async def test_an_upload_that_is_cancelled_or_fails_keeps_nothing(bench: Bench) -> None:
    client = bench.client
    sent, never = asyncio.Event(), asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield noise(MIB + MIB // 2)
        sent.set()
        await never.wait()

    async def broken() -> AsyncIterator[bytes]:
        yield noise(MIB + MIB // 2)
        raise ZeroDivisionError

    for _ in range(2):
        sent.clear()
        upload = asyncio.create_task(client.put_blob(stuck()))
        await asyncio.wait_for(sent.wait(), 30)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        with pytest.raises(ZeroDivisionError):
            await client.put_blob(broken())
    await client.put_blob(noise(MIB + MIB // 2))


@pytest.mark.parametrize("source", ["text", 5, None, [1, 2], ["text"]])
async def test_what_is_no_source(bench: Bench, source: Any) -> None:
    with pytest.raises(ConfigurationError):
        await bench.client.put_blob(source)


DATA = b"as it was put"
HEAD = BlobHead("forged", len(DATA), 2, hashlib.sha256(DATA).hexdigest())

FORGED: dict[str, tuple[list[bytes], bytes, type[Exception] | None]] = {
    "whole": ([DATA[:5], DATA[5:]], encode_blob_head(HEAD, "b"), None),
    "changed": ([DATA[:5], DATA[5:-1] + b"!"], encode_blob_head(HEAD, "b"), BlobDamaged),
    "longer": ([DATA[:5], DATA[5:] + b"!"], encode_blob_head(HEAD, "b"), BlobDamaged),
    "shorter": ([DATA[:5]], encode_blob_head(HEAD, "b"), BlobNotFound),
    "other-order": ([DATA[5:], DATA[:5]], encode_blob_head(HEAD, "b"), BlobDamaged),
    "other-size": ([DATA], encode_blob_head(HEAD._replace(size=5), "b"), BlobDamaged),
    "other-digest": ([DATA], encode_blob_head(HEAD._replace(sha256="00"), "b"), BlobDamaged),
    "junk": ([DATA], b"junk", BlobDamaged),
    "deleted": ([DATA], b'{"name":"forged","deleted":true}', BlobNotFound),
}


@pytest.mark.parametrize("how", FORGED)
async def test_what_was_tampered_with_is_not_taken_for_the_data(
    bench: Bench, tmp_path: Path, how: str
) -> None:
    _, queue = await bench.client.link()
    written, head, error = FORGED[how]
    await queue.blobs.ensure()
    for number, part in enumerate(written):
        await queue.blobs.write_part(HEAD.name, number, part, 60)
    await queue.blobs.write_head(HEAD.name, head, 60)
    blob = Blob(name=HEAD.name, queue=bench.queue, size=HEAD.size, sha256=HEAD.sha256, expires=0.0)
    if error is None:
        assert await bench.client.get_blob(blob) == DATA
        return
    with pytest.raises(error):
        await bench.client.open_blob(blob).save(tmp_path / "copy")
    assert files(tmp_path) == []


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_blob_of_another_queue(bench: Bench) -> None:
    blob = await bench.client.put_blob(b"data")
    async with Client(bench.url, bench.queue + "-other") as other:
        assert await other.get_blob(blob) == b"data"
        with pytest.raises(BlobNotFound):
            await other.get_blob(blob.model_copy(update={"queue": "never-made"}))
        assert await other.delete_blob(blob)


async def test_a_stream_of_references(bench: Bench) -> None:
    """Chunks that are too large go by reference too."""
    worker, client = bench.worker(), bench.client

    @worker.handler("pages")
    async def pages(count: int, ctx: Context = CONTEXT) -> AsyncIterator[Blob]:
        for number in range(count):
            yield await ctx.put_blob(noise(number))

    await worker.start()
    found = [await client.get_blob(chunk) async for chunk in client.stream("pages", 3)]
    assert found == [noise(0), noise(1), noise(2)]


async def test_a_context_for_unit_tests_has_blobs() -> None:
    ctx = Context.fake()
    blob = await ctx.put_blob(noise(PART + 1))
    assert await ctx.open_blob(blob).read() == noise(PART + 1)


def test_a_context_for_unit_tests_of_plain_functions() -> None:
    ctx = Context.fake()
    blob = ctx.wait(ctx.put_blob(iter([b"a", b"b"])))
    assert ctx.wait(ctx.open_blob(blob).read()) == b"ab"
