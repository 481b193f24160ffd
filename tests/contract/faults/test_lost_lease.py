"""Workers that lose a lease and come back, the same id twice, a clock that is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import nats
import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, Recorder, depth_when
from tests.support.workers import Finals, Fleet, Journal, MakeClient, MakeWorker

from headrace import Client, QueueSettings
from headrace.runtime.look import MAX_LOST_WORKERS

ACK_WAIT = 2.0
MARGIN = 2.0


@pytest.mark.parametrize("who", ["the worker", "the worker and its keeper"])
async def test_a_worker_that_sleeps_past_its_lease_ends_nothing_twice(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
    who: str,
) -> None:
    """SIGSTOP with three tasks running; they run elsewhere; SIGCONT: its outcomes are dropped."""
    client = await make_client()
    asleep = await make_worker(slots=3, env={"HEADRACE_STUCK_AFTER": "1"})
    stopping = [asleep.pid, asleep.ready_as["keeper"]] if "and" in who else [asleep.pid]
    async with Finals(nats_server.url, queue_name) as finals:
        items = [("work", {"n": n, "seconds": 1.0}) for n in range(3)]
        ids = [task.id for task in await client.submit_many(items)]
        await journal.started(3, pid=asleep.pid)
        for pid in stopping:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        other = await make_worker(slots=3)
        again = await journal.started(3, pid=other.pid)
        # the keeper alone goes on until it sees that the worker's loop stands still, for 1 s
        assert max(entry["at"] for entry in again) - stopped < 1 + ACK_WAIT + MARGIN
        assert await finals.of(ids) == {task_id: ["completed"] for task_id in ids}
        for pid in stopping:
            os.kill(pid, signal.SIGCONT)
        await journal.until(lambda journal: len(journal.entries("end", pid=asleep.pid)) == 3)
        # both go on as before
        await asyncio.gather(
            *(client.submit("work", {"seconds": 0.2}, wait_timeout=10) for _ in range(6))
        )
        assert len(journal.starts(pid=asleep.pid)) > 3
        assert len(journal.starts(pid=other.pid)) > 3
        assert {task_id: finals.statuses[task_id] for task_id in ids} == {
            task_id: ["completed"] for task_id in ids
        }
    for task_id in ids:
        assert (await client.wait_for(task_id)).worker_id == other.ready_as["worker"]
    _, queue = await client.link()
    assert (await depth_when(queue, lambda depth: depth.messages == 0)).dead == 0


async def test_an_id_that_is_submitted_twice_runs_once(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    client, other = await make_client(), await make_client()
    await make_worker(slots=4)
    async with Finals(nats_server.url, queue_name) as finals:
        first, second = await asyncio.gather(
            client.submit_async("work", {"n": 1, "seconds": 0.3}, task_id="once"),
            other.submit_async("work", {"n": 1, "seconds": 0.3}, task_id="once"),
        )
        assert first.id == second.id == "once"
        assert (await client.wait_for("once", 10)).result == {"did": 1}
        assert (await other.wait_for("once", 10)).result == {"did": 1}
        # and once more after its end, within the dedupe window
        assert await other.submit("work", {"n": 2}, task_id="once", wait_timeout=10) == {"did": 1}
        # what comes behind it has run, so the third would have
        await client.submit("work", {"n": 3}, wait_timeout=10)
        assert await finals.of(["once"]) == {"once": ["completed"]}
    assert journal.runs()["once"] == 1


async def test_an_id_that_a_foreign_client_publishes_twice_ends_once(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_client: MakeClient,
    make_worker: MakeWorker,
) -> None:
    """Without Nats-Msg-Id the server keeps both; the handler may run twice, the end is one."""
    client = await make_client()
    connection = await nats.connect(nats_server.url)
    subject = f"headrace.q.{queue_name}.normal._.x1"
    async with Finals(nats_server.url, queue_name) as finals:
        for n in (1, 2):
            await connection.jetstream().publish(
                subject, b'{"type": "work", "data": {"n": %d, "seconds": 0.2}}' % n
            )
        await make_worker(slots=1)
        await finals.of(["x1"])
        await client.submit("work", {"n": 3}, wait_timeout=10)  # behind both in its one slot
        result = (await client.wait_for("x1")).result
        _, queue = await client.link()
        depth = await depth_when(queue, lambda depth: depth.messages == 0)
        assert await finals.of(["x1"]) == {"x1": ["completed"]}
    await connection.close()
    assert result == {"did": 1}
    assert journal.runs()["x1"] in (1, 2)
    assert depth.dead == 0


async def test_the_wall_clock_of_a_worker_does_not_matter_for_leases(
    nats_server: NatsProcess, queue_name: str, tmp_path: Path
) -> None:
    """An hour off: lost tasks are seen as lost, and tasks that are handed back are not."""
    await asyncio.gather(
        _with_skew(nats_server.url, f"{queue_name}-behind", tmp_path / "behind", -3600.0),
        _with_skew(nats_server.url, f"{queue_name}-ahead", tmp_path / "ahead", 3600.0),
    )


async def _with_skew(url: str, queue_name: str, path: Path, skew: float) -> None:
    journal = Journal(path)
    config = {"url": url, "queue": queue_name, "slots": 2, "ack_wait": ACK_WAIT, "skew": skew}
    async with (
        Client(url, queue_name, settings=QueueSettings(ack_wait=ACK_WAIT)) as client,
        Finals(url, queue_name) as finals,
    ):
        # handed back five times before any worker sees it, and run by nobody
        _, queue = await client.link()
        bounced = await client.submit_async("work", {"n": 1, "seconds": 1.0})
        async with Recorder(queue, NORMAL) as taker:
            for _ in range(5):
                (delivery,) = await taker.take()
                await queue.nak(delivery)
        async with Fleet(journal, config, 2) as fleet:  # one is up while the other starts again
            assert await finals.of([bounced.id]) == {bounced.id: ["completed"]}
            poison = await client.submit_async("die", {"after": 0.1})
            assert await finals.of([poison.id]) == {poison.id: ["failed"]}
            assert len(fleet.deaths) == MAX_LOST_WORKERS
        starts = [entry["at"] for entry in journal.starts(task=poison.id)]
        gaps = [after - before for before, after in pairwise(starts)]
        assert all(ACK_WAIT - 0.2 < gap < ACK_WAIT + MARGIN for gap in gaps), gaps
        (letter,) = await client.dead_letters()
        assert letter.reason == "worker_lost"
        # A machine so slow that the fleet starts later than a lease lasts is suspected once.
        assert (await client.wait_for_record(bounced.id)).lost <= 1
