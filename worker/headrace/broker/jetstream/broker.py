"""The port's `Broker` on NATS."""

from __future__ import annotations

import inspect
from importlib.metadata import version as package_version
from weakref import WeakSet

from headrace.broker.jetstream import streams
from headrace.broker.jetstream.connection import (
    REQUEST_TIMEOUT,
    CoreSubscription,
    NatsConnection,
    adapt,
    adapt_direct,
)
from headrace.broker.jetstream.options import ConnectOptions, redact
from headrace.broker.jetstream.publisher import Publisher
from headrace.broker.jetstream.stored_queue import JetStreamQueue
from headrace.broker.port import BrokerInfo, Leases, MessageCallback, QueueSettings


class JetStreamBroker:
    """A connection to a NATS server or cluster with JetStream."""

    durable = True

    def __init__(
        self, url: str, name: str = "headrace", options: ConnectOptions | None = None
    ) -> None:
        """`options` are used in place of what the url and the environment say."""
        self._url = url
        self._options = options or ConnectOptions.from_url(url)
        self._connection = NatsConnection(self._options, name)
        self._publisher = Publisher(self._connection)
        self._queues: dict[str, JetStreamQueue] = {}
        self._made: WeakSet[JetStreamQueue] = WeakSet()
        self._version = package_version("headrace")

    async def connect(self) -> None:
        """Connect and check the server. Raises `BrokerError`."""
        await self._connection.connect()
        try:
            await self._connection.check_server()
            await self._publisher.start()
        except BaseException:
            await self._connection.close()
            raise

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message, as the server that it is connected to says."""
        return self._connection.nc.max_payload

    async def close(self) -> None:
        """End the connection."""
        await self._publisher.stop()
        for queue in list(self._made):
            await queue.close()
        await self._connection.close()

    @property
    def connected(self) -> bool:
        """Whether it is connected just now."""
        return bool(self._connection.nc.is_connected)

    def queue(self, name: str, settings: QueueSettings | None = None) -> JetStreamQueue:
        """A queue by name."""
        if settings is None and name in self._queues:
            return self._queues[name]
        queue = JetStreamQueue(
            self._connection, self._publisher, name, settings or QueueSettings(), self._version
        )
        self._queues[name] = queue
        self._made.add(queue)
        return queue

    async def queues(self) -> list[str]:
        """Names of the queues there are."""
        rows = await streams.list_streams(self._connection, "headrace.q.>")
        names = [row["config"]["name"].removeprefix("HEADRACE_") for row in rows]
        return sorted(names)

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        await self._connection.publish(subject, body, reply)

    async def subscribe(self, subject: str, callback: MessageCallback) -> CoreSubscription:
        """Receive core messages: by a plain function at once, by a coroutine in turn."""
        connection = self._connection
        if inspect.isroutine(callback) and not inspect.iscoroutinefunction(callback):
            return CoreSubscription(
                await connection.subscribe_direct(subject, adapt_direct(callback))
            )
        return CoreSubscription(await connection.subscribe(subject, adapt(callback)))

    async def request(
        self, subject: str, body: bytes, timeout: float = REQUEST_TIMEOUT
    ) -> bytes | None:
        """One answer to a core message."""
        msg = await self._connection.request(subject, body, timeout)
        return None if msg is None else msg.data

    async def flush(self) -> None:
        """Wait for the server."""
        await self._connection.flush()

    async def leases(self, ack_wait: float, slots: int) -> Leases:
        """Start the lease keeper."""
        from headrace.broker.jetstream.keeper.parent import KeeperLeases

        return await KeeperLeases.start(self._options, ack_wait, slots)

    def info(self) -> BrokerInfo:
        """The server's version and the url without secrets."""
        return BrokerInfo("nats", self._connection.server_version, redact(self._url))
