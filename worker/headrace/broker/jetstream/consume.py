"""Pulls from the lanes of a queue into two callbacks.

Parked pulls and pulls without wait have a subscription each, so that a delivery tells which it
answers. Neither is ever closed while a pull is open: what is under way to a closed inbox waits a
whole `ack_wait` (551 of 6,000 tasks on a cluster of three; docs/adr/0004).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

import nats.errors
from nats.aio.subscription import Subscription as NatsSubscription

from headrace.broker.jetstream.clock import epoch
from headrace.broker.jetstream.connection import NatsConnection
from headrace.broker.jetstream.due_copies import DueCopies
from headrace.broker.jetstream.parser import DirectCallback
from headrace.broker.port import (
    CROWDED,
    GONE,
    NO_MESSAGES,
    RECONNECTED,
    Delivery,
    DeliveryCallback,
    StatusCallback,
)
from headrace.wire import Lane, QueueNames

_SOURCED = b"\r\nNats-Stream-Source:"
_SOURCE = re.compile(_SOURCED + rb" *\S+ (\d+)")  # the stream and the sequence in it
_NEXT = re.compile(rb"\r\nNats-Schedule-Next: *([^\r]+)")
_STATUS = slice(9, 12)  # of a block such as "NATS/1.0 404 No Messages"


class JetStreamConsumer:
    """Pulls tasks of several lanes over one connection."""

    def __init__(
        self,
        connection: NatsConnection,
        names: QueueNames,
        lanes: Sequence[Lane],
        deliver: DeliveryCallback,
        status: StatusCallback,
        due_copies: DueCopies,
    ) -> None:
        self._connection = connection
        self._lanes = tuple(lanes)
        self._index = {lane.consumer: index for index, lane in enumerate(lanes)}
        self._deliver, self._status = deliver, status
        self._next = [
            f"$JS.API.CONSUMER.MSG.NEXT.{names.work_stream}.{lane.consumer}" for lane in lanes
        ]
        self.inbox = connection.nc.new_inbox()
        self._subscriptions: list[NatsSubscription] = []
        self._due_copies = due_copies

    async def start(self) -> None:
        """Subscribe to the answers."""
        for kind, parked in (("p", True), ("n", False)):
            subscription = await self._connection.subscribe_direct(
                f"{self.inbox}.{kind}.*", self._receiver(parked)
            )
            self._subscriptions.append(subscription)
        # A pull that is refused has no answer, and a worker would wait for ever: what is no pull
        # (the server answers 400, to nobody) tells whether one may ask.
        with self._connection.rights.needed(self._next):
            for subject in self._next:
                await self._connection.publish(subject, b"may I", f"{self.inbox}.may")
            await self._connection.flush()
        self._connection.on_reconnect.append(self._reconnected)
        self._due_copies.begin()

    async def pull(self, lane: int, batch: int) -> None:
        """Ask for what is there now."""
        await self._connection.publish(
            self._next[lane], b'{"batch":%d,"no_wait":true}' % batch, f"{self.inbox}.n.{lane}"
        )

    async def park(self, lane: int, expires: float) -> None:
        """Ask for one task, whenever it comes."""
        body = json.dumps({"batch": 1, "expires": int(expires * 1e9)}).encode()
        await self._connection.publish(self._next[lane], body, f"{self.inbox}.p.{lane}")

    async def flush(self) -> None:
        """Send what was asked for so far (nats-py's flusher does, at the next turn of the loop)."""

    async def close(self) -> None:
        """Stop receiving."""
        await self._due_copies.end()
        if self._reconnected in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._reconnected)
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError):
                pass  # the connection has ended, and the subscription with it
        self._subscriptions.clear()

    def _reconnected(self) -> None:
        self._status(-1, True, RECONNECTED)

    def _receiver(self, parked: bool) -> DirectCallback:
        deliver, status, index = self._deliver, self._status, self._index
        here = self._connection.clock.here

        def receive(subject: str, reply: str, body: bytes, headers: bytes) -> None:
            if not reply:
                lane = int(subject.rpartition(".")[2])
                code = headers[_STATUS]
                if code == b"404" or (code == b"408" and not parked):
                    status(lane, parked, NO_MESSAGES)
                elif code != b"100":
                    status(lane, parked, CROWDED if b"MaxWaiting" in headers else GONE)
                return
            # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>,
            # or with domain and account before the stream and a token behind
            tokens = reply.split(".")
            first = 2 if len(tokens) == 9 else 4
            lane = index[tokens[first + 1]]
            now = time.monotonic()
            sourced = _SOURCED in headers
            delivery = Delivery(
                self._lanes[lane],
                subject.rpartition(".")[2],
                subject,
                body,
                int(tokens[first + 3]),
                here(int(tokens[first + 5]) / 1e9, now),
                int(tokens[first + 2]),
                int(tokens[first + 6]),
                sourced,
                reply,
                now,
                _next_tick(headers) if sourced else None,
            )
            if sourced and (copy := _SOURCE.search(headers)):
                self._due_copies.arrived(delivery.lane, delivery.task_id, int(copy[1]))
            deliver(lane, delivery, parked)

        return receive


def _next_tick(headers: bytes) -> float | None:
    """When a schedule ticks next, if what was sourced is a tick; of a delayed task the server
    says `purge`. A client cannot say so: the server refuses it."""
    said = _NEXT.search(headers)
    return None if said is None or said[1] == b"purge" else epoch(said[1].decode())
