"""One lane in memory: its tasks in order, their leases, and the pulls that wait for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from headrace.broker.memory.alarm import Alarm
from headrace.broker.port import GONE, NO_MESSAGES, Delivery, StoredMessage
from headrace.wire import Lane


class Puller(Protocol):
    """Who pulls: a consumer of this process."""

    closed: bool

    def deliver(self, index: int, delivery: Delivery, parked: bool) -> None:
        """A task for its lane number `index`."""

    def tell(self, index: int, parked: bool, code: int) -> None:
        """A pull has ended."""


class Message:
    """A stored task."""

    __slots__ = ("body", "deadline", "deliveries", "gone", "held", "lane", "next_at", "put_at",
                 "seq", "sourced", "subject", "task_id")  # fmt: skip

    def __init__(
        self, lane: MemoryLane, task_id: str, body: bytes, subject: str, seq: int, sourced: bool
    ) -> None:
        self.lane, self.task_id, self.body, self.subject = lane, task_id, body, subject
        self.seq, self.sourced = seq, sourced
        self.next_at: float | None = None
        """Of a schedule's tick."""
        self.put_at = time.monotonic()
        self.deliveries = 0
        self.deadline = 0.0
        """Loop time at which the lease ends; meaningful while the lane has it in `leased`."""
        self.held = False
        self.gone = False
        """Removed; queues that still have it skip it."""

    @property
    def stored_at(self) -> float:
        """By the wall clock of now: one that was set since makes no task older or younger."""
        return time.time() - (time.monotonic() - self.put_at)

    def stored(self) -> StoredMessage:
        """As the port shows it."""
        return StoredMessage(self.subject, self.body, self.seq, self.stored_at)


class MemoryLane:
    """One lane: new tasks by sequence, those that come back before them, and open pulls."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: Lane,
        prefix: str,
        ack_wait: float,
        max_ack_pending: int,
    ) -> None:
        self.lane, self.prefix = lane, prefix
        self.ack_wait, self.max_ack_pending = ack_wait, max_ack_pending
        self.delivered_up_to = 0
        self.waiting = 0
        self._loop = loop
        self._new: deque[Message] = deque()
        self._back: deque[Message] = deque()
        self._returned = 0  # live messages in _back
        self._leased: dict[int, Message] = {}  # in the order of their deadlines
        self._parked: deque[tuple[Puller, int, float]] = deque()
        self._lapse = Alarm(loop, self._lapsed)
        self._expiry = Alarm(loop, self._expired)

    @property
    def running(self) -> int:
        """Delivered and not settled, those handed back included."""
        return len(self._leased) + self._returned

    @property
    def parked(self) -> int:
        """Open parked pulls."""
        return len(self._parked)

    def stop(self) -> None:
        """No timers any more."""
        self._lapse.cancel()
        self._expiry.cancel()

    # --- messages ---

    def add(self, message: Message) -> None:
        """A new task, to who waits for it or to the end of the lane."""
        self._new.append(message)
        self.waiting += 1
        if self._parked:
            self.serve()

    def drop(self, message: Message) -> None:
        """It is settled or removed."""
        message.gone = True
        if self._leased.pop(message.seq, None) is None:
            if message.deliveries:
                self._returned -= 1
            else:
                self.waiting -= 1
        elif self._parked:
            self.serve()  # max_ack_pending may have stopped it

    def give_back(self, seq: int, deliveries: int) -> None:
        """End the lease that was given with this delivery, if it is still there."""
        message = self._leased.get(seq)
        if message is not None and message.deliveries == deliveries:
            self._return([message])

    def hold(self, message: Message, deliveries: int, held: bool) -> bool:
        """Let the lease not end, or count it from now on; whether the lease is still there."""
        if message.deliveries != deliveries or message.seq not in self._leased:
            return False
        message.held = held
        if not held:
            self._lease(message)
        return True

    def _lease(self, message: Message) -> None:
        """Lease it from now on. The newest goes to the end: deadlines stay in order."""
        self._leased.pop(message.seq, None)
        message.deadline = self._loop.time() + self.ack_wait
        self._leased[message.seq] = message
        self._lapse.set(message.deadline)

    def _return(self, messages: Iterable[Message]) -> None:
        for message in messages:
            del self._leased[message.seq]
            message.held = False
            self._back.append(message)
            self._returned += 1
        if self._parked:
            self.serve()

    def _lapsed(self, now: float) -> float | None:
        """Take back what was not extended; extend what is held."""
        late: list[Message] = []
        held: list[Message] = []
        following = None
        for message in self._leased.values():
            if message.deadline > now:
                following = message.deadline
                break
            (held if message.held else late).append(message)
        for message in held:
            self._lease(message)
        self._return(sorted(late, key=lambda message: message.seq))
        return following

    # --- pulls ---

    def pull(self, puller: Puller, index: int, batch: int) -> None:
        """Deliver up to `batch` tasks that are there; tell of the end if there were fewer."""
        for _ in range(batch):
            message = self._next()
            if message is None:
                blocked = self.waiting + self._returned > 0
                puller.tell(index, False, GONE if blocked else NO_MESSAGES)
                return
            self._hand(message, puller, index, False)

    def park(self, puller: Puller, index: int, expires: float) -> None:
        """Keep a pull of one open for `expires` seconds."""
        end = self._loop.time() + expires
        self._parked.append((puller, index, end))
        self._expiry.set(end)
        if self.waiting or self._returned:
            self.serve()

    def leave(self, puller: Puller) -> None:
        """Forget its parked pulls."""
        if any(parked[0] is puller for parked in self._parked):
            self._parked = deque(parked for parked in self._parked if parked[0] is not puller)

    def serve(self) -> None:
        """Answer parked pulls, the longest open first."""
        while self._parked:
            message = self._next()
            if message is None:
                return
            puller, index, _ = self._parked.popleft()
            self._hand(message, puller, index, True)

    def _expired(self, now: float) -> float | None:
        open_pulls: deque[tuple[Puller, int, float]] = deque()
        for parked in self._parked:
            if parked[2] <= now:
                parked[0].tell(parked[1], True, GONE)
            else:
                open_pulls.append(parked)
        self._parked = open_pulls
        return min((end for _, _, end in open_pulls), default=None)

    def _next(self) -> Message | None:
        """Take the next message: one that came back, else the oldest new one."""
        if len(self._leased) >= self.max_ack_pending:
            return None
        while self._back:
            message = self._back.popleft()
            if not message.gone:
                self._returned -= 1
                return message
        while self._new:
            message = self._new.popleft()
            if not message.gone:
                self.waiting -= 1
                self.delivered_up_to = message.seq
                return message
        return None

    def _hand(self, message: Message, puller: Puller, index: int, parked: bool) -> None:
        message.deliveries += 1
        self._lease(message)
        puller.deliver(
            index,
            Delivery(
                self.lane,
                message.task_id,
                message.subject,
                message.body,
                message.seq,
                message.stored_at,
                message.deliveries,
                self.waiting + self._returned,
                message.sourced,
                "",
                time.monotonic(),
                message.next_at,
            ),
            parked,
        )
