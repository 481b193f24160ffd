"""How a task ends whose result, error, chunk or next attempt is too large: once, and it is said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.recorder import NORMAL

from headrace import CONTEXT, Context, PayloadTooLarge, TaskFailed, TaskQueue, TaskStatus
from headrace.wire import Reason

from .conftest import QUICK, Bench


async def test_a_result_that_is_too_large_fails_the_task_once(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[int] = []
    errors: list[BaseException] = []
    completed: list[str] = []

    @worker.handler("give", retries=3, backoff=QUICK)
    async def give(size: int) -> str:
        runs.append(size)
        return "x" * size

    worker.on_task_error(lambda _, error: errors.append(error))
    worker.on_task_complete(lambda task_id, _: completed.append(task_id))
    await worker.start()
    with pytest.raises(TaskFailed, match="PayloadTooLarge: the result of") as raised:
        await client.submit("give", bench.limit, wait_timeout=30)
    assert raised.value.reason == Reason.RESULT
    assert f"limit of {bench.limit:,} bytes" in str(raised.value)
    below = bench.limit - 1_000
    assert len(await client.submit("give", below, wait_timeout=30)) == below
    assert runs == [bench.limit, below]
    (error,) = errors
    assert isinstance(error, PayloadTooLarge)
    assert error.size > error.limit == bench.limit
    assert len(completed) == 1  # what failed is not counted as done
    assert (worker.info.total_completed, worker.info.total_failed) == (1, 1)
    (letter,) = await client.dead_letters()
    assert letter.reason == Reason.RESULT


class Broken(Exception):
    def __str__(self) -> str:
        return "\udcff" * 5_000_000


LONG_NAME = type("N" * 3_000_000, (Exception,), {})

ERRORS = {
    "text": lambda: ValueError("é" * 3_000_000),
    "surrogates": lambda: Broken(),
    "name": lambda: LONG_NAME("x"),
    "control characters": lambda: ValueError("\x01" * 9_000_000),
}


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_text_is_cut(bench: Bench, kind: str) -> None:
    """Case C12: 4,096 characters are kept, the class's name first."""
    worker, client = bench.worker(), bench.client
    raised: list[BaseException] = []

    @worker.handler("fail", retries=1, backoff=QUICK)
    async def fail() -> None:
        raise ERRORS[kind]()

    worker.on_task_error(lambda _, error: raised.append(error))
    await worker.start()
    with pytest.raises(TaskFailed) as caught:
        await client.submit("fail", wait_timeout=30)
    name = type(raised[0]).__name__
    assert caught.value.message.startswith(name[:256])
    assert len(caught.value.message) <= 4_096
    assert (caught.value.reason, caught.value.attempt) == (Reason.HANDLER, 2)
    (letter,) = await client.dead_letters()
    assert letter.error == caught.value.message


