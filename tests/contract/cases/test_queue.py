"""Cases C20 to C23: two versions of the code, what others publish, cancel against the end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest
from tests.contract.cases.bench import Bench, until
from tests.support.recorder import NORMAL, depth_when

from headrace import CONTEXT, Context, Retry, TaskFailed, TaskStatus
from headrace.runtime import settle


async def test_c20_a_deploy_with_two_versions_of_the_code(bench: Bench) -> None:
    """Tasks of a type that only the new code knows wait for it, and disturb nobody."""
    old, new = bench.worker(), bench.worker()
    waits: list[float] = []
    ran: list[tuple[str, str]] = []

    def handlers(version: str) -> tuple[Any, Any]:
        async def a(data: Any, *, ctx: Context = CONTEXT) -> str:
            waits.append(time.time() - ctx.task.created_at)
            ran.append((version, "a"))
            await asyncio.sleep(0.005)
            return version

        async def b(data: Any, *, ctx: Context = CONTEXT) -> tuple[str, int, int]:
            ran.append((version, "b"))
            return version, ctx.attempt, ctx.task.retry_count

        return a, b

    for worker, version in ((old, "v1"), (new, "v2")):
        a, b = handlers(version)
        worker.register_handler("a", a)
        if version == "v2":
            worker.register_handler("b", b)
    client = bench.client
    await old.start()
    later = await client.submit_many([("b", n) for n in range(12)])
    # until every one of them has been seen by the old code and sent back
    _, queue = await client.link()
    await depth_when(queue, lambda depth: depth.delayed == 12)
    for _ in range(10):  # one after the other, as they come in
        await asyncio.gather(*(client.submit("a", n, wait_timeout=20) for n in range(10)))
    assert {version for version, _ in ran} == {"v1"}
    assert sorted(waits)[int(len(waits) * 0.95)] < 1
    for task in later:
        found = await client.get_task(task.id)
        assert found is not None
        assert found.status is not TaskStatus.FAILED
    await new.start()
    began = time.monotonic()
    results = await asyncio.gather(*(client.wait_for(task.id, 30) for task in later))
    assert [result.result for result in results] == [["v2", 1, 0]] * 12
    # not in the hours that doubled pauses would take while half of the fleet is old
    assert time.monotonic() - began < 30
    assert (await client.depth()).dead == 0
    assert ran.count(("v2", "b")) == 12


async def test_c20_a_task_that_is_sent_back_again_after_a_retry_is_not_lost(bench: Bench) -> None:
    """Sent back, run and retried, sent back once more: all within the window of message ids."""
    worker = bench.worker(slots=1)
    attempts: list[int] = []

    async def b(data: Any, *, ctx: Context = CONTEXT) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            del worker.handlers._by_type["b"]  # the next attempt comes to a worker of the old code
            raise Retry(delay=0.05)
        return "done"

    worker.register_handler("a", lambda data: data)
    await worker.start()
    client = bench.client
    _, queue = await client.link()
    task = await client.submit_async("b", {}, retries=1)
    for attempt in (1, 2):

        async def is_sent_back(attempt: int = attempt) -> bool:
            found = await queue.find_scheduled(task.id)
            if found is None:
                return False
            body = json.loads(found.body)
            return bool(body.get("unknown_since")) and body.get("retry_count", 0) == attempt - 1

        await until(is_sent_back)
        worker.register_handler("b", b)
        await until(lambda attempt=attempt: _is(attempt in attempts))  # type: ignore[misc]
    assert (await client.wait_for(task.id, 20)).result == "done"
    assert attempts == [1, 2]


async def _is(holds: bool) -> bool:
    return holds


async def test_c20_a_type_that_nobody_ever_knows_is_a_dead_letter_with_its_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settle.UNKNOWN_TYPE_SPAN == 600.0  # as documented
    monkeypatch.setattr(settle, "UNKNOWN_TYPE_SPAN", 0.5)
    worker = bench.worker()
    worker.register_handler("a", lambda data: data)
    await worker.start()
    with pytest.raises(TaskFailed) as caught:
        await bench.client.submit("b", {"n": 1}, retries=3, wait_timeout=20)
    assert caught.value.reason == "unknown_type"
    assert "'b'" in caught.value.message
    (letter,) = await bench.client.dead_letters()
    assert (letter.id, letter.type, letter.reason) == (caught.value.task_id, "b", "unknown_type")
    # replayed once somebody knows it
    worker.register_handler("b", lambda data: data["n"])
    await bench.client.replay(letter.id)
    _, queue = await bench.client.link()
    await depth_when(queue, lambda depth: depth.messages == 0 and depth.dead == 0)
    assert await bench.ended(letter.id) is TaskStatus.COMPLETED


JUNK = [
    b"\xff\xfe",
    b"",
    b"[]",
    b"{}",
    b'{"type": 5}',
    b'{"type": "a", "data": NaN}',
    b'{"type": "a", "id": "somebody-else"}',
]


async def test_c21_garbage_is_a_dead_letter_with_its_bytes(bench: Bench) -> None:
    """Put in below the client, as a publish of another program is."""
    worker = bench.worker(slots=1)
    worker.register_handler("a", lambda data: data)
    await worker.start()
    client = bench.client
    _, queue = await client.link()
    for n, body in enumerate(JUNK):
        await (await queue.put_soon(NORMAL, f"junk-{n}", body, f"junk-{n}"))
    extra = b'{"v": 1, "type": "a", "data": 7, "future": {}}'  # what a later version may say
    await (await queue.put_soon(NORMAL, "extra", extra, "extra"))
    began = time.monotonic()
    assert await client.submit("a", "good", wait_timeout=10) == "good"
    assert time.monotonic() - began < 5  # two seconds on a quiet machine
    letters = {letter.id: letter for letter in await client.dead_letters()}
    assert {task_id: letter.raw for task_id, letter in letters.items()} == {
        f"junk-{n}": body for n, body in enumerate(JUNK)
    }
    assert all(letter.reason == "undecodable" and letter.error for letter in letters.values())
    for task_id in letters:
        assert await bench.ended(task_id) is TaskStatus.FAILED
    assert await client.get_task("somebody-else") is None  # the subject's id is the only one
    assert (await client.wait_for("extra", 10)).result == 7
    await depth_when(queue, lambda depth: depth.messages == 0)
    assert not worker.failed


@pytest.mark.parametrize("later_runs", ["complete", "fail", "retry"])
async def test_c22_one_id_many_messages_one_end(bench: Bench, later_runs: str) -> None:
    """Messages with ids of their own are all stored: the handler may run again, the end is one."""
    worker = bench.worker(slots=1)
    runs: list[int] = []

    @worker.handler("work", retries=1 if later_runs == "retry" else 0)
    async def work(n: int) -> int:
        runs.append(n)
        if n > 1 and later_runs != "complete":
            raise ValueError("a later run")
        return n

    client = bench.client
    _, queue = await client.link()

    async def publish(n: int, message_id: str) -> bool:
        body = b'{"type": "work", "data": %d}' % n
        return (await (await queue.put_soon(NORMAL, "x1", body, message_id))).duplicate

    assert [await publish(1, "m1"), await publish(2, "m2")] == [False, False]
    assert await publish(3, "m1")  # one message id is stored once
    await worker.start()
    assert (await client.wait_for("x1", 10)).result == 1
    await depth_when(queue, lambda depth: depth.messages == 0)
    before = await queue.read_record("x1")
    assert not await publish(4, "m4")  # and once more after its end
    # behind it in the only slot
    assert await client.submit("work", 0, wait_timeout=10) == 0
    await depth_when(queue, lambda depth: depth.messages == 0 and depth.delayed == 0)
    assert await queue.read_record("x1") == before
    assert (await client.wait_for("x1", 10)).result == 1
    assert await client.dead_letters() == []
    assert runs == [1, 2, 4, 0]


async def test_c23_cancel_against_completion(bench: Bench) -> None:
    client = bench.client
    worker = bench.worker(slots=8)
    ran: set[int] = set()
    random_ = random.Random(23)

    @worker.handler("short")
    async def short(n: int) -> int:
        ran.add(n)
        await asyncio.sleep(0.005)
        return n

    # cancelled while they wait: they never run
    waiting = await client.submit_many([("short", n) for n in range(1_000, 1_050)])
    for task in waiting:
        assert (await client.cancel_task(task.id)).status is TaskStatus.CANCELLED
    await worker.start()

    async def race(n: int) -> TaskStatus:
        task = await client.submit_async("short", n)
        await asyncio.sleep(random_.uniform(0, 0.01))
        told = await client.cancel_task(task.id)
        result = await client.wait_for(task.id, 20)
        found = await client.get_task(task.id)
        assert found is not None
        assert told.status is result.status is found.status
        if told.status is TaskStatus.COMPLETED:
            assert told.error == "Task already complete"
            assert told.result == result.result == n
        again = await client.cancel_task(task.id)  # changes nothing
        assert again.status is told.status
        assert await client.get_task(task.id) == found
        return told.status

    statuses: list[TaskStatus] = []
    for start in range(0, 500, 20):
        statuses += await asyncio.gather(*(race(n) for n in range(start, start + 20)))
    assert set(statuses) == {TaskStatus.COMPLETED, TaskStatus.CANCELLED}
    assert ran >= {n for n, status in enumerate(statuses) if status is TaskStatus.COMPLETED}
    assert not ran & set(range(1_000, 1_050))
    _, queue = await client.link()
    depth = await depth_when(queue, lambda depth: depth.messages == 0)
    assert depth.dead == 0
    for task in waiting:
        assert await bench.ended(task.id) is TaskStatus.CANCELLED


async def test_c37_a_tag_that_nobody_serves_is_seen_in_the_depth(bench: Bench) -> None:
    """What waits an hour or for a tag is no work for a worker without tags, and is not hidden."""
    worker = bench.worker()
    worker.register_handler("a", lambda data: data)
    await worker.start()
    client = bench.client
    await client.submit_many([{"type": "a", "tag": "gpu"}] * 5)
    await client.submit_many([{"type": "a", "delay": 3600}] * 10)
    assert await client.submit("a", 1, wait_timeout=10) == 1
    _, queue = await client.link()
    depth = await depth_when(queue, lambda depth: depth.messages == 5)
    assert (depth.waiting, depth.running, depth.delayed) == (5, 0, 10)
    tagged = {row.lane.tag: (row.waiting, row.parked) for row in depth.lanes if row.waiting}
    assert tagged == {"gpu": (5, 0)}  # and no worker asks for them
