"""What is wrong with the broker is said by a typed error with a hint, in bounded time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.nats_servers import NatsProcess, free_ports
from tests.support.workers import MakeClient

from headrace import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    BrokerUnsupported,
    Client,
    ConfigurationError,
    HeadraceError,
    PayloadTooLarge,
    QueueFull,
    QueueSettings,
    TaskFailed,
    Worker,
    WorkerConfig,
)

BOUND = 6.0  # seconds; a name that the resolver is slow about


async def connecting(url: str, kind: type[HeadraceError], within: float = BOUND) -> HeadraceError:
    """What both a client and a worker raise there, and that they take no longer to say so."""
    errors = []
    for connect in (Client(url, "q").start, Worker(url=url, queue="q").start):
        begun = time.monotonic()
        with pytest.raises(kind) as raised:
            await connect()
        assert time.monotonic() - begun < within
        assert type(raised.value) is kind
        assert raised.value.hint
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    return raised.value


@pytest.mark.parametrize("url", ["http://localhost:4222", "nats://", "nats://host:x", "localhost"])
async def test_a_url_that_is_none(url: str) -> None:
    for connect in (
        lambda: Client(url, "q").start(),
        lambda: Worker(url=url, queue="q").start(),
    ):
        with pytest.raises(ConfigurationError) as raised:
            await connect()
        assert "nats://" in str(raised.value)


async def test_nothing_listens_there() -> None:
    (port,) = free_ports(1)
    error = await connecting(f"nats://127.0.0.1:{port}", BrokerUnavailable, 2.0)
    assert f"127.0.0.1:{port}" in str(error)
    assert "server runs" in error.hint


async def test_a_host_that_does_not_exist() -> None:
    error = await connecting("nats://no-such-host.invalid", BrokerUnavailable)
    assert "no-such-host.invalid" in str(error)


@asynccontextmanager
async def stub(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A server that answers each line as told; its url."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(answer(b""))
            while line := await reader.readline():
                writer.write(answer(line.strip()))
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


INFO = {
    "server_id": "S", "version": "2.10.0", "max_payload": 1048576, "headers": True,
    "jetstream": True, "proto": 1,
}  # fmt: skip


async def test_something_that_is_no_nats_server() -> None:
    async with stub(lambda line: b"" if line else b"SSH-2.0-OpenSSH_9.2\r\n") as url:
        await connecting(url, BrokerUnavailable)


async def test_something_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up after two tries of CONNECT_TIMEOUT, 5 s each; shortened here."""
    monkeypatch.setattr("headrace.broker.jetstream.connection.CONNECT_TIMEOUT", 0.5)
    async with stub(lambda _: b"") as url:
        await connecting(url, BrokerUnavailable, 2.0)


async def test_a_server_that_is_too_old() -> None:
    """NATS 2.10, as it would answer: JetStream with API level 0."""
    inbox_sid = [b"1"]

    def answer(line: bytes) -> bytes:
        if not line:
            return b"INFO %b\r\n" % json.dumps(INFO).encode()
        verb, *words = line.split()
        if verb == b"SUB":
            inbox_sid[0] = words[-1]
        if verb == b"PUB" and words[0] == b"$JS.API.INFO":
            body = b'{"type":"io.nats.jetstream.api.v1.account_info_response","memory":0}'
            return b"MSG %b %b %d\r\n%b\r\n" % (words[1], inbox_sid[0], len(body), body)
        return b"PONG\r\n" if verb == b"PING" else b""

    async with stub(answer) as url:
        error = await connecting(url, BrokerUnsupported, 2.0)
    assert isinstance(error, BrokerUnsupported)
    assert error.version == "2.10.0"
    assert "level 4" in error.feature
    assert "2.14" in error.hint


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., NatsProcess]]:
    """Starts servers with more config."""
    started: list[NatsProcess] = []

    def start(extra: str = "", *, jetstream: bool = True) -> NatsProcess:
        made = NatsProcess(tmp_path / f"nats{len(started)}", jetstream=jetstream, extra=extra)
        started.append(made)
        return made.start()

    yield start
    for made in started:
        made.stop()


def with_user(url: str, user: str) -> str:
    return url.replace("//", f"//{user}@") if user else url


@pytest.mark.parametrize(
    ("config", "users"),
    [
        ("authorization { user: u, password: pa55 }", ["", "u:wr0ng", "other:pa55", "t0ken"]),
        ("authorization { token: t0ken }", ["", "wr0ng", "u:wr0ng"]),
    ],
    ids=["user", "token"],
)
async def test_wrong_credentials(
    server: Callable[..., NatsProcess], config: str, users: list[str]
) -> None:
    url = server(config).url
    for user in users:
        error = await connecting(with_user(url, user), AccessDenied, 2.0)
        assert url.removeprefix("nats://") in str(error)
        for secret in ("wr0ng", "pa55", "t0ken"):
            assert secret not in str(error)


