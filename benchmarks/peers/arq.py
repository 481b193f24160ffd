"""arq on Redis: one worker, uvloop, polling as often as it usefully can.

Its default of one look every 0.5 s would limit it to 200 tasks a second, which says nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job
from arq.worker import Worker

from benchmarks.peers.common import REDIS, Peer, main, mark_first, option

SETTINGS = RedisSettings.from_dsn(f"{REDIS}/0")
_AT_ONCE = 100  # connections of the pipelined submit


async def noop(_: dict[str, Any], value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class ArqPeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.redis: ArqRedis

    async def open(self) -> None:
        """Connect."""
        self.redis = await create_pool(SETTINGS)

    async def _enqueue(self, value: int) -> Job:
        job = await self.redis.enqueue_job("noop", value)
        assert job is not None
        return job

    async def submit_one(self, values: range) -> None:
        """`enqueue_job`."""
        for value in values:
            self.jobs.append(await self._enqueue(value))

    async def submit_bulk(self, values: range) -> None:
        """It has no bulk call: as many `enqueue_job` at once as helps."""
        for start in range(values.start, values.stop, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, values.stop))
            self.jobs += await asyncio.gather(*map(self._enqueue, some))

    async def stored(self) -> int:
        """A result is written by the transaction that takes its job off the queue."""
        return len(self.jobs) - int(await self.redis.zcard("arq:queue"))

    async def results(self) -> list[Any]:
        """Each by its job."""
        infos = [await job.result_info() for job in self.jobs]
        return [info.result if info and info.success else None for info in infos]

    async def once(self, value: int) -> Any:
        """`result`, which polls."""
        return await (await self._enqueue(value)).result(timeout=10, poll_delay=0.001)


def work() -> None:
    """The worker, as `arq.run_worker` makes it, on uvloop."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    Worker(
        functions=[noop],
        redis_settings=SETTINGS,
        max_jobs=option("max_jobs", 100),
        poll_delay=option("poll_delay", 0.001),
        log_results=False,
    ).run()


if __name__ == "__main__":
    main(ArqPeer, work)
