"""The server's limit changes while clients and workers are connected.

On a NATS server alone: memory has no server, and the embedded one is never told another limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import when

from headrace import BrokerUnsupported, Client, PayloadTooLarge, TaskStatus
from headrace.wire import Reason

from .conftest import QUICK, Bench, running

LARGE = "max_payload: 1MB"
SMALL = "max_payload: 64KB"


@pytest.fixture
async def own(tmp_path: Path, queue_name: str) -> AsyncIterator[tuple[NatsProcess, Bench]]:
    """A server of the test's own with the default limit, and a client of it."""
    server = NatsProcess(tmp_path / "nats", extra=LARGE).start()
    try:
        async with running(Bench(server.url, queue_name, 1_048_576)) as bench:
            yield server, bench
    finally:
        server.stop()


async def fallen(server: NatsProcess, client: Client) -> None:
    """The limit has fallen and the client knows: the server was started anew."""
    server.reload(SMALL)
    await asyncio.to_thread(server.restart)
    await knows(client, 65_536)


async def knows(client: Client, limit: int) -> None:
    broker, _ = await client.link()

    async def look() -> tuple[bool, int]:
        return broker.connected, broker.max_payload

    await when(look, lambda found: found == (True, limit))


async def test_the_limit_falls_and_rises_with_the_server(own: tuple[NatsProcess, Bench]) -> None:
    server, bench = own
    client = bench.client
    await client.submit_async("t", "x" * 500_000)
    await fallen(server, client)
    with pytest.raises(PayloadTooLarge) as refused:
        await client.submit_async("t", "x" * 500_000)
    assert refused.value.limit == 65_536
    server.reload(LARGE)
    await asyncio.to_thread(server.restart)
    await knows(client, 1_048_576)
    await client.submit_async("t", "x" * 500_000)
    assert (await client.depth()).messages == 2


async def test_what_the_new_server_does_not_take_is_said_and_holds_up_nobody(
    own: tuple[NatsProcess, Bench],
) -> None:
    """Sent before the outage, refused after it: its own error at once, the others are stored."""
    server, bench = own
    client = bench.client
    await client.submit_async("t", 0)  # from here on a submit is one publish
    server.reload(SMALL)
    await asyncio.to_thread(server.stop)
    broker, _ = await client.link()

    async def look() -> bool:
        return broker.connected

    await when(look, lambda connected: not connected)
    small = [asyncio.create_task(client.submit_async("t", n)) for n in range(10)]
    large = asyncio.create_task(client.submit_async("t", "x" * 500_000))
    small += [asyncio.create_task(client.submit_async("t", n)) for n in range(10)]
    await asyncio.to_thread(server.start)
    with pytest.raises(PayloadTooLarge) as refused:
        await large
    assert refused.value.limit == 65_536
    assert len(await asyncio.gather(*small)) == 20
    assert (await client.depth()).messages == 21


async def test_the_limit_of_a_running_server_falls(own: tuple[NatsProcess, Bench]) -> None:
    """The server tells nobody: it hangs up on the first message that is too large. What was under
    way is sent again and stored."""
    server, bench = own
    client = bench.client
    await client.submit_async("t", 0)
    server.reload(SMALL)
    log = server.folder / "nats.log"

    async def words() -> str:
        return log.read_text()

    await when(words, lambda text: "Reloaded server configuration" in text)
    large = asyncio.create_task(client.submit_async("t", "x" * 500_000))
    small = [asyncio.create_task(client.submit_async("t", n)) for n in range(20)]
    with pytest.raises(PayloadTooLarge) as refused:
        await large
    assert refused.value.limit == 65_536
    assert len(await asyncio.gather(*small)) == 20
    assert (await client.depth()).messages == 21


@pytest.mark.parametrize("how", ["result", "failure", "retry"])
async def test_a_task_that_was_stored_before_the_limit_fell_ends_once(
    own: tuple[NatsProcess, Bench], how: str
) -> None:
    """Larger than the server now takes: it is still delivered, and its end is recorded."""
    server, bench = own
    worker, client = bench.worker(), bench.client
    started, go_on = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    @worker.handler("t", backoff=QUICK)
    async def t(data: str) -> Any:
        runs.append(data[:1])
        started.set()
        await go_on.wait()
        if how == "result":
            return data
        raise ValueError("é" * 4_000)

    await worker.start()
    task = await client.submit_async("t", "x" * 500_000, retries=3 if how == "retry" else 0)
    await started.wait()
    await fallen(server, client)

    async def look() -> bool:
        return worker.info.status == "busy" and await _answers(client)

    await when(look, bool)
    go_on.set()
    done = await client.wait_for(task.id, 30)
    assert done.status is TaskStatus.FAILED
    assert len(runs) == 1
    found = await client.get_task(task.id)
    assert found is not None
    if how == "result":
        assert found.reason == Reason.RESULT
        assert (done.error or "").startswith("PayloadTooLarge: the result of 500,")
    else:
        assert (done.error or "").startswith("ValueError: é")
        assert ("not tried again" in (done.error or "")) is (how == "retry")
    (letter,) = await client.dead_letters()
    assert letter.id == task.id


async def _answers(client: Client) -> bool:
    """Whether the worker is connected too: it answers on its own subject."""
    return bool(await client.get_workers())


async def test_a_limit_in_which_no_record_fits_is_refused_at_the_connect(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path / "nats", extra="max_payload: 8KB").start()
    try:
        with pytest.raises(BrokerUnsupported, match="limit is 8,192") as refused:
            await Client(server.url, "q").start()
        assert "max_payload" in refused.value.hint
    finally:
        server.stop()


async def test_long_texts_of_a_failure_fit_a_small_limit(tmp_path: Path, queue_name: str) -> None:
    """Why comes first: the traceback is left out, then the text is cut."""
    server = NatsProcess(tmp_path / "nats", extra="max_payload: 16KB").start()
    try:
        async with running(Bench(server.url, queue_name, 16_384)) as bench:
            worker = bench.worker()

            @worker.handler("t", retries=1, backoff=QUICK)
            async def t() -> None:
                raise ValueError("\x01" * 4_000)

            await worker.start()
            done = await bench.client.submit_async("t")
            result = await bench.client.wait_for(done.id, 30)
            assert result.error == "ValueError: " + "\x01" * 500
            (letter,) = await bench.client.dead_letters()
            assert letter.error == result.error
    finally:
        server.stop()
