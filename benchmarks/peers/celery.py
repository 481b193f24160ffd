"""Celery on Redis, the pair that most of its users run.

Settings: prefork with one child a core; every event, gossip and heartbeat that costs time is off;
JSON; results in Redis.
"""

from __future__ import annotations

import json
from typing import Any

import redis
from celery import Celery
from celery.result import AsyncResult

from benchmarks.peers.common import PROCESSES, REDIS, Peer, become, main, mark_first, option

RESULTS = f"{REDIS}/1"  # a database of its own: its size is the number of results

app = Celery("bench", broker=f"{REDIS}/0", backend=RESULTS)
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    task_acks_late=option("acks_late", False),
    worker_prefetch_multiplier=option("prefetch", 64),
    worker_send_task_events=False,
    task_send_sent_event=False,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class CeleryPeer(Peer):
    """The producer."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.redis = redis.Redis.from_url(RESULTS)

    async def submit_one(self, values: range) -> None:
        """`delay`, which waits for Redis."""
        for value in values:
            self.ids.append(noop.delay(value).id)

    async def stored(self) -> int:
        """Keys of the result database."""
        return int(self.redis.dbsize())

    async def results(self) -> list[Any]:
        """The stored records, as Celery writes them."""
        found: list[Any] = []
        for start in range(0, len(self.ids), 1000):
            keys = [f"celery-task-meta-{each}" for each in self.ids[start : start + 1000]]
            for body in self.redis.mget(keys):
                record = json.loads(body) if body else {}
                found.append(record["result"] if record.get("status") == "SUCCESS" else None)
        return found

    async def once(self, value: int) -> Any:
        """`get`, woken by Redis publish/subscribe."""
        result: AsyncResult = noop.delay(value)
        return result.get(timeout=10)


def work() -> None:
    """The worker."""
    become(
        *("celery", "-A", "benchmarks.peers.celery:app", "worker", "--loglevel", "ERROR"),
        *("--pool", option("pool", "prefork")),
        *("--concurrency", str(option("concurrency", 2 * PROCESSES))),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *(["-O", option("optimize", "fair")]),
    )


if __name__ == "__main__":
    main(CeleryPeer, work)
