"""C41: credentials, authorities and client certificates that are replaced in place.

A user is revoked, or the authorities change, while a worker runs a task, a client waits for it and
the operator watches the queue. All are refused, again and again; then the files are replaced, and
all are back without a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nkeys
import pytest
from tests.support.certificates import Authority
from tests.support.jwts import Organization, make_key
from tests.support.nats_servers import NatsProcess
from tests.support.recorder import when

from headrace import Client, QueueSettings, TaskStatus, Worker, WorkerConfig
from headrace.broker.jetstream import connection
from headrace.broker.jetstream.grants import Role, permissions
from headrace_operator.adapters.jetstream.queues import JetStreamQueues
from headrace_operator.app.ports import QueueAddress, QueueLook
from headrace_operator.errors import QueueUnreadable

T = TypeVar("T")

QUEUE = "docs"
BACK_WITHIN = 60.0  # seconds
KEY = ("default", "pool")


@dataclass
class Users:
    """All that use the queue; `release` lets the task that runs end."""

    client: Client
    worker: Worker
    operator: JetStreamQueues
    address: QueueAddress
    running: asyncio.Event
    release: asyncio.Event
    ended: asyncio.Event
    task_id: str

    def look(self) -> QueueLook | QueueUnreadable:
        """What the operator says of the queue."""
        try:
            return self.operator.look(self.address)
        except QueueUnreadable as error:
            return error

    async def until_all_are_gone(self) -> None:
        """Wait until everybody has been refused."""
        assert self.worker._broker is not None
        broker = self.worker._broker
        await when(lambda: _value(broker.connected or self.client.connected), lambda on: not on, 30)
        await when(lambda: _value(self.look()), lambda look: isinstance(look, QueueUnreadable), 30)

    async def all_are_back(self) -> None:
        """The result of the task that ran through it all, new work, and the operator's figures."""
        begun = time.monotonic()
        result = await self.client.wait_for(self.task_id, BACK_WITHIN)
        assert (result.status, result.result) == (TaskStatus.COMPLETED, "held")
        assert await self.client.submit("echo", 1, wait_timeout=BACK_WITHIN) == 1
        await when(
            lambda: _value(self.look()), lambda look: isinstance(look, QueueLook), BACK_WITHIN
        )
        assert time.monotonic() - begun < BACK_WITHIN


async def _value(value: T) -> T:
    return value


@asynccontextmanager
async def users(url: str, operator_creds: str = "", **files: str) -> AsyncIterator[Users]:
    """A worker that runs a task, who waits for it, and the operator."""
    settings = QueueSettings(ack_wait=2.0)
    worker = Worker(
        config=WorkerConfig(max_concurrent_tasks=2), url=url, queue=QUEUE, settings=settings
    )
    running, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @worker.handler("hold")
    async def hold(data: object) -> str:
        running.set()
        await release.wait()
        ended.set()
        return "held"

    @worker.handler("echo")
    async def echo(data: object) -> object:
        return data

    await worker.start()
    operator = JetStreamQueues(lambda _: None)
    try:
        async with Client(url, QUEUE, settings=settings) as client:
            task = await client.submit_async("hold", None)
            async with asyncio.timeout(10):
                await running.wait()
            address = QueueAddress(url, QUEUE, operator_creds, **files)
            operator.watch(KEY, address)
            made = Users(client, worker, operator, address, running, release, ended, task.id)
            await when(lambda: _value(made.look()), lambda look: isinstance(look, QueueLook))
            yield made
    finally:
        await operator.close()
        release.set()
        await worker.stop(graceful=False)


