"""Which task starts next: strict priority over one durable consumer per lane, nothing prefetched.

An idle worker keeps a pull of one task parked on every lane, so that what comes starts at once. A
busy one, when a slot comes free, asks from the top without waiting, several lanes in one round
trip, and goes back to the top after every turn. What arrives with no slot free is handed back and
starts elsewhere. Parked pulls are never withdrawn: a message under way to a closed inbox would wait
for a whole `ack_wait`.

Starvation: once `limit` seconds have passed since a level was last known to be empty or young, one
of every `SHARE` starts is taken from it. Its age is read off the messages that are taken, so that
this costs no request of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from headrace.broker.port import (
    CROWDED,
    GONE,
    NO_MESSAGES,
    BrokerQueue,
    Consumer,
    Delivery,
)
from headrace.errors import BrokerUnavailable
from headrace.runtime.history import History
from headrace.runtime.settle import LEAVE_TIME
from headrace.runtime.standstill import TICK, Standstill
from headrace.wire import Lane

log = logging.getLogger("headrace.worker")

PARK_EXPIRES = 30.0
"""Seconds a parked pull stays open. To renew 500 in each of four lanes costs the server 3 s."""
PARK_AFTER_OUTAGE = 10.0
"""The same soon after an outage. Who leads a lane before it has caught up with the stream
has nothing for a pull, and may not answer it when it has: the lane looks empty until it expires."""
SHARE = 8  # one of so many starts belongs to a level over its limit
_ANSWER_WITHIN = 2.0  # seconds until a pull without an answer is asked again
_QUICK = 1.0  # a parked pull that ends sooner was refused, not expired
_CROWDED_PAUSE = 4.0, 6.0  # seconds, drawn so that those who were refused together part


class Dispatcher:
    """Feeds the free slots of one worker. `start` is called with every task that starts."""

    def __init__(
        self,
        queue: BrokerQueue,
        lanes: Sequence[Lane],
        slots: int,
        start: Callable[[Delivery], None],
        starvation_limit: float,
    ) -> None:
        self._queue = queue
        self._lanes = list(lanes)
        self._start = start
        self._limit = starvation_limit
        count = len(lanes)
        self.slots = slots
        self.free = slots
        self._candidates: list[list[Delivery]] = [[] for _ in lanes]
        self._parked = [0.0] * count  # monotonic time of the open parked pull's end; 0: none
        self._parked_at = [0.0] * count
        self._pulled_at = [0.0] * count
        self._wanted = [0] * count  # messages asked for without wait, not answered yet
        self._pending = [1] * count  # believed to wait in the lane
        self._retry_at = [0.0] * count  # a lane that refused is left alone until then
        self._pause = [0.0] * count
        self._since = [0] * count  # starts since the lane's level had one
        self._check = [0.0] * count  # monotonic time from which the lane may be over its limit
        self._top = self._lanes[0].priority if lanes else 0
        self._turn = 0
        self._held = 0  # reasons to start nothing: drain, a suspect that runs alone
        self._stopping = False
        self._said_crowded = False
        self._consumer: Consumer | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._standstill = Standstill()
        self.history = History(slots)

    # --- its life ---

    async def open(self) -> None:
        """Begin to receive and to start tasks."""
        self._consumer = await self._queue.consumer(self._lanes, self._deliver, self._status)
        self._standstill.watch()
        self._task = self._loop.create_task(self._work(), name="headrace-dispatch")

    @property
    def failed(self) -> bool:
        """Whether it has ended although nobody closed it."""
        return self._task is not None and self._task.done() and not self._stopping

    def hold(self) -> None:
        """Start nothing more until `unhold`; both may nest."""
        self._held += 1

    def unhold(self) -> None:
        """Start tasks again."""
        self._held -= 1
        self._wake()

    def release(self) -> None:
        """A slot has come free."""
        self.free += 1
        self._wake()

    async def close(self) -> None:
        """Receive no more. Tasks that were started are not its business."""
        self._stopping = True
        self._standstill.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._return_candidates()
        if self._settling:
            await asyncio.gather(*self._settling, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.close()

    # --- what the consumer says ---

    def _deliver(self, lane: int, delivery: Delivery, parked: bool) -> None:
        self._pending[lane] = delivery.pending
        self._pause[lane] = 0.0
        if parked:
            self._parked[lane] = 0.0
        elif self._wanted[lane]:
            self._wanted[lane] -= 1
        self.history.came(delivery)
        asked_at = self._parked_at[lane] if parked else self._pulled_at[lane]
        lag = self._standstill.unread(asked_at)
        if lag > 2 * TICK:
            delivery.received_at -= lag
            if lag > self._queue.settings.ack_wait / 2:
                log.warning("task %s was left: the loop was blocked for %.1f s",
                            delivery.task_id, lag)  # fmt: skip
                self._wake()
                return
        if self.free <= 0 or self._held or self._stopping:
            self._hand_back(delivery)
        else:
            self._candidates[lane].append(delivery)
        self._wake()

    def _status(self, lane: int, parked: bool, status: int) -> None:
        if lane < 0:  # a new connection: every pull is forgotten
            self.history.outage()
            for index in range(len(self._lanes)):
                self._parked[index] = 0.0
                self._wanted[index] = 0
                self._pending[index] = 1
        elif parked:
            now = time.monotonic()
            early = now - self._parked_at[lane] < _QUICK
            if status == GONE and now < self._parked[lane] - _QUICK:
                self.history.outage()
            self._parked[lane] = 0.0
            if status == CROWDED:
                self._crowded(lane)
            elif status == GONE and early:
                self._refused(lane)
            elif status == GONE:
                self._pending[lane] = max(1, self._pending[lane])  # look once more
        else:
            self._wanted[lane] = 0
            if status == NO_MESSAGES:
                self._pending[lane] = 0
                self._pause[lane] = 0.0
                self.history.answered()
            else:
                self.history.outage()
                self._refused(lane)
        self._wake()

    def _refused(self, lane: int) -> None:
        """No leader, or no consumer: leave the lane alone for a moment, then look again."""
        self._pending[lane] = 1
        self._pause[lane] = min(1.0, self._pause[lane] * 2 or 0.05)
        self._retry_at[lane] = time.monotonic() + self._pause[lane]
        if self._pause[lane] >= 0.8:
            self._later(self._queue.restore_lanes([self._lanes[lane]]))
        self._loop.call_later(self._pause[lane] + 0.001, self._wake)

    def _crowded(self, lane: int) -> None:
        """The lane lets no more pulls wait: ask now and then what is there, which it allows."""
        pause = random.uniform(*_CROWDED_PAUSE)
        self._pending[lane] = 1
        self._retry_at[lane] = time.monotonic() + pause
        self._loop.call_later(pause + 0.001, self._wake)
        if not self._said_crowded:
            self._said_crowded = True
            log.warning("too many workers wait at %s for its consumer's max_waiting: this one asks "
                        "every %.0f s instead", self._lanes[lane].consumer, pause)  # fmt: skip

    def _hand_back(self, delivery: Delivery) -> None:
        self.history.handed_back(delivery)
        self._later(self._queue.nak(delivery, LEAVE_TIME if self._stopping else 0.0))

    def _return_candidates(self) -> None:
        for candidates in self._candidates:
            for delivery in candidates:
                self._hand_back(delivery)
            candidates.clear()

    def _later(self, work: Awaitable[None]) -> None:
        task = self._loop.create_task(_quietly(work))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    # --- waiting ---

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = self._loop.time() + timeout
        while not (condition() or self._stopping) and self._loop.time() < deadline:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_at(deadline, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None

    # --- asking ---

    async def _pull(self, lane: int, batch: int) -> None:
        assert self._consumer is not None
        self._wanted[lane] = batch
        self._pulled_at[lane] = time.monotonic()
        await self._consumer.pull(lane, batch)

    async def _park(self, lane: int) -> None:
        assert self._consumer is not None
        expires = PARK_AFTER_OUTAGE if self.history.recent_outage else PARK_EXPIRES
        self._parked_at[lane] = time.monotonic()
        self._parked[lane] = self._parked_at[lane] + expires
        await self._consumer.park(lane, expires)

    async def _answers(self, lanes: list[int]) -> None:
        """Wait until these lanes have answered; a lane that does not is asked again later."""
        await self._until(lambda: not any(self._wanted[lane] for lane in lanes), _ANSWER_WITHIN)
        for lane in lanes:
            if self._wanted[lane] and not self._stopping:
                self.history.outage()
            self._wanted[lane] = 0

    # --- the work ---

    async def _work(self) -> None:
        # Not only cancelled: before Python 3.12 `asyncio.wait_for`, which nats-py is built on,
        # swallows a cancellation that comes together with the answer.
        while not self._stopping:
            try:
                if self.free <= 0 or self._held:
                    await self._until(lambda: self.free > 0 and not self._held, 3600.0)
                elif await self._scan():
                    await self._idle()
            except BrokerUnavailable as error:
                log.warning("cannot ask for tasks: %s", error)
                await asyncio.sleep(0.5)
            except Exception:  # a fault of ours must not stop the worker for good
                log.exception("dispatch failed and goes on")
                await asyncio.sleep(0.5)

    async def _idle(self) -> None:
        """Every lane is known to be empty: park a pull on each, wait for what comes first."""
        now = time.monotonic()
        for lane in range(len(self._lanes)):
            if self._parked[lane] <= now and self._retry_at[lane] <= now:
                await self._park(lane)
        await self._until(self._stirred, PARK_AFTER_OUTAGE + 2)
        now = time.monotonic()
        for lane, end in enumerate(self._parked):
            if end and now > end + 1:  # its end was not told: the server has forgotten it
                self._parked[lane] = 0.0
                self.history.outage()
        await asyncio.sleep(0)  # what was read from the socket already takes part
        self._begin(self._room())

    def _stirred(self) -> bool:
        now = time.monotonic()
        return (
            any(self._candidates)
            or self.free <= 0
            or bool(self._held)
            or any(
                end == 0.0 and self._retry_at[lane] <= now for lane, end in enumerate(self._parked)
            )
        )

    def _order(self) -> list[int]:
        """Lanes from the top; those of one level take turns at being first."""
        self._turn += 1
        order: list[int] = []
        start = 0
        while start < len(self._lanes):
            end = start
            while (
                end < len(self._lanes) and self._lanes[end].priority == self._lanes[start].priority
            ):
                end += 1
            shift = self._turn % (end - start)
            order += [*range(start + shift, end), *range(start, start + shift)]
            start = end
        return order

    async def _scan(self) -> bool:
        """Fill the free slots; True once every lane is known to be empty."""
        while self.free > 0 and not self._held:
            await self._owed()
            lanes, whole = self._ask(time.monotonic()) if self.free > 0 else ([], False)
            room = self._room(lanes[-1] if lanes else None)
            for lane in lanes[:-1]:
                await self._pull(lane, 1)
            if lanes:
                await self._pull(lanes[-1], max(1, room - (len(lanes) - 1)))
                await self._answers(lanes)
                await self._follow_up(lanes)
            if not self._begin(room) and (whole or not lanes):
                return whole
        return False

    def _ask(self, now: float) -> tuple[list[int], bool]:
        """The lanes to ask in one turn, from the top, down to the first that is believed to hold
        tasks; and whether that is all of them."""
        lanes: list[int] = []
        for lane in self._order():
            if self._candidates[lane]:
                return lanes, False
            if self._parked[lane] > now or self._retry_at[lane] > now:
                continue  # an unanswered parked pull proves the lane empty
            lanes.append(lane)
            if self._pending[lane] > 0:
                return lanes, False
        return lanes, True

    def _room(self, served: int | None = None) -> int:
        """Slots to fill in one turn from the lane `served`: fewer where more would pass over
        another that is owed its share."""
        now = time.monotonic()
        owed = [
            self._since[lane]
            for lane in range(len(self._lanes))
            if lane != served and self._may_owe(lane, now)
        ]
        if not owed:
            return self.free
        return min(self.free, max(1, SHARE - 1 - max(owed)))

    def _may_owe(self, lane: int, now: float) -> bool:
        """Whether the head of a lane below the top may be over its limit. An unanswered parked pull
        proves that there is none."""
        return (
            self._lanes[lane].priority != self._top
            and self._check[lane] <= now
            and not self._parked[lane]
            and self._retry_at[lane] <= now
        )

    async def _follow_up(self, lanes: list[int]) -> None:
        """A lane that was only probed and has more behind goes first, before anything lower."""
        for position, lane in enumerate(lanes[:-1]):
            while self._candidates[lane] and self._pending[lane] > 0:
                above = sum(len(self._candidates[other]) for other in lanes[: position + 1])
                left = self._room(lane) - above
                if left <= 0:
                    break
                had = len(self._candidates[lane])
                await self._pull(lane, left)
                await self._answers([lane])
                if len(self._candidates[lane]) == had:
                    break

    async def _owed(self) -> None:
        """One start of SHARE for every lane below the top whose head is over its limit."""
        for lane in range(len(self._lanes)):
            if self.free <= 0:
                return
            if self._since[lane] < SHARE - 1 or not self._may_owe(lane, time.monotonic()):
                continue
            await self._pull(lane, 1)
            await self._answers([lane])
            if not self._candidates[lane]:
                self._check[lane] = time.monotonic() + self._limit
                continue
            delivery = self._candidates[lane].pop(0)
            self._check[lane] = self._over_limit_at(delivery)
            if self._check[lane] <= time.monotonic():
                self._launch(delivery)
                self._since = [since + 1 for since in self._since]
                self._since[lane] = 0
            else:  # only its age was wanted: it is not its turn
                self._hand_back(delivery)

    def _begin(self, most: int) -> int:
        """Start what has come, from the top, at most so many; hand back what finds no slot. How
        many started."""
        started = 0
        if not self._held:
            served = []
            for lane, candidates in enumerate(self._candidates):
                first = started
                while candidates and self.free > 0 and started < most:
                    delivery = candidates.pop(0)
                    self._check[lane] = self._over_limit_at(delivery)  # what follows is younger
                    self._launch(delivery)
                    started += 1
                if started > first:
                    served.append(lane)
            if started:
                self._since = [since + started for since in self._since]
                for lane in served:
                    self._since[lane] = 0
        if self.free <= 0 or self._held:
            self._return_candidates()
        return started

    def _over_limit_at(self, delivery: Delivery) -> float:
        """Monotonic: a wall clock that is set back must not put a level's share off."""
        return time.monotonic() - (time.time() - delivery.stored_at) + self._limit

    def _launch(self, delivery: Delivery) -> None:
        self.free -= 1
        self._start(delivery)


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except BrokerUnavailable as error:
        log.debug("not settled, the lease ends by itself: %s", error)
