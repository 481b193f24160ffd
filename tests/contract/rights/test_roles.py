"""Each role does its whole job with its rights, and nothing else: refusals name the subject."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from tests.contract.rights.conftest import QUEUE, As, MakeBroker
from tests.support.recorder import NORMAL, Recorder, when

from headrace import (
    CONTEXT,
    AccessDenied,
    Backoff,
    Blob,
    Client,
    Context,
    Coordinator,
    QueueSettings,
    Reject,
    TaskFailed,
    TaskPriority,
    TaskStatus,
    Worker,
    WorkerConfig,
)
from headrace.broker.jetstream.broker import JetStreamBroker
from headrace.wire import Lane, QueueNames

BOUND = 3.0  # seconds until a refusal is told

DOCS, OTHER = QueueNames(QUEUE), QueueNames("other")


def teach(worker: Worker) -> asyncio.Event:
    """Handlers that use all of a task's life; the event is set when `long` runs."""
    running = asyncio.Event()
    failed: list[int] = []

    @worker.handler("t", retries=1, backoff=Backoff(first=0.0))
    async def work(data: object) -> object:
        if data == "again" and not failed:
            failed.append(1)
            raise ValueError("once")
        if data == "never":
            raise Reject("never")
        return data

    @worker.handler("long")
    async def long(data: object, *, ctx: Context = CONTEXT) -> None:
        running.set()
        await ctx.progress(0.5, "half")
        await asyncio.sleep(60)

    @worker.handler("blob")
    async def blob(data: Blob, *, ctx: Context = CONTEXT) -> Blob:
        return await ctx.put_blob(await ctx.open_blob(data).read() + b"!")

    @worker.handler("stream")
    async def stream(data: object) -> AsyncIterator[int]:
        yield 1
        yield 2

    return running


