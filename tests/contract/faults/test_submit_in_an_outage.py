"""Case C04: submits while the server is gone, and while it is killed and started again."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.workers import MakeClient

from headrace import BrokerUnavailable, Client, Task
from headrace.broker.jetstream.publisher import PUBLISH_TIMEOUT


async def test_c04_a_submit_to_a_server_that_is_gone_ends_within_its_bound(
    own_server: NatsProcess, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PUBLISH_TIMEOUT == 10.0  # as documented
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 1.0)
    client = await make_client(own_server.url)
    await client.submit_async("work", {})
    await asyncio.to_thread(own_server.stop)
    began = time.monotonic()
    for submit in (client.submit_async, client.submit):
        with pytest.raises(BrokerUnavailable) as refused:
            await submit("work", {})
        assert refused.value.hint
    with pytest.raises(BrokerUnavailable):
        await client.submit_many([("work", n) for n in range(10)])
    assert time.monotonic() - began < 3 * 1.0 + 3.0
    own_server.start()
    # the same client works again, once it has found the server
    async with asyncio.timeout(20):
        while True:
            try:
                await client.submit_async("work", {})
            except BrokerUnavailable:
                continue
            break


@pytest.mark.parametrize("timeout", [10.0, 0.2], ids=["patient", "impatient"])
async def test_c04_a_hundred_submits_over_a_restart_are_stored_once_each(
    own_server: NatsProcess,
    queue_name: str,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float,
) -> None:
    """With a shorter bound many raise, and may be stored all the same: who repeats one with its id
    stores it once."""
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", timeout)
    client = await make_client(own_server.url)
    await client.submit_async("warm", {}, delay=600)
    ids = [f"t{n}" for n in range(100)]

    async def one(n: int) -> Task | BrokerUnavailable:
        await asyncio.sleep(n * 0.005)
        try:
            return await client.submit_async("work", n, task_id=ids[n])
        except BrokerUnavailable as error:
            return error

    calls = [asyncio.create_task(one(n)) for n in range(100)]
    await asyncio.wait([calls[30]])
    await asyncio.to_thread(own_server.kill)
    await asyncio.sleep(0.4)
    own_server.start()
    answers = await asyncio.wait_for(asyncio.gather(*calls), 30)
    stored = [answer.id for answer in answers if isinstance(answer, Task)]
    raised = [ids[n] for n, answer in enumerate(answers) if not isinstance(answer, Task)]
    assert len(stored) >= 30
    if timeout < 1:
        assert raised, "the outage was too short to be seen"
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 10.0)
    for task_id in stored:
        assert await client.get_task(task_id) is not None
    for task_id in raised:  # as the error says
        again = await client.submit_async("work", 0, task_id=task_id)
        assert again.id == task_id
    assert (await client.depth()).messages == 100
    async with Client(own_server.url, queue_name) as other:
        for task_id in ids:
            assert await other.get_task(task_id) is not None
