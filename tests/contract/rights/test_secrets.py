"""C40: passwords, tokens and data are in no log, error, representation or metric."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.nats_servers import NatsProcess, free_ports
from tests.support.recorder import when
from tests.support.workers import PATIENCE

from headrace import (
    Client,
    Coordinator,
    HeadraceError,
    SyncClient,
    TaskFailed,
    TaskQueue,
    Worker,
    WorkerPool,
)
from headrace.broker.connect import make_broker
from headrace.broker.jetstream.options import ConnectOptions, redact
from headrace.cli.metrics import _Figures
from headrace_operator.adapters.jetstream.queues import JetStreamQueues
from headrace_operator.app.ports import QueueAddress
from headrace_operator.errors import QueueUnreadable
from headrace_operator.settings import Settings

SECRETS = ("s3cr3t", "t0k3n")
DATA = {"password": "hunter2"}
USERS = {
    "user:s3cr3t@": "authorization { user: user, password: s3cr3t }",
    "t0k3n@": "authorization { token: t0k3n }",
}


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Of all loggers, headrace's, nats-py's and asyncio's among them."""
    caplog.set_level(logging.DEBUG)
    yield
    text = caplog.text + "".join(repr(record.args) for record in caplog.records)
    for secret in (*SECRETS, "hunter2"):
        assert secret not in text


@pytest.fixture(params=list(USERS))
def user(request: pytest.FixtureRequest) -> str:
    """The part of the url before the host."""
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path, user: str) -> Iterator[NatsProcess]:
    """A server that takes this user alone."""
    made = NatsProcess(tmp_path / "nats", extra=USERS[user])
    yield made.start()
    made.stop()


def shown(error: BaseException) -> str:
    """All that anybody could print of an error, its causes included."""
    fields = vars(error) if hasattr(error, "__dict__") else {}
    lines = traceback.format_exception(error)
    return f"{error} {error!r} {error.args} {fields} {''.join(lines)}"


def holds_none(text: str) -> None:
    for secret in (*SECRETS, "hunter2"):
        assert secret not in text


def with_user(url: str, user: str) -> str:
    return url.replace("//", f"//{user}")


async def test_connected_reconnecting_and_failing_a_task(server: NatsProcess, user: str) -> None:
    url = with_user(server.url, user)
    worker = Worker(url=url, queue="q")

    @worker.handler("fail")
    async def fail(data: dict) -> None:
        raise ValueError("no such page")

    @worker.handler("wants")
    async def wants(password: int) -> None: ...

    @worker.handler("returns")
    async def returns(data: dict) -> object:
        return object()

    await worker.start()
    metrics = CollectorRegistry()
    metrics.register(_Figures(worker))
    async with Client(url, "q") as client:
        for task_type in ("fail", "wants", "returns"):
            with pytest.raises(TaskFailed) as raised:
                await client.submit(task_type, DATA, wait_timeout=10)
            holds_none(shown(raised.value))
        await client.submit_async("nobody-knows", DATA, task_id="unknown")
        await client.cancel_task((await client.submit_async("fail", DATA, delay=60)).id)
        for letter in await client.dead_letters():
            holds_none(letter.error)
        await asyncio.to_thread(server.restart)
        await when(lambda: connected(client), lambda on: on, PATIENCE)
        await client.submit_async("nobody-knows", DATA)
        for each in (client, worker, worker.info, client.__dict__["_links"]):
            holds_none(repr(each))
        exposed = generate_latest(metrics).decode()
        assert "headrace_worker_tasks_failed_total" in exposed
        holds_none(exposed)
    await worker.stop()


async def connected(client: Client) -> bool:
    return client.connected


async def test_refused(server: NatsProcess, user: str) -> None:
    wrong = "user:wr0ng@" if "t0k3n" in user else "wr0ng@"
    for url in (with_user(server.url, wrong), with_user(server.url, user.replace("3", "E"))):
        for connect in (Client(url, "q").start, Worker(url=url, queue="q").start):
            with pytest.raises(HeadraceError) as raised:
                await connect()
            text = shown(raised.value)
            for secret in ("wr0ng", "sEcrEt", "t0kEn"):
                assert secret not in text


async def test_nobody_is_there(user: str) -> None:
    (port,) = free_ports(1)
    url = with_user(f"nats://127.0.0.1:{port}", user)
    for connect in (Client(url, "q").start, Worker(url=url, queue="q").start):
        with pytest.raises(HeadraceError) as raised:
            await connect()
        holds_none(shown(raised.value))


async def test_the_operator(server: NatsProcess, user: str) -> None:
    """Its conditions and Events are made of these errors."""
    woken = asyncio.Event()
    for wrong in ("", "0"):
        queues = JetStreamQueues(lambda _: woken.set())
        url = with_user(server.url, user.replace("@", f"{wrong}@"))
        address = QueueAddress(url, "q")
        queues.watch(("n", "p"), address)
        await woken.wait() if wrong else await asyncio.sleep(0)
        with pytest.raises(QueueUnreadable) as raised:
            queues.look(address)
        holds_none(shown(raised.value))
        await queues.close()
        woken.clear()


@pytest.mark.parametrize(
    "url",
    [
        "nats://user:s3cr3t",  # no host: the password stands where the port does
        "nats://user:s3cr3t/x@host",  # a character that must be escaped
        "nats://user:s3,cr3t@host,nats://t0k3n@h:x",
        "http://user:s3cr3t@host",
        "user:s3cr3t@host:4222",
        "nats://t0k3n@",
        "nats://t0k3n@[::1",
    ],
)
async def test_a_url_with_a_mistake(url: str) -> None:
    client = Client(url, "q")
    holds_none(repr(client))
    with pytest.raises(HeadraceError) as raised:
        await client.start()
    for part in (*SECRETS, "cr3t"):
        assert part not in shown(raised.value)


@pytest.mark.parametrize("user", list(USERS))
def test_representations(user: str) -> None:
    url = with_user("nats://host:4222", user)
    for made in (
        Client(url, "q"), SyncClient(url, "q"), Worker(url=url, queue="q"), TaskQueue(url=url),
        Coordinator(url=url, queue="q"), WorkerPool(url=url), make_broker(url),
        make_broker(url).info(), ConnectOptions.from_url(url),
        ConnectOptions.from_url(url).identity(), Settings(nats_url=url), QueueAddress(url, "q"),
    ):  # fmt: skip
        holds_none(f"{made!r} {made}")


def test_redact() -> None:
    assert redact("nats://u:p@h:1,nats://t@i:2") == "nats://…@h:1,nats://…@i:2"
    assert redact("nats://u:p@x/@h:1") == "nats://…@h:1"
    assert redact("cannot reach nats://u:p@h:1 at all") == "cannot reach nats://…@h:1 at all"
    assert redact("nats://h:1/a") == "nats://h:1/a"
