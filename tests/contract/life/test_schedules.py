"""Schedules that the broker holds: several who register them, changes, full queues, outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.support.recorder import NORMAL, Recorder, put, when

from headrace import (
    CONTEXT,
    Client,
    Context,
    Coordinator,
    CoordinatorConfig,
    InvalidData,
    InvalidName,
    InvalidSchedule,
    NoHandler,
    QueueSettings,
    Task,
    TaskPriority,
    TaskStatus,
    WorkerConfig,
)
from headrace.broker.port import Delivery
from headrace.runtime.tick import take_tick
from headrace.wire import tick_id

SLOTS = 16


@dataclass
class Bench:
    """Coordinators of one queue, and what their handler of type `note` was given."""

    url: str
    queue: str
    came: list[Task] = field(default_factory=list)
    running: list[Coordinator] = field(default_factory=list)
    seconds: float = 0.0
    """How long a run takes."""

    async def coordinator(self) -> Coordinator:
        one = Coordinator(
            CoordinatorConfig(auto_scale=False),
            WorkerConfig(max_concurrent_tasks=SLOTS),
            url=self.url,
            queue=self.queue,
        )

        @one.handler("note")
        async def note(n: int, *, ctx: Context = CONTEXT) -> int:
            self.came.append(ctx.task)
            await asyncio.sleep(self.seconds)
            return n

        await one.start()
        self.running.append(one)
        return one

    async def until(self, count: int, within: float = 15.0) -> list[Task]:
        async def look() -> int:
            return len(self.came)

        await when(look, lambda found: found >= count, within)
        return self.came

    @property
    def times(self) -> list[int]:
        return [at_of(task) for task in self.came]


def at_of(task: Task) -> int:
    """The time in a run's id."""
    stamp = datetime.strptime(task.id.partition("@")[2], "%Y%m%dT%H%M%SZ")
    return int(stamp.replace(tzinfo=UTC).timestamp())


def run_id(tick: Delivery) -> str:
    """The run of a tick that comes every second."""
    assert tick.next_at is not None
    at = datetime.fromtimestamp(tick.next_at - 1, UTC)
    return at.strftime("s@%Y%m%dT%H%M%SZ")


@pytest.fixture
async def bench(broker_url: str, queue_name: str) -> AsyncIterator[Bench]:
    bench = Bench(broker_url, f"cron-{queue_name}")
    yield bench
    for one in bench.running:
        await one.stop(graceful=False)


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[Client]:
    async with Client(bench.url, bench.queue) as client:
        yield client


async def test_three_who_register_one_schedule_have_it_once(bench: Bench) -> None:
    """C28, with its own figures: 1 s for 10 s, then 5 s, then none; runs of 3 s."""
    bench.seconds = 3.0
    first, second, third = [await bench.coordinator() for _ in range(3)]
    register = [one.schedule("tick", "note", 1, every=1) for one in (first, second, third)]
    shown = await asyncio.gather(*register)
    assert len({schedule.registered_at for schedule in shown}) == 1
    await asyncio.sleep(10)
    assert 9 <= len(bench.came) <= 11
    assert len(set(bench.times)) == len(bench.came)
    assert bench.times == list(range(bench.times[0], bench.times[0] + len(bench.came)))
    ids = [task.id for task in bench.came]
    results = [await first.wait_for(task_id, timeout=10) for task_id in ids]
    assert {result.status for result in results} == {TaskStatus.COMPLETED}
    assert {result.task_id for result in results} == set(ids)

    changed = await second.schedule("tick", "note", 2, every=timedelta(seconds=5))
    before = len(bench.came)
    later = (await bench.until(before + 3, within=20))[before:]
    of_now = [at_of(task) for task in later if task.data == 2]
    assert len(later) - len(of_now) <= 1  # a run that was a task already
    assert {b - a for a, b in pairwise(of_now)} == {5}
    assert of_now[0] - changed.registered_at >= 4

    assert await third.unschedule("tick")
    assert not await third.unschedule("tick")
    assert await first.schedules() == []
    count = len(bench.came)
    await asyncio.sleep(6)  # longer than the rhythm that it had
    assert len(bench.came) == count
    assert (await first.depth()).messages == 0


