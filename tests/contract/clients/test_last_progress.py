"""What a handler tells just before it returns goes out ahead of the record of its end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from tests.support.nats_servers import NatsProcess

from headrace import CONTEXT, Client, Context, Worker
from headrace.wire import QueueNames, decode_event, decode_record


@pytest.mark.parametrize("kind", ["on_the_loop", "in_a_thread", "failing"])
async def test_the_last_progress_precedes_the_record(
    nats_server: NatsProcess, queue_name: str, kind: str
) -> None:
    """Who reads the record the moment it is there would else end without the progress."""
    names = QueueNames(queue_name)
    seen: list[str] = []
    ended = asyncio.Event()

    async def watch(msg: Msg) -> None:
        if msg.subject.startswith(names.events):
            event = decode_event(msg.data)
            seen.append(event.text)
        elif msg.subject.startswith(names.state) and decode_record(msg.data).is_final:
            seen.append("record")
            ended.set()

    worker = Worker(url=nats_server.url, queue=queue_name)

    @worker.handler("on_the_loop")
    async def on_the_loop(*, ctx: Context = CONTEXT) -> None:
        ctx.progress(0.5, "first")
        await ctx.progress(1, "last")

    @worker.handler("in_a_thread")
    def in_a_thread(*, ctx: Context = CONTEXT) -> None:
        assert threading.current_thread() is not threading.main_thread()
        ctx.progress(0.5, "first")
        ctx.progress(1, "last")

    @worker.handler("failing")
    async def failing(*, ctx: Context = CONTEXT) -> None:
        ctx.progress(0.5, "first")
        await ctx.progress(1, "last")
        raise ValueError("after the last progress")

    raw: Any = await nats.connect(nats_server.url)
    await worker.start()
    try:
        await raw.subscribe(f"headrace.*.{queue_name}.>", cb=watch)  # one: else in no order
        await raw.flush()
        async with Client(nats_server.url, queue_name) as client:
            await client.submit_async(kind)
            await asyncio.wait_for(ended.wait(), 20)
    finally:
        await worker.stop()
        await raw.close()
    assert seen == ["first", "last", "record"]