async def test_a_retry_leaves_out_the_error_that_does_not_fit(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client

    @worker.handler("flaky", retries=2, backoff=QUICK)
    async def flaky(data: str, *, ctx: Context = CONTEXT) -> int:
        if ctx.attempt < 3:
            raise ValueError("é" * 4_000)
        return len(data)

    await worker.start()
    size = bench.limit - 2_048 - 300
    assert await client.submit("flaky", "x" * size, wait_timeout=30) == size


async def by_hand(bench: Bench, task_type: str, task_id: str) -> None:
    """Store a task of exactly the server's limit, as any NATS client can."""
    _, queue = await bench.client.link()
    room = bench.limit - 16 - len("Nats-Msg-Id") - len(task_id) - 4
    head = b'{"type":"%b","data":"' % task_type.encode()
    body = head + b"x" * (room - len(head) - 2) + b'"}'
    with pytest.raises(PayloadTooLarge):
        await queue.put_soon(NORMAL, task_id, body + b" ", task_id)
    await (await queue.put_soon(NORMAL, task_id, body, task_id))


async def test_a_retry_that_does_not_fit_ends_the_task_and_says_so(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[int] = []

    @worker.handler("t", retries=3, backoff=QUICK)
    async def t(data: str) -> None:
        runs.append(len(data))
        raise ValueError("no")

    await worker.start()
    await by_hand(bench, "t", "hand")
    done = await client.wait_for("hand", 30)
    assert done.status is TaskStatus.FAILED
    assert (done.error or "").startswith("ValueError: no (not tried again: a task of")
    assert len(runs) == 1


async def test_a_task_of_unknown_type_that_cannot_be_put_back(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    worker.register_handler("other", lambda: 1)
    await worker.start()
    await by_hand(bench, "nobody", "hand")
    done = await client.wait_for("hand", 30)
    assert done.status is TaskStatus.FAILED
    assert "not tried again" in (done.error or "")
    letter = await client.dead_letter("hand")
    assert letter.reason == Reason.UNKNOWN_TYPE
    assert await client.submit("other", wait_timeout=30) == 1


async def test_a_progress_text_is_cut(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client

    @worker.handler("tell")
    async def tell(*, ctx: Context = CONTEXT) -> str:
        await ctx.progress(0.5, "é" * bench.limit)
        return "done"

    await worker.start()
    events = [event async for event in client.stream("tell").events()]
    assert [(event.kind, event.text) for event in events] == [("progress", "é" * 4_096)]


async def test_a_chunk_that_is_too_large_ends_the_task_once(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[str] = []

    @worker.handler("stream", retries=3, backoff=QUICK)
    async def stream(size: int) -> AsyncIterator[str]:
        runs.append("stream")
        yield "small"
        yield "x" * size

    @worker.handler("plain", retries=3, backoff=QUICK)
    def plain(size: int) -> Iterator[str]:
        runs.append("plain")
        yield "small"
        yield "x" * size

    await worker.start()
    for kind in ("stream", "plain"):
        fits = bench.limit - 200
        chunks = [len(chunk) async for chunk in client.stream(kind, fits)]
        assert chunks == [5, fits]
        large = aiter(client.stream(kind, bench.limit))
        assert await anext(large) == "small"
        with pytest.raises(TaskFailed, match="PayloadTooLarge: chunk 1 of") as raised:
            await anext(large)
        assert raised.value.reason == Reason.RESULT
    assert runs == ["stream", "stream", "plain", "plain"]


async def test_a_submit_within_a_handler_is_the_handlers_own_error(bench: Bench) -> None:
    worker, client = bench.worker(), bench.client
    runs: list[int] = []

    @worker.handler("outer", retries=1, backoff=QUICK)
    async def outer() -> None:
        runs.append(1)
        await client.submit_async("t", "x" * bench.limit)

    await worker.start()
    with pytest.raises(TaskFailed, match="PayloadTooLarge: a task of") as raised:
        await client.submit("outer", wait_timeout=30)
    assert (raised.value.reason, len(runs)) == (Reason.HANDLER, 2)


async def test_the_queue_without_workers(bench: Bench) -> None:
    """`TaskQueue`: the caller is the handler, and its texts are bounded as well."""
    queue = TaskQueue(url=bench.url, queue=bench.queue)
    for _ in range(3):
        await queue.enqueue("t", {})
    held = [await queue.dequeue("mine", timeout=10) for _ in range(3)]
    ids = [task.id for task in held if task is not None]
    done = await queue.complete(ids[0], "x" * bench.limit)
    assert done.status is TaskStatus.FAILED
    assert (done.error or "").startswith("PayloadTooLarge: the result of")
    failed = await queue.fail(ids[1], "é\udcff" * bench.limit, retry=False)
    assert failed.error == "é?" * 2_048
    again = await queue.complete(ids[2], "x" * (bench.limit - 1_000))
    assert again.status is TaskStatus.COMPLETED
    await queue.stop()


JUNK = {
    "type": lambda size: b'{"type":["' + b"x" * (size - 20) + b'"]}',
    "long-type": lambda size: b'{"type":"' + b"\\u0001" * ((size - 20) // 6) + b'"}',
    "version": lambda size: b'{"type":"t","v":"' + b"x" * (size - 30) + b'"}',
    "not-json": lambda size: b"\xff" * size,
    "quotes": lambda size: b'"' * size,
}


async def test_junk_of_the_servers_limit_ends_and_blocks_nobody(bench: Bench) -> None:
    """Case C21 at the limit."""
    worker, client = bench.worker(slots=1), bench.client
    worker.register_handler("good", lambda: "good")
    await worker.start()
    _, queue = await client.link()
    for task_id, make in JUNK.items():
        body = make(bench.limit - 100)
        await (await queue.put_soon(NORMAL, task_id, body, task_id))
    assert await client.submit("good", wait_timeout=30) == "good"
    for task_id in JUNK:
        done = await client.wait_for(task_id, 30)
        assert done.status is TaskStatus.FAILED
        assert len(done.error or "") < 5_000
    letters = await client.dead_letters()
    assert {letter.reason for letter in letters} == {Reason.UNDECODABLE}
    assert {letter.id for letter in letters} == set(JUNK)


async def test_a_large_task_is_cancelled_like_any_other(bench: Bench) -> None:
    client = bench.client
    task = await client.submit_async("t", "x" * (bench.limit - 2_500))
    result = await client.cancel_task(task.id)
    assert result.status is TaskStatus.CANCELLED
    found = await client.get_task(task.id)
    assert found is not None
    assert found.status is TaskStatus.CANCELLED
    assert (await client.depth()).messages == 0
