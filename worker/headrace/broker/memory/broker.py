"""The port's `Broker` in memory."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Protocol, TypeVar

from headrace.broker.memory import world as worlds
from headrace.broker.memory.consumer import MemoryLeases
from headrace.broker.memory.core import CoreSubscription
from headrace.broker.memory.stored_queue import MemoryQueue
from headrace.broker.port import BrokerInfo, Leases, MessageCallback, QueueSettings
from headrace.errors import BrokerUnavailable, PayloadTooLarge


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class MemoryBroker:
    """A broker that lives as long as somebody in this event loop uses it."""

    durable = False
    max_payload = 1_048_576  # the default of a NATS server

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._world: worlds.World | None = None
        self._queues: dict[str, MemoryQueue] = {}
        self._open: set[_Closable] = set()

    # --- what the parts of this package use ---

    @property
    def world(self) -> worlds.World:
        """What it shares. Raises `BrokerUnavailable` while not connected."""
        if self._world is None:
            raise BrokerUnavailable("the broker is not connected")
        return self._world

    def keep(self, part: T) -> T:
        """Close this part when the broker closes."""
        self._open.add(part)
        return part

    def forget(self, part: _Closable) -> None:
        """This part was closed."""
        self._open.discard(part)

    # --- the port ---

    async def connect(self) -> None:
        """Join the running event loop's brokers of this name."""
        if self._world is None:
            self._world = worlds.enter(self._name)

    async def close(self) -> None:
        """End it: as when a connection ends, what it was given is redelivered to others."""
        world, self._world = self._world, None
        if world is None:
            return
        for part in list(self._open):
            await part.close()
        self._open.clear()
        worlds.leave(self._name, world)

    @property
    def connected(self) -> bool:
        """Whether it is connected just now."""
        return self._world is not None

    def queue(self, name: str, settings: QueueSettings | None = None) -> MemoryQueue:
        """A queue by name."""
        if settings is None and name in self._queues:
            return self._queues[name]
        queue = self._queues[name] = MemoryQueue(self, name, settings or QueueSettings())
        return queue

    async def queues(self) -> list[str]:
        """Names of the queues there are."""
        return sorted(self.world.queues)

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        if len(body) > self.max_payload:
            raise PayloadTooLarge("a message", len(body), self.max_payload)
        self.world.core.publish(subject, body, reply)

    async def subscribe(self, subject: str, callback: MessageCallback) -> CoreSubscription:
        """Receive core messages."""
        subscription = self.keep(self.world.core.subscribe(subject, callback))
        subscription.on_close = self.forget
        return subscription

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes | None:
        """One answer to a core message."""
        return await self.world.core.request(subject, body, timeout)

    async def flush(self) -> None:
        """Let those who listen take what was sent."""
        self.world  # noqa: B018  # raises if it is not connected
        await asyncio.sleep(0)

    async def leases(self, ack_wait: float, slots: int) -> Leases:
        """Keep leases in this process."""
        return self.keep(MemoryLeases(self.world, ack_wait, self.forget))

    def info(self) -> BrokerInfo:
        """Kind, version and url."""
        return BrokerInfo("memory", version("headrace"), f"memory://{self._name}")
