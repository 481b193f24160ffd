"""TLS with a server: which certificates are taken, and what is said of those that are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.certificates import Authority, Certificate
from tests.support.nats_servers import NatsProcess

from headrace import BrokerUntrusted, Client, ConfigurationError, HeadraceError, Worker

BOUND = 3.0  # seconds

StartServer = Callable[..., NatsProcess]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signed the certificates of these tests' servers and clients."""
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with a certificate; `ca` asks clients for one of that authority."""
    started: list[NatsProcess] = []

    def begin(own: Certificate | None, ca: Path | None = None, more: str = "") -> NatsProcess:
        extra = more
        if own is not None:
            verify = f'ca_file: "{ca}", verify: true' if ca else ""
            extra += f'\ntls {{ cert_file: "{own.cert}", key_file: "{own.key}", {verify} }}'
        server = NatsProcess(tmp_path / f"nats{len(started)}", extra=extra)
        started.append(server)
        return server.start()

    yield begin
    for server in started:
        server.stop()


def trust(patch: pytest.MonkeyPatch, authority: Authority, own: Certificate | None = None) -> None:
    patch.setenv("HEADRACE_NATS_CA", str(authority.ca))
    if own is not None:
        patch.setenv("HEADRACE_NATS_CERT", str(own.cert))
        patch.setenv("HEADRACE_NATS_KEY", str(own.key))


def with_tls(server: NatsProcess) -> str:
    return server.url.replace("nats://", "tls://")


async def works(url: str) -> None:
    """A client, a worker and its lease keeper."""
    worker = Worker(url=url, queue="q")

    @worker.handler("t")
    async def work(data: object) -> object:
        return data

    await worker.start()
    async with Client(url, "q") as client:
        assert await client.submit("t", 1, wait_timeout=10) == 1
    await worker.stop()


async def refused(url: str, kind: type[HeadraceError] = BrokerUntrusted) -> HeadraceError:
    """What a client and a worker raise, and that they do at once."""
    errors = []
    for connect in (Client(url, "q").start, Worker(url=url, queue="q").start):
        begun = time.monotonic()
        with pytest.raises(kind) as raised:
            await connect()
        assert time.monotonic() - begun < BOUND
        assert raised.value.hint
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    return raised.value


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_a_server_that_our_authority_signed(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    trust(monkeypatch, authority)
    server = start(authority.issue("server"))
    await works(server.url.replace("nats:", f"{scheme}:"))


async def test_a_client_certificate(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(authority.issue("server"), authority.ca)
    trust(monkeypatch, authority)
    error = await refused(with_tls(server))
    assert "refused the client's certificate" in str(error)
    assert "HEADRACE_NATS_CERT" in error.hint
    trust(monkeypatch, authority, authority.issue("client"))
    await works(with_tls(server))


@pytest.mark.parametrize("days", [-1, 30], ids=["expired", "of-somebody-else"])
async def test_a_client_certificate_that_is_refused(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    days: int,
) -> None:  # fmt: skip
    server = start(authority.issue("server"), authority.ca)
    signer = authority if days < 0 else Authority(tmp_path / "ca", "theirs")
    trust(monkeypatch, authority, signer.issue("client", days=days))
    assert "refused the client's certificate" in str(await refused(with_tls(server)))


async def test_a_server_of_an_authority_that_is_not_ours(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = start(Authority(tmp_path / "ca", "theirs").issue("server"))
    trust(monkeypatch, authority)
    for url in (server.url, with_tls(server)):
        error = await refused(url)
        assert "the server's certificate is not trusted" in str(error)
        assert f"127.0.0.1:{server.port}" in str(error)
        assert "HEADRACE_NATS_CA" in error.hint
    monkeypatch.delenv("HEADRACE_NATS_CA")  # nor is it one of the system's
    assert "not trusted" in str(await refused(with_tls(server)))
    assert "not trusted" in str(await refused(server.url))


async def test_a_certificate_that_has_expired(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, authority)
    error = await refused(with_tls(start(authority.issue("server", days=-1))))
    assert "the server's certificate has expired" in str(error)


async def test_a_certificate_for_another_name(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, authority)
    server = start(authority.issue("server", "DNS:nats.example"))
    for host, shown in (("127.0.0.1", "IP address"), ("localhost", "localhost")):
        error = await refused(f"tls://{host}:{server.port}")
        assert "certificate is for another name" in str(error)
        assert shown in str(error)


@pytest.mark.parametrize("asked", ["url", "ca"])
async def test_a_server_without_tls_is_told_nothing(
    start: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """nats-py went on in the clear, with the password."""
    server = start(None, more="authorization { user: u, password: pa55 }\ntrace: true, debug: true")
    url = server.url.replace("//", "//u:pa55@")
    if asked == "url":
        url = url.replace("nats:", "tls:")
    else:
        trust(monkeypatch, authority)
    error = await refused(url)
    assert "offers no TLS" in str(error)
    assert "CONNECT" not in (server.folder / "nats.log").read_text()


@pytest.mark.parametrize(
    ("variable", "content"),
    [("CA", None), ("CA", "rubbish"), ("CERT", None), ("CERT", "rubbish"), ("CREDS", ""),
     ("CREDS", "rubbish"), ("NKEY", "rubbish"), ("NKEY", None), ("CREDS", None)],
)  # fmt: skip
async def test_files_that_cannot_be_read_are_named(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str,
    content: str | None,
) -> None:  # fmt: skip
    """Also where the server would not ask for them. nats-py hangs on an empty .creds file."""
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(f"HEADRACE_NATS_{variable}", str(path))
    error = await refused(start(None).url, ConfigurationError)
    assert str(path) in str(error)


async def test_a_key_without_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_NATS_KEY", "/some/key")
    with pytest.raises(ConfigurationError, match="HEADRACE_NATS_CERT"):
        await Client("nats://127.0.0.1:1", "q").start()


def test_the_command_line_takes_them_too(start: StartServer, authority: Authority) -> None:
    server = start(authority.issue("server"), authority.ca)
    own = authority.issue("client")
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
    env |= {"HEADRACE_URL": with_tls(server), "HEADRACE_NATS_CA": str(authority.ca)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    failed = run("queue", "list")
    assert failed.returncode == 3
    assert "HR204" in failed.stderr
    env |= {"HEADRACE_NATS_CERT": str(own.cert), "HEADRACE_NATS_KEY": str(own.key)}
    assert run("queue", "create", "docs", "--tag", "gpu").stdout == "docs\n"
    assert "docs" in run("queue", "list").stdout