async def test_a_run_is_a_task_like_any_other(bench: Bench) -> None:
    one = await bench.coordinator()
    began = time.time()
    schedule = await one.schedule(
        "s", "note", 7, cron="* * * * * *", zone="Asia/Kolkata", priority=TaskPriority.HIGH,
        timeout=12, retries=2, metadata={"for": "test"}, result_ttl=60,
    )  # fmt: skip
    assert (schedule.cron, schedule.zone, schedule.every) == ("* * * * * *", "Asia/Kolkata", None)
    (task, *_) = await bench.until(1)
    assert task.id.startswith("s@2")
    assert task.due_at == at_of(task)
    assert began - 1 < task.due_at < time.time()
    assert (task.priority, task.timeout, task.retries) == (TaskPriority.HIGH, 12, 2)
    assert task.metadata == {"for": "test", "schedule": "s"}
    result = await one.wait_for(task.id, timeout=10)
    assert (result.status, result.result) == (TaskStatus.COMPLETED, 7)
    (listed,) = await one.schedules()
    assert listed.last_run is not None
    assert listed.last_run >= task.due_at
    assert listed.next_run is not None
    assert listed.next_run > listed.last_run
    assert (listed.priority, listed.metadata) == (TaskPriority.HIGH, {"for": "test"})


async def test_a_run_that_comes_due_while_the_queue_is_full_arrives(
    bench: Bench, broker_url: str
) -> None:
    """C27: nobody works, the queue is full longer than the schedule's rhythm."""
    settings = QueueSettings(max_size=2)
    async with Client(broker_url, bench.queue, settings=settings) as client:
        await client.submit_many([("note", 0), ("note", 0)])
        await client.schedule("s", "note", 1, every=1)

        async def missed() -> float:
            _, queue = await client.link()
            tick = await queue.find_scheduled(tick_id("s"))
            return 0.0 if tick is None else tick.stored_at - began

        began = time.time()
        await when(missed, lambda late: late > 2)
        assert (await client.depth()).messages == 2
        await bench.coordinator()
        await bench.until(4)
        ones = [at_of(task) for task in bench.came if task.data == 1]
        assert len(set(ones)) == len(ones) >= 2


async def test_a_run_for_which_there_is_no_room_goes_by_way_of_later(bench: Bench) -> None:
    settings = QueueSettings(max_size=1)
    async with Client(bench.url, bench.queue, settings=settings) as client:
        await client.schedule("s", "note", 1, every=1)
        broker, queue = await client.link()
        async with Recorder(queue, NORMAL) as taker:
            (tick,) = await taker.take()  # it is the queue's one message
            assert tick.next_at is not None
            await take_tick(queue, tick, tick.next_at)
            await broker.flush()
            (run,) = await taker.take()
        assert run.task_id.startswith("s@")
        assert run.sourced


async def test_one_tick_is_one_run_whoever_takes_it(client: Client) -> None:
    """A worker that died after it made the run, a second copy of the tick, two at once."""
    await client.schedule("s", "note", 1, every=60)
    _, queue = await client.link()
    stored = await queue.read_schedule("s")
    assert stored is not None
    await queue.put_schedule("fast", NORMAL, b"{}", "@every 1s", 0)
    async with Recorder(queue, NORMAL) as taker:
        (tick,) = await taker.take()
        await queue.remove_schedule("fast")
        tick.task_id, tick.body = tick_id("s"), stored.body
        next_at = float(round(stored.stored_at) + 240)
        await asyncio.gather(*(take_tick(queue, tick, next_at) for _ in range(5)))
        await take_tick(queue, tick, next_at)
        await take_tick(queue, tick, next_at - 60)  # a tick that comes after a later one
        assert (await queue.depth()).waiting == 1
        await take_tick(queue, tick, next_at + 60)
        assert (await queue.depth()).waiting == 2


async def test_runs_that_nobody_could_make_become_one(bench: Bench, client: Client) -> None:
    """The policy for a backlog: the newest run is made up for, those before it are not."""
    await client.schedule("s", "note", 1, every=1)
    _, queue = await client.link()
    seen: set[int] = set()

    async def ticks() -> int:
        if (tick := await queue.find(tick_id("s"))) is not None:
            seen.add(tick.seq)
        return len(seen)

    await when(ticks, lambda count: count >= 4)
    started = time.time()
    await bench.coordinator()
    await bench.until(3)
    assert bench.times[0] >= started - 2.5
    assert bench.times == list(range(bench.times[0], bench.times[0] + len(bench.times)))


async def test_of_two_ticks_that_wait_the_older_is_no_run(client: Client) -> None:
    await client.schedule("s", "note", 1, every=1)
    _, queue = await client.link()
    await when(queue.depth, lambda depth: depth.waiting == 2)
    async with Recorder(queue, NORMAL) as taker:
        ticks = await taker.pull(2)
        for tick in ticks:
            assert tick.next_at is not None
            await take_tick(queue, tick, tick.next_at)
        found = [await queue.find(run_id(tick)) for tick in ticks]
    assert [run is not None for run in found] == [False, True]


