"""A worker that slept past its leases; clocks that are wrong or step; a new nkey."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import nkeys
import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when, when
from tests.support.workers import Finals, Journal, MakeClient, MakeWorker

from headrace import Client, Retry, TaskPriority, Worker, WorkerConfig
from headrace.runtime.look import Doubt

ACK_WAIT = 2.0
LAPSED = Doubt(lapsed=True, outage=False)


async def test_what_lay_in_the_sockets_of_a_worker_that_slept_is_not_started(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    """The sleeper's parked pull is answered while it sleeps; the task runs elsewhere, once."""
    client = await make_client()
    asleep = await make_worker(slots=2, env={"HEADRACE_STUCK_AFTER": "1"})
    _, queue = await client.link()
    await when(queue.depth, lambda depth: all(lane.parked == 1 for lane in depth.lanes))
    stopping = [asleep.pid, asleep.ready_as["keeper"]]
    for pid in stopping:
        os.kill(pid, signal.SIGSTOP)
    ids = [(await client.submit_async("work", {"n": 1})).id]
    await depth_when(queue, lambda depth: depth.running == 1)  # in the sleeper's socket
    awake = await make_worker(slots=2)
    async with Finals(nats_server.url, queue_name) as finals:
        await finals.of(ids)
        for pid in stopping:
            os.kill(pid, signal.SIGCONT)
        # what comes now is taken by both, so the sleeper has read all that lay there
        await asyncio.gather(
            *(client.submit("work", {"seconds": 0.3}, wait_timeout=15) for _ in range(8))
        )
        await journal.until(lambda journal: journal.starts(pid=asleep.pid))
    assert [start["pid"] for start in journal.starts(task=ids[0])] == [awake.pid]


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
async def test_a_worker_whose_clock_is_wrong_retries_in_time(
    broker_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """The pause is the broker's time. The client's clock is right, or as wrong."""
    true = time.time
    if not broker_url.startswith("memory"):  # there this machine's clock is the broker's
        monkeypatch.setattr(time, "time", lambda: true() + skew)
    starts: list[float] = []
    worker = Worker(url=broker_url, queue=queue_name)

    @worker.handler("again")
    async def again(_: dict) -> str:
        starts.append(time.monotonic())
        if len(starts) == 1:
            raise Retry(delay=1.0)
        return "done"

    async with Client(broker_url, queue_name) as client:
        await worker.start()
        asked = time.monotonic()
        try:
            found = await client.submit("again", {}, retries=1, delay=1.0, wait_timeout=20)
        finally:
            await worker.stop()
    assert found == "done"
    assert 0.9 < starts[0] - asked < 8.0
    assert 0.9 < starts[1] - starts[0] < 8.0


async def test_a_clock_that_is_set_back_takes_no_share_from_a_low_level(
    broker_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A low task over the starvation limit starts among critical ones, an hour earlier or not."""
    true, skew = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: true() + skew)
    order: list[str] = []
    low_started = asyncio.Event()
    config = WorkerConfig(starvation_limit=0.5)
    worker = Worker(url=broker_url, queue=queue_name, config=config)

    @worker.handler("work")
    async def work(level: str) -> None:
        order.append(level)
        if level == "low":
            low_started.set()
        await asyncio.sleep(0.02)

    async with Client(broker_url, queue_name) as client:
        low = {"type": "work", "data": "low", "priority": TaskPriority.LOW}
        high = {"type": "work", "data": "critical", "priority": TaskPriority.CRITICAL}
        await client.submit_many([low] * 20 + [high] * 300)
        await worker.start()
        try:
            await asyncio.wait_for(low_started.wait(), 10)
            skew = -3600.0
            low_started.clear()
            await asyncio.wait_for(low_started.wait(), 10)
            assert order.count("critical") < 300, "the low one only came when nothing was above"
        finally:
            await worker.stop(graceful=False)


async def test_an_nkey_whose_file_was_replaced_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoked, refused some times, a new seed in the file: connected again without a restart."""
    file = tmp_path / "user.nk"

    def new_user() -> str:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        file.write_bytes(seed)
        key = nkeys.from_seed(bytearray(seed)).public_key.decode()
        return f'authorization {{ users: [{{nkey: "{key}"}}] }}'

    monkeypatch.setenv("HEADRACE_NATS_NKEY", str(file))
    server = NatsProcess(tmp_path / "nats", extra=new_user())
    try:
        server.start()
        async with Client(server.url, "rotated") as client:
            await client.submit_async("t", {})
            broker, _ = await client.link()
            server.reload("authorization { users: [{user: nobody, password: else}] }")
            await when(_connected(broker), lambda connected: not connected)
            file.unlink()  # not there for a moment, as when a volume is mounted anew
            server.reload(new_user())
            await when(_connected(broker), lambda connected: connected)
            await client.submit_async("t", {})
    finally:
        server.stop()


def _connected(broker: object):  # type: ignore[no-untyped-def]
    async def look_at() -> bool:
        return bool(broker.connected)  # type: ignore[attr-defined]

    return look_at
