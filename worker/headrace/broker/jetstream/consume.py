"""Pulls from the lanes of a queue into two callbacks.

Parked pulls and pulls without wait have a subscription each, so that a delivery tells which it
answers. Neither is ever closed while a pull is open: what is under way to a closed inbox waits a
whole `ack_wait` (551 of 6,000 tasks on a cluster of three; docs/adr/0004).
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from headrace.broker.jetstream.connection import NatsConnection
from headrace.broker.port import (
    GONE,
    NO_MESSAGES,
    RECONNECTED,
    Delivery,
    DeliveryCallback,
    StatusCallback,
)
from headrace.wire import Lane, QueueNames

_SOURCED = "Nats-Stream-Source"


class JetStreamConsumer:
    """Pulls tasks of several lanes over one connection."""

    def __init__(
        self,
        connection: NatsConnection,
        names: QueueNames,
        lanes: Sequence[Lane],
        deliver: DeliveryCallback,
        status: StatusCallback,
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

    async def start(self) -> None:
        """Subscribe to the answers."""
        for kind, parked in (("p", True), ("n", False)):
            subscription = await self._connection.subscribe(
                f"{self.inbox}.{kind}.*", self._receiver(parked)
            )
            self._subscriptions.append(subscription)
        await self._connection.flush()
        self._connection.on_reconnect.append(self._reconnected)

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

    def _receiver(self, parked: bool) -> Callable[[Msg], Awaitable[None]]:
        deliver, status, index = self._deliver, self._status, self._index

        async def receive(msg: Msg) -> None:
            reply = msg.reply
            if not reply:
                lane = int(msg.subject.rpartition(".")[2])
                code = (msg.headers or {}).get("Status", "")
                if code == "404" or (code == "408" and not parked):
                    status(lane, parked, NO_MESSAGES)
                elif code != "100":
                    status(lane, parked, GONE)
                return
            # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>,
            # or with domain and account before the stream and a token behind
            tokens = reply.split(".")
            first = 2 if len(tokens) == 9 else 4
            lane = index[tokens[first + 1]]
            deliver(
                lane,
                Delivery(
                    self._lanes[lane],
                    msg.subject.rpartition(".")[2],
                    msg.subject,
                    msg.data,
                    int(tokens[first + 3]),
                    int(tokens[first + 5]) / 1e9,
                    int(tokens[first + 2]),
                    int(tokens[first + 6]),
                    msg.headers is not None and _SOURCED in msg.headers,
                    reply,
                    time.monotonic(),
                ),
                parked,
            )

        return receive
