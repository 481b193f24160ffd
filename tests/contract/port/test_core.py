"""Core messages, workers that are announced, and brokers that see each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.recorder import NORMAL, OpenBroker, Recorder, put, when

from headrace.broker.port import Broker, BrokerQueue

Message = tuple[str, bytes, str]


class Listener:
    """Remembers what a subscription received."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self._changed = asyncio.Event()

    def __call__(self, subject: str, body: bytes, reply: str) -> None:
        self.got.append((subject, body, reply))
        self._changed.set()

    async def wait(self, count: int) -> list[bytes]:
        """The bodies, once there are `count`."""
        async with asyncio.timeout(10):
            while len(self.got) < count:
                self._changed.clear()
                await self._changed.wait()
        return [body for _, body, _ in self.got]


@pytest.fixture
def prefix(queue_name: str) -> str:
    """Of subjects that no other test uses."""
    return f"headrace.test.{queue_name}"


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a.b", {"a.b"}),
        ("a.*", {"a.b", "a.c"}),
        ("*.b", {"a.b", "x.b"}),
        ("a.>", {"a.b", "a.c", "a.b.c"}),
        ("*.*.c", {"a.b.c"}),
        (">", {"a", "a.b", "a.c", "x.b", "a.b.c"}),
    ],
)
async def test_wildcards(broker: Broker, prefix: str, pattern: str, heard: set[str]) -> None:
    listener, end = Listener(), Listener()
    await broker.subscribe(f"{prefix}.{pattern}", listener)
    await broker.subscribe(f"{prefix}-end", end)
    for subject in ("a", "a.b", "a.c", "x.b", "a.b.c"):
        await broker.publish(f"{prefix}.{subject}", subject.encode())
    await broker.publish(f"{prefix}-end", b"")
    await end.wait(1)
    assert {body.decode() for body in await listener.wait(len(heard))} == heard
    assert len(listener.got) == len(heard)
    assert all(subject == f"{prefix}.{body.decode()}" for subject, body, _ in listener.got)


async def test_messages_come_in_order_to_all_who_listen(broker: Broker, prefix: str) -> None:
    one, other = Listener(), Listener()
    await broker.subscribe(prefix, one)
    await broker.subscribe(prefix, other)
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies:
        await broker.publish(prefix, body, "headrace.answer")
    assert await one.wait(50) == await other.wait(50) == bodies
    assert one.got[0] == (prefix, b"0", "headrace.answer")


async def test_an_async_callback_takes_one_message_after_the_other(
    broker: Broker, prefix: str
) -> None:
    steps: list[str] = []
    done = asyncio.Event()

    async def callback(_: str, body: bytes, __: str) -> None:
        steps.append(f"begin {body.decode()}")
        await asyncio.sleep(0.01)
        steps.append(f"end {body.decode()}")
        if body == b"2":
            done.set()

    await broker.subscribe(prefix, callback)
    await broker.publish(prefix, b"1")
    await broker.publish(prefix, b"2")
    await asyncio.wait_for(done.wait(), 10)
    assert steps == ["begin 1", "end 1", "begin 2", "end 2"]


async def test_a_callback_that_fails_stops_nothing(broker: Broker, prefix: str) -> None:
    listener = Listener()

    async def fail_later(subject: str, body: bytes, reply: str) -> None:
        listener(subject, body, reply)
        raise RuntimeError("on purpose")

    def fail(subject: str, body: bytes, reply: str) -> None:
        listener(subject, body, reply)
        raise RuntimeError("on purpose")

    await broker.subscribe(prefix, fail)
    await broker.subscribe(prefix, fail_later)
    await broker.publish(prefix, b"1")
    await broker.publish(prefix, b"2")
    assert sorted(await listener.wait(4)) == [b"1", b"1", b"2", b"2"]


async def test_a_closed_subscription_hears_nothing(broker: Broker, prefix: str) -> None:
    closed, open_ = Listener(), Listener()
    subscription = await broker.subscribe(prefix, closed)
    await broker.subscribe(prefix, open_)
    await subscription.close()
    await subscription.close()
    await broker.publish(prefix, b"1")
    await open_.wait(1)
    assert closed.got == []


async def test_a_request_is_answered(broker: Broker, prefix: str) -> None:
    async def answer(_: str, body: bytes, reply: str) -> None:
        await broker.publish(reply, body.upper())

    await broker.subscribe(f"{prefix}.*", answer)
    answers = await asyncio.gather(
        *(broker.request(f"{prefix}.x", b"n%d" % number, 10.0) for number in range(20))
    )
    assert answers == [b"N%d" % number for number in range(20)]


async def test_a_request_that_nobody_hears_ends_at_once(broker: Broker, prefix: str) -> None:
    async with asyncio.timeout(5):
        assert await broker.request(prefix, b"", 60.0) is None


async def test_a_request_without_an_answer_ends_in_time(broker: Broker, prefix: str) -> None:
    listener = Listener()
    await broker.subscribe(prefix, listener)
    async with asyncio.timeout(5):
        assert await broker.request(prefix, b"", 0.1) is None
    assert len(listener.got) == 1


