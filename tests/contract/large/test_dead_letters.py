"""A dead letter whose message does not fit beside it keeps that as a blob (case C21)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.recorder import NORMAL, when

from headrace import BlobNotFound, Client, PayloadTooLarge, QueueSettings, TaskFailed
from headrace.blobs import Blob
from headrace.wire import Reason

from .conftest import MIB, Bench, running

NOT_YET = "not yet" + "." * 3_000
QUOTES = '"' * 400_000  # as text in a letter it is four times as long


@pytest.fixture
async def bench(broker_url: str, queue_name: str) -> AsyncIterator[Bench]:
    """One slot."""
    async with running(Bench(broker_url, f"dead-{queue_name}", MIB)) as bench:
        yield bench


def failing_first(bench: Bench) -> list[str]:
    """A worker whose handler fails the first time; what it got."""
    worker = bench.worker(slots=1)
    seen: list[str] = []

    @worker.handler("t")
    async def t(data: str) -> int:
        seen.append(data)
        if len(seen) == 1:
            raise ValueError(NOT_YET)
        return len(data)

    return seen


@pytest.mark.parametrize("data", ["x" * (MIB - 2_500), QUOTES], ids=["plain", "quotes"])
async def test_it_is_replayed_with_all_its_data(bench: Bench, data: str) -> None:
    client = bench.client
    seen = failing_first(bench)
    await bench.workers[0].start()
    with pytest.raises(TaskFailed, match="not yet"):
        await client.submit("t", data, task_id="big", wait_timeout=30)
    (listed,) = await client.dead_letters()
    assert (listed.raw, listed.error) == (b"", f"ValueError: {NOT_YET}")
    letter = await client.dead_letter("big")
    assert letter.raw_blob == listed.raw_blob
    blob = Blob.of(letter.raw_blob or {})
    assert len(letter.raw) == blob.size > len(data)
    await client.replay("big")

    async def result() -> Any:
        task = await client.get_task("big")
        return task and task.result

    assert await when(result, bool) == len(data)
    assert seen == [data, data]
    assert await client.dead_letters() == []
    with pytest.raises(BlobNotFound):  # it went with its letter
        await client.get_blob(blob)


async def test_bytes_of_the_servers_limit_that_are_no_task_come_back(bench: Bench) -> None:
    client = bench.client
    bench.worker(slots=1)
    await bench.workers[0].start()
    _, queue = await client.link()
    body = b"\xff" * (MIB - 100)
    await (await queue.put_soon(NORMAL, "junk", body, "junk"))
    await when(client.dead_letters, bool)
    letter = await client.dead_letter("junk")
    assert (letter.reason, letter.raw) == (Reason.UNDECODABLE, body)
    assert await client.drop_dead_letter("junk")
    assert not await client.drop_dead_letter("junk")
    with pytest.raises(BlobNotFound):
        await client.get_blob(letter.raw_blob or {})


async def test_a_letter_whose_bytes_are_gone_is_still_a_letter(bench: Bench) -> None:
    client = bench.client
    failing_first(bench)
    await bench.workers[0].start()
    with pytest.raises(TaskFailed):
        await client.submit("t", QUOTES, task_id="big", wait_timeout=30)
    (letter,) = await client.dead_letters()
    await client.delete_blob(letter.raw_blob or {})
    with pytest.raises(BlobNotFound):
        await client.replay("big")
    assert [letter.id for letter in await client.dead_letters()] == ["big"]
    assert await client.drop_dead_letter("big")


async def test_where_the_store_is_full_the_message_is_cut_and_the_letter_says_so(
    broker_url: str, queue_name: str
) -> None:
    bench = Bench(broker_url, f"dead-{queue_name}", MIB)
    bench.settings = QueueSettings(ack_wait=2.0, max_blob_bytes=100_000)
    bench.client = Client(broker_url, bench.queue, settings=bench.settings)
    async with running(bench):
        failing_first(bench)
        await bench.workers[0].start()
        with pytest.raises(TaskFailed, match="not yet"):
            await bench.client.submit("t", QUOTES, task_id="big", wait_timeout=30)
        letter = await bench.client.dead_letter("big")
        assert (letter.raw, letter.raw_blob) == (b"", None)
        assert "was too large to keep" in letter.error


async def test_a_replay_that_does_not_fit_is_refused_and_the_letter_stays(bench: Bench) -> None:
    """Published by hand at the server's limit: a replay adds what it supersedes."""
    client = bench.client
    failing_first(bench)
    await bench.workers[0].start()
    _, queue = await client.link()
    head = b'{"type":"t","data":"'
    body = head + b"x" * (MIB - 40 - len(head) - 2) + b'"}'
    await (await queue.put_soon(NORMAL, "hand", body, "hand"))
    done = await client.wait_for("hand", 30)
    assert done.error == f"ValueError: {NOT_YET}"
    with pytest.raises(PayloadTooLarge):
        await client.replay("hand")
    assert (await client.dead_letter("hand")).raw == body
