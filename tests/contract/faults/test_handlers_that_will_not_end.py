"""Handlers that block the loop, hold a thread, or will not be cancelled."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.faults.blocked_loop import Seen, blocked, probe
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when, when
from tests.support.workers import Finals, Journal, MakeClient, MakeWorker

from headrace import CONTEXT, Client, Context, QueueSettings, Worker, WorkerConfig
from headrace.runtime import engine

ACK_WAIT = 2.0
GRACE = 0.5


async def test_the_lease_of_a_handler_that_blocks_everything_is_kept(
    nats_server: NatsProcess, queue_name: str, tmp_path: Path
) -> None:
    """For 7 s with leases of 2 s, beside an idle worker; `blocked_loop.py` does 46 s at 15 s."""

    async def run(kind: str) -> Seen:
        journal = Journal(tmp_path / kind)
        return await blocked(nats_server.url, f"{queue_name}-{kind}", journal, kind, 7.0, ACK_WAIT)

    kinds = {"block": "blocked", "hold_gil": "held"}
    for seen, result in zip(await asyncio.gather(*map(run, kinds)), kinds.values(), strict=True):
        assert seen.runs == 1
        assert seen.states == ["completed"]
        assert seen.result == result
        assert 7.0 <= seen.seconds < 9.0
        assert len(seen.livez) > 5
        assert set(seen.livez) == {200}  # slow is not stuck


async def test_a_worker_that_is_stuck_fails_its_liveness_and_loses_its_tasks(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    client = await make_client()
    env = {"HEADRACE_HEALTH_PORT": "0", "HEADRACE_STUCK_AFTER": "1"}
    stuck = await make_worker(env=env)
    port = stuck.ready_as["health_port"]
    async with Finals(nats_server.url, queue_name) as finals:
        task = await client.submit_async("block", {"seconds": 8})
        await journal.started(1, pid=stuck.pid)
        assert await probe(port, "/livez") == 200
        other = await make_worker()
        codes = []
        while not journal.starts(pid=other.pid):
            assert not journal.entries("end")  # else this machine starts a worker too slowly
            codes.append(await probe(port, "/livez"))
            await asyncio.sleep(0.1)
        codes.append(await probe(port, "/livez"))  # the last one may be older than the lease
        assert codes == sorted(codes)  # alive, then stuck
        assert codes[-1] == 503
        (again,) = journal.starts(pid=other.pid)
        (first,) = journal.starts(pid=stuck.pid)
        assert again["at"] - first["at"] < 8  # while the first still runs
        # the first to end, ends it; the second outcome is dropped
        result = await client.wait_for(task.id, 20)
        await journal.until(lambda journal: len(journal.entries("end")) == 2)
        for _ in range(2):  # one for each worker: both take tasks again
            await client.submit("work", {}, wait_timeout=10)
        assert await finals.of([task.id]) == {task.id: [result.status]} == {task.id: ["completed"]}
        await when(lambda: probe(port, "/livez"), lambda code: code == 200)


class Stubborn:
    """Handlers that do not end when they are told to."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.cleaned: list[str] = []
        self.told: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def hold_thread(self, data: object, *, ctx: Context = CONTEXT) -> str:
        self.release.wait(20)
        self.told.put(ctx.cancelled)
        return "too late"

    async def swallow(self, data: object) -> str:
        while not self.release.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass
        return "too late"

    async def clean_up(self, data: object) -> str:
        try:
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(GRACE / 2)
            self.cleaned.append("to the end")
        return "never"

    async def quick(self, data: object) -> object:
        return data


@pytest.fixture
async def stubborn(
    nats_server: NatsProcess, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Stubborn, Worker]]:
    """A worker of one slot with these handlers."""
    monkeypatch.setattr(engine, "CANCEL_GRACE", GRACE)
    handlers = Stubborn()
    worker = Worker(
        config=WorkerConfig(max_concurrent_tasks=1),
        url=nats_server.url,
        queue=queue_name,
        settings=QueueSettings(ack_wait=ACK_WAIT),
    )
    for name in ("hold_thread", "swallow", "clean_up", "quick"):
        worker.register_handler(name, getattr(handlers, name))
    await worker.start()
    yield handlers, worker
    handlers.release.set()
    await worker.stop(graceful=False)


HOW = pytest.mark.parametrize("how", ["timeout", "cancel"])


async def _end(client: Client, kind: str, how: str) -> tuple[str, float]:
    """Run it into its timeout, or cancel it; its id and the seconds until its final state."""
    timeout = 0.3 if how == "timeout" else 60.0
    task = await client.submit_async(kind, 1, timeout=timeout, retries=0)
    await when(
        lambda: client.get_task(task.id), lambda found: bool(found and found.status != "queued")
    )
    told = time.monotonic()
    if how == "cancel":
        assert (await client.cancel_task(task.id)).status == "cancelled"
    result = await client.wait_for(task.id, 10)
    assert result.status == ("timeout" if how == "timeout" else "cancelled")
    return task.id, time.monotonic() - told


@HOW
@pytest.mark.parametrize("kind", ["hold_thread", "swallow", "clean_up"])
async def test_its_state_is_final_and_its_slot_is_free_within_the_grace(
    nats_server: NatsProcess,
    queue_name: str,
    make_client: MakeClient,
    stubborn: tuple[Stubborn, Worker],
    kind: str,
    how: str,
) -> None:
    handlers, worker = stubborn
    client = await make_client()
    async with Finals(nats_server.url, queue_name) as finals:
        task_id, took = await _end(client, kind, how)
        assert took < 0.3 + GRACE + 2.0
        begun = time.monotonic()
        assert await client.submit("quick", 5, wait_timeout=10) == 5  # in its only slot
        assert time.monotonic() - begun < GRACE + 2.0
        if kind == "clean_up":
            assert handlers.cleaned == ["to the end"]
        _, stored = await client.link()
        await depth_when(stored, lambda depth: depth.messages == 0)
        # what it returns in the end changes nothing
        handlers.release.set()
        if kind == "hold_thread":
            assert await asyncio.to_thread(handlers.told.get, timeout=10) is True
        assert await client.submit("quick", 6, wait_timeout=10) == 6
        assert len(finals.statuses[task_id]) == 1
    assert (await client.wait_for(task_id)).result is None
    assert worker.running == 0
    assert worker.info.current_tasks == 0
