"""One queue on JetStream: the port's `BrokerQueue`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.acks import HeldAcks
from headrace.broker.jetstream.blobs import JetStreamBlobs
from headrace.broker.jetstream.connection import (
    ApiError,
    NatsConnection,
    unavailable,
)
from headrace.broker.jetstream.consume import JetStreamConsumer
from headrace.broker.jetstream.depth import read_depth
from headrace.broker.jetstream.due_copies import DueCopies
from headrace.broker.jetstream.lasting_client import header_block
from headrace.broker.jetstream.presence import announce, ask_workers
from headrace.broker.jetstream.publisher import Publisher
from headrace.broker.jetstream.reader import StreamReader
from headrace.broker.port import (
    ControlCallback,
    Delivery,
    DeliveryCallback,
    QueueDepth,
    QueueSettings,
    StatusCallback,
    Stored,
    StoredMessage,
    Subscription,
    WorkerFacts,
    WrongSequence,
)
from headrace.errors import AccessDenied, BrokerError, BrokerUnavailable, QueueFull
from headrace.wire import DEAD_TTL, Lane, QueueNames, tick_id

log = logging.getLogger("headrace.broker")

_WRONG_SEQUENCE = (10071, 10164)
_FULL = 10077
_LEASES_KEPT = 2  # leases that a record should outlive for its acknowledgement to be held
_MSG_ID = "Nats-Msg-Id"
_RECORD_HEADERS = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nNats-TTL: %d\r\n\r\n"


class JetStreamQueue:
    """A queue's three streams."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: Publisher,
        name: str,
        settings: QueueSettings,
        version: str,
    ) -> None:
        self.names = QueueNames(name)
        self.settings = settings
        self._connection = connection
        self._publisher = publisher
        self._version = version
        self._lanes: set[Lane] = set()
        self._later_ready = False
        self._later_lock = asyncio.Lock()
        self._reader = StreamReader(connection, clustered=settings.replicas > 1)
        self._max_size = settings.max_size
        self.blobs = JetStreamBlobs(connection, publisher, self.names, settings.max_blob_bytes)
        self._acks = HeldAcks(lambda delivery: self._settle(delivery, b"+ACK"))

    @property
    def replicated(self) -> bool:
        """As the work stream is."""
        return self._reader.clustered

    async def close(self) -> None:
        """Send what is held back; the connection is about to end."""
        await self._acks.release()

    # --- making ---

    async def ensure(self) -> None:
        """Make the work and state streams; *later* is made when first needed."""
        wanted = streams.work_config(self.names, self.settings)
        found = await streams.ensure_stream(self._connection, wanted)
        limit = found.get("max_msgs", -1)
        if streams.raised(found, self.settings):
            try:
                await streams.update_stream(self._connection, found)
            except AccessDenied as error:
                found["max_msgs"] = limit
                log.info("queue %s keeps its limit of %d: %s", self.names.queue, limit, error)
        self.blobs.replicas = found.get("num_replicas", 1)
        self._reader.clustered = self.blobs.replicas > 1
        self._max_size = found.get("max_msgs", self.settings.max_size)
        self._later_ready = bool(found.get("sources"))
        await streams.ensure_stream(
            self._connection, streams.state_config(self.names, self._like(found))
        )

    def _like(self, found: dict[str, Any]) -> QueueSettings:
        """Settings for the further streams: the replicas that the work stream really has."""
        return QueueSettings(
            max_size=self.settings.max_size,
            ack_wait=self.settings.ack_wait,
            dedupe_window=self.settings.dedupe_window,
            replicas=found.get("num_replicas", 1),
        )

    async def ensure_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make the lanes' consumers, or raise their `max_ack_pending`."""
        for lane in lanes:
            if lane not in self._lanes:
                await self._ensure_lane(lane)

    async def _ensure_lane(self, lane: Lane) -> None:
        wanted = streams.lane_consumer(self.names, lane, self.settings)
        stream = self.names.work_stream
        found = await streams.ensure_consumer(self._connection, stream, wanted)
        if found.get("max_ack_pending", 0) < self.settings.max_ack_pending:
            raised = found | {"max_ack_pending": self.settings.max_ack_pending}
            await streams.put_consumer(self._connection, stream, raised, "update")
        self._lanes.add(lane)

    async def _lane_to_put(self, lane: Lane) -> None:
        """Make the lane's consumer, if we may: a producer need not, the lane's workers do."""
        if lane in self._lanes:
            return
        create = f"$JS.API.CONSUMER.DURABLE.CREATE.{self.names.work_stream}"
        self._connection.rights.may_lack(f"{create}.{lane.consumer}")
        try:
            await self._ensure_lane(lane)
        except AccessDenied as error:
            log.debug("the consumer of %s is left to its workers: %s", lane.consumer, error)
            self._lanes.add(lane)

    async def restore_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make the lanes' consumers again, if somebody deleted them."""
        self._lanes.difference_update(lanes)
        await self.ensure_lanes(lanes)

    async def ensure_later(self) -> None:
        """Make *later*, and let the work stream source it."""
        async with self._later_lock:
            if self._later_ready:
                return
            names, connection = self.names, self._connection
            answer = await connection.api(f"STREAM.INFO.{names.work_stream}")
            work = answer["config"]
            later = streams.later_config(names, self._like(work))
            await streams.ensure_stream(connection, later)
            await streams.ensure_consumer(
                connection, names.later_stream, streams.later_consumer(names)
            )
            if not work.get("sources"):
                await streams.update_stream(
                    connection, work | {"sources": [streams.later_source(names)]}
                )
            self._later_ready = True

    # --- tasks ---

    def now(self) -> float:
        """The server's time."""
        return self._connection.clock.now()

    async def put_soon(
        self, lane: Lane, task_id: str, body: bytes, msg_id: str, traceparent: str | None = None
    ) -> Awaitable[Stored]:
        """Send a task to its lane."""
        if lane not in self._lanes:
            await self._lane_to_put(lane)
        named = {_MSG_ID: msg_id}
        if traceparent:
            named["traceparent"] = traceparent
        headers = header_block(named)
        subject = self.names.task(lane, task_id)
        self._connection.check_size("a task", body, headers)
        return await self._publisher.send(subject, body, headers, self._refused)

    def _refused(self, error: ApiError) -> Exception:
        if error.code == _FULL:
            return QueueFull(self.names.queue, self._max_size)
        if error.code in _WRONG_SEQUENCE:
            return WrongSequence()
        return BrokerError(f"JetStream refused the message: {error.text} ({error.code})")

    async def schedule(
        self, lane: Lane, task_id: str, body: bytes, at: float, msg_id: str
    ) -> Stored:
        """Store a schedule that fires the task into its lane."""
        if not self._later_ready:
            await self.ensure_later()
        await self._lane_to_put(lane)
        when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        headers = header_block(
            {
                _MSG_ID: msg_id,
                "Nats-Schedule": f"@at {when.replace('+00:00', 'Z')}",
                "Nats-Schedule-Target": f"{self.names.due}{lane.tokens}.{task_id}",
            }
        )
        subject = self.names.later + task_id
        self._connection.check_size("a task", body, headers)
        return await (await self._publisher.send(subject, body, headers, self._refused))

    # --- schedules ---

    async def put_schedule(
        self, name: str, lane: Lane, body: bytes, ticks: str, expected: int
    ) -> int:
        """Store a message that the server copies into the lane at the times of `ticks`."""
        if not self._later_ready:
            await self.ensure_later()
        await self._ensure_cron()
        await self._lane_to_put(lane)
        headers = header_block(
            {
                "Nats-Schedule": ticks,
                "Nats-Schedule-Target": f"{self.names.due}{lane.tokens}.{tick_id(name)}",
                "Nats-Expected-Last-Subject-Sequence": str(expected),
            }
        )
        subject = self.names.schedule(name)
        self._connection.check_size("a schedule", body, headers)
        stored = await (await self._publisher.send(subject, body, headers, self._refused))
        return stored.seq

    async def _ensure_cron(self) -> None:
        """A *later* stream of before there were schedules lacks their subject."""
        stream, subject = self.names.later_stream, f"{self.names.cron}*"
        try:
            answer = await self._connection.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            raise streams.refused(f"stream {stream}", error) from error
        config = answer["config"]
        if subject not in config["subjects"]:
            config["subjects"].append(subject)
            await streams.update_stream(self._connection, config)

    async def read_schedule(self, name: str) -> StoredMessage | None:
        """The schedule's message."""
        if not await self._has_later():
            return None
        return await self._reader.last(self.names.later_stream, self.names.schedule(name))

    async def remove_schedule(self, name: str) -> bool:
        """Purge the schedule first, then what it has fired."""
        subject = self.names.schedule(name)
        found = await self._purge(self.names.later_stream, subject, optional=True) > 0
        await self.remove(tick_id(name))
        return found

    async def list_schedules(self) -> list[StoredMessage]:
        """The schedules in the order of their sequence."""
        if not await self._has_later():
            return []
        every = self.names.cron + "*"
        return await self._reader.all(self.names.later_stream, every)

    async def _has_later(self) -> bool:
        """Whether there is a *later* stream; somebody else may have made it since."""
        if self._later_ready:
            return True
        try:
            await self._connection.api(f"STREAM.INFO.{self.names.later_stream}")
        except ApiError as error:
            if error.code == streams.STREAM_NOT_FOUND:
                return False
            raise streams.refused(f"queue {self.names.queue}", error) from error
        return True

    # --- finding ---

    async def find(self, task_id: str, lane: Lane | None = None) -> StoredMessage | None:
        """The task's message in the work stream."""
        subject = self.names.task(lane, task_id) if lane else self.names.any_lane(task_id)
        return await self._reader.last(self.names.work_stream, subject)

    async def find_scheduled(self, task_id: str) -> StoredMessage | None:
        """The task's schedule, or its due copy on the way to the work stream."""
        if not await self._has_later():
            return None
        for subject in (self.names.later + task_id, f"{self.names.due}*.*.{task_id}"):
            found = await self._reader.last(self.names.later_stream, subject)
            if found is not None:
                return found
        return None

    async def present(self, delivery: Delivery) -> bool:
        """Whether the message is still in the work stream."""
        return await self._reader.get(self.names.work_stream, {"seq": delivery.seq}) is not None

    async def remove(self, task_id: str) -> None:
        """Purge the task's subjects."""
        await self._purge(self.names.work_stream, self.names.any_lane(task_id))
        # Somebody else may have made *later* since: asked for also where it was not seen.
        await self._purge(self.names.later_stream, self.names.later + task_id, optional=True)
        await self._purge(self.names.later_stream, f"{self.names.due}*.*.{task_id}", optional=True)

    async def _purge(
        self, stream: str, subject: str, *, optional: bool = False, seq: int | None = None
    ) -> int:
        """Purge a subject, with `seq` up to that message; how many there were."""
        try:
            return await streams.purge(self._connection, stream, subject, seq)
        except streams.StreamMissing:
            if optional:
                return 0
            raise

    async def delivered_up_to(self, lane: Lane) -> int:
        """The consumer's position."""
        call = f"CONSUMER.INFO.{self.names.work_stream}.{lane.consumer}"
        try:
            answer = await self._connection.api(call)
        except ApiError as error:
            if error.code == streams.CONSUMER_NOT_FOUND:
                return 0  # nothing was delivered
            raise streams.refused(f"queue {self.names.queue}", error) from error
        return int(answer["delivered"]["stream_seq"])

    # --- records ---

    async def read_record(self, task_id: str) -> StoredMessage | None:
        """The task's record."""
        return await self._reader.last(self.names.state_stream, self.names.state + task_id)

    async def write_record(self, task_id: str, body: bytes, expected: int, ttl: float) -> int:
        """Write the record, if the last one is the expected one."""
        headers = _RECORD_HEADERS % (expected, max(1, round(ttl)))
        subject = self.names.state + task_id
        self._connection.check_size("a result", body, headers)
        stored = await (await self._publisher.send(subject, body, headers, self._refused))
        return stored.seq

    async def read_dead(self, task_id: str) -> StoredMessage | None:
        """The dead letter with this id."""
        return await self._reader.last(self.names.state_stream, self.names.dead + task_id)

    async def write_dead(self, task_id: str, body: bytes) -> None:
        """Store a dead letter."""
        headers = header_block({"Nats-TTL": str(int(DEAD_TTL))})
        subject = self.names.dead + task_id
        self._connection.check_size("a dead letter", body, headers)
        await (await self._publisher.send(subject, body, headers, self._refused))

    async def remove_dead(self, task_id: str, seq: int | None = None) -> bool:
        """Drop a dead letter, with `seq` none that is newer; whether there was one."""
        return await self._purge(self.names.state_stream, self.names.dead + task_id, seq=seq) > 0

    async def list_dead(self, limit: int) -> list[StoredMessage]:
        """Dead letters in the order of their sequence."""
        every = self.names.dead + "*"
        return await self._reader.all(self.names.state_stream, every, limit)

    # --- consuming ---

    async def consumer(
        self, lanes: Sequence[Lane], deliver: DeliveryCallback, status: StatusCallback
    ) -> JetStreamConsumer:
        """Receive tasks of these lanes."""
        await self.ensure_lanes(lanes)
        due_copies = DueCopies(self._connection, self, self._reader)
        consumer = JetStreamConsumer(
            self._connection, self.names, lanes, deliver, status, due_copies
        )
        await consumer.start()
        return consumer

    async def ack(self, delivery: Delivery, kept: float = math.inf) -> None:
        """Settled."""
        if kept < _LEASES_KEPT * self.settings.ack_wait:
            await self._settle(delivery, b"+ACK")
        else:
            await self._acks.ack(delivery)

    async def nak(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Handed back."""
        verb = b'-NAK {"delay":%d}' % round(delay * 1e9) if delay > 0 else b"-NAK"
        await self._settle(delivery, verb)

    async def _settle(self, delivery: Delivery, verb: bytes) -> None:
        try:
            self._connection.send_now(delivery.token, "", b"", verb)
        except BrokerUnavailable:
            pass  # the lease ends by itself, and the record is looked at before another start

    # --- who is there, and how much ---

    async def announce(
        self, worker_id: str, facts: WorkerFacts, control: Mapping[str, ControlCallback]
    ) -> Subscription:
        """Be seen by `workers()`."""
        try:
            return await announce(
                self._connection, self.names, worker_id, self._version, facts, control
            )
        except BrokerError:
            raise
        except OSError as error:
            raise unavailable("the worker was not announced", error) from error

    async def workers(self, expect: int | None = None) -> list[dict[str, Any]]:
        """Ask who is there."""
        return await ask_workers(self._connection, self.names, expect)

    async def depth(self) -> QueueDepth:
        """Counts from the consumers' leaders."""
        return await read_depth(self._connection, self.names)
