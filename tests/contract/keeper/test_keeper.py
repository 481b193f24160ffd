"""Leases on a real server: kept whatever the worker's process does, let go when it is dead."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.contract.embedded.users import gone
from tests.contract.keeper.workers import HoldingWorker
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, Recorder, depth_when, put, when

from headrace.broker.connect import open_broker
from headrace.broker.jetstream.keeper.parent import KeeperLeases
from headrace.broker.port import Broker, BrokerQueue, Delivery, Leases, QueueSettings

ACK_WAIT = 0.9  # seconds; three of them are what a handler blocks for
MARGIN = 1.5


@pytest.fixture
async def broker(nats_server: NatsProcess) -> AsyncIterator[Broker]:
    """A connection to the server of this session."""
    broker = await open_broker(nats_server.url)
    yield broker
    await broker.close()


@pytest.fixture
def ack_wait() -> float:
    """Short leases, where a test does not ask for others."""
    return ACK_WAIT


@pytest.fixture
async def queue(broker: Broker, queue_name: str, ack_wait: float) -> BrokerQueue:
    """A queue."""
    queue = broker.queue(queue_name, QueueSettings(ack_wait=ack_wait))
    await queue.ensure()
    await queue.ensure_lanes([NORMAL])
    return queue


@pytest.fixture
async def leases(broker: Broker, ack_wait: float) -> AsyncIterator[KeeperLeases]:
    """A keeper."""
    leases = await broker.leases(ack_wait, 8)
    assert isinstance(leases, KeeperLeases)
    yield leases
    await leases.close()


async def _hold(taker: Recorder, queue: BrokerQueue, leases: Leases) -> Delivery:
    """Take a task and hold it, with a pull parked that would get it if its lease lapsed."""
    await put(queue, NORMAL, "held")
    (held,) = await taker.take()
    leases.hold(held)
    await taker.consumer.park(0, 60.0)
    await depth_when(queue, lambda depth: depth.lanes[0].parked == 1)
    return held


async def _still_held(queue: BrokerQueue, taker: Recorder, leases: Leases, held: Delivery) -> None:
    """Nobody was given it: one delivery in the server's own words, and the pull still waits."""
    (lane,) = (await depth_when(queue, lambda depth: bool(depth.lanes))).lanes
    assert (lane.running, lane.waiting, lane.parked) == (1, 0, 1)
    assert taker.ids == ["held"]
    assert leases.sure_until(held) > time.monotonic()


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _hold_the_gil(seconds: float) -> None:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def _add_numbers(seconds: float) -> None:
    """One call into C, in which no other thread gets a turn."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        sum(range(30_000_000))
        if end - time.monotonic() < (time.monotonic() - start) / 2:
            return


def _raise_to_a_power(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        3**1_500_000 // 7**500_000


@pytest.mark.parametrize("block", [_sleep, _hold_the_gil, _add_numbers, _raise_to_a_power])
async def test_a_blocked_worker_keeps_its_tasks(
    queue: BrokerQueue, leases: KeeperLeases, block: Callable[[float], None]
) -> None:
    async with Recorder(queue, NORMAL) as taker:
        held = await _hold(taker, queue, leases)
        start = time.monotonic()
        block(ACK_WAIT * 3)
        blocked_until = time.monotonic()
        assert blocked_until - start > ACK_WAIT * 2
        # known at once, with no turn of the loop in between: the table is memory
        assert leases.sure_until(held) > blocked_until
        await _still_held(queue, taker, leases, held)
        leases.release(held)
        (again,) = await taker.next()  # what is not held does lapse
        assert again.deliveries == 2


# Longer than it takes to start a process on a busy machine.
@pytest.mark.parametrize("ack_wait", [4.0])
async def test_a_keeper_that_is_killed_is_started_again_and_goes_on(
    queue: BrokerQueue, leases: KeeperLeases, ack_wait: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with Recorder(queue, NORMAL) as taker:
        held = await _hold(taker, queue, leases)
        for _ in range(2):
            await _kill_keeper(leases)
            back = time.monotonic()
            await _sure_past(leases, held, back + ack_wait)  # extended by the new one
        await asyncio.sleep(ack_wait)
        await _still_held(queue, taker, leases, held)
    assert "started again" in caplog.text


async def _kill_keeper(leases: KeeperLeases) -> None:
    """Kill it, and wait for the next one."""
    old = leases.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while leases.pid in (old, None):  # a process sets no event
        assert time.monotonic() < deadline, "it was not started again"
        await asyncio.sleep(0.01)


async def _sure_past(leases: Leases, delivery: Delivery, at: float) -> None:
    """Wait until nobody else can have this delivery before that monotonic time."""
    await when(lambda: _when_sure(leases, delivery), lambda until: until > at)


async def _when_sure(leases: Leases, delivery: Delivery) -> float:
    return leases.sure_until(delivery)


async def test_the_task_of_a_killed_worker_comes_back(
    nats_server: NatsProcess, queue: BrokerQueue, queue_name: str
) -> None:
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        with HoldingWorker(nats_server.url, queue_name, ACK_WAIT) as worker:
            said = await worker.says()
            await taker.consumer.park(0, 60.0)
            await asyncio.sleep(ACK_WAIT * 2)  # held for longer than one lease
            assert taker.ids == []
            killed = worker.kill()
            (again,) = await taker.next()
    assert again.deliveries == 2
    assert again.received_at - killed < ACK_WAIT + MARGIN
    await gone(said["keeper"])


async def test_a_killed_worker_that_has_forked_lets_its_tasks_go_too(
    nats_server: NatsProcess, queue: BrokerQueue, queue_name: str
) -> None:
    """Its child has the keeper's input open, so that does not end."""
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        with HoldingWorker(nats_server.url, queue_name, ACK_WAIT) as worker:
            said = await worker.says()
            worker.tell("fork")
            assert "child" in await worker.says()
            await taker.consumer.park(0, 60.0)
            killed = worker.kill()
            (again,) = await taker.next()
            assert again.received_at - killed < ACK_WAIT + MARGIN
            await gone(said["keeper"])


