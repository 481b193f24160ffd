"""What very many waits cost, on a real server."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from tests.support.nats_servers import NatsProcess

from headrace import Client, Worker, WorkerConfig
from headrace.wire import QueueNames

WAITS = 3_000


async def test_looks_do_not_grow_with_what_is_under_way(
    nats_server: NatsProcess, queue_name: str
) -> None:
    """Every wait read its record after a second: a client that was behind fell back for good."""
    nc = NatsClient()
    await nc.connect(nats_server.url)
    reads = 0
    many, go = asyncio.Event(), asyncio.Event()

    async def read(_: Msg) -> None:
        nonlocal reads
        reads += 1
        if reads > 100:
            many.set()

    state = QueueNames(queue_name).state_stream
    await nc.subscribe(f"$JS.API.DIRECT.GET.{state}", cb=read)
    await nc.flush()
    worker = Worker(
        config=WorkerConfig(max_concurrent_tasks=64), url=nats_server.url, queue=queue_name
    )

    @worker.handler("echo")
    async def echo(value: int) -> int:
        await go.wait()
        return value

    await worker.start()
    async with Client(nats_server.url, queue_name) as client:
        waits = [asyncio.create_task(client.submit("echo", n)) for n in range(WAITS)]
        async with asyncio.timeout(20):
            await many.wait()  # the looks have begun
        before, began = reads, asyncio.get_running_loop().time()
        await asyncio.sleep(1.0)  # a rate is measured over a time
        took = asyncio.get_running_loop().time() - began
        assert (reads - before) / took < 1_000
        go.set()  # and all of them come to their end
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waits) == list(range(WAITS))
    await worker.stop()
    await nc.close()