async def test_a_producer_and_a_worker_do_their_whole_jobs(
    client: Client, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    running = teach(worker)
    await worker.start()
    assert await client.submit("t", 1, wait_timeout=10) == 1
    assert await client.submit("t", "again", wait_timeout=10) == "again"
    assert await client.submit("t", 2, delay=0.1, wait_timeout=10) == 2
    assert await client.submit("t", 3, unique="k", wait_timeout=10) == 3
    assert await client.submit("t", 4, priority=TaskPriority.CRITICAL, wait_timeout=10) == 4
    assert len(await client.submit_many([("t", n) for n in range(50)])) == 50
    assert [chunk async for chunk in client.stream("stream")] == [1, 2]
    with pytest.raises(TaskFailed):
        await client.submit("t", "never", wait_timeout=10)
    await client.schedule("s", "t", 8, every=timedelta(seconds=1))
    await when(client.schedules, lambda found: found[0].last_run is not None)
    assert await client.unschedule("s")
    returned = await client.submit("blob", await client.put_blob(b"data"), wait_timeout=10)
    assert await client.get_blob(Blob.model_validate(returned)) == b"data!"
    assert await client.delete_blob(Blob.model_validate(returned))

    task = await client.submit_async("long", None)
    async with asyncio.timeout(10):
        await running.wait()
    found = await when(lambda: client.get_task(task.id), lambda task: task is not None)
    assert found is not None
    assert found.status is TaskStatus.RUNNING  # the worker that holds it said so
    assert (await client.cancel_task(task.id)).status is TaskStatus.CANCELLED

    queued = await client.submit_async("t", 5, delay=60)
    assert (await client.cancel_task(queued.id)).status is TaskStatus.CANCELLED
    assert len(await client.get_workers()) == 1
    (letter,) = await client.dead_letters()
    await client.replay(letter.id)
    await when(
        client.dead_letters,
        lambda letters: [each.failed_at > letter.failed_at for each in letters] == [True],
    )
    assert await client.drop_dead_letter(letter.id)
    assert (await client.depth()).dead == 0
    # a tag that nobody serves: the task waits for the worker that will make its consumer
    await client.submit_async("t", 6, tag="new")
    await client.cancel_task((await client.submit_async("t", 7, tag="new")).id)
    await worker.stop()
    assert "right" not in caplog.text


async def test_a_worker_makes_the_consumers_of_its_tags_and_serves_what_waits(
    client: Client, as_user: As, caplog: pytest.LogCaptureFixture
) -> None:
    task = await client.submit_async("t", 1, tag="gpu")
    config = WorkerConfig(max_concurrent_tasks=2, tags=["gpu"])
    worker = Worker(config=config, url=as_user("worker"), queue=QUEUE)
    teach(worker)
    await worker.start()
    assert (await client.wait_for(task.id, 10)).result == 1
    await worker.stop()
    assert "right" not in caplog.text


async def test_a_worker_answers_after_many_tasks(client: Client, worker: Worker) -> None:
    """An answer is allowed once for each question; deliveries are none."""
    teach(worker)
    await worker.start()
    tasks = await client.submit_many([("t", n) for n in range(300)])
    for task in tasks:
        assert (await client.wait_for(task.id, 20)).status is TaskStatus.COMPLETED
    for _ in range(3):
        assert len(await client.get_workers()) == 1


async def test_an_operator_does_its_whole_job(
    make_broker: MakeBroker, worker: Worker, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """What the operator's adapter asks: tests/contract/rights/test_operator.py has the adapter."""
    teach(worker)
    await worker.start()
    woken = asyncio.Event()
    for name in ("operator", "operator-of-all"):
        broker = await make_broker(name)
        woken.clear()
        await broker.subscribe(DOCS.wake + ">", lambda *_: woken.set())
        await broker.flush()
        await client.submit("t", 1, wait_timeout=10)
        async with asyncio.timeout(5):
            await woken.wait()
        assert QUEUE in await broker.queues()
        assert len(await broker.queue(QUEUE).workers()) == 1
        for verb in ("drain", "resume"):
            body = json.dumps({"seconds": 5}).encode()
            assert await broker.request(DOCS.worker(worker.id, verb), body, 5.0)
    assert "right" not in caplog.text


async def test_a_dashboard_reads_everything(
    as_user: As, make_broker: MakeBroker, worker: Worker, client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    running = teach(worker)
    await worker.start()
    with pytest.raises(TaskFailed):
        await client.submit("t", "never", wait_timeout=10)
    long = await client.submit_async("long", None)
    async with asyncio.timeout(10):
        await running.wait()
    for name in ("dashboard", "dashboard-of-all"):
        broker = await make_broker(name)
        assert QUEUE in await broker.queues()
        async with Client(as_user(name), QUEUE) as reader:
            assert (await reader.depth()).messages >= 1  # other tests leave some
            assert len(await reader.get_workers()) == 1
            assert len(await reader.dead_letters()) >= 1
            found = await reader.get_task(long.id)
            assert found is not None
            assert found.status is TaskStatus.RUNNING
    await client.cancel_task(long.id)
    assert "right" not in caplog.text


async def test_one_user_may_be_both(
    as_user: As, made: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A Coordinator submits and works with one connection."""
    app = Coordinator(url=as_user("both"), queue=QUEUE)

    @app.handler("double")
    async def double(x: int) -> int:
        return 2 * x

    await app.start()
    assert await app.submit("double", 4) == 8
    await app.stop()
    assert "right" not in caplog.text


async def test_an_inbox_of_ones_own(make_broker: MakeBroker, made: None) -> None:
    """With a prefix of its own a user cannot be listened to, and cannot listen to others."""
    broker = await make_broker("private", inbox="_INBOX_private")
    await broker.queue(QUEUE).ensure()
    with pytest.raises(AccessDenied) as raised:
        await make_broker("private")
    assert raised.value.right == "subscribe"
    assert raised.value.subject.startswith("_inbox.")
    await broker.subscribe("_INBOX.>", lambda *_: None)
    with pytest.raises(AccessDenied):
        await broker.flush()


# --- what they may not ---------------------------------------------------------------------------

Attempt = Callable[[JetStreamBroker], Awaitable[object]]


def listen(subject: str) -> Attempt:
    async def attempt(broker: JetStreamBroker) -> None:
        await broker.subscribe(subject, lambda *_: None)
        await broker.flush()

    return attempt


def ask(call: str) -> Attempt:
    """A request to JetStream's API that the code itself never makes."""
    return lambda broker: broker._connection.api(call)


def submit(queue: str) -> Attempt:
    async def attempt(broker: JetStreamBroker) -> None:
        await (await broker.queue(queue).put_soon(NORMAL, "x", b'{"type":"t"}', "x"))

    return attempt


async def consume(broker: JetStreamBroker) -> None:
    async with Recorder(broker.queue(QUEUE), NORMAL):
        pass


WORK, STATE, LATER = DOCS.work_stream, DOCS.state_stream, DOCS.later_stream

REFUSED: list[tuple[str, str, Attempt, str, str]] = [
    # who, what, how, right, subject
    ("producer", "consume", consume, "publish", f"$JS.API.CONSUMER.MSG.NEXT.{WORK}.normal"),
    ("producer", "consumer", lambda b: b.queue(QUEUE).ensure_lanes([Lane(TaskPriority.LOW, "n")]),
     "publish", f"$JS.API.CONSUMER.DURABLE.CREATE.{WORK}.low-n"),
    ("producer", "letter", lambda b: b.queue(QUEUE).write_dead("x", b"{}"),
     "publish", "headrace.dead.docs.x"),
    ("producer", "control", listen("headrace.control.docs.>"), "subscribe",
     "headrace.control.docs.>"),
    ("producer", "other", submit("other"), "publish", "headrace.q.other.normal._.x"),
    ("producer", "other results", listen("headrace.reply.other.*"), "subscribe",
     "headrace.reply.other.*"),
    ("producer", "all results", listen("headrace.reply.>"), "subscribe", "headrace.reply.>"),
    ("producer", "delete", ask(f"STREAM.DELETE.{WORK}"), "publish",
     f"$JS.API.STREAM.DELETE.{WORK}"),
    ("producer", "sourcing", ask(f"STREAM.CREATE.{LATER}"), "publish",
     f"$JS.API.STREAM.CREATE.{LATER}"),
    ("worker", "submit elsewhere", submit("other"), "publish", "headrace.q.other.normal._.x"),
    ("worker", "delete", ask(f"STREAM.DELETE.{WORK}"), "publish", f"$JS.API.STREAM.DELETE.{WORK}"),
    ("worker", "purge", ask(f"STREAM.PURGE.{WORK}"), "publish", f"$JS.API.STREAM.PURGE.{WORK}"),
    ("worker", "sourcing", ask(f"STREAM.UPDATE.{WORK}"), "publish",
     f"$JS.API.STREAM.UPDATE.{WORK}"),
    ("worker", "no more consumers", ask(f"CONSUMER.DELETE.{WORK}.normal"), "publish",
     f"$JS.API.CONSUMER.DELETE.{WORK}.normal"),
    ("worker", "other", lambda b: b.queue("other").ensure(), "publish",
     f"$JS.API.STREAM.INFO.{OTHER.work_stream}"),
    ("worker", "other record", lambda b: b.queue("other").write_record("x", b"{}", 0, 60),
     "publish", "headrace.state.other.x"),
    ("worker", "other control", listen("headrace.control.other.>"), "subscribe",
     "headrace.control.other.>"),
    ("worker", "drain others", lambda b: b.request(DOCS.worker("w", "drain"), b"{}", 2.0),
     "publish", "headrace.control.docs.w.drain"),
    ("operator-of-all", "submit", submit(QUEUE), "publish", "headrace.q.docs.normal._.x"),
    ("operator-of-all", "read", lambda b: b.queue(QUEUE).find("x"), "publish",
     f"$JS.API.DIRECT.GET.{WORK}"),
    ("operator-of-all", "results", listen("headrace.reply.>"), "subscribe", "headrace.reply.>"),
    ("operator-of-all", "tasks", listen("headrace.q.>"), "subscribe", "headrace.q.>"),
    ("operator-of-all", "records", lambda b: b.queue(QUEUE).read_record("x"), "publish",
     f"$JS.API.DIRECT.GET.{STATE}"),
    ("operator", "other", ask(f"CONSUMER.LIST.{OTHER.work_stream}"), "publish",
     f"$JS.API.CONSUMER.LIST.{OTHER.work_stream}"),
    ("operator", "other drain", lambda b: b.request(OTHER.worker("w", "drain"), b"{}", 2.0),
     "publish", "headrace.control.other.w.drain"),
    ("dashboard-of-all", "submit", submit(QUEUE), "publish", "headrace.q.docs.normal._.x"),
    ("dashboard-of-all", "drain", lambda b: b.request(DOCS.worker("w", "drain"), b"{}", 2.0),
     "publish", "headrace.control.docs.w.drain"),
    ("dashboard-of-all", "consume", consume, "publish",
     f"$JS.API.CONSUMER.MSG.NEXT.{WORK}.normal"),
    ("dashboard-of-all", "cancel", lambda b: b.queue(QUEUE).write_record("x", b"{}", 0, 60),
     "publish", "headrace.state.docs.x"),
    ("dashboard-of-all", "purge", ask(f"STREAM.PURGE.{STATE}"), "publish",
     f"$JS.API.STREAM.PURGE.{STATE}"),
    ("dashboard", "other", lambda b: b.queue("other").find("x"), "publish",
     f"$JS.API.DIRECT.GET.{OTHER.work_stream}"),
    ("owner", "submit", submit(QUEUE), "publish", "headrace.q.docs.normal._.x"),
    ("owner", "read", lambda b: b.queue(QUEUE).find("x"), "publish", f"$JS.API.DIRECT.GET.{WORK}"),
    ("owner", "other", lambda b: b.queue("third").ensure(), "publish",
     "$JS.API.STREAM.INFO.HEADRACE_third"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("who", "attempt", "right", "subject"),
    [(who, *rest) for who, _, *rest in REFUSED],
    ids=[f"{who}:{what.replace(' ', '-')}" for who, what, *_ in REFUSED],
)
async def test_what_is_refused(
    make_broker: MakeBroker, made: None, who: str, attempt: Attempt, right: str, subject: str
) -> None:
    """At once, by an error that names right and subject; who may all may do it."""
    admin = await make_broker("admin")
    await admin.queue(QUEUE).ensure_lanes([NORMAL])
    broker = await make_broker(who)
    begun = time.monotonic()
    with pytest.raises(AccessDenied) as raised:
        await attempt(broker)
    assert time.monotonic() - begun < BOUND
    assert (raised.value.right, raised.value.subject.lower()) == (right, subject.lower())
    assert subject.lower() in str(raised.value).lower()
    assert broker.connected


async def test_a_worker_with_a_producers_rights_ends_at_its_start(as_user: As, made: None) -> None:
    worker = Worker(url=as_user("producer"), queue=QUEUE)
    teach(worker)
    begun = time.monotonic()
    with pytest.raises(AccessDenied) as raised:
        await worker.start()
    assert time.monotonic() - begun < 5 * BOUND  # a lease keeper is started and ended
    assert raised.value.subject


async def test_a_client_of_a_queue_that_nobody_made(as_user: As) -> None:
    """A producer may not make it, and is told which right that would take."""
    client = Client(as_user("producer"), "third")
    with pytest.raises(AccessDenied, match=r"STREAM\.INFO\.HEADRACE_third"):
        await client.start()


async def test_a_smaller_queue_keeps_its_size_for_who_may_not_raise_it(
    as_user: As, make_broker: MakeBroker, made: None
) -> None:
    settings = QueueSettings(max_size=20_000)
    async with Client(as_user("producer"), QUEUE, settings=settings) as client:
        assert (await client.depth()).max_size == 10_000
    admin = await make_broker("admin")
    await admin.queue(QUEUE, settings).ensure()
    assert (await admin.queue(QUEUE).depth()).max_size == 20_000
