"""What Headrace asks of a broker: the port that `memory` and `jetstream` implement.

The life of a task (retries, timeouts, the fence, dead letters) is written once above this port, in
`headrace.runtime` and `headrace.client`; a broker only stores, delivers and forgets. Its words are
JetStream's: a delivery is leased for `ack_wait` and comes back unless it is acknowledged or its
lease extended; a record is written with the sequence it expects to replace.

All methods raise `BrokerUnavailable` when the broker does not answer in time, and never take an
outage for an empty answer.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headrace.wire import Lane, QueueNames

if TYPE_CHECKING:
    from headrace.broker.blobs import BlobStore

NO_MESSAGES = 404  # status of a pull without wait on an empty lane
GONE = 409  # the pull will not be answered any more: park or pull again
CROWDED = 429  # as many pulls wait at the lane as it allows: this one was refused
MAX_COPIES = 2
"""Messages with one id that a lane keeps; one more drops the oldest. Ticks of a schedule that
nobody takes do not pile up, and a task that is published twice has two all the same."""
RECONNECTED = 0  # the connection is new: every pull is forgotten


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How a queue is made when its first client or worker comes.

    An existing queue keeps its settings, except that `max_size`, `max_blob_bytes` and the lanes'
    `max_ack_pending` are raised when more is asked for.
    """

    max_size: int = 10_000
    """Tasks that may wait or run at once; one more is refused with `QueueFull`."""
    ack_wait: float = 15.0
    """Seconds until a task whose worker died is redelivered. Leases are extended every third of
    it; an election of a clustered server stalls 2 to 7 seconds, so much less is not safe."""
    dedupe_window: float = 120.0
    """Seconds in which one message id is stored once."""
    replicas: int = 1
    max_ack_pending: int = 20_000
    """Tasks of one lane that may run at once in the whole fleet."""
    max_blob_bytes: int = 1_073_741_824
    """Bytes that the queue's blobs may fill; one more is refused with `BlobStoreFull`. The server
    reserves them when the first blob is stored."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A task in this worker's hands, leased until `ack_wait` after the last extension."""

    lane: Lane
    task_id: str
    subject: str
    body: bytes
    seq: int
    """Sequence in the work stream; unique in the queue."""
    stored_at: float
    """When it was stored, on this machine's clock (seconds since the epoch), however wrong that
    is: what `time.time()` has added since is the message's age by the broker's own clock."""
    deliveries: int
    """How often it was delivered, this time included. Hand-backs count: above 1 proves nothing."""
    pending: int
    """How many tasks of the lane wait behind it."""
    sourced: bool
    """Came by way of *later*: a delayed task or a retry, without the protection of dedupe."""
    token: str
    """The broker's own handle for `ack`, `nak` and the lease."""
    received_at: float
    """Monotonic seconds at which it arrived here."""
    next_at: float | None = None
    """None for a task. Of a schedule's tick: when the next one comes, by the broker's clock."""
    returned: int = 0
    """How many of the deliveries before this one are known to have been handed back unstarted."""

    @property
    def may_have_been_started(self) -> bool:
        """Whether one of the deliveries before this one may have been more than a hand-back."""
        return self.deliveries != self.returned + 1


@dataclass(frozen=True, slots=True)
class Stored:
    """A message was stored. `duplicate`: one with its message id was there already, at `seq`."""

    seq: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read from a stream, in its current version."""

    subject: str
    body: bytes
    seq: int
    stored_at: float


class WrongSequence(Exception):
    """A record was not written: its subject's last sequence is not the expected one."""


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """`waiting` tasks not delivered, `running` delivered and not settled; `parked` idle pulls."""

    lane: Lane
    waiting: int
    running: int
    parked: int = 0


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What is in a queue, as of one look.

    `messages` is all of the work stream; more than the sum over the lanes means tasks in lanes
    that no worker has ever served.
    """

    lanes: tuple[LaneDepth, ...]
    messages: int
    delayed: int
    dead: int
    max_size: int
    bytes: int = 0

    @property
    def waiting(self) -> int:
        """Tasks of all lanes that wait."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def running(self) -> int:
        """Tasks of all lanes that are delivered and not settled."""
        return sum(lane.running for lane in self.lanes)


class Subscription(Protocol):
    """Something that can be ended."""

    async def close(self) -> None:
        """End it. Harmless when it has ended."""


MessageCallback = Callable[[str, bytes, str], Awaitable[None] | None]
"""Called with subject, body and reply subject ("" if none) of a core message. A plain function must
not block; a coroutine function is called for one message after the other."""


