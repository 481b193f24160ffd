"""A server that goes away and comes back: everything goes on. Real servers of these tests' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import nats
import pytest
from tests.support.nats_servers import NatsProcess, free_ports
from tests.support.recorder import NORMAL, Recorder, Told, put, when

from headrace.broker.connect import make_broker
from headrace.broker.port import GONE, RECONNECTED, Broker, BrokerQueue, QueueSettings
from headrace.errors import AccessDenied, BrokerUnavailable, BrokerUnsupported


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsProcess]:
    """A server that the test may end."""
    server = NatsProcess(tmp_path / "nats")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
async def broker(server: NatsProcess) -> AsyncIterator[Broker]:
    """A broker on it."""
    broker = make_broker(server.url)
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
async def queue(broker: Broker) -> BrokerQueue:
    """A queue on it."""
    queue = broker.queue("again", QueueSettings(ack_wait=2.0))
    await queue.ensure()
    return queue


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_everything_goes_on_after_a_restart(
    server: NatsProcess, broker: Broker, queue: BrokerQueue, how: str
) -> None:
    heard = asyncio.Event()
    await broker.subscribe("headrace.test.again", lambda *_: heard.set())
    await queue.announce("w1", lambda: {"id": "w1"}, {})
    seq = await queue.write_record("a", b"1", 0, 60.0)
    await put(queue, NORMAL, "before", "running")
    async with Recorder(queue, NORMAL) as taker:
        before, running = await taker.take(2)
        await queue.ack(before)
        await when(lambda: queue.present(before), lambda present: not present)
        await taker.consumer.park(0, 60.0)
        await asyncio.to_thread(getattr(server, how))
        await when(_connected(broker), lambda connected: not connected)
        under_way = [await queue.put_soon(NORMAL, f"t{n}", b"{}", f"t{n}") for n in range(100)]
        await asyncio.to_thread(server.start)
        await taker.until(lambda: Told(-1, True, RECONNECTED) in taker.told)
        stored = [await answer for answer in under_way]
        assert not any(one.duplicate for one in stored)
        assert broker.connected
        # the old parked pull is forgotten: what comes now was asked for now
        expected = {"running", *(f"t{n}" for n in range(100))}
        if how == "kill":
            expected.add("before")  # the last acks before a power cut may be lost: at least once
        came = {delivery.task_id for delivery in await taker.take(101)}
        assert came <= expected
        assert len(came) == 101
        assert running.task_id == "running"
    await broker.publish("headrace.test.again", b"")
    await asyncio.wait_for(heard.wait(), 10)
    assert await queue.workers(expect=1) == [{"id": "w1"}]
    await queue.write_record("a", b"2", seq, 60.0)


def _connected(broker: Broker) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return broker.connected

    return look


async def test_a_delayed_task_survives_a_kill(server: NatsProcess, queue: BrokerQueue) -> None:
    at = time.time() + 1.5
    await queue.schedule(NORMAL, "due", b"{}", at, "due")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        assert (delivery.task_id, delivery.sourced) == ("due", True)
        assert time.time() >= at - 0.01


async def test_a_lane_whose_consumer_was_deleted_is_restored(
    server: NatsProcess, queue: BrokerQueue
) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        await taker.consumer.park(0, 60.0)
        await taker.next()
        await taker.consumer.park(0, 60.0)
        client = await nats.connect(server.url)
        await client.jetstream().delete_consumer(queue.names.work_stream, NORMAL.consumer)
        await client.close()
        await taker.until(lambda: Told(0, True, GONE) in taker.told)
        await taker.consumer.pull(0, 1)
        await taker.until(lambda: Told(0, False, GONE) in taker.told)
        await queue.restore_lanes([NORMAL])
        (again,) = await taker.take()  # what ran is not known to the new consumer: once more
        assert again.task_id == "a"


async def test_without_a_server_there_is_an_error_and_not_an_empty_answer(
    server: NatsProcess, broker: Broker, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("connection", "reader"):
        monkeypatch.setattr(f"headrace.broker.jetstream.{module}.REQUEST_TIMEOUT", 0.5)
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 0.5)
    await queue.ensure_lanes([NORMAL])
    await asyncio.to_thread(server.stop)
    await when(_connected(broker), lambda connected: not connected)
    with pytest.raises(BrokerUnavailable):
        await put(queue, NORMAL, "a")
    with pytest.raises(BrokerUnavailable):
        await queue.find("a")
    with pytest.raises(BrokerUnavailable):
        await queue.depth()
    with pytest.raises(BrokerUnavailable):
        await queue.write_record("a", b"", 0, 60.0)
    with pytest.raises(BrokerUnavailable):
        await broker.flush()


async def test_connecting_to_nothing_fails_soon_and_may_be_tried_again(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    broker = make_broker(f"nats://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
        await broker.connect()
    assert time.monotonic() - start < 5
    assert not broker.connected
    server = NatsProcess(tmp_path / "nats", port=port)
    try:
        server.start()
        await broker.connect()
        assert broker.connected
        queue = broker.queue("later")
        await queue.ensure()
        await put(queue, NORMAL, "a")
        await broker.close()
    finally:
        server.stop()


async def test_wrong_credentials_are_named(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path / "nats", extra="authorization { user: u, password: secret }")
    try:
        server.start()
        for user in ("", "u:wrong@", "token@"):
            broker = make_broker(server.url.replace("//", f"//{user}"))
            with pytest.raises(AccessDenied) as refused:
                await broker.connect()
            assert "wrong" not in str(refused.value)
        broker = make_broker(server.url.replace("//", "//u:secret@"))
        await broker.connect()
        assert "secret" not in broker.info().url
        await broker.close()
    finally:
        server.stop()


async def test_credentials_that_are_revoked_and_given_back(tmp_path: Path) -> None:
    """The server says why it hangs up: the connection is tried again all the same."""
    allowed = "authorization { users: [{user: u, password: old}, {user: v, password: x}] }"
    server = NatsProcess(tmp_path / "nats", extra=allowed)
    try:
        server.start()
        broker = make_broker(server.url.replace("//", "//u:old@"))
        await broker.connect()
        queue = broker.queue("again")
        await queue.ensure()
        async with Recorder(queue, NORMAL) as taker:
            server.reload(allowed.replace("old", "new"))
            await when(_connected(broker), lambda connected: not connected)
            server.reload(allowed)
            await taker.until(lambda: Told(-1, True, RECONNECTED) in taker.told)
            await put(queue, NORMAL, "a")
            await taker.take()
        await broker.close()
    finally:
        server.stop()


async def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path / "nats", jetstream=False)
    try:
        server.start()
        broker = make_broker(server.url)
        with pytest.raises(BrokerUnsupported, match="JetStream"):
            await broker.connect()
        assert not broker.connected
    finally:
        server.stop()
