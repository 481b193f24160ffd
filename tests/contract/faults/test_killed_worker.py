"""kill -9 of worker processes: nothing is lost, nothing ends twice, poison is a dead letter."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when
from tests.support.workers import Finals, Fleet, Journal, MakeClient

from headrace.runtime.look import MAX_LOST_WORKERS

ACK_WAIT = 2.0
MARGIN = 2.0
"""Seconds beyond `ack_wait` in which a lost task has started again: the server looks at its leases
about once a second, and a slot must be free."""


async def test_two_kills_in_the_middle_of_200_tasks(
    nats_server: NatsProcess, queue_name: str, journal: Journal, make_client: MakeClient
) -> None:
    client = await make_client()
    config = {"url": nats_server.url, "queue": queue_name, "slots": 4, "ack_wait": ACK_WAIT}
    async with Finals(nats_server.url, queue_name) as finals, Fleet(journal, config, 3) as fleet:
        items = [
            {"type": "work", "data": {"n": n, "seconds": 0.1}, "retries": 0} for n in range(200)
        ]
        ids = [task.id for task in await client.submit_many(items)]
        killed: dict[int, float] = {}
        for victim, after in zip(fleet.workers, (40, 100), strict=False):
            await journal.started(after)
            pid = victim.pid
            await journal.until(lambda journal, pid=pid: journal.starts(pid=pid))
            killed[pid] = victim.kill()
        ended = await finals.of(ids)
        _, queue = await client.link()
        depth = await depth_when(queue, lambda depth: depth.messages == 0)
        assert set(killed) <= {pid for pid, _ in fleet.deaths}

    # exactly one final state each, and it is `completed`
    assert ended == {task_id: ["completed"] for task_id in ids}
    assert depth.dead == 0
    for task_id in ids:
        starts = journal.starts(task=task_id)
        lost = [entry for entry in starts if entry["pid"] in killed]
        # no handler runs more often than its task lost leases
        assert len(starts) <= 1 + len(lost)
        for first, again in pairwise(starts):
            gap = again["at"] - killed[first["pid"]]
            assert gap < ACK_WAIT + MARGIN, f"{task_id} started again after {gap:.1f} s"
    cut = [task_id for task_id, runs in journal.runs().items() if runs > 1]
    assert 1 <= len(cut) <= 8  # 2 workers of 4 slots


@pytest.mark.parametrize("how", ["kill", "exit"])
async def test_a_task_that_kills_its_worker_again_and_again_is_a_dead_letter(
    nats_server: NatsProcess, queue_name: str, journal: Journal, make_client: MakeClient, how: str
) -> None:
    client = await make_client()
    config = {"url": nats_server.url, "queue": queue_name, "slots": 4, "ack_wait": ACK_WAIT}
    async with Finals(nats_server.url, queue_name) as finals, Fleet(journal, config, 1) as fleet:
        neighbours = await client.submit_many(
            [{"type": "work", "data": {"n": n, "seconds": 0.5}} for n in range(3)]
        )
        poison = await client.submit_async("die", {"after": 0.1, "how": how}, retries=0)
        ended = await finals.of([poison.id, *(task.id for task in neighbours)])
        deaths = len(fleet.deaths)
        later = await client.submit("work", {"n": 7}, wait_timeout=10)
    assert ended.pop(poison.id) == ["failed"]
    assert ended == {task.id: ["completed"] for task in neighbours}
    assert deaths == MAX_LOST_WORKERS
    assert journal.runs()[poison.id] == MAX_LOST_WORKERS
    assert later == {"did": 7}
    (letter,) = await client.dead_letters()
    assert (letter.id, letter.reason) == (poison.id, "worker_lost")
    assert letter.attempts == 1
    record = await client.wait_for_record(poison.id)
    assert (record.reason, record.lost) == ("worker_lost", MAX_LOST_WORKERS)
    # a suspect runs alone: at its last run no neighbour was there that could have been blamed
    last = journal.starts(task=poison.id)[-1]
    for entry in journal.starts(pid=last["pid"], type="work"):
        if entry["at"] < last["at"]:
            (end,) = journal.entries("end", task=entry["task"], pid=last["pid"])
            assert end["at"] < last["at"]
