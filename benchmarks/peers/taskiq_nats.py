"""taskiq on JetStream: pull consumer with batches, one worker process, results kept durably.

With a batch above one a lone task waits until the batch is full, so latency is measured with one.
taskiq-nats keeps results in a NATS object store (three requests each); taskiq's Redis results are
faster, so the comparison uses those, with the tasks on JetStream.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from redis.asyncio import Redis
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker
from taskiq_redis import RedisAsyncResultBackend

from benchmarks.peers.common import (
    NATS,
    ONE_BY_ONE,
    PROCESSES,
    REDIS,
    Peer,
    become,
    main,
    mark_first,
    option,
)

RESULTS = option("results", "redis")
_AT_ONCE = 500

broker = PullBasedJetStreamBroker(
    NATS,
    stream_name="bench",
    pull_consume_batch=option("batch", 1 if ONE_BY_ONE else 100),
    stream_config=StreamConfig(
        name="bench", subjects=["taskiq_tasks"], retention=RetentionPolicy.WORK_QUEUE
    ),
    consumer_config=ConsumerConfig(durable_name="taskiq_durable", max_ack_pending=10_000),
)
if RESULTS == "redis":
    broker = broker.with_result_backend(RedisAsyncResultBackend(f"{REDIS}/1"))
else:
    broker = broker.with_result_backend(NATSObjectStoreResultBackend(NATS))


@broker.task(task_name="noop")
async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class TaskiqPeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.redis = Redis.from_url(f"{REDIS}/1")

    async def open(self) -> None:
        """Connect."""
        await broker.startup()

    async def submit_one(self, values: range) -> None:
        """`kiq`, which waits for JetStream's acknowledgement."""
        for value in values:
            self.tasks.append(await noop.kiq(value))

    async def submit_bulk(self, values: range) -> None:
        """It has no bulk call: as many `kiq` at once as helps."""
        for start in range(values.start, values.stop, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, values.stop))
            self.tasks += await asyncio.gather(*(noop.kiq(value) for value in some))

    async def stored(self) -> int:
        """Keys of the result database, or objects (two messages each)."""
        if RESULTS == "redis":
            return int(await self.redis.dbsize())
        info = await broker.js.stream_info("OBJ_taskiq_results")
        return info.state.messages // 2

    async def results(self) -> list[Any]:
        """Each by its task."""
        return [(await task.get_result()).return_value for task in self.tasks]

    async def once(self, value: int) -> Any:
        """`wait_result`, which polls."""
        task = await noop.kiq(value)
        return (await task.wait_result(check_interval=0.0005, timeout=10)).return_value


def work() -> None:
    """The worker; it takes uvloop by itself."""
    become(
        *("taskiq", "worker", "benchmarks.peers.taskiq_nats:broker"),
        *("--workers", str(PROCESSES)),
        *("--max-async-tasks", str(option("max_async_tasks", 128))),
        *("--max-prefetch", str(option("max_prefetch", 100)), "--log-level", "ERROR"),
    )


if __name__ == "__main__":
    main(TaskiqPeer, work)
