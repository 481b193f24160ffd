"""A client that is not ours: what docs/reference/wire.md says, with nats-py alone; and junk."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.errors import NoRespondersError
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import depth_when, when
from tests.support.workers import MakeClient

from headrace import Client, DeadLetter, QueueSettings, Worker, WorkerConfig
from headrace.wire import LEVEL_NAMES, Envelope, Reason, Record
from headrace.wire import DeadLetter as Letter

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "wire.md").read_text()


@pytest.fixture
async def worker(nats_server: NatsProcess, queue_name: str) -> AsyncIterator[Worker]:
    """One slot: whatever blocks it blocks everything."""
    worker = Worker(
        config=WorkerConfig(max_concurrent_tasks=1),
        url=nats_server.url,
        queue=queue_name,
        settings=QueueSettings(ack_wait=2.0),
    )

    @worker.handler("double")
    async def double(data: dict[str, int]) -> dict[str, int]:
        return {"doubled": data["x"] * 2}

    @worker.handler("echo")
    async def echo(data: Any) -> Any:
        return data

    await worker.start()
    yield worker
    await worker.stop(graceful=False)


@pytest.fixture
async def connection(nats_server: NatsProcess) -> AsyncIterator[NatsClient]:
    """nats-py alone."""
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()


def snippet(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


async def test_the_python_snippet_of_the_page(
    nats_server: NatsProcess, queue_name: str, worker: Worker, make_client: MakeClient
) -> None:
    """`python -c` with nats-py and nothing of headrace."""
    code = snippet("python")
    assert "headrace" not in re.findall(r"import (.*)", code)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, nats_server.url, queue_name, "from-the-page",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert output.decode().splitlines() == ["completed {'doubled': 42}", "{'doubled': 42}"]
    client = await make_client()
    task = await client.get_task("from-the-page")
    assert task is not None
    assert (task.type, task.priority.name, task.result) == ("double", "HIGH", {"doubled": 42})


async def test_the_page_names_every_field_reason_and_level() -> None:
    said = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    fields = set(Envelope.__dataclass_fields__) - {"lane"}
    fields |= set(Record.__dataclass_fields__) | set(Letter.__dataclass_fields__)
    assert fields <= said
    assert {reason.value for reason in Reason} <= said
    assert set(LEVEL_NAMES.values()) <= said
    assert {"raw_base64", "chunk", "progress", "kind", "n", "value", "text"} <= said


async def test_every_field_of_the_page_is_read(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    client = await make_client()
    body = {
        "v": 1, "id": "all", "type": "echo", "data": ["ü", None, 1.5], "timeout": 20, "retries": 2,
        "created_at": 1_700_000_000.5, "metadata": {"who": "me"}, "result_ttl": 60, "reply": "me",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "future": {},
    }  # fmt: skip
    replies = await connection.subscribe(f"headrace.reply.{queue_name}.me")
    await connection.flush()
    subject = f"headrace.q.{queue_name}.low._.all"
    await connection.jetstream().publish(subject, json.dumps(body).encode())
    reply = json.loads((await replies.next_msg(timeout=10)).data)
    assert (reply["status"], reply["result"], reply["attempt"]) == ("completed", body["data"], 1)
    task = await client.get_task("all")
    assert task is not None
    assert (task.timeout, task.retries, task.created_at) == (20, 2, 1_700_000_000.5)
    assert (task.metadata, task.worker_id) == ({"who": "me"}, worker.id)
    stored = await connection.jetstream().get_last_msg(
        f"HEADRACE_STATE_{queue_name}", f"headrace.state.{queue_name}.all", direct=True
    )
    record = json.loads(stored.data or b"")
    assert record["task"] == body
    assert record["lane"] == "low._"
    assert stored.headers is not None
    assert stored.headers["Nats-TTL"] == "60"


async def test_a_schedule_as_the_page_says(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    """What the page names is what ours writes; and one that is published by hand runs."""
    client = await make_client()
    await client.schedule("ours", "echo", 1, cron="0 4 * * *", zone="Europe/Paris", timeout=9)
    stream = f"HEADRACE_LATER_{queue_name}"
    subject = f"headrace.cron.{queue_name}."
    stored = await connection.jetstream().get_last_msg(stream, subject + "ours", direct=True)
    body = json.loads(stored.data or b"")
    (section,) = re.findall(r"\n## Schedules\n(.*?)\n## ", PAGE, re.DOTALL)
    said = set(re.findall(r"`([A-Za-z_-]+)`", section))
    assert set(body) | set(body["task"]) | {"every", "since"} <= said
    headers = dict(stored.headers or {})
    assert {name for name in headers if name.startswith("Nats-Schedule")} <= said
    assert headers["Nats-Schedule"] == body["ticks"] == "0 0 2,3 * * *"
    assert headers["Nats-Schedule-Target"] == f"headrace.due.{queue_name}.normal._.cron:ours"

    theirs = {"v": 1, "name": "theirs", "every": 1, "ticks": "@every 1s", "lane": "high._",
              "task": {"type": "echo", "data": "by hand"}}  # fmt: skip
    headers = {
        "Nats-Schedule": "@every 1s",
        "Nats-Schedule-Target": f"headrace.due.{queue_name}.high._.cron:theirs",
        "Nats-Expected-Last-Subject-Sequence": "0",
    }
    payload = json.dumps(theirs).encode()
    await connection.jetstream().publish(subject + "theirs", payload, headers=headers)
    schedules = await when(
        client.schedules, lambda found: found[-1].name == "theirs" and found[-1].last_run
    )
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(schedules[-1].last_run))
    assert (await client.wait_for(f"theirs@{at}", timeout=10)).result == "by hand"


async def test_the_server_refuses_an_unknown_level(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    body = b'{"type": "echo"}'
    for tokens in ("urgent._.a", "Normal._.a", "normal.a", "normal._.a.b", "5._.a"):
        with pytest.raises(NoRespondersError):
            await connection.request(f"headrace.q.{queue_name}.{tokens}", body, timeout=2)
    client = await make_client()
    assert (await client.depth()).messages == 0
    assert await client.dead_letters() == []


def field(**fields: Any) -> bytes:
    return json.dumps({"type": "echo", "data": 1} | fields).encode()


JUNK: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not-json": (b"{oops", "not JSON"),
    "not-utf8": (b"\xff\xfe\x00", "not JSON"),
    "array": (b"[]", "array"),
    "number": (b"5", "number"),
    "no-type": (b"{}", "no `type`"),
    "type-number": (b'{"type": 5}', "`type` is 5"),
    "type-empty": (b'{"type": ""}', "`type` is ''"),
    "nan": (b'{"type": "echo", "data": NaN}', "NaN"),
    "too-big": (b'{"type": "echo", "data": 1e400}', "1e400"),
    "surrogate": (b'{"type": "echo", "data": "\\ud800"}', "surrogates"),
    "other-id": (field(id="someone-else"), "someone-else"),
    "version": (field(v=2), "`v` is 2"),
    "timeout-text": (field(timeout="5"), "`timeout` is '5'"),
    "timeout-zero": (field(timeout=0), "`timeout` is 0"),
    "timeout-long": (field(timeout=1e300), "`timeout` is 1e+300"),
    "ttl": (field(result_ttl=-1), "`result_ttl` is -1"),
    "retries": (field(retries=True), "`retries` is True"),
    "after": (field(after=2**80), "`after` is"),
    "since": (field(type="nobody", unknown_since=1e300), "`unknown_since`"),
    "metadata": (field(metadata=[1]), "`metadata` is not"),
    "reply-number": (field(reply=5), "`reply` is 5"),
    "reply-wild": (field(reply=">"), "`reply` is '>'"),
    "reply-command": (field(reply="a\r\nPUB evil 2\r\nhi\r\nPUB x"), "`reply` is"),
    "deep": (b'{"type": "echo", "data": ' + b"[" * 100_000, "not JSON"),
    "large": (b"\xff" * 900_000, "not JSON"),
    "large-text": (b"x" * 900_000, "not JSON"),
}


async def test_junk_is_a_dead_letter_with_its_bytes_and_blocks_nobody(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    client = await make_client()
    evil = await connection.subscribe("evil")
    for name, (body, _) in JUNK.items():
        subject = f"headrace.q.{queue_name}.normal._.{name}"
        await connection.jetstream().publish(subject, body)
    begun = time.monotonic()
    assert await client.submit("echo", "good", wait_timeout=10) == "good"  # behind all of it
    assert time.monotonic() - begun < 5.0
    letters = {letter.id: letter for letter in await client.dead_letters(1000)}
    assert set(letters) == set(JUNK)
    for name, (body, said) in JUNK.items():
        letter = letters[name]
        assert letter.reason == "undecodable"
        assert said in letter.error
        assert letter.subject == f"headrace.q.{queue_name}.normal._.{name}"
        if name == "large":  # as base64 it is over the server's limit: a blob has it
            assert letter.raw == b""
            assert (await client.dead_letter(name)).raw == body
        else:
            assert letter.raw == body
        task = await client.get_task(name)
        assert task is not None
        assert (task.status, task.reason) == ("failed", "undecodable")
        assert said in (task.error or "")
    _, queue = await client.link()
    await depth_when(queue, lambda depth: depth.messages == 0)
    assert worker.status == "idle"
    assert evil.pending_msgs == 0
    await _read_raw(connection, queue_name, letters["not-utf8"])


async def _read_raw(connection: NatsClient, queue: str, letter: DeadLetter) -> None:
    """As the page says: text as text, other bytes as base64."""
    stored = await connection.jetstream().get_last_msg(
        f"HEADRACE_STATE_{queue}", f"headrace.dead.{queue}.{letter.id}", direct=True
    )
    body = json.loads(stored.data or b"")
    assert base64.b64decode(body["raw_base64"]) == letter.raw
    assert "raw" not in body


async def test_an_id_that_is_none_harms_nobody(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    """`*` as an id is taken by the server; as a filter it would mean all."""
    client = await make_client()
    subject = f"headrace.q.{queue_name}.normal._."
    await connection.jetstream().publish(subject + "kept", b"")
    for name, body in (("*", b'{"type": "echo"}'), ("*", b"junk"), ("ü", b'{"type": "echo"}')):
        await connection.request(subject + name, body, timeout=2)
    assert await client.submit("echo", "good", wait_timeout=10) == "good"
    letters = {letter.id: letter for letter in await client.dead_letters()}
    assert set(letters) == {"kept", "undecodable-2", "undecodable-3", "undecodable-4"}
    assert letters["undecodable-2"].subject == subject + "*"
    assert await client.drop_dead_letter("undecodable-3")
    assert len(await client.dead_letters()) == 3


async def test_what_a_foreign_client_writes_into_the_state_stream_stops_nobody(
    queue_name: str, worker: Worker, connection: NatsClient, make_client: MakeClient
) -> None:
    client: Client = await make_client()
    await connection.jetstream().publish(f"headrace.dead.{queue_name}.odd", b"junk")
    await connection.jetstream().publish(f"headrace.state.{queue_name}.odd", b"junk")
    (letter,) = await client.dead_letters()
    assert (letter.id, letter.reason, letter.raw) == ("odd", "undecodable", b"junk")
    with pytest.raises(Exception, match="is no record") as raised:
        await client.wait_for("odd", 5)
    assert getattr(raised.value, "code", "") == "HR200"
    assert await client.submit("echo", 1, wait_timeout=10) == 1