# --- workers ---


async def drain(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"draining": True, "for": arguments.get("for")}


async def fail(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RuntimeError("on purpose")


async def test_workers_tell_their_facts_of_now(queue: BrokerQueue) -> None:
    assert await queue.workers() == []
    facts: dict[str, Any] = {"id": "w1", "busy": 0, "slots": 4, "tags": ["gpu"]}
    one = await queue.announce("w1", lambda: facts, {"drain": drain})
    two = await queue.announce("w2", lambda: {"id": "w2"}, {})
    found = sorted(await queue.workers(expect=2), key=lambda row: str(row["id"]))
    assert found == [facts, {"id": "w2"}]
    facts["busy"] = 3
    found = sorted(await queue.workers(), key=lambda row: str(row["id"]))
    assert found[0]["busy"] == 3
    await one.close()
    await one.close()
    await when(queue.workers, lambda rows: rows == [{"id": "w2"}])
    await two.close()
    await when(queue.workers, lambda rows: rows == [])


async def test_a_worker_answers_its_own_subjects(broker: Broker, queue: BrokerQueue) -> None:
    names = queue.names
    worker = await queue.announce("w1", lambda: {"id": "w1"}, {"drain": drain, "resume": fail})
    await broker.flush()
    answer = await broker.request(names.worker("w1", "drain"), b'{"for": 30}', 5.0)
    assert json.loads(answer or b"") == {"draining": True, "for": 30}
    answer = await broker.request(names.worker("w1", "drain"), b"", 5.0)
    assert json.loads(answer or b"") == {"draining": True, "for": None}
    for odd in (b"no json", b"[1]", b"NaN"):
        assert await broker.request(names.worker("w1", "drain"), odd, 5.0) == b""
    assert json.loads(await broker.request(names.worker("w1", "facts"), b"", 5.0) or b"") == {
        "id": "w1"
    }
    assert await broker.request(names.worker("w1", "resume"), b"", 5.0) == b""
    assert await broker.request(names.worker("w2", "drain"), b"", 5.0) is None
    await worker.close()
    assert await broker.request(names.worker("w1", "drain"), b"", 5.0) is None


async def test_a_worker_that_cannot_tell_is_left_out(queue: BrokerQueue) -> None:
    await queue.announce("w1", lambda: {"id": "w1"}, {})
    await queue.announce("w2", lambda: {"id": 1 / 0}, {})
    assert await queue.workers() == [{"id": "w1"}]


async def test_workers_are_of_one_queue(broker: Broker, queue: BrokerQueue) -> None:
    other = broker.queue(queue.names.queue + "-2")
    await other.ensure()
    await queue.announce("w1", lambda: {"id": "w1"}, {})
    assert await other.workers() == []


# --- brokers ---


async def test_two_brokers_see_the_same(open_broker: OpenBroker, queue: BrokerQueue) -> None:
    other = await open_broker()
    assert queue.names.queue in await other.queues()
    same = other.queue(queue.names.queue)
    await same.ensure()
    await put(queue, NORMAL, "a")
    async with Recorder(same, NORMAL) as taker:
        (delivery,) = await taker.take()
        await queue.write_record("a", b"done", 0, 60.0)
        found = await same.read_record("a")
        assert found is not None
        assert found.body == b"done"
        await same.ack(delivery)
    await when(lambda: queue.find("a"), lambda found: found is None)


async def test_many_may_make_a_queue_at_once(open_broker: OpenBroker, queue_name: str) -> None:
    async def begin(number: int) -> None:
        queue = (await open_broker()).queue(queue_name)
        await queue.ensure()
        await queue.ensure_lanes([NORMAL])
        await queue.schedule(NORMAL, f"later{number}", b"{}", 1.0, f"later{number}")
        await put(queue, NORMAL, f"now{number}")

    await asyncio.gather(*(begin(number) for number in range(6)))
    queue = (await open_broker()).queue(queue_name)
    async with Recorder(queue, NORMAL) as taker:
        await taker.take(12)
        assert sorted(taker.ids) == sorted(
            [*(f"later{n}" for n in range(6)), *(f"now{n}" for n in range(6))]
        )


async def test_core_messages_pass_between_brokers(
    open_broker: OpenBroker, broker: Broker, queue: BrokerQueue, prefix: str
) -> None:
    other = await open_broker()
    listener = Listener()
    await other.subscribe(prefix, listener)
    await other.flush()
    await broker.publish(prefix, b"1")
    assert await listener.wait(1) == [b"1"]
    worker = await queue.announce("w1", lambda: {"id": "w1"}, {"drain": drain})
    same = other.queue(queue.names.queue)
    assert await same.workers(expect=1) == [{"id": "w1"}]
    assert await other.request(queue.names.worker("w1", "drain"), b"", 5.0) is not None
    await worker.close()


async def test_a_broker_says_what_it_is(broker: Broker, broker_url: str) -> None:
    assert broker.connected
    info = broker.info()
    assert info.kind == broker_url.partition("://")[0]
    assert info.version[:1].isdigit()
    assert broker.durable is (info.kind != "memory")
