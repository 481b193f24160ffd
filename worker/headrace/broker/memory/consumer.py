"""Pulls of one consumer, and what keeps its deliveries leased."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from headrace.broker.memory.lane import MemoryLane, Message
from headrace.broker.memory.world import World
from headrace.broker.port import Delivery, DeliveryCallback, StatusCallback
from headrace.errors import BrokerUnavailable

log = logging.getLogger("headrace.broker")


class MemoryConsumer:
    """Pulls tasks of several lanes. Answers come in a later turn of the loop, in order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lanes: Sequence[MemoryLane],
        deliver: DeliveryCallback,
        status: StatusCallback,
        left: Callable[[MemoryConsumer], None],
    ) -> None:
        self.closed = False
        self._loop, self._lanes = loop, list(lanes)
        self._deliver, self._status, self._left = deliver, status, left
        self._answers: list[tuple[int, Delivery | int, bool]] = []
        self._announced = False

    # --- asking ---

    async def pull(self, lane: int, batch: int) -> None:
        """Ask for up to `batch` tasks that are there now."""
        self._check()
        self._lanes[lane].pull(self, lane, batch)

    async def park(self, lane: int, expires: float) -> None:
        """Ask for one task whenever it comes."""
        self._check()
        self._lanes[lane].park(self, lane, expires)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def close(self) -> None:
        """Stop receiving. What was on its way is handed back."""
        if self.closed:
            return
        self.closed = True
        self._left(self)
        for lane in self._lanes:
            lane.leave(self)
        for index, answer, _ in self._answers:
            if isinstance(answer, Delivery):
                self._lanes[index].give_back(answer.seq, answer.deliveries)
        self._answers.clear()

    def _check(self) -> None:
        if self.closed:
            raise BrokerUnavailable("the consumer was closed")

    # --- what the lanes answer ---

    def deliver(self, index: int, delivery: Delivery, parked: bool) -> None:
        """A task for the lane number `index`."""
        self._answers.append((index, delivery, parked))
        if not self._announced:
            self._announced = True
            self._loop.call_soon(self._hand_out)

    def tell(self, index: int, parked: bool, code: int) -> None:
        """A pull has ended."""
        self._answers.append((index, code, parked))
        if not self._announced:
            self._announced = True
            self._loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._announced = False
        answers, self._answers = self._answers, []
        for index, answer, parked in answers:
            try:
                if isinstance(answer, Delivery):
                    self._deliver(index, answer, parked)
                else:
                    self._status(index, parked, answer)
            except Exception:
                log.exception("a consumer's callback failed")


class MemoryLeases:
    """Keeps deliveries of this process leased: what is held does not lapse."""

    def __init__(self, world: World, ack_wait: float, left: Callable[[MemoryLeases], None]) -> None:
        self._world, self._ack_wait, self._left = world, ack_wait, left
        self._held: dict[tuple[str, int], Delivery] = {}

    def hold(self, delivery: Delivery) -> None:
        """Let the lease not end."""
        if self._set(delivery, True):
            self._held[delivery.subject, delivery.seq] = delivery

    def release(self, delivery: Delivery) -> None:
        """Count `ack_wait` from now on."""
        if self._held.pop((delivery.subject, delivery.seq), None) is not None:
            self._set(delivery, False)

    def sure_until(self, delivery: Delivery) -> float:
        """Monotonic time until which nobody else can have been given this delivery."""
        message = self._message(delivery)
        if message is None or message.deliveries != delivery.deliveries:
            return delivery.received_at + self._ack_wait
        if message.held:
            return time.monotonic() + message.lane.ack_wait
        return time.monotonic() + message.deadline - self._world.loop.time()

    async def close(self) -> None:
        """Stop all of it. What is held lapses `ack_wait` later."""
        self._left(self)
        for delivery in list(self._held.values()):
            self.release(delivery)

    def _set(self, delivery: Delivery, held: bool) -> bool:
        message = self._message(delivery)
        if message is None:
            return False
        return message.lane.hold(message, delivery.deliveries, held)

    def _message(self, delivery: Delivery) -> Message | None:
        queue = self._world.queues.get(delivery.subject.split(".", 3)[2])
        return None if queue is None else queue.work.get(delivery.seq)
