"""The watchdog and the probes: a worker that is truly stuck loses its tasks and its liveness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.keeper.workers import Answer, HoldingWorker, probe
from tests.support.nats_servers import NatsProcess, free_ports
from tests.support.recorder import NORMAL, Recorder, put, when

from headrace.broker.connect import open_broker
from headrace.broker.jetstream.keeper.parent import KeeperLeases
from headrace.broker.port import Broker, QueueSettings
from headrace.errors import ConfigurationError

ACK_WAIT = 1.0
STUCK_AFTER = 0.9
ALIVE = Answer(200, True, "")


@pytest.fixture
async def broker(nats_server: NatsProcess) -> AsyncIterator[Broker]:
    """A connection to the server of this session."""
    broker = await open_broker(nats_server.url)
    yield broker
    await broker.close()


async def _start(broker: Broker) -> KeeperLeases:
    leases = await broker.leases(ACK_WAIT, 1)
    assert isinstance(leases, KeeperLeases)
    return leases


async def test_a_stuck_worker_loses_its_tasks_and_its_liveness(
    nats_server: NatsProcess, broker: Broker, queue_name: str
) -> None:
    queue = broker.queue(queue_name, QueueSettings(ack_wait=ACK_WAIT))
    await queue.ensure()
    await put(queue, NORMAL, "a")
    env = {"HEADRACE_STUCK_AFTER": str(STUCK_AFTER), "HEADRACE_HEALTH_PORT": "0"}
    async with Recorder(queue, NORMAL) as taker:
        with HoldingWorker(nats_server.url, queue_name, ACK_WAIT, env=env) as worker:
            port = (await worker.says())["health_port"]
            await taker.consumer.park(0, 60.0)
            await asyncio.sleep(ACK_WAIT * 1.5)
            assert taker.ids == []  # while its loop turns
            blocked_for = STUCK_AFTER + ACK_WAIT + 1.5
            worker.tell(f"block {blocked_for}")
            assert await worker.says() == {"blocked": True}
            blocked = time.monotonic()
            assert await probe(port, "/livez") == ALIVE
            dead = await when(lambda: probe(port, "/livez"), lambda answer: not answer.ok)
            assert STUCK_AFTER * 0.4 < time.monotonic() - blocked < STUCK_AFTER + 1
            assert dead.code == 503
            assert "event loop has been blocked for" in dead.reason
            (again,) = await taker.next()
            assert again.deliveries == 2
            assert again.received_at - blocked > ACK_WAIT * 0.6
            assert again.received_at - blocked < STUCK_AFTER + ACK_WAIT + 1.5
            # it turns again: it is alive again
            await when(lambda: probe(port, "/livez"), lambda answer: answer.ok)
            assert time.monotonic() - blocked > blocked_for - 0.1


async def test_readiness_is_what_the_worker_says(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "0")
    leases = await _start(broker)
    port = leases.health_port
    assert port is not None
    assert await probe(port, "/readyz") == Answer(503, False, "the worker takes no tasks")
    assert await probe(port, "/livez") == ALIVE
    leases.set_ready(True)
    assert await probe(port, "/readyz?verbose") == ALIVE
    leases.set_ready(False)
    assert (await probe(port, "/readyz")).code == 503
    assert (await probe(port, "/other")).code == 404
    await leases.close()


async def test_probes_survive_what_is_not_http(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "0")
    leases = await _start(broker)
    port = leases.health_port
    assert port is not None
    for junk in (b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff \xff \r\n\r\n", b"x" * 200_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(junk)
        try:
            writer.write_eof()
            assert await reader.read() == b""
        except OSError:
            pass  # it has hung up on what it had not read
        writer.close()
    assert await probe(port, "/livez") == ALIVE
    await leases.close()
    assert capfd.readouterr().err == ""


async def test_liveness_does_not_depend_on_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "0")
    server = NatsProcess(tmp_path / "nats")
    try:
        broker = await open_broker(server.start().url)
        leases = await _start(broker)
        leases.set_ready(True)
        port = leases.health_port
        assert port is not None
        await asyncio.to_thread(server.kill)
        await when(lambda: _connected(broker), lambda connected: not connected)
        assert await probe(port, "/livez") == await probe(port, "/readyz") == ALIVE
        await leases.close()
        # a keeper that has never reached the broker is alive too
        leases = await _start(broker)
        assert leases.health_port is not None
        assert await probe(leases.health_port, "/livez") == ALIVE
        await leases.close()
        await broker.close()
    finally:
        server.stop()


async def _connected(broker: Broker) -> bool:
    return broker.connected


async def test_the_port_that_is_named(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", str(port))
    monkeypatch.setenv("HEADRACE_HEALTH_HOST", "0.0.0.0")
    first = await _start(broker)
    second = await _start(broker)  # in one process one serves it
    assert (first.health_port, second.health_port) == (port, None)
    await second.close()
    assert await probe(port, "/livez") == ALIVE
    pid = first.pid
    assert pid is not None
    await first.close()
    third = await _start(broker)  # and who comes after it may
    assert third.health_port == port
    await third.close()


async def test_the_port_stays_when_the_keeper_is_killed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "0")
    leases = await _start(broker)
    leases.set_ready(True)
    port, process = leases.health_port, leases._process
    assert port is not None
    assert process is not None
    process.kill()
    await process.wait()
    assert await when(lambda: _try(port), lambda answer: answer is not None) == ALIVE
    assert leases.health_port == port
    await leases.close()


async def _try(port: int) -> Answer | None:
    try:
        return await probe(port, "/readyz")
    except OSError:
        return None


async def test_a_port_that_is_taken_is_named(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", str(port))
    with pytest.raises(ConfigurationError, match=rf"HEADRACE_HEALTH_PORT.*{port}.*in use"):
        await _start(broker)
    taken.close()
    await taken.wait_closed()
    leases = await _start(broker)
    assert leases.health_port == port
    await leases.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_STUCK_AFTER", "soon"),
        ("HEADRACE_STUCK_AFTER", "0"),
        ("HEADRACE_STUCK_AFTER", "nan"),
        ("HEADRACE_STUCK_AFTER", "inf"),
        ("HEADRACE_HEALTH_PORT", "http"),
        ("HEADRACE_HEALTH_PORT", "-1"),
        ("HEADRACE_HEALTH_PORT", "65536"),
    ],
)
async def test_variables_that_make_no_sense(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        await _start(broker)