@pytest.fixture
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many tries fit into a test: 200 ms to 2 s lie between two of them otherwise."""
    monkeypatch.setattr(connection, "_AGAIN", 0.02)
    monkeypatch.setattr(connection, "MOST_AGAIN", 0.02)


def refusals(caplog: pytest.LogCaptureFixture, word: str) -> int:
    """How often a try to connect was refused."""
    return sum(
        record.name == "headrace.broker" and record.levelno == logging.DEBUG
        and word in record.getMessage()
        for record in caplog.records
    )  # fmt: skip


def warnings(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Warnings with this text."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and text in record.getMessage()
    ]


@pytest.mark.parametrize("tries", [3, 61])
async def test_a_user_that_is_revoked_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    quick_tries: None, tries: int,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "headrace")
    organization = Organization(tmp_path)
    server = NatsProcess(tmp_path / "nats", extra=organization.configuration())
    everything = permissions([Role.OWNER, Role.PRODUCER, Role.WORKER], [QUEUE])
    reading = permissions([Role.OPERATOR])
    creds, operators = tmp_path / "user.creds", tmp_path / "operator.creds"
    before = organization.credentials(creds, everything)
    operator_before = organization.credentials(operators, reading)
    monkeypatch.setenv("HEADRACE_NATS_CREDS", str(creds))
    try:
        server.start()
        async with users(server.url, str(operators)) as all_of_them:
            await organization.revoke(server.url, before)
            await organization.revoke(server.url, operator_before)
            await all_of_them.until_all_are_gone()
            await when(
                lambda: _value(refusals(caplog, "Authorization Violation")),
                lambda count: count >= 2 * tries,  # of the worker and the client
                60,
            )
            all_of_them.release.set()
            async with asyncio.timeout(5):
                await all_of_them.ended.wait()  # a handler needs no connection to finish
            look = all_of_them.look()
            assert isinstance(look, QueueUnreadable)
            assert (look.reason, "refuses the credentials (" in str(look)) == ("Unauthorized", True)
            said = warnings(caplog, "refuses the credentials")
            assert said
            assert len([text for text in said if "not connected, and trying on" in text]) <= 4

            organization.credentials(creds, everything)
            organization.credentials(operators, reading)
            await all_of_them.all_are_back()
    finally:
        server.stop()


async def test_a_submit_meanwhile_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_tries: None
) -> None:
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 1.0)
    organization = Organization(tmp_path)
    server = NatsProcess(tmp_path / "nats", extra=organization.configuration())
    creds = tmp_path / "user.creds"
    before = organization.credentials(creds)
    monkeypatch.setenv("HEADRACE_NATS_CREDS", str(creds))
    try:
        server.start()
        async with Client(server.url, QUEUE) as client:
            await client.submit_async("t", None)
            await organization.revoke(server.url, before)
            await when(lambda: _value(client.connected), lambda on: not on)
            with pytest.raises(ConnectionError, match="refuses the credentials"):
                await client.submit_async("t", None)
            # a rotation by a hand that is slow: for a moment there is no file, or half of one
            text = creds.read_text()
            creds.unlink()
            with pytest.raises(ConnectionError, match="cannot be read"):
                await client.submit_async("t", None)
            creds.write_text(text[: len(text) // 2])
            with pytest.raises(ConnectionError, match="cannot be read"):
                await client.submit_async("t", None)
            organization.credentials(creds)
            await when(lambda: _value(client.connected), lambda on: on)
            await client.submit_async("t", None)
    finally:
        server.stop()


def password(secret: str) -> tuple[str, str]:
    """What the server is told, and what the file holds."""
    return f"authorization {{ user: u, password: {secret} }}", f"{secret}\n"


def token(secret: str) -> tuple[str, str]:
    return f"authorization {{ token: {secret} }}", f"{secret}\n"


def nkey(_: str) -> tuple[str, str]:
    key = make_key(nkeys.PREFIX_BYTE_USER)
    return f"authorization {{ users: [{{ nkey: {key.public} }}] }}", key.seed


@pytest.mark.parametrize(
    ("kind", "variable"),
    [(password, "PASSWORD_FILE"), (token, "TOKEN_FILE"), (nkey, "NKEY")],
    ids=["password", "token", "nkey"],
)
async def test_a_secret_in_a_file_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_tries: None,
    kind: Callable[[str], tuple[str, str]], variable: str,
) -> None:  # fmt: skip
    path = tmp_path / "secret"
    extra, content = kind("first")
    path.write_text(content)
    monkeypatch.setenv(f"HEADRACE_NATS_{variable}", str(path))
    if kind is password:
        monkeypatch.setenv("HEADRACE_NATS_USER", "u")
    server = NatsProcess(tmp_path / "nats", extra=extra)
    try:
        server.start()
        async with Client(server.url, QUEUE) as client:
            await client.submit_async("t", None)
            extra, content = kind("second")
            server.reload(extra)
            await when(lambda: _value(client.connected), lambda on: not on)
            path.write_text(content)
            await when(lambda: _value(client.connected), lambda on: on)
            await client.submit_async("t", None)
            assert (await client.depth()).messages == 2
    finally:
        server.stop()


def install(folder: Path, ca: Path, cert: Path, key: Path) -> None:
    """Replace the files in place, as a Secret that is mounted does."""
    for source, name in ((ca, "ca.crt"), (cert, "tls.crt"), (key, "tls.key")):
        shutil.copy(source, folder / f"{name}.new")
        os.replace(folder / f"{name}.new", folder / name)


async def test_authorities_and_client_certificates_that_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    quick_tries: None,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "headrace")
    old, new = Authority(tmp_path / "a", "old"), Authority(tmp_path / "b", "new")

    def tls(authority: Authority) -> str:
        own = authority.issue("server")
        return (
            f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}", '
            f'ca_file: "{authority.ca}", verify: true }}'
        )

    mounted = tmp_path / "mounted"
    mounted.mkdir()
    install(mounted, old.ca, *old.issue("client"))
    files = {"CA": "ca.crt", "CERT": "tls.crt", "KEY": "tls.key"}
    for variable, name in files.items():
        monkeypatch.setenv(f"HEADRACE_NATS_{variable}", str(mounted / name))
    server = NatsProcess(tmp_path / "nats", extra=tls(old))
    try:
        server.start()
        url = server.url.replace("nats:", "tls:")
        ca, certificate, key = (str(mounted / name) for name in files.values())
        async with users(url, ca=ca, certificate=certificate, key=key) as all_of_them:
            server.stop()
            server._extra = tls(new)
            server.start()
            await all_of_them.until_all_are_gone()
            await when(
                lambda: _value(refusals(caplog, "CERTIFICATE_VERIFY_FAILED")),
                lambda count: count >= 6,
            )
            all_of_them.release.set()
            async with asyncio.timeout(5):
                await all_of_them.ended.wait()
            await when(
                lambda: _value(str(all_of_them.look())), lambda text: "not trusted" in text, 20
            )
            assert warnings(caplog, "the server's certificate is not trusted")
            install(mounted, new.ca, *new.issue("client"))
            await all_of_them.all_are_back()
    finally:
        server.stop()
