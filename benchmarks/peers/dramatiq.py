"""Dramatiq on Redis with results: one worker process with 16 threads.

A thread waits for Redis most of the time: 8, its default, give less, 32 and more give no more.
"""

from __future__ import annotations

from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.common import PROCESSES, REDIS, Peer, become, main, mark_first, option

RESULTS = f"{REDIS}/1"  # a database of its own: its size is the number of results

backend = RedisBackend(url=RESULTS)
broker = RedisBroker(url=f"{REDIS}/0")
broker.add_middleware(Results(backend=backend, store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class DramatiqPeer(Peer):
    """The producer."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.redis = redis.Redis.from_url(RESULTS)

    async def submit_one(self, values: range) -> None:
        """`send`, which waits for Redis."""
        for value in values:
            self.messages.append(noop.send(value))

    async def stored(self) -> int:
        """Keys of the result database."""
        return int(self.redis.dbsize())

    async def results(self) -> list[Any]:
        """Each by its message."""
        return [message.get_result(backend=backend) for message in self.messages]

    async def once(self, value: int) -> Any:
        """`get_result`, which blocks on Redis."""
        return noop.send(value).get_result(backend=backend, block=True, timeout=10_000)


def work() -> None:
    """The worker."""
    become(
        *("dramatiq", "benchmarks.peers.dramatiq", "--skip-logging"),
        *(
            "--processes",
            str(option("processes", PROCESSES)),
            "--threads",
            str(option("threads", 16)),
        ),
    )


if __name__ == "__main__":
    main(DramatiqPeer, work)
