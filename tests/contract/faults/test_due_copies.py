"""Due copies: what stays of a delayed task in *later*, when it goes, and what is lost without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import NORMAL, MakeQueue, Recorder, depth_when, when
from tests.support.workers import MakeClient

from headrace import Client, QueueSettings, Worker, WorkerConfig
from headrace.broker.jetstream import due_copies, streams
from headrace.broker.port import Broker, BrokerQueue
from headrace.runtime.history import History
from headrace.runtime.look import Doubt, Verdict, look
from headrace.task import TaskStatus
from headrace.wire import QueueNames, Record, decode_task, encode_record

LAPSED = Doubt(lapsed=True, outage=False)


@pytest.fixture
async def raw(nats_server: NatsProcess) -> AsyncIterator[NatsClient]:
    """A connection that is not ours."""
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_copies, "_SPREAD", 0.0)
    monkeypatch.setattr(due_copies, "_ARRIVES", 0.5)


@pytest.fixture
def dies_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a worker that dies before it has dropped the copy of what it was given."""
    monkeypatch.setattr(due_copies.DueCopies, "arrived", lambda *_: None)


async def _copies(raw: NatsClient, names: QueueNames) -> int:
    query = json.dumps({"subjects_filter": f"{names.due}>"}).encode()
    answer = await raw.request(f"$JS.API.STREAM.INFO.{names.later_stream}", query)
    return len(json.loads(answer.data)["state"].get("subjects") or {})


async def _record(queue: BrokerQueue, record: Record) -> None:
    await queue.write_record(record.id, encode_record(record, NORMAL, None)[0], 0, 3600)


async def _acknowledged(raw: NatsClient, names: QueueNames, seq: int) -> None:
    call = f"$JS.API.CONSUMER.INFO.{names.later_stream}.{streams.LATER_CONSUMER}"

    async def floor() -> int:
        return int(json.loads((await raw.request(call)).data)["ack_floor"]["stream_seq"])

    await when(floor, lambda found: found >= seq)


async def test_the_copy_of_a_task_stays_until_the_task_is_delivered(
    nats_server: NatsProcess, queue_name: str, raw: NatsClient, make_client: MakeClient
) -> None:
    """No acknowledgement drops it. A task that waits for a worker is in its lane: not delayed."""
    client = await make_client()
    _, queue = await client.link()
    for number in range(3):
        await client.submit_async("work", {"n": 1}, delay=0.1 if number else 600)
    await _acknowledged(raw, queue.names, 5)  # three schedules, two due copies
    depth = await depth_when(queue, lambda depth: depth.delayed == 1)
    assert depth.waiting == 2
    assert await _copies(raw, queue.names) == 2
    async with Recorder(queue, NORMAL) as taker:
        await taker.take(2)
        assert await when(lambda: _copies(raw, queue.names), lambda count: count == 0) == 0
    assert (await queue.depth()).delayed == 1


