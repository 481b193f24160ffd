"""FastStream on JetStream: a durable pull consumer, acknowledged after the handler. No task queue.

It is the floor of what a framework costs on this server: nothing is recorded, nobody can ask for a
result, there are no priorities, retries by time, or leases. A drain has ended when the work-queue
stream is empty; latency is that of a reply on a core subject, which is stored nowhere.
"""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import uvloop
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy

from benchmarks.peers.common import NATS, ONE_BY_ONE, Peer, main, mark_first, option

STREAM = JStream("bench", subjects=["work"], retention=RetentionPolicy.WORK_QUEUE)
_AT_ONCE = 500

broker = NatsBroker(NATS, logger=None)


@broker.subscriber(
    "work",
    durable="worker",
    stream=STREAM,
    pull_sub=PullSub(batch_size=1 if ONE_BY_ONE else option("batch", 100)),
    config=ConsumerConfig(max_ack_pending=10_000),
    max_workers=option("max_workers", 128),
    ack_policy=AckPolicy.ACK,
)
async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class FastStreamPeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.count = 0
        self.waiting: asyncio.Future[Any]
        self.nc: Client
        self.inbox = ""

    async def open(self) -> None:
        """Connect and make the stream, as the first worker would."""
        await broker.connect()
        self.nc = await nats.connect(NATS)
        await self.nc.jetstream().add_stream(
            name="bench", subjects=["work"], retention=RetentionPolicy.WORK_QUEUE
        )
        self.inbox = self.nc.new_inbox()
        await self.nc.subscribe(self.inbox, cb=self._receive)

    async def _receive(self, msg: Msg) -> None:
        self.waiting.set_result(int(msg.data))

    async def _publish(self, value: int, reply_to: str = "") -> None:
        await broker.publish(value, "work", stream="bench", reply_to=reply_to)
        self.count += 1

    async def submit_one(self, values: range) -> None:
        """`publish`, which waits for JetStream's acknowledgement."""
        for value in values:
            await self._publish(value)

    async def submit_bulk(self, values: range) -> None:
        """It has no bulk call: as many `publish` at once as helps."""
        for start in range(values.start, values.stop, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, values.stop))
            await asyncio.gather(*map(self._publish, some))

    async def stored(self) -> int:
        """What has left the work queue: acknowledged, not recorded."""
        info = await self.nc.jetstream().stream_info("bench")
        return self.count - int(info.state.messages)

    async def results(self) -> list[Any]:
        """There are none to compare; what can be checked is that nothing is left."""
        left = self.count - await self.stored()
        return [None] * left + list(range(left, self.count))

    async def once(self, value: int) -> Any:
        """Publish, and wait for what the handler's return value is published to."""
        self.waiting = asyncio.get_running_loop().create_future()
        await self._publish(value, self.inbox)
        return await self.waiting


def work() -> None:
    """The worker, as `faststream run` starts it."""
    uvloop.run(FastStream(broker, logger=None).run())


if __name__ == "__main__":
    main(FastStreamPeer, work)
