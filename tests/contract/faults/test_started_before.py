"""What was started before and what was not: hand-backs, and what a killed server forgot."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TypeVar

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, Recorder, when

from headrace import Client, QueueSettings, TaskStatus, Worker, WorkerConfig
from headrace.broker.connect import make_broker
from headrace.runtime.history import UNSURE
from headrace.wire import QueueNames, Record, encode_record

ACK_WAIT = 1.0
T = TypeVar("T")


async def test_nobody_is_asked_who_runs_a_task_that_was_handed_back(
    nats_server: NatsProcess, queue_name: str
) -> None:
    """Each question takes half a second, and a worker that prefers a critical task hands back one
    of a level below: with one slot and an old backlog, every other critical task waited for it."""
    settings = QueueSettings(ack_wait=ACK_WAIT)
    worker = Worker(
        url=nats_server.url, queue=queue_name, config=WorkerConfig(1), settings=settings
    )
    questions: list[str] = []

    @worker.handler("quick")
    async def quick() -> None:
        return None

    broker = make_broker(nats_server.url)
    await broker.connect()
    async with Client(nats_server.url, queue_name, settings=settings) as client:
        tasks = await client.submit_many([("quick", {})] * 5)
        _, queue = await client.link()
        async with Recorder(queue, NORMAL) as taker:
            await asyncio.sleep(ACK_WAIT)  # only tasks older than a lease are asked about
            for delivery in await taker.take(5):
                await queue.nak(delivery)
        asked = await broker.subscribe(
            QueueNames(queue_name).holds("*"), lambda subject, _, __: questions.append(subject)
        )
        await broker.flush()
        await worker.start()
        ended = [await client.wait_for(task.id, timeout=20) for task in tasks]
        await asked.close()
        await worker.stop()
    await broker.close()
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert questions == []


@pytest.mark.parametrize("recorded", ["before", "after"])
async def test_what_ended_before_a_server_was_killed_is_not_run_again(
    own_server: NatsProcess, queue_name: str, caplog: pytest.LogCaptureFixture, recorded: str
) -> None:
    """A server that is killed may forget that it delivered a message, or that it was acknowledged:
    then it comes as if for the first time. Here another worker's record is there without its
    acknowledgement; or it is written only when that worker, too, is connected again."""
    caplog.set_level(logging.INFO, "headrace.broker")
    settings = QueueSettings(ack_wait=30.0)
    worker = Worker(url=own_server.url, queue=queue_name, config=WorkerConfig(1), settings=settings)
    began: list[int] = []
    release = asyncio.Event()

    @worker.handler("wait")
    async def wait(number: int) -> None:
        began.append(number)
        await release.wait()

    async with Client(own_server.url, queue_name, settings=settings) as client:
        await worker.start()
        await client.submit_async("wait", 1)
        await when(lambda: _now(began), bool)
        ended = await client.submit_async("wait", 2)
        broker, queue = await client.link()
        asked = asyncio.Event()
        names = QueueNames(queue_name)
        await broker.subscribe(names.holds(ended.id), lambda *_: asked.set())
        await broker.flush()

        async def end() -> None:
            record = Record(ended.id, TaskStatus.COMPLETED, run="other-1", worker_id="other")
            await queue.write_record(ended.id, encode_record(record, NORMAL, None)[0], 0, 3600)

        if recorded == "before":
            await end()
        own_server.kill()
        own_server.start()
        await when(lambda: _now(caplog.text.count("reconnected")), lambda count: count >= 2)
        released = time.monotonic()
        release.set()
        if recorded == "after":
            await asked.wait()
            await end()
        await when(client.depth, lambda depth: depth.messages == 0)
        assert time.monotonic() - released < UNSURE
        await worker.stop()
    assert began == [1]


async def _now(value: T) -> T:
    return value
