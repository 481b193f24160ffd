"""One queue in memory: the port's `BrokerQueue`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.broker.blobs import BlobStore
from headrace.broker.memory.blobs import MemoryBlobs
from headrace.broker.memory.consumer import MemoryConsumer
from headrace.broker.memory.presence import Announcement
from headrace.broker.memory.world import QueueState
from headrace.broker.port import (
    ControlCallback,
    Delivery,
    DeliveryCallback,
    LaneDepth,
    QueueDepth,
    QueueSettings,
    StatusCallback,
    Stored,
    StoredMessage,
    WorkerFacts,
)
from headrace.errors import BrokerError, PayloadTooLarge, QueueFull
from headrace.wire import Lane, QueueNames, tick_id

if TYPE_CHECKING:
    from headrace.broker.memory.broker import MemoryBroker

_TURN = 32  # puts after which other tasks of the loop get their turn
_HEADERS = 1024  # more bytes than the headers of any message take


class MemoryQueue:
    """A queue as one broker sees it."""

    def __init__(self, broker: MemoryBroker, name: str, settings: QueueSettings) -> None:
        self.names = QueueNames(name)
        self.settings = settings
        self._broker = broker
        self._puts = 0

    @property
    def _state(self) -> QueueState:
        """The queue's state. Raises `BrokerUnavailable`, and `BrokerError` before `ensure`."""
        state = self._broker.world.queues.get(self.names.queue)
        if state is None:
            raise BrokerError(
                f"stream {self.names.work_stream} does not exist",
                hint="A client or a worker of the queue makes it when it starts",
            )
        return state

    # --- making ---

    @property
    def replicated(self) -> bool:
        """It is all here."""
        return False

    async def ensure(self) -> None:
        """Make the queue, or raise its limit."""
        world = self._broker.world
        state = world.queues.get(self.names.queue)
        if state is None:
            limit, largest = self.settings.max_blob_bytes, self._broker.max_payload
            blobs = MemoryBlobs(self.names.queue, limit, largest)
            state = QueueState(world.loop, self.names, self.settings, blobs)
            world.queues[self.names.queue] = state
        elif state.work.max_size < self.settings.max_size:
            state.work.max_size = self.settings.max_size
            state.work.later.enter()
        state.blobs.limit = max(state.blobs.limit, self.settings.max_blob_bytes)

    @property
    def blobs(self) -> BlobStore:
        """What is stored; an empty store for a queue that is not there."""
        state = self._broker.world.queues.get(self.names.queue)
        return MemoryBlobs(self.names.queue, 0, 0) if state is None else state.blobs

    async def ensure_later(self) -> None:
        """It is always there."""

    async def ensure_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make the lanes, or raise their `max_ack_pending`."""
        work = self._state.work
        for lane in lanes:
            work.lane(lane, self.settings)

    async def restore_lanes(self, lanes: Sequence[Lane]) -> None:
        """Nobody else can delete a lane."""
        await self.ensure_lanes(lanes)

    # --- tasks ---

    def now(self) -> float:
        """This machine's time: the broker is here."""
        return time.time()

    async def put_soon(
        self, lane: Lane, task_id: str, body: bytes, msg_id: str, traceparent: str | None = None
    ) -> Awaitable[Stored]:
        """Store a task; what it returns has ended already."""
        self._check_size("a task", body, {"Nats-Msg-Id": msg_id, "traceparent": traceparent or ""})
        work = self._state.work
        into = work.lanes.get(lane) or work.lane(lane, self.settings)
        seq, duplicate = work.put(into, task_id, body, msg_id)
        answer: asyncio.Future[Stored] = self._broker.world.loop.create_future()
        if seq:
            answer.set_result(Stored(seq, duplicate))
        else:
            answer.set_exception(QueueFull(self.names.queue, work.max_size))
            answer.exception()  # nobody may look at it: not an error of its own
        self._puts += 1
        if self._puts % _TURN == 0:
            await asyncio.sleep(0)
        return answer

    def _check_size(self, what: str, body: bytes, headers: Mapping[str, str]) -> None:
        """As JetStream's broker counts: body and headers together."""
        limit = self._broker.max_payload
        if len(body) <= limit - _HEADERS:
            return
        size = len(body) + 16 + sum(len(n) + len(v) + 4 for n, v in headers.items() if v)
        if size > limit:
            raise PayloadTooLarge(what, size, limit)

    async def schedule(
        self, lane: Lane, task_id: str, body: bytes, at: float, msg_id: str
    ) -> Stored:
        """Store a task that enters its lane at `at`."""
        target = f"{self.names.due}{lane.tokens}.{task_id}"
        headers = {
            "Nats-Msg-Id": msg_id,
            "Nats-Schedule": "@at 2000-01-01T00:00:00.000Z",
            "Nats-Schedule-Target": target,
        }
        self._check_size("a task", body, headers)
        work = self._state.work
        work.lane(lane, self.settings)
        return Stored(*work.later.schedule(lane, task_id, body, at, msg_id))

    # --- schedules ---

    async def put_schedule(
        self, name: str, lane: Lane, body: bytes, ticks: str, expected: int
    ) -> int:
        """Store a schedule, if the last one is the expected one."""
        headers = {
            "Nats-Schedule": ticks,
            "Nats-Schedule-Target": f"{self.names.due}{lane.tokens}.{tick_id(name)}",
            "Nats-Expected-Last-Subject-Sequence": str(expected),
        }
        self._check_size("a schedule", body, headers)
        work = self._state.work
        work.lane(lane, self.settings)
        return work.later.schedules.put(name, lane, body, ticks, expected)

    async def read_schedule(self, name: str) -> StoredMessage | None:
        """The schedule of this name."""
        return self._state.work.later.schedules.get(name)

    async def remove_schedule(self, name: str) -> bool:
        """Remove it, and its ticks."""
        found = self._state.work.later.schedules.remove(name)
        await self.remove(tick_id(name))
        return found

    async def list_schedules(self) -> list[StoredMessage]:
        """All schedules."""
        return self._state.work.later.schedules.all()

    # --- finding ---

    async def find(self, task_id: str, lane: Lane | None = None) -> StoredMessage | None:
        """The task's message, waiting or running."""
        message = self._state.work.find(task_id, lane)
        return None if message is None else message.stored()

    async def find_scheduled(self, task_id: str) -> StoredMessage | None:
        """The task's message while it is delayed."""
        return self._state.work.later.find(task_id)

    async def present(self, delivery: Delivery) -> bool:
        """Whether this message is still in the work stream."""
        return self._state.work.get(delivery.seq) is not None

    async def remove(self, task_id: str) -> None:
        """Remove the task, waiting, running or delayed."""
        work = self._state.work
        work.later.remove(task_id)
        work.remove(task_id)

    async def delivered_up_to(self, lane: Lane) -> int:
        """Highest sequence delivered in this lane."""
        found = self._state.work.lanes.get(lane)
        return 0 if found is None else found.delivered_up_to

    # --- records ---

    async def read_record(self, task_id: str) -> StoredMessage | None:
        """The task's record."""
        return self._state.state.read_record(task_id)

    async def write_record(self, task_id: str, body: bytes, expected: int, ttl: float) -> int:
        """Write a record, if the last one is the expected one."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        headers["Nats-TTL"] = str(max(1, round(ttl)))
        self._check_size("a result", body, headers)
        return self._state.state.write_record(task_id, body, expected, ttl)

    async def read_dead(self, task_id: str) -> StoredMessage | None:
        """The dead letter with this id."""
        return self._state.state.read_dead(task_id)

    async def write_dead(self, task_id: str, body: bytes) -> None:
        """Store a dead letter."""
        self._check_size("a dead letter", body, {"Nats-TTL": "604800"})
        self._state.state.write_dead(task_id, body)

    async def remove_dead(self, task_id: str, seq: int | None = None) -> bool:
        """Drop a dead letter, with `seq` none that is newer; whether there was one."""
        return self._state.state.remove_dead(task_id, seq)

    async def list_dead(self, limit: int) -> list[StoredMessage]:
        """Dead letters, oldest first."""
        return self._state.state.list_dead(limit)

    # --- consuming ---

    async def consumer(
        self, lanes: Sequence[Lane], deliver: DeliveryCallback, status: StatusCallback
    ) -> MemoryConsumer:
        """Receive tasks of these lanes."""
        work = self._state.work
        found = [work.lane(lane, self.settings) for lane in lanes]
        return self._broker.keep(
            MemoryConsumer(self._broker.world.loop, found, deliver, status, self._broker.forget)
        )

    async def ack(self, delivery: Delivery, kept: float = math.inf) -> None:
        """The task is settled. Nothing, if it is gone, or the broker closed: the lease ends."""
        if not self._broker.connected:
            return
        work = self._state.work
        message = work.get(delivery.seq)
        if message is not None and message.deliveries:
            work.drop(message)

    async def nak(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Hand it back."""
        if not self._broker.connected:
            return
        message = self._state.work.get(delivery.seq)
        if message is None:
            return
        give_back = message.lane.give_back
        if delay > 0:  # also if this broker is closed by then: a server would do it
            asyncio.get_running_loop().call_later(
                delay, give_back, delivery.seq, delivery.deliveries
            )
        else:
            give_back(delivery.seq, delivery.deliveries)

    # --- who is there, and how much ---

    async def announce(
        self, worker_id: str, facts: WorkerFacts, control: Mapping[str, ControlCallback]
    ) -> Announcement:
        """Be seen by `workers()`, and answer the worker's own subjects."""
        announcement = Announcement(self._broker, self.names, self._state)
        announcement.start(worker_id, facts, control)
        return self._broker.keep(announcement)

    async def workers(self, expect: int | None = None) -> list[dict[str, Any]]:
        """The facts of all workers; in one process none is late."""
        await asyncio.sleep(0)
        return self._state.answers()

    async def depth(self) -> QueueDepth:
        """Counts as of now."""
        state = self._state
        work = state.work
        lanes = [
            LaneDepth(lane, found.waiting, found.running, found.parked)
            for lane, found in work.lanes.items()
        ]
        lanes.sort(key=lambda depth: (-depth.lane.priority, depth.lane.tag or ""))
        return QueueDepth(
            lanes=tuple(lanes),
            messages=work.count,
            delayed=len(work.later),
            dead=state.state.dead,
            max_size=work.max_size,
            bytes=work.bytes,
        )
