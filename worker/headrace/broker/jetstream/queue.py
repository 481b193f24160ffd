"""One queue on JetStream: the port's `BrokerQueue`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import (
    REQUEST_TIMEOUT,
    ApiError,
    NatsConnection,
    unavailable,
)
from headrace.broker.jetstream.consume import JetStreamConsumer
from headrace.broker.jetstream.presence import announce, ask_workers
from headrace.broker.jetstream.publisher import Publisher
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
    Subscription,
    WorkerFacts,
    WrongSequence,
)
from headrace.errors import BrokerError, BrokerUnavailable, PayloadTooLarge, QueueFull
from headrace.wire import DEAD_TTL, Lane, QueueNames, lane_of_consumer

_WRONG_SEQUENCE = (10071, 10164)
_FULL = 10077
_NO_MESSAGE = 10037
_MSG_ID = "Nats-Msg-Id"
_HEADER_OVERHEAD = 16  # "NATS/1.0\r\n", "\r\n" and the rounding of lengths


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
        self._clustered = settings.replicas > 1

    # --- making ---

    async def ensure(self) -> None:
        """Make the work and state streams; *later* is made when first needed."""
        wanted = streams.work_config(self.names, self.settings)
        found = await streams.ensure_stream(self._connection, wanted)
        if streams.raised(found, self.settings):
            await streams.update_stream(self._connection, found)
        self._clustered = found.get("num_replicas", 1) > 1
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

    def forget_lane(self, lane: Lane) -> None:
        """Its consumer may be gone: look again before it is used."""
        self._lanes.discard(lane)

    async def _ensure_later(self) -> None:
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

    async def put_soon(
        self, lane: Lane, task_id: str, body: bytes, msg_id: str, traceparent: str | None = None
    ) -> Awaitable[Stored]:
        """Send a task to its lane."""
        if lane not in self._lanes:
            await self._ensure_lane(lane)
        headers = {_MSG_ID: msg_id}
        if traceparent:
            headers["traceparent"] = traceparent
        subject = self.names.task(lane, task_id)
        self._check_size("a task", subject, body, headers)
        answer = await self._publisher.send(subject, body, headers)
        return self._stored(answer)

    async def _stored(self, answer: Awaitable[tuple[int, bool]]) -> Stored:
        try:
            return Stored(*await answer)
        except ApiError as error:
            raise self._refused(error) from None

    def _refused(self, error: ApiError) -> BrokerError | QueueFull:
        if error.code == _FULL:
            return QueueFull(self.names.queue, self.settings.max_size)
        return BrokerError(f"JetStream refused the message: {error.text} ({error.code})")

    def _check_size(self, what: str, subject: str, body: bytes, headers: dict[str, str]) -> None:
        size = len(body) + _HEADER_OVERHEAD
        for name, value in headers.items():
            size += len(name) + len(value) + 4
        if size > self._connection.nc.max_payload:
            raise PayloadTooLarge(what, size, self._connection.nc.max_payload)

    async def schedule(
        self, lane: Lane, task_id: str, body: bytes, at: float, msg_id: str
    ) -> Stored:
        """Store a schedule that fires the task into its lane."""
        if not self._later_ready:
            await self._ensure_later()
        if lane not in self._lanes:
            await self._ensure_lane(lane)
        when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        headers = {
            _MSG_ID: msg_id,
            "Nats-Schedule": f"@at {when.replace('+00:00', 'Z')}",
            "Nats-Schedule-Target": f"{self.names.due}{lane.tokens}.{task_id}",
        }
        subject = self.names.later + task_id
        self._check_size("a task", subject, body, headers)
        answer = await self._publisher.send(subject, body, headers)
        return await self._stored(answer)

    async def find(self, task_id: str, lane: Lane | None = None) -> StoredMessage | None:
        """The task's message in the work stream."""
        subject = self.names.task(lane, task_id) if lane else self.names.any_lane(task_id)
        return await self._last(self.names.work_stream, subject)

    async def find_scheduled(self, task_id: str) -> StoredMessage | None:
        """The task's schedule, or its due copy on the way to the work stream."""
        if not self._later_ready:
            # Somebody else may have made *later* since.
            try:
                await self._connection.api(f"STREAM.INFO.{self.names.later_stream}")
            except ApiError:
                return None
            await self._ensure_later()
        for subject in (self.names.later + task_id, f"{self.names.due}*.*.{task_id}"):
            found = await self._last(self.names.later_stream, subject)
            if found is not None:
                return found
        return None

    async def present(self, delivery: Delivery) -> bool:
        """Whether the message is still in the work stream."""
        return await self._get(self.names.work_stream, {"seq": delivery.seq}) is not None

    async def remove(self, task_id: str) -> None:
        """Purge the task's subjects."""
        await self._purge(self.names.work_stream, self.names.any_lane(task_id))
        if self._later_ready:
            await self._purge(self.names.later_stream, self.names.later + task_id)
            await self._purge(self.names.later_stream, f"{self.names.due}*.*.{task_id}")

    async def _purge(self, stream: str, subject: str) -> int:
        try:
            answer = await self._connection.api(f"STREAM.PURGE.{stream}", {"filter": subject})
        except ApiError as error:
            raise streams.refused(f"a purge of {stream}", error) from error
        return int(answer.get("purged", 0))

    async def delivered_up_to(self, lane: Lane) -> int:
        """The consumer's position."""
        call = f"CONSUMER.INFO.{self.names.work_stream}.{lane.consumer}"
        try:
            answer = await self._connection.api(call)
        except ApiError:
            return 0  # no consumer yet: nothing was delivered
        return int(answer["delivered"]["stream_seq"])

    # --- records ---

    async def read_record(self, task_id: str) -> StoredMessage | None:
        """The task's record."""
        return await self._last(self.names.state_stream, self.names.state + task_id)

    async def write_record(self, task_id: str, body: bytes, expected: int, ttl: float) -> int:
        """Write the record, if the last one is the expected one."""
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "Nats-TTL": str(max(1, round(ttl))),
        }
        subject = self.names.state + task_id
        self._check_size("a result", subject, body, headers)
        answer = await self._publisher.send(subject, body, headers)
        try:
            return (await answer)[0]
        except ApiError as error:
            if error.code in _WRONG_SEQUENCE:
                raise WrongSequence from None
            raise self._refused(error) from None

    async def read_dead(self, task_id: str) -> StoredMessage | None:
        """The dead letter with this id."""
        return await self._last(self.names.state_stream, self.names.dead + task_id)

    async def write_dead(self, task_id: str, body: bytes) -> None:
        """Store a dead letter."""
        headers = {"Nats-TTL": str(int(DEAD_TTL))}
        subject = self.names.dead + task_id
        self._check_size("a dead letter", subject, body, headers)
        answer = await self._publisher.send(subject, body, headers)
        try:
            await answer
        except ApiError as error:
            raise self._refused(error) from None

    async def remove_dead(self, task_id: str) -> bool:
        """Drop a dead letter."""
        return await self._purge(self.names.state_stream, self.names.dead + task_id) > 0

    async def list_dead(self, limit: int) -> list[StoredMessage]:
        """Dead letters in the order of their sequence."""
        found: list[StoredMessage] = []
        seq = 1
        while len(found) < limit:
            query = {"seq": seq, "next_by_subj": self.names.dead + "*"}
            message = await self._get(self.names.state_stream, query)
            if message is None:
                break
            found.append(message)
            seq = message.seq + 1
        return found

    # --- reading streams ---

    async def _last(self, stream: str, subject: str) -> StoredMessage | None:
        return await self._get(stream, {"last_by_subj": subject})

    async def _get(self, stream: str, query: dict[str, Any]) -> StoredMessage | None:
        """One message. A follower may answer a direct get with what was true a moment ago, so
        with replicas the leader is asked."""
        if self._clustered:
            return await self._get_from_leader(stream, query)
        deadline = asyncio.get_running_loop().time() + REQUEST_TIMEOUT
        body, pause = json.dumps(query).encode(), 0.05
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            msg = await self._connection.request(
                f"$JS.API.DIRECT.GET.{stream}", body, min(left, 3.0)
            )
            if msg is None:
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
                continue
            headers = msg.headers or {}
            if "Nats-Subject" not in headers:
                return None  # 404
            stored = datetime.fromisoformat(_micros(headers["Nats-Time-Stamp"])).timestamp()
            return StoredMessage(
                headers["Nats-Subject"], msg.data, int(headers["Nats-Sequence"]), stored
            )
        raise BrokerUnavailable(f"stream {stream} did not answer within {REQUEST_TIMEOUT:g} s")

    async def _get_from_leader(self, stream: str, query: dict[str, Any]) -> StoredMessage | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{stream}", query)
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise streams.refused(f"a read of {stream}", error) from error
        message = answer["message"]
        return StoredMessage(
            message["subject"],
            base64.b64decode(message.get("data", "")),
            message["seq"],
            datetime.fromisoformat(_micros(message["time"])).timestamp(),
        )

    # --- consuming ---

    async def consumer(
        self, lanes: Sequence[Lane], deliver: DeliveryCallback, status: StatusCallback
    ) -> JetStreamConsumer:
        """Receive tasks of these lanes."""
        await self.ensure_lanes(lanes)
        consumer = JetStreamConsumer(self._connection, self.names, lanes, deliver, status)
        await consumer.start()
        return consumer

    async def ack(self, delivery: Delivery) -> None:
        """Settled."""
        await self._settle(delivery, b"+ACK")

    async def nak(self, delivery: Delivery) -> None:
        """Handed back."""
        await self._settle(delivery, b"-NAK")

    async def _settle(self, delivery: Delivery, verb: bytes) -> None:
        try:
            await self._connection.publish(delivery.token, verb)
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
        except OSError as error:
            raise unavailable("the worker was not announced", error) from error

    async def workers(self, expect: int | None = None) -> list[dict[str, Any]]:
        """Ask who is there."""
        return await ask_workers(self._connection, self.names, expect)

    async def depth(self) -> QueueDepth:
        """Counts from the consumers' leaders."""
        names = self.names
        rows = await streams.list_consumers(self._connection, names.work_stream)
        lanes = [
            LaneDepth(lane, row["num_pending"], row["num_ack_pending"], row["num_waiting"])
            for row in rows
            if (lane := lane_of_consumer(row["name"])) is not None
        ]
        try:
            work = await self._connection.api(f"STREAM.INFO.{names.work_stream}")
            state = await self._connection.api(
                f"STREAM.INFO.{names.state_stream}", {"subjects_filter": names.dead + "*"}
            )
        except ApiError as error:
            raise streams.refused(f"queue {names.queue}", error) from error
        return QueueDepth(
            lanes=tuple(sorted(lanes, key=_from_the_top)),
            messages=work["state"]["messages"],
            delayed=await self._delayed(work),
            dead=len(state["state"].get("subjects") or {}),
            max_size=work["config"]["max_msgs"],
            bytes=work["state"]["bytes"],
        )

    async def _delayed(self, work: dict[str, Any]) -> int:
        if not work["config"].get("sources"):
            return 0
        try:
            later = await self._connection.api(f"STREAM.INFO.{self.names.later_stream}")
        except ApiError as error:
            raise streams.refused(f"queue {self.names.queue}", error) from error
        return int(later["state"]["messages"])


def _from_the_top(depth: LaneDepth) -> tuple[int, str]:
    return -depth.lane.priority, depth.lane.tag or ""


def _micros(stamp: str) -> str:
    """An RFC 3339 time with nanoseconds, cut to what `datetime` reads."""
    head, dot, tail = stamp.removesuffix("Z").partition(".")
    return f"{head}.{tail[:6]:0<6}+00:00" if dot else f"{head}+00:00"