async def test_a_tick_of_the_rhythm_before_is_no_run(client: Client) -> None:
    await client.schedule("s", "note", 1, every=1)
    _, queue = await client.link()
    async with Recorder(queue, NORMAL) as taker:
        (tick,) = await taker.take()
        await client.schedule("s", "note", 1, cron="0 0 1 1 *")
        await take_tick(queue, tick, time.time() + 2 * 366 * 86_400)
        await queue.ack(tick)
        await when(queue.depth, lambda depth: depth.messages == 0)


async def test_a_change_of_the_data_loses_no_run_that_waits(bench: Bench, client: Client) -> None:
    await client.schedule("s", "note", 1, cron="* * * * * *")
    _, queue = await client.link()
    tick = await when(lambda: queue.find(tick_id("s")), lambda found: found is not None)
    assert tick is not None
    changed = await client.schedule("s", "note", 2, cron="* * * * * *")
    assert changed.registered_at < tick.stored_at  # it has had its rhythm since then
    await bench.coordinator()
    (first, *_) = await bench.until(1)
    assert first.data == 2


async def test_registered_again_an_interval_keeps_its_beat(bench: Bench, client: Client) -> None:
    """Replicas that restart more often than the interval must not put it off for ever."""
    await bench.coordinator()
    await client.schedule("s", "note", 1, every=2)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        await client.schedule("s", "note", 1, every=2)
        await asyncio.sleep(0.1)
    assert len(bench.came) >= 2


async def test_what_is_left_behind_is_listed_and_removed(client: Client) -> None:
    assert await client.schedules() == []
    assert not await client.unschedule("gone")
    await client.schedule("b", "of code that is gone", {"x": 1}, cron="0 4 1 * *")
    await client.schedule("a", "note", 1, every=timedelta(hours=1), tag="gpu")
    first, second = await client.schedules()
    assert (first.name, first.every, first.tag, first.last_run) == ("a", 3600, "gpu", None)
    assert (second.type, second.data) == ("of code that is gone", {"x": 1})
    assert (second.cron, second.zone) == ("0 4 1 * *", "UTC")
    assert len(second.next_runs(3)) == 3
    second.data["x"] = 2  # a copy
    assert (await client.schedules())[1].data == {"x": 1}
    assert await client.unschedule("b")
    assert [schedule.name for schedule in await client.schedules()] == ["a"]
    assert (await client.depth()).delayed == 0


async def test_what_cannot_be_is_refused_before_anything_is_stored(bench: Bench) -> None:
    one = await bench.coordinator()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"cron": "* * * * *", "zone": "Mars/Base"}, "zone"),
        ({"cron": "* 25 * * *"}, "cron"),
        ({"every": 0.5}, "every"),
        ({"every": 60, "delay": 5}, "delay"),
        ({"every": 60, "task_id": "x"}, "task_id"),
        ({"every": 60, "unique": "x"}, "unique"),
    ]
    for options, field_name in wrong:
        with pytest.raises(InvalidSchedule) as caught:
            await one.schedule("s", "note", 1, **options)
        assert caught.value.field == field_name
        assert isinstance(caught.value, ValueError)
    with pytest.raises(NoHandler):
        await one.schedule("s", "unknown", 1, every=60)
    with pytest.raises(InvalidData):
        await one.schedule("s", "note", "no number", every=60)
    for name in ("", "a.b", "a b", 5):
        with pytest.raises(InvalidName):
            await one.schedule(name, "note", 1, every=60)  # type: ignore[arg-type]
    assert await one.schedules() == []


async def test_a_schedule_that_is_none_is_dropped(
    bench: Bench, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Written by somebody else; the tasks behind its ticks go on."""
    await bench.coordinator()
    _, queue = await client.link()
    bad = (
        b'{"v":1,"name":"bad","every":1,"ticks":"@every 1s","lane":"normal._","since":"x",'
        b'"task":{"type":"note","data":1}}'
    )
    await queue.put_schedule("bad", NORMAL, bad, "@every 1s", 0)
    async with asyncio.timeout(20):
        while "the tick cron:bad is dropped" not in caplog.text:
            await asyncio.sleep(0.05)
    await put(queue, NORMAL, "after", body=b'{"type":"note","data":5}')
    assert (await client.wait_for("after", timeout=10)).result == 5