class Consumer(Protocol):
    """Pulls tasks from several lanes into two callbacks; made by `BrokerQueue.consumer`.

    Lanes are named by their index in the sequence it was made with. Every pull is answered by
    deliveries, by a status, or by both; a full batch has no closing status.
    """

    async def pull(self, lane: int, batch: int) -> None:
        """Ask for up to `batch` tasks that are there now; else status `NO_MESSAGES`."""

    async def park(self, lane: int, expires: float) -> None:
        """Ask for one task whenever it comes, for up to `expires` seconds."""

    async def flush(self) -> None:
        """Send what was asked for so far."""

    async def close(self) -> None:
        """Stop receiving. Parked pulls must have been answered or have expired before."""


DeliveryCallback = Callable[[int, Delivery, bool], None]
"""Lane index, the delivery, whether it answers a parked pull."""
StatusCallback = Callable[[int, bool, int], None]
"""Lane index (-1 for all), whether the pull was parked, status code."""


class Leases(Protocol):
    """Keeps deliveries leased while their handlers run, also when those block the event loop."""

    def hold(self, delivery: Delivery) -> None:
        """Extend this delivery's lease from now on."""

    def release(self, delivery: Delivery) -> None:
        """Stop extending it."""

    def sure_until(self, delivery: Delivery) -> float:
        """Monotonic time until which nobody else can have been given this delivery."""

    async def close(self) -> None:
        """Stop all of it. What is held lapses `ack_wait` later."""


WorkerFacts = Callable[[], Mapping[str, Any]]
"""Called for every question: what a worker says of itself, as JSON values."""
ControlCallback = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""A worker's answer to `drain` or `resume`."""


