"""The processes of the scale benchmarks, from the inside: `python -m benchmarks.actors ROLE JSON`.

Each role is told by JSON lines on stdin, and answers each with one on stdout. All times are of the
monotonic clock, which is one for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from headrace import Client, Worker, WorkerConfig
from headrace.broker.connect import make_broker
from headrace.broker.port import QueueSettings
from headrace.runtime.collector import tune_collector
from headrace.scaling import Depth
from headrace_operator.adapters.jetstream.queues import JetStreamQueues
from headrace_operator.app.ports import QueueAddress
from headrace_operator.errors import QueueUnreadable

Answer = dict[str, Any]
Ask = Callable[[Answer], Awaitable[Answer]]


class Tally:
    """What the handlers of one process saw."""

    def __init__(self, nap: float) -> None:
        self.nap = nap
        self.count = 0
        self.first = self.last = 0.0
        self.starts: list[list[Any]] = []

    async def work(self, data: Any) -> float:
        """A task: sleeps for `nap` seconds. With data `[label, time of submit]` it is noted."""
        now = time.monotonic()
        if not self.count:
            self.first = now
        self.count += 1
        self.last = now
        if type(data) is list:
            self.starts.append([*data, now])
        if self.nap:
            await asyncio.sleep(self.nap)
        return now

    async def report(self, _: Answer) -> Answer:
        """Tasks started, when the first and the last one was, and those that were noted."""
        return {
            "count": self.count, "first": self.first, "last": self.last, "starts": self.starts,
            "now": time.monotonic(),
        }  # fmt: skip


async def worker(options: Answer) -> Ask:
    """So many workers with a connection each, and one keeper of leases for all of them."""
    tally = Tally(options.get("nap", 0.0))
    url, queue, slots = options["url"], options["queue"], options.get("slots", 1)
    count, settings = options.get("workers", 1), QueueSettings()
    keeper = make_broker(url)
    await keeper.connect()
    leases = await keeper.leases(settings.ack_wait, slots * count)
    for _ in range(count):
        config = WorkerConfig(
            max_concurrent_tasks=slots,
            tags=options.get("tags", []),
            serve_untagged=options.get("untagged", True),
            starvation_limit=options.get("limit", 60.0),
            task_timeout=300.0,
        )
        made = Worker(config=config, url=url, queue=queue, settings=settings)
        made.register_handler("work", tally.work)
        broker = make_broker(url)
        await broker.connect()
        served = broker.queue(queue, settings)
        await served.ensure()
        await made.start_on(broker, served, leases)
    tune_collector()  # as `headrace worker` does
    return tally.report


class Producer:
    """Submits at an even rate, and waits for every result."""

    def __init__(self, client: Client, ttl: float) -> None:
        self._client = client
        self._ttl = ttl
        self._tasks: set[asyncio.Task[None]] = set()
        self._pace: asyncio.Task[None] | None = None
        self.submitted = self.completed = self.wrong = 0
        self.errors: list[str] = []

    async def told(self, request: Answer) -> Answer:
        """`rate` tasks a second from now on, if it is given; what came of it so far."""
        if (rate := request.get("rate")) is not None:
            if self._pace is not None:
                self._pace.cancel()
            self._pace = asyncio.create_task(self._run(rate)) if rate else None
        if request["do"] == "bulk":
            began = time.monotonic()
            await self._client.submit_many(
                {"type": "noop", "data": n, "result_ttl": self._ttl}
                for n in range(request["count"])
            )
            return {"seconds": time.monotonic() - began}
        if request["do"] == "closed":
            return {"rate": await self._closed(request["seconds"], request["at_once"])}
        if request["do"] == "depth":
            depth = await self._client.depth()
            return {"messages": depth.messages, "delayed": depth.delayed, "dead": depth.dead}
        return {
            "submitted": self.submitted, "completed": self.completed, "wrong": self.wrong,
            "waiting": len(self._tasks), "errors": self.errors[:3],
        }  # fmt: skip

    async def _closed(self, seconds: float, at_once: int) -> float:
        """Tasks a second of so many who submit, wait for the result, and submit again."""
        began, done = time.monotonic(), 0

        async def again() -> None:
            nonlocal done
            while time.monotonic() - began < seconds:
                await self._client.submit("noop", done, result_ttl=self._ttl)
                done += 1

        await asyncio.gather(*(again() for _ in range(at_once)))
        return done / (time.monotonic() - began)

    async def _run(self, rate: float) -> None:
        began, done = time.monotonic(), 0
        while True:
            owed = int((time.monotonic() - began) * rate) - done
            for _ in range(min(owed, int(rate))):
                task = asyncio.create_task(self._one(self.submitted))
                self.submitted += 1
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            done += owed  # a second that was missed is not caught up with
            await asyncio.sleep(0.01)

    async def _one(self, number: int) -> None:
        """One of a hundred is delayed, one fails at first, one is cancelled, one has a tag."""
        client, ttl, kind = self._client, self._ttl, number % 100
        try:
            if kind == 0:
                got = await client.submit("noop", number, delay=2.0, result_ttl=ttl)
            elif kind == 1:
                got = await client.submit("flaky", number, retries=2, result_ttl=ttl)
            elif kind == 2:
                task = await client.submit_async("noop", number, delay=60.0, result_ttl=ttl)
                await client.cancel_task(task.id)
                got = number
            elif kind == 3:
                got = await client.submit("noop", number, tag="soak", result_ttl=ttl)
            else:
                got = await client.submit("noop", number, result_ttl=ttl)
            self.wrong += got != number
            self.completed += 1
        except Exception as error:
            self.wrong += 1
            self.errors.append(f"{type(error).__name__}: {error}"[:200])


async def producer(options: Answer) -> Ask:
    """A client that submits and waits."""
    settings = QueueSettings(max_size=1_000_000, dedupe_window=options["dedupe"])
    client = Client(options["url"], options["queue"], settings=settings)
    await client.start()
    return Producer(client, options["ttl"]).told


async def sweeper(options: Answer) -> Ask:
    """What an operator does with NATS, without Kubernetes: its sweep of all queues once a second,
    and for one pool, as often, the newest depth, a question to the workers, a leased drain of
    nobody."""
    key = ("soak", "pool")
    address = QueueAddress(options["url"], options["queue"])
    queues = JetStreamQueues(lambda _: None)
    queues.watch(key, address)
    seen: dict[str, Any] = {"looks": 0, "failed": 0, "waiting": 0, "workers": 0}

    async def look() -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                lanes = queues.look(address).lanes
                seen["waiting"] = sum(_waiting(lane) for lane in lanes)
                seen["workers"] = len(await queues.workers(address, ["none"]))
                await queues.drain(address, "nobody", 1, 5.0)
                seen["looks"] += 1
            except QueueUnreadable:
                seen["failed"] += 1

    looking = asyncio.create_task(look())

    async def report(_: Answer) -> Answer:
        if looking.done():
            looking.result()
        return dict(seen)

    return report


def _waiting(lane: Depth) -> int:
    return lane.waiting if isinstance(lane.waiting, int) else 0


ROLES: dict[str, Callable[[Answer], Awaitable[Ask]]] = {
    "worker": worker, "producer": producer, "sweeper": sweeper,
}  # fmt: skip


async def serve(role: str, options: Answer, answers: Any) -> None:
    """Take a role, then answer until stdin ends."""

    def say(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        ask = await ROLES[role](options)
        say({})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            say(await ask(json.loads(line)))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    # Libraries print; what they print must not come between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    uvloop.run(serve(sys.argv[1], json.loads(sys.argv[2]), out))
