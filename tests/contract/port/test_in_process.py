"""A publish that is sent again while the server still stores the first."""

from __future__ import annotations

import asyncio
import json

from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL

from headrace.broker.jetstream.broker import JetStreamBroker
from headrace.broker.port import Stored


async def test_an_answer_that_the_message_is_in_process_is_not_the_last(
    nats_server: NatsProcess, queue_name: str
) -> None:
    """A cluster says so of what was sent twice; the true answer comes behind it. The words are
    given to the publisher here, since only an election of the right length brings them about."""
    broker = JetStreamBroker(nats_server.url)
    await broker.connect()
    queue = broker.queue(queue_name)
    await queue.ensure()
    await queue.ensure_lanes([NORMAL])
    publisher = broker._publisher
    error = {"err_code": 10158, "code": 409, "description": "duplicate message id is in process"}
    said = json.dumps({"error": error}).encode()
    future = await queue.put_soon(NORMAL, "a", b"{}", "a")
    (token,) = publisher._entries
    publisher._receive(publisher._inbox + token, "", said, None)
    assert publisher._entries, "it was given up"
    assert await asyncio.wait_for(asyncio.ensure_future(future), 10) == Stored(1)
    await broker.close()
