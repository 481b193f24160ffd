"""Far more submits at once than may be under way to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess

from headrace import BrokerUnavailable, Client, NotRunning
from headrace.broker.jetstream import publisher

MOST = 8
TASKS = 2_000


@pytest.fixture
async def client(
    nats_server: NatsProcess, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    monkeypatch.setattr(publisher, "_MAX_UNDER_WAY", MOST)
    async with Client(nats_server.url, queue_name) as client:
        await client.submit_async("work", "first")  # makes the lane's consumer
        yield client


def submits(client: Client, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(client.submit_async("work", n)) for n in range(count)]


async def test_each_answer_wakes_one_of_those_who_wait(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each woke all of them: a client that was once behind by some ten thousand stayed there."""
    loop = asyncio.get_running_loop()
    turns = 0
    call_soon = loop.call_soon

    def counted(*args: Any, **options: Any) -> asyncio.Handle:
        nonlocal turns
        turns += 1
        return call_soon(*args, **options)

    monkeypatch.setattr(loop, "call_soon", counted)
    await asyncio.gather(*submits(client, TASKS))
    assert turns < 30 * TASKS
    assert (await client.depth()).messages == TASKS + 1


async def test_who_no_longer_waits_takes_no_place(client: Client) -> None:
    tasks = submits(client, 500)
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks[1::2]), 20)
    await asyncio.wait_for(client.submit_async("work", "one more"), 20)


async def test_a_stop_leaves_nobody_waiting(client: Client) -> None:
    tasks = submits(client, 500)
    await asyncio.sleep(0.01)
    await client.stop()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    refused = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(end, BrokerUnavailable | NotRunning) for end in refused), refused
    assert 0 < len(refused) < 500