async def test_a_server_that_is_restarted_in_between(tmp_path: Path) -> None:
    ack_wait = 2.4
    server = NatsProcess(tmp_path / "nats")
    try:
        broker = await open_broker(server.start().url)
        queue = broker.queue("q", QueueSettings(ack_wait=ack_wait))
        await queue.ensure()
        leases = await broker.leases(ack_wait, 1)
        async with Recorder(queue, NORMAL) as taker:
            await put(queue, NORMAL, "held")
            (held,) = await taker.take()
            leases.hold(held)
            await _sure_past(leases, held, held.received_at + ack_wait + 0.2)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            back = time.monotonic()
            await _sure_past(leases, held, back + ack_wait)
            # at once, and not when the next third of the lease has passed
            assert time.monotonic() - back < ack_wait / 3
            await taker.until(lambda: any(told.lane == -1 for told in taker.told))
            await taker.consumer.park(0, 60.0)
            await asyncio.sleep(ack_wait)
            assert taker.ids == ["held"]
        await leases.close()
        await broker.close()
    finally:
        server.stop()


async def test_a_lease_that_may_have_lapsed_is_never_sure_again(
    queue: BrokerQueue, leases: KeeperLeases
) -> None:
    async with Recorder(queue, NORMAL) as taker:
        held = await _hold(taker, queue, leases)
        keeper = leases.pid
        assert keeper is not None
        os.kill(keeper, signal.SIGSTOP)  # the whole machine standing still, but for the server
        try:
            (again,) = await taker.next()
            assert again.deliveries == 2
            sure = leases.sure_until(held)
            # The server counts from the sending, we from the receipt.
            assert sure < again.received_at + ACK_WAIT / 2
            await asyncio.sleep(max(0.0, sure - time.monotonic()))
        finally:
            os.kill(keeper, signal.SIGCONT)
        leases.hold(again)
        await _sure_past(leases, again, sure + 3 * ACK_WAIT)
        assert leases.sure_until(held) == sure


async def test_leases_that_the_server_does_not_confirm_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsProcess(
        tmp_path / "nats",
        extra="authorization { users: [{user: u, password: p, permissions: "
        '{publish: {deny: ["$JS.ACK.>"]}}}] }',
    )
    try:
        broker = await open_broker(server.start().url.replace("//", "//u:p@"))
        queue = broker.queue("q", QueueSettings(ack_wait=ACK_WAIT))
        await queue.ensure()
        leases = await broker.leases(ACK_WAIT, 1)
        async with Recorder(queue, NORMAL) as taker:
            await put(queue, NORMAL, "a")
            (held,) = await taker.take()
            leases.hold(held)
            await when(lambda: _text(caplog), lambda text: "are not extended" in text)
            assert "does not confirm" in caplog.text
        await leases.close()
        await broker.close()
    finally:
        server.stop()


async def _text(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.text


async def test_closing_ends_the_keeper(leases: KeeperLeases) -> None:
    pid = leases.pid
    assert pid is not None
    start = time.monotonic()
    await leases.close()
    assert time.monotonic() - start < 1
    await gone(pid)
    leases.set_ready(True)  # harmless


async def test_more_tasks_than_slots_are_said_and_not_kept(
    queue: BrokerQueue, leases: KeeperLeases, caplog: pytest.LogCaptureFixture
) -> None:
    leases._free = leases._free[-1:]
    async with Recorder(queue, NORMAL) as taker:
        await put(queue, NORMAL, "a", "b")
        first, second = await taker.take(2)
        leases.hold(first)
        leases.hold(first)  # once is enough
        leases.hold(second)
        assert "no slot is free" in caplog.text
        leases.release(second)
        leases.release(first)
        leases.hold(second)
        await _sure_past(leases, second, second.received_at + ACK_WAIT)


def test_a_keeper_without_a_worker_says_so() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "headrace.broker.jetstream.keeper.process"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode != 0
    assert "started by a worker" in ended.stderr
