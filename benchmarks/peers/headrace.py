"""Headrace by its public API: one client, one worker process with so many slots."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import nats
import uvloop
from nats.aio.client import Client as NatsClient

from benchmarks.peers.bare import read_all
from benchmarks.peers.common import NATS, PROCESSES, SLOTS, Peer, become, main, mark_first
from headrace import Client, Worker, WorkerConfig
from headrace.runtime.collector import tune_collector
from headrace.wire import QueueNames, decode_record

QUEUE = "bench"
_ROOM = 200_000  # the queue's size limit, above every run's number of tasks
_AT_ONCE = 10_000  # tasks of one submit_many


class HeadracePeer(Peer):
    """The producer."""

    bulk = True

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.client = Client(NATS, QUEUE, max_queue_size=_ROOM)
        self.nc: NatsClient
        self.state = QueueNames(QUEUE).state_stream

    async def open(self) -> None:
        """Connect; a plain connection besides counts the results."""
        await self.client.start()
        self.nc = await nats.connect(NATS)

    async def submit_one(self, values: range) -> None:
        """`submit_async`, each acknowledged."""
        for value in values:
            self.ids.append((await self.client.submit_async("noop", value)).id)

    async def submit_bulk(self, values: range) -> None:
        """`submit_many`."""
        for start in range(values.start, values.stop, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, values.stop))
            tasks = await self.client.submit_many([("noop", value) for value in some])
            self.ids += [task.id for task in tasks]

    async def leave(self) -> None:
        """Disconnect."""
        await self.client.stop()

    async def stored(self) -> int:
        """Messages of the state stream: a task that runs for so short a time has one record."""
        info = await self.nc.jetstream().stream_info(self.state)
        return int(info.state.messages)

    async def results(self) -> list[Any]:
        """All records."""
        bodies = await read_all(self.nc.jetstream(), self.state)
        records = {record.id: record for record in map(decode_record, bodies)}
        return [
            record.result if (record := records.get(task)) and record.is_final else None
            for task in self.ids
        ]

    async def once(self, value: int) -> Any:
        """`submit`, which waits."""
        return await self.client.submit("noop", value, wait_timeout=10)


async def noop(value: int) -> int:
    """Nothing."""
    mark_first()
    return value


def _app() -> Worker:
    worker = Worker(config=WorkerConfig(max_concurrent_tasks=SLOTS), url=NATS, queue=QUEUE)
    worker.register_handler("noop", noop)
    return worker


async def _work() -> None:
    worker = _app()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await worker.start()
    tune_collector()  # as `headrace worker` does
    await stop.wait()
    await worker.stop()


def work() -> None:
    """The worker: in this process, or several by the command line."""
    if PROCESSES == 1:
        uvloop.run(_work())
    become("headrace", "worker", "benchmarks.peers.headrace:app", "--processes", str(PROCESSES))


app = _app()


if __name__ == "__main__":
    main(HeadracePeer, work)