async def test_credentials_files_that_are_not_there(
    server: Callable[..., NatsProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server("authorization { user: u, password: pa55 }").url
    monkeypatch.setenv("HEADRACE_NATS_CREDS", "/no/such/file.creds")
    with pytest.raises(ConfigurationError, match=r"/no/such/file\.creds"):
        await Client(url, "q").start()


async def test_a_server_without_jetstream(server: Callable[..., NatsProcess]) -> None:
    error = await connecting(server(jetstream=False).url, BrokerUnsupported, 2.0)
    assert "JetStream" in str(error)
    assert "-js" in error.hint


async def test_an_account_without_jetstream(server: Callable[..., NatsProcess]) -> None:
    config = """
    accounts {
      WITH { jetstream: enabled, users: [{user: a, password: a}] }
      WITHOUT { users: [{user: b, password: b}] }
    }"""
    url = server(config).url
    error = await connecting(with_user(url, "b:b"), BrokerUnsupported, 2.0)
    assert "account" in str(error)
    async with Client(with_user(url, "a:a"), "q") as client:
        await client.submit_async("t", {})


def user_with(rights: str) -> str:
    return (
        "authorization { users: [{user: all, password: p}, "
        f"{{user: some, password: p, permissions: {{{rights}}}}}] }}"
    )


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        ('publish: {deny: ["$JS.API.>"]}', "publish to $JS.API.INFO"),
        ('publish: {deny: ["$JS.API.STREAM.>"]}', "publish to $JS.API.STREAM.INFO.HEADRACE_q"),
        ('subscribe: {deny: ["_INBOX.>"]}', "subscription to _inbox."),
        ('subscribe: {deny: ["headrace.>"]}', "subscription to headrace."),
    ],
    ids=["api", "streams", "inbox", "core"],
)
async def test_a_right_is_missing_at_the_start(
    server: Callable[..., NatsProcess], rights: str, named: str
) -> None:
    url = server(user_with(rights)).url
    async with Client(with_user(url, "all:p"), "q") as client:
        await client.submit_async("t", {})
    for connect in (
        Client(with_user(url, "some:p"), "q").start,
        Worker(url=with_user(url, "some:p"), queue="q").start,
    ):
        begun = time.monotonic()
        with pytest.raises(AccessDenied) as raised:
            await connect()
        assert time.monotonic() - begun < 3.0
        assert named in str(raised.value)
        assert "headrace rights" in raised.value.hint


async def test_who_may_not_ask_for_workers_is_not_told_that_there_are_none(
    server: Callable[..., NatsProcess],
) -> None:
    url = server(user_with('publish: {deny: ["$SRV.>"]}')).url
    async with Client(with_user(url, "some:p"), "q") as client:
        with pytest.raises(AccessDenied, match=r"publish to \$SRV\.STATS\.headrace-q"):
            await client.get_workers()


async def test_the_right_to_submit_is_missing(server: Callable[..., NatsProcess]) -> None:
    """It was BrokerUnavailable after ten seconds."""
    url = server(user_with('publish: {deny: ["headrace.q.>"]}')).url
    async with (
        Client(with_user(url, "all:p"), "q") as everything,
        Client(with_user(url, "some:p"), "q") as client,
    ):
        await everything.submit_async("t", {}, task_id="a")
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(AccessDenied, match=r"publish to headrace\.q\.q\.normal\._\.B"):
                await client.submit_async("t", {}, task_id="B")
        with pytest.raises(AccessDenied):
            await client.submit("t", {})
        with pytest.raises(AccessDenied):
            await client.submit_many([("t", {})] * 100)
        assert time.monotonic() - begun < 3.0
        found = await client.get_task("a")  # reading is allowed, and goes on
        assert found is not None
        assert (await everything.depth()).messages == 1


async def test_a_full_queue_says_so_at_once(make_client: MakeClient, queue_name: str) -> None:
    client = await make_client(max_size=3)
    await client.submit_many([("t", {})] * 3)
    begun = time.monotonic()
    for submit in (client.submit, client.submit_async):
        with pytest.raises(QueueFull) as raised:
            await submit("t", {})
        assert (raised.value.queue, raised.value.limit) == (queue_name, 3)
        assert raised.value.hint
    assert time.monotonic() - begun < 1.0


async def test_what_is_too_large_is_said_before_it_is_sent(
    server: Callable[..., NatsProcess],
) -> None:
    """The bound is the server's own; small tasks under way are not hurt by a large one."""
    url = server("max_payload: 64KB").url
    async with Client(url, "q") as client:
        small = [asyncio.create_task(client.submit_async("t", {"n": n})) for n in range(20)]
        for _ in range(3):
            with pytest.raises(PayloadTooLarge) as raised:
                await client.submit_async("t", {"text": "x" * 65_536})
            assert raised.value.limit == 65_536 < raised.value.size
        assert len(await asyncio.gather(*small)) == 20
        assert client.connected
        await client.submit_async("t", {"text": "x" * 60_000})
        assert (await client.depth()).messages == 21


async def test_a_result_that_is_too_large_is_a_failure_with_its_own_reason(
    make_client: MakeClient, nats_server: NatsProcess, queue_name: str
) -> None:
    client = await make_client()
    runs: list[int] = []

    async def produce(size: int) -> str:
        runs.append(size)
        return "x" * size

    worker = Worker(
        config=WorkerConfig(),
        url=nats_server.url,
        queue=queue_name,
        settings=QueueSettings(ack_wait=2.0),
    )
    worker.register_handler("produce", produce, retries=3)
    await worker.start()
    with pytest.raises(TaskFailed) as raised:
        await client.submit("produce", 1_100_000, wait_timeout=10)
    assert raised.value.reason == "result"
    assert "the result of 1,100," in str(raised.value)
    assert len(await client.submit("produce", 1_000_000, wait_timeout=10)) == 1_000_000
    assert runs == [1_100_000, 1_000_000]  # it would be as large again
    (letter,) = await client.dead_letters()
    assert letter.reason == "result"
    await worker.stop()


async def test_the_server_goes_away_for_good(
    own_server: NatsProcess, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit ends with an error within its bound (10 s; shortened here), and says what to do."""
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 1.0)
    client = await make_client(own_server.url)
    await client.submit_async("t", {})
    await asyncio.to_thread(own_server.stop)
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable) as raised:
        await client.submit_async("t", {})
    assert time.monotonic() - begun < 3.0
    assert isinstance(raised.value, BrokerError)
    assert "same id" in raised.value.hint
