"""Takes tasks from a queue and remembers what came, so that a test can wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import NamedTuple, TypeVar

from headrace.broker.port import Broker, BrokerQueue, Consumer, Delivery, QueueDepth
from headrace.task import TaskPriority
from headrace.wire import Lane

T = TypeVar("T")

MakeQueue = Callable[..., Awaitable[BrokerQueue]]
OpenBroker = Callable[[], Awaitable[Broker]]

NORMAL = Lane(TaskPriority.NORMAL)

PATIENCE = 15.0  # seconds: a slow machine is no failure, a hang is one


class Came(NamedTuple):
    """One delivery."""

    lane: int
    delivery: Delivery
    parked: bool


class Told(NamedTuple):
    """One status."""

    lane: int
    parked: bool
    code: int


class Recorder:
    """A consumer of some lanes: `async with Recorder(queue, lane) as taker`."""

    def __init__(self, queue: BrokerQueue, *lanes: Lane) -> None:
        self._queue, self._lanes = queue, lanes
        self.came: list[Came] = []
        self.told: list[Told] = []
        self._taken = 0
        self._changed = asyncio.Event()
        self.consumer: Consumer

    async def __aenter__(self) -> Recorder:
        self.consumer = await self._queue.consumer(self._lanes, self._deliver, self._status)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.consumer.close()

    def _deliver(self, lane: int, delivery: Delivery, parked: bool) -> None:
        self.came.append(Came(lane, delivery, parked))
        self._changed.set()

    def _status(self, lane: int, parked: bool, code: int) -> None:
        self.told.append(Told(lane, parked, code))
        self._changed.set()

    @property
    def ids(self) -> list[str]:
        """Ids of all that came, in order."""
        return [came.delivery.task_id for came in self.came]

    async def until(self, condition: Callable[[], bool], within: float = PATIENCE) -> None:
        """Wait for deliveries and statuses until the condition holds."""
        async with asyncio.timeout(within):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def take(self, count: int = 1, lane: int = 0) -> list[Delivery]:
        """The next `count` tasks of a lane, waiting for them."""
        for _ in range(count):
            await self.consumer.park(lane, 60.0)
        return await self.next(count)

    async def pull(self, batch: int, lane: int = 0) -> list[Delivery]:
        """What answers a pull without wait, once its end is known."""
        before, statuses = len(self.came), len(self.told)
        await self.consumer.pull(lane, batch)
        await self.until(
            lambda: len(self.came) - before == batch or len(self.told) > statuses,
        )
        self._taken = len(self.came)
        return [came.delivery for came in self.came[before:]]

    async def next(self, count: int = 1) -> list[Delivery]:
        """The next `count` deliveries that were asked for before."""
        end = self._taken + count
        await self.until(lambda: len(self.came) >= end)
        found = [came.delivery for came in self.came[self._taken : end]]
        self._taken = end
        return found


async def put(
    queue: BrokerQueue, lane: Lane, *ids: str, body: bytes = b'{"type":"t"}'
) -> list[int]:
    """Store tasks with these ids; their sequences."""
    answers = [await queue.put_soon(lane, task_id, body, task_id) for task_id in ids]
    return [(await answer).seq for answer in answers]


async def depth_when(
    queue: BrokerQueue, condition: Callable[[QueueDepth], bool], within: float = PATIENCE
) -> QueueDepth:
    """The first depth for which the condition holds; counts follow what happened a moment later."""
    return await when(queue.depth, condition, within)


async def when(
    look: Callable[[], Awaitable[T]], condition: Callable[[T], bool], within: float = PATIENCE
) -> T:
    """The first answer for which the condition holds, asked for again and again."""
    found = await look()
    deadline = asyncio.get_running_loop().time() + within
    while not condition(found):
        assert asyncio.get_running_loop().time() < deadline, f"still {found!r}"
        await asyncio.sleep(0.01)
        found = await look()
    return found


def lanes_of(depth: QueueDepth) -> dict[Lane, tuple[int, int]]:
    """Waiting and running by lane."""
    return {row.lane: (row.waiting, row.running) for row in depth.lanes}


def task_ids(deliveries: Sequence[Delivery]) -> list[str]:
    """The ids, in order."""
    return [delivery.task_id for delivery in deliveries]
