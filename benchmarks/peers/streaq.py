"""streaq on Redis: one worker, uvloop, 16 at once (its default; more give no more), bulk submit."""

from __future__ import annotations

from typing import Any

from streaq import Worker

from benchmarks.peers.common import REDIS, Peer, main, mark_first, option

worker = Worker(
    redis_url=f"{REDIS}/0",
    concurrency=option("concurrency", 16),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(silent=True)
async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


class StreaqPeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    async def open(self) -> None:
        """Connect."""
        await worker.__aenter__()

    async def submit_one(self, values: range) -> None:
        """`enqueue`."""
        for value in values:
            self.tasks.append(await noop.enqueue(value))

    async def submit_bulk(self, values: range) -> None:
        """`enqueue_many`, a thousand in one Redis pipeline."""
        for start in range(values.start, values.stop, 1000):
            some = [noop.enqueue(v) for v in range(start, min(start + 1000, values.stop))]
            await worker.enqueue_many(some)
            self.tasks += some

    async def stored(self) -> int:
        """The index of results, written by the transaction that writes the result."""
        return int(await worker.redis.zcard("streaq:default:index:results"))

    async def results(self) -> list[Any]:
        """Each by its key: `result` subscribes to a channel first, some 20 ms a task."""
        found: list[Any] = []
        for task in self.tasks:
            body = await worker.redis.get(worker.results_key + task.id)
            record = await worker.deserialize(body) if body else {}
            found.append(record["r"] if record.get("s") else None)
        return found

    async def once(self, value: int) -> Any:
        """`result`, woken by Redis publish/subscribe."""
        return (await (await noop.enqueue(value)).result(timeout=10)).result


def work() -> None:
    """The worker."""
    worker.run_sync()


if __name__ == "__main__":
    # Run as a module this file is __main__; the worker must know the task by the same name.
    main(StreaqPeer, work)