async def test_a_redelivery_drops_the_copy_that_its_first_worker_left(
    queue_name: str, raw: NatsClient, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await make_client()
    _, queue = await client.link()
    await client.submit_async("work", {"n": 1}, delay=0.1)
    arrived = due_copies.DueCopies.arrived
    monkeypatch.setattr(due_copies.DueCopies, "arrived", lambda *_: None)
    async with Recorder(queue, NORMAL) as taker:
        await taker.take()
        monkeypatch.setattr(due_copies.DueCopies, "arrived", arrived)
        await taker.take()
        await when(lambda: _copies(raw, queue.names), lambda count: count == 0, within=5.0)


async def test_what_its_first_worker_left_is_dropped_by_the_next_that_starts(
    queue_name: str, raw: NatsClient, make_client: MakeClient, dies_early: None
) -> None:
    client = await make_client()
    _, queue = await client.link()
    await client.submit_async("work", {"n": 1}, delay=0.1, task_id="old")
    await client.submit_async("work", {"n": 1}, delay=600, task_id="new")
    async with Recorder(queue, NORMAL) as taker:
        await taker.take()
        await _acknowledged(raw, queue.names, 2)
    assert await queue.find_scheduled("old") is not None
    async with Recorder(queue, NORMAL):
        await when(lambda: queue.find_scheduled("old"), lambda found: found is None)
    assert await queue.find_scheduled("new") is not None
    assert await queue.find("old") is not None


@pytest.mark.parametrize("by", ["a start", "a look"])
async def test_due_tasks_that_were_acknowledged_and_never_arrived_are_scheduled_again(
    queue_name: str,
    raw: NatsClient,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """Acknowledgements of what is sourced are cumulative: one stood for what an isolated server
    had not been sent. Here the work stream loses the tasks; those that have ended stay away."""
    monkeypatch.setattr(due_copies, "_LOOK_EVERY", 1.0)
    client = await make_client()
    _, queue = await client.link()
    names = queue.names

    async def lose() -> None:
        for task_id in ("lost", "died", "ended"):
            await client.submit_async("work", {"n": 1}, delay=0.1, task_id=task_id)
        await depth_when(queue, lambda depth: depth.messages == 3)
        await _acknowledged(raw, names, 6)  # three schedules, three due copies
        await raw.jetstream().purge_stream(names.work_stream)
        # of a worker that died, whose task another one sent back by way of *later*
        await _record(queue, Record("died", TaskStatus.RUNNING, run="other-1"))
        await _record(queue, Record("ended", TaskStatus.COMPLETED, run="other-1"))

    if by == "a start":
        await lose()
    async with Recorder(queue, NORMAL) as taker:
        if by == "a look":
            await lose()
        for delivery in await taker.take(2):
            assert delivery.sourced
            await queue.ack(delivery)
        await when(lambda: _copies(raw, names), lambda count: count == 0)
        assert sorted(taker.ids) == ["died", "lost"]


async def test_the_attempt_before_it_is_not_taken_for_a_retry_that_never_arrived(
    queue_name: str, raw: NatsClient, make_client: MakeClient
) -> None:
    """The acknowledgement of the first attempt is held back; its lane is long."""
    client = await make_client()
    _, queue = await client.link()
    await client.submit_async("work", {"n": 1}, task_id="a")
    found = await queue.find("a")
    assert found is not None
    retry = json.dumps(json.loads(found.body) | {"retry_count": 1}).encode()
    await queue.schedule(NORMAL, "a", retry, queue.now(), "a.1")
    await depth_when(queue, lambda depth: depth.messages == 2)
    await _acknowledged(raw, queue.names, 2)
    retried = await queue.find("a")
    assert retried is not None
    assert retried.body == retry
    await raw.jetstream().delete_msg(queue.names.work_stream, retried.seq)
    await _record(queue, Record("a", TaskStatus.QUEUED, run="other-1", attempt=2))
    async with Recorder(queue, NORMAL) as taker:
        first, second = await taker.take(2)
        assert (first.body, second.body) == (found.body, retry)


async def test_an_odd_copy_does_not_end_the_looks(
    queue_name: str, raw: NatsClient, make_client: MakeClient, dies_early: None
) -> None:
    client = await make_client()
    _, queue = await client.link()
    await client.submit_async("work", {"n": 1}, delay=600)
    await raw.jetstream().publish(f"{queue.names.due}urgent._.odd", b"{}")
    await client.submit_async("work", {"n": 1}, delay=0.1)
    await _acknowledged(raw, queue.names, 4)
    async with Recorder(queue, NORMAL):
        await when(lambda: _copies(raw, queue.names), lambda count: count == 0)


async def test_without_the_consumer_that_sources_what_is_due_is_delayed(
    queue_name: str, raw: NatsClient, make_client: MakeClient
) -> None:
    client = await make_client()
    _, queue = await client.link()
    await client.submit_async("work", {"n": 1}, delay=600)
    await raw.jetstream().delete_consumer(queue.names.later_stream, streams.LATER_CONSUMER)
    await client.submit_async("work", {"n": 1}, delay=0.1)
    await when(lambda: _copies(raw, queue.names), lambda count: count == 1)
    assert (await queue.depth()).delayed == 2


async def test_a_task_that_is_sourced_twice_is_not_run_beside_itself(
    nats_server: NatsProcess, queue_name: str, raw: NatsClient
) -> None:
    """The consumer that sources was made anew and begins from the start: the work stream gets what
    it has had. Who is given that asks who runs it."""
    settings = QueueSettings(ack_wait=2.0)
    runs: list[str] = []
    go_on = asyncio.Event()

    async def slow() -> None:
        runs.append("started")
        await go_on.wait()

    def worker() -> Worker:
        made = Worker(
            url=nats_server.url, queue=queue_name, config=WorkerConfig(1), settings=settings
        )
        made.handler("slow")(slow)
        return made

    one, other = worker(), worker()
    async with Client(nats_server.url, queue_name, settings=settings) as client:
        _, queue = await client.link()
        task = await client.submit_async("slow", {}, delay=0.1)
        found = await queue.find_scheduled(task.id)
        assert found is not None
        await one.start()
        await when(lambda: queue.read_record(task.id), lambda record: record is not None)
        await other.start()
        asked = asyncio.Event()

        async def ask(_: Msg) -> None:
            asked.set()

        await raw.subscribe(queue.names.holds(task.id), cb=ask)
        await raw.flush()
        try:
            # as the server's schedule does
            await raw.jetstream().publish(found.subject, found.body)
            await asyncio.wait_for(asked.wait(), 15)
            assert len(runs) == 1
            go_on.set()
            assert (await client.wait_for(task.id, timeout=20)).status is TaskStatus.COMPLETED
            await depth_when(queue, lambda depth: depth.messages == 0)
        finally:
            await other.stop()
            await one.stop()
    assert len(runs) == 1


async def test_a_due_copy_that_is_still_there_is_no_later_attempt(
    broker: Broker, make_queue: MakeQueue, dies_early: None
) -> None:
    queue: BrokerQueue = await make_queue(ack_wait=1.0)
    await queue.schedule(NORMAL, "a", b'{"type": "t"}', queue.now() + 0.2, "a")
    async with Recorder(queue, NORMAL) as taker:
        (first, again) = await taker.take(2)  # the lease of the first has lapsed
        assert (again.seq, again.deliveries) == (first.seq, 2)
        task = decode_task(NORMAL, "a", again.body)
        verdict = (await look(broker, queue, again, task, LAPSED, History(1))).verdict
    assert verdict is Verdict.START


async def test_a_schedule_of_the_next_attempt_takes_the_place_of_a_redelivered_one(
    broker: Broker, make_queue: MakeQueue
) -> None:
    """What the look is for: a worker died between scheduling and acknowledging."""
    queue: BrokerQueue = await make_queue(ack_wait=1.0)
    await queue.schedule(NORMAL, "a", b'{"type": "t"}', queue.now(), "a")
    async with Recorder(queue, NORMAL) as taker:
        await taker.take()
        body = b'{"type": "t", "retry_count": 1}'
        await queue.schedule(NORMAL, "a", body, queue.now() + 600, "a.1")
        (again,) = await taker.take()
        task = decode_task(NORMAL, "a", again.body)
        assert (await look(broker, queue, again, task, LAPSED, History(1))).verdict is Verdict.DROP


async def test_a_worker_that_stops_drops_the_copies_of_what_it_was_given(
    queue_name: str, raw: NatsClient, make_client: MakeClient
) -> None:
    client = await make_client()
    _, queue = await client.link()
    await client.submit_many([{"type": "work", "data": {}, "delay": 0.3}] * 20)
    async with Recorder(queue, NORMAL) as taker:
        await taker.take(20)
    assert await _copies(raw, queue.names) == 0
