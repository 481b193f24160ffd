"""Case C19: streams that are not read to the end, or not in one piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import nats.errors
import pytest
from tests.contract.cases.bench import Bench, until
from tests.support.nats_servers import NatsProcess

from headrace import Client, QueueSettings, StreamInterrupted, TaskStatus, TaskTimeout, Worker


class Chunks:
    """Streaming handlers."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def hundred(self, data: Any) -> AsyncIterator[str]:
        try:
            for n in range(100):
                yield str(n)
                if n == 10:
                    await self.go_on.wait()
        finally:
            self.left.set()

    async def endless(self, data: Any) -> AsyncIterator[int]:
        n = 0
        try:
            while True:
                yield n
                n += 1
                await asyncio.sleep(0.002)
        finally:
            self.left.set()


@pytest.fixture
async def chunks(bench: Bench) -> Chunks:
    """A worker with these handlers, which has started."""
    chunks, worker = Chunks(), bench.worker()
    worker.register_handler("hundred", chunks.hundred)
    worker.register_handler("endless", chunks.endless)
    await worker.start()
    return chunks


async def _gone(bench: Bench, before: set[int]) -> None:
    """Wait until the client listens to nothing that it did not listen to before."""

    async def same() -> bool:
        return await _listening(bench) == before

    await until(same, 5)


async def _listening(bench: Bench) -> set[int]:
    """The client's subscriptions, where its broker is a NATS connection."""
    broker, _ = await bench.client.link()
    connection = getattr(broker, "_connection", None)
    return set(getattr(getattr(connection, "nc", None), "_subs", ()))


async def test_c19_who_leaves_early_cancels_the_task(bench: Bench, chunks: Chunks) -> None:
    before = await _listening(bench)
    stream = bench.client.stream("endless", {})
    got = []
    async for chunk in stream:
        got.append(chunk)
        if len(got) == 3:
            break
    assert got == [0, 1, 2]
    async with asyncio.timeout(5):  # the loop's own end closes the generator
        await chunks.left.wait()
    assert stream.task is not None
    assert await bench.ended(stream.task.id) is TaskStatus.CANCELLED
    await _gone(bench, before)


async def test_c19_who_detaches_lets_the_task_complete(bench: Bench, chunks: Chunks) -> None:
    before = await _listening(bench)
    chunks.go_on.clear()
    stream = bench.client.stream("hundred", {}, detach=True)
    reading = aiter(stream)
    assert [await anext(reading) for _ in range(3)] == ["0", "1", "2"]
    await reading.aclose()  # type: ignore[attr-defined]
    await _gone(bench, before)
    chunks.go_on.set()
    assert stream.task is not None
    assert await bench.ended(stream.task.id) is TaskStatus.COMPLETED
    assert chunks.left.is_set()


async def test_c19_a_cancel_ends_the_generator_at_once(bench: Bench, chunks: Chunks) -> None:
    stream = bench.client.stream("endless", {})
    reading = aiter(stream)
    await anext(reading)
    assert stream.task is not None
    began = time.monotonic()
    assert (await bench.client.cancel_task(stream.task.id)).status is TaskStatus.CANCELLED
    async with asyncio.timeout(5):
        await chunks.left.wait()
    assert time.monotonic() - began < 3  # a second on a quiet machine
    with pytest.raises(Exception, match="cancelled"):
        async for _ in reading:
            pass


async def test_c19_an_endless_generator_ends_with_its_timeout(bench: Bench, chunks: Chunks) -> None:
    got = []
    with pytest.raises(TaskTimeout) as caught:  # noqa: PT012
        async for chunk in bench.client.stream("endless", {}, timeout=0.5):
            got.append(chunk)
    assert got == list(range(len(got)))
    assert chunks.left.is_set()
    assert await bench.ended(caught.value.task_id) is TaskStatus.TIMEOUT


async def test_c19_all_chunks_come_in_order(bench: Bench, chunks: Chunks) -> None:
    stream = bench.client.stream("hundred", {})
    assert [chunk async for chunk in stream] == [str(n) for n in range(100)]


class Gate:
    """A TCP proxy before a NATS server whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []
        self.shut = False

    async def __aenter__(self) -> Gate:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End all connections and take no others."""
        self.shut = True
        for writer in self._writers:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.shut:
            writer.close()
            return
        inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, outer]
        for source, target in ((reader, outer), (inner, writer)):
            self._pumps.append(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        target.close()


@pytest.mark.parametrize("missed", ["the middle", "the end", "nothing"])
async def test_c19_a_reader_that_lost_its_connection_misses_nothing_silently(
    nats_server: NatsProcess, queue_name: str, missed: str
) -> None:
    """Chunks are core messages: what is sent while nobody is connected is gone, and said so."""
    settings = QueueSettings(ack_wait=5.0)
    worker = Worker(url=nats_server.url, queue=queue_name, settings=settings)
    at_ten, go_on = asyncio.Event(), {n: asyncio.Event() for n in (10, 50)}

    @worker.handler("hundred")
    async def hundred(data: Any) -> AsyncIterator[int]:
        for n in range(100):
            yield n
            if n in go_on:
                at_ten.set()
                await go_on[n].wait()

    await worker.start()
    try:
        async with Gate(nats_server.port) as gate, Client(gate.url, queue_name) as client:
            got: list[int] = []
            stream = client.stream("hundred", {}, detach=True)
            reading = asyncio.create_task(_read(stream, got))
            await asyncio.wait_for(at_ten.wait(), 20)
            await until(lambda: _is(len(got) == 11))
            gate.cut()
            await until(lambda: _is(not client.connected))
            if missed != "nothing":
                go_on[10].set()  # 40 chunks that nobody hears
                await until(lambda: _is(worker.info.current_tasks == 1 and _sent(worker) == 51))
            if missed == "the end":
                go_on[50].set()
                await until(lambda: _is(worker.info.total_completed == 1))
            gate.shut = False
            assert stream.task is not None
            await _listened_to(nats_server, f"headrace.events.{queue_name}.{stream.task.id}")
            for event in go_on.values():
                event.set()
            if missed == "nothing":
                await asyncio.wait_for(reading, 20)
                assert got == list(range(100))
            else:
                with pytest.raises(StreamInterrupted) as caught:
                    await asyncio.wait_for(reading, 20)
                assert got == list(range(11))
                assert caught.value.received == 11
                result = await client.wait_for(stream.task.id, 20)
                assert result.status is TaskStatus.COMPLETED
    finally:
        await worker.stop(graceful=False)


async def _listened_to(server: NatsProcess, subject: str) -> None:
    """Wait until the server knows of a subscription there: a client is connected a moment before it
    has told all of its own. What is asked is no event, and is left out by who hears it."""
    connection = await nats.connect(server.url)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            await connection.request(subject, b"?", timeout=0.1)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(0.01)
        except nats.errors.TimeoutError:
            break
    await connection.close()
    assert time.monotonic() < deadline


async def _read(stream: Any, got: list[int]) -> None:
    async for chunk in stream:
        got.append(chunk)


async def _is(holds: bool) -> bool:
    return holds


def _sent(worker: Worker) -> int:
    """Chunks that the one running task has sent."""
    engine = worker._engine
    assert engine is not None
    return next((run.chunks for run in engine._runs.values()), -1)
