"""A server whose users have exactly the rights that `headrace rights` prints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess

from headrace import Client, Worker
from headrace.broker.jetstream.broker import JetStreamBroker
from headrace.broker.jetstream.grants import Role, as_configuration, permissions
from headrace.broker.jetstream.options import ConnectOptions

QUEUE = "docs"
"""The queue of all users but `of_all` ones; `other` is another one."""

As = Callable[..., str]
MakeBroker = Callable[..., Awaitable[JetStreamBroker]]


def user(name: str, rights: dict[str, Any] | None) -> str:
    """An entry of `users` in the server's configuration."""
    inner = as_configuration(rights) if rights is not None else ""
    return f"{{ user: {json.dumps(name)}, password: p, {inner} }}"


def configuration() -> str:
    """`admin` may do all; `producer` … may do what their roles need on the queue `docs`."""
    users = [user("admin", None)]
    users += [user(role.value, permissions([role], [QUEUE])) for role in Role]
    users += [user(f"{role}-of-all", permissions([role])) for role in ("operator", "dashboard")]
    users.append(user("both", permissions([Role.PRODUCER, Role.WORKER], [QUEUE])))
    users.append(user("private", permissions([Role.PRODUCER], [QUEUE], "_INBOX_private")))
    return "authorization { users: [\n" + "\n".join(users) + "\n] }"


@pytest.fixture(scope="module")
def rights_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server for a module's tests."""
    server = NatsProcess(tmp_path_factory.mktemp("rights"), extra=configuration())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def as_user(rights_server: NatsProcess) -> As:
    """The url for a user."""
    return lambda name: rights_server.url.replace("//", f"//{name}:p@")


@pytest.fixture
async def made(as_user: As) -> None:
    """The queues `docs` and `other` as their owners made them."""
    async with AsyncExitStack() as stack:
        for name, queue in (("owner", QUEUE), ("admin", "other")):
            broker = JetStreamBroker(as_user(name))
            await broker.connect()
            stack.push_async_callback(broker.close)
            await broker.queue(queue).ensure()
            await broker.queue(queue).ensure_later()
            await broker.queue(queue).blobs.ensure()


@pytest.fixture
async def client(as_user: As, made: None) -> AsyncIterator[Client]:
    """A producer."""
    async with Client(as_user("producer"), QUEUE) as made_client:
        yield made_client


@pytest.fixture
async def make_broker(as_user: As) -> AsyncIterator[MakeBroker]:
    """Connects as a user."""
    async with AsyncExitStack() as stack:

        async def make(name: str, **options: Any) -> JetStreamBroker:
            url = as_user(name)
            found = ConnectOptions.from_url(url)
            if options:
                found = ConnectOptions.from_json(found.to_json() | options)
            broker = JetStreamBroker(url, options=found)
            await broker.connect()
            stack.push_async_callback(broker.close)
            return broker

        yield make


@pytest.fixture
async def worker(as_user: As, made: None) -> AsyncIterator[Worker]:
    """A worker that is not started; it is stopped at the end."""
    made_worker = Worker(url=as_user("worker"), queue=QUEUE)
    yield made_worker
    await made_worker.stop(graceful=False)
