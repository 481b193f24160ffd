"""taskiq on a Redis stream with acknowledgements, results in Redis: one worker process.

`RedisStreamBroker` is the one of its brokers that does not lose what a dead worker had taken.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.common import PROCESSES, REDIS, Peer, become, main, mark_first, option

RESULTS = f"{REDIS}/1"  # a database of its own: its size is the number of results
_AT_ONCE = 50  # connections of the pipelined submit; 500 were five times slower

broker = RedisStreamBroker(
    f"{REDIS}/0",
    xread_count=option("xread_count", 10),
    max_connection_pool_size=option("connections", None),
).with_result_backend(RedisAsyncResultBackend(RESULTS))


@broker.task(task_name="noop")
async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class TaskiqRedisPeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.redis = Redis.from_url(RESULTS)

    async def open(self) -> None:
        """Connect."""
        await broker.startup()

    async def submit_one(self, values: range) -> None:
        """`kiq`, which waits for Redis."""
        for value in values:
            self.tasks.append(await noop.kiq(value))

    async def submit_bulk(self, values: range) -> None:
        """It has no bulk call: as many `kiq` at once as helps."""
        for start in range(values.start, values.stop, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, values.stop))
            self.tasks += await asyncio.gather(*(noop.kiq(value) for value in some))

    async def stored(self) -> int:
        """Keys of the result database."""
        return int(await self.redis.dbsize())

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
        *("taskiq", "worker", "benchmarks.peers.taskiq_redis:broker"),
        *("--workers", str(PROCESSES)),
        *("--max-async-tasks", str(option("max_async_tasks", 128))),
        *("--max-prefetch", str(option("max_prefetch", 100)), "--log-level", "ERROR"),
    )


if __name__ == "__main__":
    main(TaskiqRedisPeer, work)
