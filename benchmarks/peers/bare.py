"""The bare loop: nats-py, the durability of a Headrace task, and nothing else.

Publish to a work-queue stream; pull for the free slots; decode; run; write the result's record,
expecting none before it; await its acknowledgement; acknowledge the task; tell who waits. No
priorities, leases, retries, timeouts, cancelling or dead letters: the limit of this server and this
client, which Headrace is held against.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import nats.errors
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext

from benchmarks.peers.common import NATS, SLOTS, Peer, main, mark_first

_AT_ONCE = 4_000  # what nats-py keeps under way by default
_FENCE = {"Nats-Expected-Last-Subject-Sequence": "0"}


async def _make(js: JetStreamContext) -> None:
    await js.add_stream(
        StreamConfig(name="work", subjects=["work.*"], retention=RetentionPolicy.WORK_QUEUE)
    )
    await js.add_stream(
        StreamConfig(name="state", subjects=["state.*"], max_msgs_per_subject=1, allow_direct=True)
    )
    await js.add_consumer(
        "work",
        ConsumerConfig(
            durable_name="worker", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000
        ),
    )


class BarePeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self.nc: Client
        self.js: JetStreamContext
        self.inbox = ""

    async def open(self) -> None:
        """Connect, make the streams."""
        self.nc = await nats.connect(NATS)
        self.js = self.nc.jetstream(publish_async_max_pending=_AT_ONCE)
        await _make(self.js)
        self.inbox = self.nc.new_inbox()
        await self.nc.subscribe(self.inbox, cb=self._receive)

    async def _receive(self, msg: Msg) -> None:
        answer = json.loads(msg.data)
        self.waiting.pop(answer["id"]).set_result(answer["result"])

    def _task(self, reply: str = "") -> tuple[str, bytes, dict[str, str]]:
        number = self.count
        self.count += 1
        body = json.dumps({"id": str(number), "data": number, "reply": reply}).encode()
        return f"work.{number}", body, {"Nats-Msg-Id": str(number)}

    async def submit_one(self, values: range) -> None:
        """`publish`, each acknowledged."""
        for _ in values:
            subject, body, headers = self._task()
            await self.js.publish(subject, body, headers=headers)

    async def submit_bulk(self, values: range) -> None:
        """`publish_async`, all acknowledged in the end."""
        answers = []
        for _ in values:
            subject, body, headers = self._task()
            answers.append(await self.js.publish_async(subject, body, headers=headers))
        await asyncio.gather(*answers)

    async def stored(self) -> int:
        """Messages of the state stream."""
        return (await self.js.stream_info("state")).state.messages

    async def results(self) -> list[Any]:
        """All of the state stream, in the order of the ids."""
        records = [json.loads(body) for body in await read_all(self.js, "state")]
        by_id = {record["id"]: record["result"] for record in records}
        return [by_id.get(str(number)) for number in range(self.count)]

    async def once(self, value: int) -> Any:
        """Publish; the worker replies after the record is stored."""
        subject, body, headers = self._task(self.inbox)
        number = str(self.count - 1)
        future = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        await self.js.publish(subject, body, headers=headers)
        return await future - int(number) + value


async def read_all(js: JetStreamContext, stream: str) -> list[bytes]:
    """Bodies of all messages of a stream."""
    left = (await js.stream_info(stream)).state.messages
    subscription = await js.pull_subscribe(
        "", stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )
    bodies: list[bytes] = []
    while len(bodies) < left:
        bodies += [msg.data for msg in await subscription.fetch(1000, timeout=5)]
    await subscription.unsubscribe()
    return bodies


class Loop:
    """The worker."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.js = nc.jetstream()
        self.free = SLOTS
        self.freed = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is ended."""
        pull = await self.js.pull_subscribe_bind("worker", "work")
        while True:
            if not self.free:
                self.freed.clear()
                await self.freed.wait()
                await asyncio.sleep(0)  # let the others of this turn end: fewer, larger pulls
            try:
                msgs = await pull.fetch(self.free, timeout=30)
            except nats.errors.TimeoutError:
                continue
            self.free -= len(msgs)
            for msg in msgs:
                task = asyncio.create_task(self.one(msg))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def one(self, msg: Msg) -> None:
        """One task."""
        task = json.loads(msg.data)
        result = await noop(task["data"])
        record = json.dumps({"id": task["id"], "status": "completed", "result": result}).encode()
        await (await self.js.publish_async(f"state.{task['id']}", record, headers=dict(_FENCE)))
        await self.nc.publish(msg.reply, b"+ACK")
        if task["reply"]:
            await self.nc.publish(task["reply"], record)
        self.free += 1
        self.freed.set()


async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


async def _work() -> None:
    await Loop(await nats.connect(NATS)).run()


def work() -> None:
    """The worker."""
    uvloop.run(_work())


if __name__ == "__main__":
    main(BarePeer, work)
