"""Cases C01 to C10 where they hold on every broker: what a submit takes, and what it answers."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.contract.cases.bench import Bench
from tests.contract.cases.conftest import MakeBench
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when

from headrace import Client, InvalidData, InvalidTime, TaskNotFound, TaskStatus
from headrace.client.submission import Submission


async def test_c01_values_that_json_does_not_have_are_refused_with_path_and_type(
    bench: Bench,
) -> None:
    values = [
        float("nan"),
        float("inf"),
        datetime.now(UTC),
        b"\x00",
        {1, 2},
        Decimal("1.1"),
        object(),
    ]
    for value in values:
        for submit in (bench.client.submit_async, bench.client.submit):
            with pytest.raises(InvalidData) as caught:
                await submit("echo", {"x": value})
            assert isinstance(caught.value, ValueError)
            assert caught.value.path == "data.x"
            assert type(value).__name__ in str(caught.value)
    # nothing was sent: neither a task nor a waiter that nobody will answer
    depth = await bench.client.depth()
    assert (depth.messages, depth.dead) == (0, 0)


async def test_c02_the_handler_sees_what_json_makes_of_it(bench: Bench) -> None:
    seen: list[Any] = []
    worker = bench.worker()

    @worker.handler("echo")
    async def echo(data: dict[str, Any]) -> Any:
        seen.append(data)
        return data

    await worker.start()
    d: dict[Any, Any] = {1: "a", "t": (1, 2), "l": []}
    task = await bench.client.submit_async("echo", d)
    d["l"].append(9)
    expected = {"1": "a", "t": [1, 2], "l": []}
    first = await bench.client.wait_for(task.id, 10)
    assert seen == [expected]
    assert first.result == expected
    first.result["l"].append("changed by who reads it")
    first.result["t"] = None
    assert (await bench.client.wait_for(task.id, 10)).result == expected
    # the same for who waits in the call: what it gets is its own
    seen.clear()
    waited = await bench.client.submit("echo", expected)
    waited["l"].append(1)
    assert seen == [expected]


async def test_c05_a_key_in_use_gives_the_first_task_and_its_result(
    make_bench: MakeBench,
) -> None:
    window = 2.0  # of the message ids; the key is claimed for a second less
    bench = await make_bench(dedupe_window=window)
    runs: list[int] = []
    worker = bench.worker()

    @worker.handler("once")
    async def once(n: int) -> int:
        runs.append(n)
        return n

    client = bench.client
    await worker.start()
    began = time.monotonic()
    first, second = await asyncio.gather(
        *(client.submit_async("once", n, unique="user-7") for n in (1, 2))
    )
    value = (await client.wait_for(first.id, 10)).result
    third = await client.submit_async("once", 3, unique="user-7")
    waited = await client.submit("once", 4, unique="user-7", wait_timeout=5)
    if time.monotonic() - began < window - 1:  # else the machine stood still, and the key is free
        assert first.id == second.id == third.id
        assert [first.duplicate, second.duplicate].count(True) == 1
        assert third.duplicate
        assert waited == value
        assert runs == [value]
    # over the edge of the window: every answer is the first task, or one that runs
    found, new = {first.id}, {}
    while time.monotonic() - began < window + 0.5:
        task = await client.submit_async("once", 5, unique="user-7")
        assert task.duplicate == (task.id in found)
        found.add(task.id)
        new[task.id] = task
        await asyncio.sleep(0.01)  # the window is the server's own clock
    new.pop(first.id, None)
    assert new
    for task_id in new:
        assert (await client.wait_for(task_id, 10)).result == 5
    assert len(runs) == len(found)


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The host's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def due(**options: Any) -> float | None:
    return Submission("t", **options).due_at(datetime(2026, 12, 1, tzinfo=UTC).timestamp())


@pytest.mark.usefixtures("zone")
def test_c08_a_time_without_a_zone_is_refused_and_one_instant_is_one_instant() -> None:
    with pytest.raises(InvalidTime, match="zone"):
        due(at=datetime(2027, 1, 1, 9, 0))
    utc = datetime(2027, 1, 1, 9, 0, tzinfo=UTC)
    other = utc.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert due(at=utc) == due(at=other) == utc.timestamp()
    now = datetime(2026, 12, 1, tzinfo=UTC)
    assert due(at=now - timedelta(hours=1)) is None  # at once
    assert due(delay=0) is None
    assert due(delay=timedelta(0)) is None


ABSURD: list[Any] = [-1, -0.001, 10**10, 10**400, math.nan, math.inf, "5", True, timedelta.max]


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("delay", ABSURD, ids=lambda value: f"{value!r:.12}")
def test_c08_negative_and_absurd_delays_are_refused(delay: Any) -> None:
    with pytest.raises(InvalidTime) as caught:
        due(delay=delay)
    assert isinstance(caught.value, ValueError)


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    "at",
    [
        -1,
        10**11,
        10**400,
        math.inf,
        "noon",
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_c08_absurd_times_are_refused(at: Any) -> None:
    with pytest.raises(InvalidTime):
        due(at=at)


async def test_c08_what_is_due_already_runs_at_once(bench: Bench) -> None:
    worker = bench.worker()

    @worker.handler("now")
    async def now(data: Any) -> str:
        return "ran"

    await worker.start()
    past = datetime.now(UTC) - timedelta(hours=1)
    for options in ({"at": past}, {"at": past.timestamp()}, {"delay": 0}, {"delay": timedelta(0)}):
        began = time.monotonic()
        task = await bench.client.submit_async("now", {}, **options)  # type: ignore[arg-type]
        assert (await bench.client.wait_for(task.id, 10)).result == "ran"
        assert time.monotonic() - began < 2
    later = datetime.now(UTC) + timedelta(seconds=1)
    zones = (UTC, timezone(timedelta(hours=5, minutes=30)))
    tasks = [await bench.client.submit_async("now", 1, at=later.astimezone(tz)) for tz in zones]
    for task in tasks:
        assert task.due_at == later.timestamp()
        assert (await bench.client.wait_for(task.id, 10)).status is TaskStatus.COMPLETED


async def test_c10_a_client_remembers_nothing_of_what_nobody_waits_for(bench: Bench) -> None:
    worker = bench.worker(slots=64)

    @worker.handler("echo")
    async def echo(data: int) -> int:
        return data

    await worker.start()
    await bench.client.submit_many([("echo", n) for n in range(1_000)])
    values = await asyncio.gather(*(bench.client.submit("echo", n) for n in range(1_000)))
    assert values == list(range(1_000))
    _, queue = await bench.client.link()
    await depth_when(queue, lambda depth: depth.messages == 0)
    link = await bench.client._ready()
    assert len(link.waiters) == 0

    async def forgotten() -> int:
        return len(link.waiters._own)

    deadline = time.monotonic() + 10
    while await forgotten():  # the last replies are still under way
        assert time.monotonic() < deadline, await forgotten()
        await asyncio.sleep(0.01)


async def test_c24_waiting_for_what_will_never_come(bench: Bench) -> None:
    client = bench.client
    worker = bench.worker()
    go = asyncio.Event()

    @worker.handler("held")
    async def held(data: int) -> int:
        await go.wait()
        return data

    await worker.start()

    async def is_unknown(who: Client, task_id: str) -> None:
        began = time.monotonic()
        with pytest.raises(TaskNotFound, match="unknown or expired") as caught:
            await who.wait_for(task_id)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(TaskNotFound):
            await who.wait_for(task_id, timeout=0)
        assert time.monotonic() - began < 3
        assert await who.get_task(task_id) is None

    await is_unknown(client, "no-such-id")
    task = await client.submit_async("held", 1, result_ttl=1)
    waiting = [asyncio.create_task(client.wait_for(task.id)) for _ in range(3)]
    async with Client(bench.url, bench.queue) as other:
        waiting.append(asyncio.create_task(other.wait_for(task.id)))
        await bench.running(task.id)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="did not end"):
            await client.wait_for(task.id, timeout=0)
        assert time.monotonic() - began < 0.5
        go.set()
        assert [result.result for result in await asyncio.gather(*waiting)] == [1] * 4
        assert (await client.wait_for(task.id, timeout=0)).result == 1
        deadline = time.monotonic() + 10
        while await client.get_task(task.id) is not None:  # expiry sets no event
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await is_unknown(client, task.id)  # by who submitted it
        await is_unknown(other, task.id)


async def test_c10_memory_stays_flat_over_thirty_thousand_submits(
    nats_server: NatsProcess, queue_name: str
) -> None:
    problems: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    async with Client(nats_server.url, queue_name, max_queue_size=50_000) as client:
        link = await client._ready()

        async def submit(count: int) -> None:
            for _ in range(0, count, 1_000):
                await asyncio.gather(*(client.submit_async("t", n) for n in range(1_000)))

        await submit(2_000)  # what is made once is there
        gc.collect()
        before = _resident()
        subscriptions = len(link.broker._connection.nc._subs)  # type: ignore[attr-defined]
        await submit(30_000)
        gc.collect()
        assert _resident() - before < 20 * 2**20
        assert len(link.waiters) == 0
        # what may still be answered is known by its id alone, and of the newest ones only
        assert len(link.waiters._own) == 20_000
        assert len(link.broker._connection.nc._subs) == subscriptions  # type: ignore[attr-defined]
    gc.collect()
    loop.set_exception_handler(None)
    assert problems == []


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
