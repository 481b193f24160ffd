"""One server a folder, for as long as somebody uses it, and whatever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.contract.embedded.users import User, alive, facts_of, gone, lives_on
from tests.support.nats_servers import _end_with_parent
from tests.support.recorder import NORMAL, Recorder, put, task_ids, when

from headrace.broker.connect import make_broker, open_broker
from headrace.broker.embedded import supervisor
from headrace.broker.embedded.broker import EmbeddedBroker
from headrace.broker.port import Broker, BrokerQueue

HEALS_WITHIN = 3.0  # seconds; about 0.4 and 0.8 on a quiet machine


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A folder of the test's own; its server has gone when the test is over."""
    folder = tmp_path / "embedded"
    yield folder
    if (folder / "server.json").exists():
        facts = facts_of(folder)
        await gone(facts["supervisor"], facts["pid"])


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[Broker]:
    """A user of it in this process."""
    broker = await open_broker(f"embedded://{folder}")
    yield broker
    await broker.close()


async def _queue(broker: Broker) -> BrokerQueue:
    queue = broker.queue("kept")
    await queue.ensure()
    await queue.ensure_lanes([NORMAL])
    return queue


async def _again(broker: Broker, since: float) -> float:
    """Wait until the broker has lost its connection and has one again; seconds from `since`."""
    await when(lambda: _connected(broker), lambda connected: not connected)
    await when(lambda: _connected(broker), lambda connected: connected)
    return time.monotonic() - since


async def _connected(broker: Broker) -> bool:
    return broker.connected


async def test_processes_that_start_at_once_share_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(User(f"embedded://{folder}")) for _ in range(4)]
        facts = await asyncio.gather(*(user.ready() for user in users))
        assert len({each["pid"] for each in facts}) == 1
        assert len({each["supervisor"] for each in facts}) == 1
        server = facts[0]
        assert all(alive(server[name]) for name in ("pid", "supervisor"))
        for user in users[1:]:
            user.kill()
        # one of them has started it, and is dead for longer than the grace
        assert await lives_on(server["pid"], 2.0)
        assert facts_of(folder)["pid"] == server["pid"]
    await gone(server["supervisor"], server["pid"])


async def test_a_task_goes_from_one_process_to_another(folder: Path, broker: Broker) -> None:
    queue = await _queue(broker)
    await put(queue, NORMAL, "a")
    other = await open_broker(f"embedded://{folder}")
    try:
        async with Recorder(await _queue(other), NORMAL) as taker:
            assert task_ids(await taker.take()) == ["a"]
    finally:
        await other.close()


@pytest.mark.parametrize("how", ["closed", "killed"])
async def test_nothing_is_left_after_the_last_user(folder: Path, how: str) -> None:
    with User(f"embedded://{folder}") as user:
        server = await user.ready()
        if how == "killed":
            user.kill()
    assert await gone(server["supervisor"], server["pid"]) < 5


async def test_what_was_stored_is_there_the_next_time(folder: Path) -> None:
    for run in range(2):
        broker = await open_broker(f"embedded://{folder}")
        queue = await _queue(broker)
        if run == 0:
            await put(queue, NORMAL, "a", "b")
            await queue.write_record("done", b"1", 0, 60.0)
            first = facts_of(folder)
            await broker.close()
            await gone(first["supervisor"], first["pid"])
    async with Recorder(queue, NORMAL) as taker:
        assert task_ids(await taker.take(2)) == ["a", "b"]
    record = await queue.read_record("done")
    assert record is not None
    assert record.body == b"1"
    await broker.close()


async def test_a_user_that_comes_while_it_stops_gets_a_new_one(folder: Path) -> None:
    broker = await open_broker(f"embedded://{folder}")
    first = facts_of(folder)
    await put(await _queue(broker), NORMAL, "a")
    await broker.close()
    os.kill(first["supervisor"], signal.SIGSTOP)  # it has not looked yet; then it has nobody
    try:
        opening = asyncio.create_task(open_broker(f"embedded://{folder}"))
        again = await opening
        async with Recorder(await _queue(again), NORMAL) as taker:
            assert task_ids(await taker.take()) == ["a"]
        assert facts_of(folder)["pid"] == first["pid"]  # within the grace it is the same
        await again.close()
    finally:
        os.kill(first["supervisor"], signal.SIGCONT)
    for _ in range(3):  # and at whatever moment of its end
        broker = await open_broker(f"embedded://{folder}")
        assert (await (await _queue(broker)).depth()).messages == 1
        pid = facts_of(folder)["pid"]
        await broker.close()
        await gone(pid)


async def test_a_killed_server_heals_with_its_port_and_its_data(
    folder: Path, broker: Broker
) -> None:
    queue = await _queue(broker)
    await put(queue, NORMAL, *(f"t{n}" for n in range(50)))
    before = facts_of(folder)
    os.kill(before["pid"], signal.SIGKILL)
    assert await _again(broker, time.monotonic()) < HEALS_WITHIN
    after = facts_of(folder)
    assert after["pid"] != before["pid"]
    assert {**after, "pid": 0} == {**before, "pid": 0}
    async with Recorder(queue, NORMAL) as taker:
        assert task_ids(await taker.take(50)) == [f"t{n}" for n in range(50)]


async def test_a_killed_supervisor_takes_its_server_along_and_heals(
    folder: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await _queue(broker)
    await put(queue, NORMAL, "a")
    before = facts_of(folder)
    os.kill(before["supervisor"], signal.SIGKILL)
    start = time.monotonic()
    assert await gone(before["supervisor"], before["pid"]) < HEALS_WITHIN
    assert await _again(broker, start) < HEALS_WITHIN
    after = facts_of(folder)
    assert after["supervisor"] != before["supervisor"]
    assert (after["port"], after["token"]) == (before["port"], before["token"])
    assert "started again" in caplog.text
    async with Recorder(queue, NORMAL) as taker:
        assert task_ids(await taker.take()) == ["a"]


def test_a_server_that_outlives_its_supervisor_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems where it does not end with it: two would write to one store."""
    monkeypatch.setattr(supervisor, "_ORPHAN_ENDS_WITHIN", 0.3)
    program = (
        "import sys, fcntl, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "server.lock")],
        stdout=subprocess.PIPE,
        preexec_fn=_end_with_parent,
    ) as orphan:
        try:
            assert orphan.stdout is not None
            orphan.stdout.readline()
            os.close(supervisor._outlive_orphan(tmp_path, orphan.pid))
            assert orphan.wait(5) == -signal.SIGKILL
        finally:
            orphan.kill()


async def test_signals_that_end_the_users_do_not_end_it(folder: Path, broker: Broker) -> None:
    """A Ctrl-C, or a service manager that ends a whole group: it stays until they have gone."""
    facts = facts_of(folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(facts["supervisor"], number)
    assert await lives_on(facts["supervisor"], 0.5)
    assert os.getsid(facts["supervisor"]) != os.getsid(0)
    assert os.getsid(facts["pid"]) != os.getsid(0)
    assert await broker.queues() == []


async def test_a_connect_that_is_cancelled_holds_nothing(folder: Path) -> None:
    for after in (0.0, 0.02, 0.1):
        broker = make_broker(f"embedded://{folder}")
        connecting = asyncio.create_task(broker.connect())
        await asyncio.sleep(after)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await broker.close()
    # had one of them left its lock behind, this one's server would stay
    broker = await open_broker(f"embedded://{folder}")
    facts = facts_of(folder)
    await broker.close()
    assert isinstance(broker, EmbeddedBroker)
    await gone(facts["supervisor"], facts["pid"])