class BrokerQueue(Protocol):
    """One queue of a broker."""

    names: QueueNames
    settings: QueueSettings

    @property
    def blobs(self) -> BlobStore:
        """Where this queue's large data is stored."""

    @property
    def replicated(self) -> bool:
        """Whether several servers hold it: one that was cut off from the others answers for up to
        10 s as if it still led, so that a single "not there" proves nothing."""

    async def ensure(self) -> None:
        """Make the queue's streams, or raise the limits of those that are there."""

    async def ensure_later(self) -> None:
        """Make what delays and retries need. The first of them does it too, if it may."""

    async def ensure_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make the consumers of these lanes. Known ones cost nothing."""

    async def restore_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make the consumers of these lanes again, if somebody deleted them."""

    # --- tasks ---

    def now(self) -> float:
        """The broker's time, in seconds since the epoch: what `schedule` is measured by. This
        machine's own clock may be wrong, or jump."""

    async def put_soon(
        self, lane: Lane, task_id: str, body: bytes, msg_id: str, traceparent: str | None = None
    ) -> Awaitable[Stored]:
        """Send a task; the awaitable it returns ends when the task is durable.

        Two steps, so that many can be under way. Raises `PayloadTooLarge` at once; the awaitable
        raises `QueueFull` or `BrokerUnavailable`.
        """

    async def schedule(
        self, lane: Lane, task_id: str, body: bytes, at: float, msg_id: str
    ) -> Stored:
        """Store a task that enters its lane at `at` (seconds since the epoch)."""

    # --- schedules ---

    async def put_schedule(
        self, name: str, lane: Lane, body: bytes, ticks: str, expected: int
    ) -> int:
        """Store a schedule over the one with sequence `expected` (0: none); its sequence.

        From then on `body` enters the lane at the times of `ticks` (`@every 5s`, or six fields of
        cron in UTC) under the id `cron:<name>`: a tick. At most `MAX_COPIES` ticks of a
        schedule wait in the lane, the newest ones. Raises `WrongSequence`.
        """

    async def read_schedule(self, name: str) -> StoredMessage | None:
        """The schedule of this name, `stored_at` by the broker's clock."""

    async def remove_schedule(self, name: str) -> bool:
        """Remove a schedule and its ticks; whether there was one."""

    async def list_schedules(self) -> list[StoredMessage]:
        """All schedules of the queue."""

    # --- finding ---

    async def find(self, task_id: str, lane: Lane | None = None) -> StoredMessage | None:
        """The task's message, waiting or running."""

    async def find_scheduled(self, task_id: str) -> StoredMessage | None:
        """The task's message while it is delayed; its subject ends in the lane and id to be."""

    async def present(self, delivery: Delivery) -> bool:
        """Whether this message is still in the work stream: gone means somebody settled it."""

    async def remove(self, task_id: str) -> None:
        """Remove the task, waiting, running or delayed. A handler that runs goes on."""

    async def delivered_up_to(self, lane: Lane) -> int:
        """Highest sequence delivered in this lane: what is above waits for certain."""

    # --- records ---

    async def read_record(self, task_id: str) -> StoredMessage | None:
        """The task's record."""

    async def write_record(self, task_id: str, body: bytes, expected: int, ttl: float) -> int:
        """Write a record that replaces the one with sequence `expected` (0: none); its sequence.

        Raises `WrongSequence`. After `BrokerUnavailable` it may have been written all the same.
        """

    async def read_dead(self, task_id: str) -> StoredMessage | None:
        """The dead letter with this id."""

    async def write_dead(self, task_id: str, body: bytes) -> None:
        """Store a dead letter, in place of an older one with this id."""

    async def remove_dead(self, task_id: str, seq: int | None = None) -> bool:
        """Drop a dead letter, with `seq` none that is newer; whether there was one."""

    async def list_dead(self, limit: int) -> list[StoredMessage]:
        """Dead letters, oldest first, at most `limit`."""

    # --- consuming ---

    async def consumer(
        self, lanes: Sequence[Lane], deliver: DeliveryCallback, status: StatusCallback
    ) -> Consumer:
        """Receive tasks of these lanes. The callbacks must not block or raise."""

    async def ack(self, delivery: Delivery, kept: float = math.inf) -> None:
        """The task is settled: remove it. Not waited for.

        `kept` is how many seconds its record lives: one that a redelivery would not find any more
        must not be made likely.
        """

    async def nak(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Hand it back: it is delivered again after `delay` seconds, before new ones of its lane.

        A worker that leaves gives some time, or its own open pulls would be answered first.
        """

    # --- who is there ---

    async def announce(
        self, worker_id: str, facts: WorkerFacts, control: Mapping[str, ControlCallback]
    ) -> Subscription:
        """Answer `workers()` with `facts()`, and the worker's own subjects by `control`'s verbs."""

    async def workers(self, expect: int | None = None) -> list[dict[str, Any]]:
        """The facts of all workers that answer. Silence means unknown, not dead.

        Ends when `expect` have answered, or when no further one does for a while.
        """

    # --- looking ---

    async def depth(self) -> QueueDepth:
        """How much waits and runs, by lane."""


@dataclass(slots=True)
class BrokerInfo:
    """What a broker says of itself, for `headrace version` and errors."""

    kind: str
    version: str
    url: str
    details: dict[str, Any] = field(default_factory=dict)


class Broker(Protocol):
    """A connection to a broker. Used from the event loop that connected it, and no other."""

    durable: bool
    """Whether what it stored outlives this process."""

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message, headers included."""

    async def connect(self) -> None:
        """Connect and check that the server has what is needed."""

    async def close(self) -> None:
        """End the connection. Harmless when it has ended."""

    @property
    def connected(self) -> bool:
        """Whether it is connected just now."""

    def queue(self, name: str, settings: QueueSettings | None = None) -> BrokerQueue:
        """A queue by name; nothing is made before `ensure`. Raises `InvalidName`."""

    async def queues(self) -> list[str]:
        """Names of the queues there are."""

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message: at most once, to who listens now."""

    async def subscribe(self, subject: str, callback: MessageCallback) -> Subscription:
        """Receive core messages; `*` and `>` as in NATS."""

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes | None:
        """One answer to a core message, or None if nobody listens or answers in time."""

    async def flush(self) -> None:
        """Wait until the broker has taken what was sent, subscriptions included."""

    async def leases(self, ack_wait: float, slots: int) -> Leases:
        """Start keeping leases for a worker with this many slots."""

    def info(self) -> BrokerInfo:
        """Kind, version and url, without secrets."""


__all__ = [
    "CROWDED",
    "GONE",
    "MAX_COPIES",
    "NO_MESSAGES",
    "RECONNECTED",
    "Broker",
    "BrokerInfo",
    "BrokerQueue",
    "Consumer",
    "ControlCallback",
    "Delivery",
    "DeliveryCallback",
    "LaneDepth",
    "Leases",
    "MessageCallback",
    "QueueDepth",
    "QueueSettings",
    "StatusCallback",
    "Stored",
    "StoredMessage",
    "Subscription",
    "WorkerFacts",
    "WrongSequence",
]
