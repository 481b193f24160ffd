"""Strict priority with a stated bound on starvation, on a real server, by the order of starts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.workers import MakeClient

from headrace import Client, QueueSettings, TaskPriority, Worker, WorkerConfig
from headrace.runtime.dispatch import SHARE

LOWS = 10_000
SETTINGS = {"max_size": 50_000}

SLOTS = pytest.mark.parametrize("slots", [1, 16])


class Gate:
    """A worker whose handlers start, say so, and end when they are told to."""

    def __init__(self, url: str, queue: str, slots: int, limit: float = 60.0) -> None:
        self.worker = Worker(
            config=WorkerConfig(max_concurrent_tasks=slots, starvation_limit=limit),
            url=url,
            queue=queue,
            settings=QueueSettings(**SETTINGS),
        )
        self.worker.register_handler("held", self._held)
        self.worker.register_handler("quick", self._quick)
        self.order: list[tuple[str, float]] = []
        """Level and time of every start."""
        self.holding: list[asyncio.Event] = []
        self._changed = asyncio.Event()

    async def _held(self, level: str) -> None:
        event = asyncio.Event()
        self.holding.append(event)
        self._start(level)
        await event.wait()

    async def _quick(self, level: str) -> None:
        self._start(level)
        await asyncio.sleep(0.001)

    def _start(self, level: str) -> None:
        self.order.append((level, time.time()))
        self._changed.set()

    @property
    def levels(self) -> list[str]:
        return [level for level, _ in self.order]

    async def started(self, count: int) -> None:
        """Wait until so many have started."""
        async with asyncio.timeout(30):
            while len(self.order) < count:
                self._changed.clear()
                await self._changed.wait()

    def let_go(self, count: int) -> None:
        """End so many of the handlers that are held, the oldest first."""
        for event in self.holding[:count]:
            event.set()
        del self.holding[:count]

    async def __aenter__(self) -> Gate:
        await self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_go(len(self.holding))
        await self.worker.stop(graceful=False)


@pytest.fixture
async def client(make_client: MakeClient) -> AsyncIterator[Client]:
    """A client of a queue with room for all of it."""
    return await make_client(**SETTINGS)


async def submit(client: Client, type_: str, level: TaskPriority, count: int = 1) -> None:
    """Submit tasks that know their own level; they are durable when this returns."""
    item = {"type": type_, "data": level.name, "priority": level}
    await client.submit_many([item] * count)


@SLOTS
async def test_a_critical_task_starts_before_any_low_one_that_had_not_started(
    nats_server: NatsProcess, queue_name: str, client: Client, slots: int
) -> None:
    """Every slot is held by a low task when criticals arrive, 10,000 lows wait: what starts in the
    next slots that come free are the criticals, all of them, and nothing else."""
    await submit(client, "held", TaskPriority.LOW, LOWS)
    async with Gate(nats_server.url, queue_name, slots) as gate:
        await gate.started(slots)
        expected = ["LOW"] * slots
        assert gate.levels == expected
        for arrive, free in ((1, 1), (1, slots), (min(3, slots), slots), (slots, slots)) * 5:
            await submit(client, "held", TaskPriority.CRITICAL, arrive)
            gate.let_go(free)
            expected += ["CRITICAL"] * arrive + ["LOW"] * (free - arrive)
            await gate.started(len(expected))
            assert gate.levels == expected


@SLOTS
async def test_levels_start_from_the_top(
    nats_server: NatsProcess, queue_name: str, client: Client, slots: int
) -> None:
    """With all four levels waiting, started in the wrong order of arrival."""
    count = 40
    for level in sorted(TaskPriority, key=int):
        await submit(client, "quick", level, count)
    async with Gate(nats_server.url, queue_name, slots) as gate:
        await gate.started(4 * count)
    levels = [level.name for level in sorted(TaskPriority, key=int, reverse=True)]
    assert gate.levels == [name for name in levels for _ in range(count)]


@SLOTS
async def test_a_critical_task_overtakes_lows_that_run_freely(
    nats_server: NatsProcess, queue_name: str, client: Client, slots: int
) -> None:
    """Nothing is held here: between the submit's return and the critical's start, only those lows
    start that were on their way into a free slot already."""
    await submit(client, "quick", TaskPriority.LOW, LOWS)
    overtook: list[int] = []
    async with Gate(nats_server.url, queue_name, slots) as gate:
        for n in range(40):
            await gate.started((n + 1) * 2 * slots)
            await submit(client, "quick", TaskPriority.CRITICAL)
            before = len(gate.order)
            async with asyncio.timeout(10):
                while gate.levels.count("CRITICAL") <= n:
                    await gate.started(len(gate.order) + 1)
            where = [i for i, level in enumerate(gate.levels) if level == "CRITICAL"][n]
            overtook.append(where - before)
        assert gate.levels.count("LOW") < LOWS  # they waited all the time
    assert max(overtook) <= slots, overtook


@SLOTS
async def test_a_low_task_under_a_flood_of_criticals_starts_within_the_bound(
    nats_server: NatsProcess, queue_name: str, client: Client, slots: int
) -> None:
    """Over its limit, a level gets 1 of every 8 starts of the worker, and after that none."""
    limit = 0.5
    await submit(client, "quick", TaskPriority.CRITICAL, 2_000)
    await submit(client, "quick", TaskPriority.LOW, 30)
    old_at = time.time() + limit
    async with Gate(nats_server.url, queue_name, slots, limit) as gate:
        flood = 2_000
        async with asyncio.timeout(30):
            while gate.levels.count("LOW") < 30:
                await gate.started(len(gate.order) + 1)
                if flood - len(gate.order) < 1_000:  # it never ends
                    await submit(client, "quick", TaskPriority.CRITICAL, 1_000)
                    flood += 1_000
        await gate.started(len(gate.order) + 100)
    first_old = next(i for i, (_, at) in enumerate(gate.order) if at >= old_at)
    lows = [i for i, level in enumerate(gate.levels) if level == "LOW"]
    late = [i for i in lows if i >= first_old]
    assert len(late) >= 28  # before the limit a level has at most a taste
    gaps = [after - before for before, after in zip([first_old, *late], late, strict=False)]
    # What starts first after the limit was asked for before it, once for every slot.
    assert gaps[0] <= SHARE + slots, gaps
    assert max(gaps[1:]) <= SHARE, gaps
    # strict otherwise: no more than its share, and nothing of it after the last
    assert all(gap >= SHARE - 1 for gap in gaps[2:]), gaps


@SLOTS
async def test_a_critical_task_that_comes_while_a_starving_level_is_asked(
    nats_server: NatsProcess, queue_name: str, client: Client, slots: int
) -> None:
    """It answers a parked pull in the middle of a turn: it is neither kept nor forgotten."""
    count, order = 0, random.Random(7)
    async with Gate(nats_server.url, queue_name, slots, limit=0.001) as gate:
        for _ in range(30):  # from idle, so that a pull is parked on every level
            levels = [TaskPriority.LOW, TaskPriority.NORMAL] * 20 + [TaskPriority.CRITICAL] * 3
            order.shuffle(levels)
            await client.submit_many(
                [{"type": "quick", "data": level.name, "priority": level} for level in levels]
            )
            count += len(levels)
            await gate.started(count)
