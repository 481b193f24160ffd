"""Cases C13, C16 and C17 on real processes: what ends `headrace worker`, and what does not."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.faults.blocked_loop import probe
from tests.support.nats_servers import NatsProcess, _end_with_parent, free_ports
from tests.support.recorder import depth_when, when
from tests.support.workers import Finals, Journal

from headrace import Client

APP = "tests.contract.cases.journaled:coordinator"
ROOT = Path(__file__).parents[3]


class Command:
    """One `headrace worker`; its stderr is kept."""

    def __init__(self, url: str, queue: str, journal: Path, app: str = APP, cwd: Path = ROOT):
        (self.port,) = free_ports(1)
        self.stderr = journal.with_name(f"stderr-{self.port}")
        env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
        env |= {"HEADRACE_URL": url, "HEADRACE_QUEUE": queue, "JOURNAL": str(journal)}
        with self.stderr.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "worker", app],
                cwd=cwd,
                env=env | {"HEADRACE_HEALTH_PORT": str(self.port)},
                stderr=log,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        """Wait until it takes tasks."""
        await when(lambda: self.readyz(), lambda code: code == 200, 40)

    async def readyz(self) -> int:
        assert self.process.poll() is None, self.stderr.read_text()[-2000:]
        try:
            return await probe(self.port, "/readyz")
        except OSError:
            return 0

    def tell(self, number: signal.Signals) -> float:
        """Send a signal; when."""
        self.process.send_signal(number)
        return time.monotonic()

    async def ended(self, within: float = 30.0) -> int:
        """Its exit code."""
        deadline = time.monotonic() + within
        while (code := self.process.poll()) is None:  # a process sets no event
            assert time.monotonic() < deadline, self.stderr.read_text()[-2000:]
            await asyncio.sleep(0.01)
        return code


MakeCommand = Callable[[], Awaitable[Command]]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """What the handlers of this test do."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def make_command(
    nats_server: NatsProcess, queue_name: str, journal: Journal
) -> Iterator[MakeCommand]:
    """Starts workers of this test's queue."""
    started: list[Command] = []

    async def make() -> Command:
        command = Command(nats_server.url, queue_name, journal.path)
        started.append(command)
        await command.ready()
        return command

    yield make
    for command in started:
        command.process.kill()
        command.process.wait()


async def test_c17_the_first_signal_lets_what_runs_finish(
    nats_server: NatsProcess, queue_name: str, journal: Journal, make_command: MakeCommand
) -> None:
    worker = await make_command()
    async with Client(nats_server.url, queue_name) as client:
        task = await client.submit_async("work", {"seconds": 2.0, "n": 1})
        await journal.started(1)
        worker.tell(signal.SIGTERM)
        await when(worker.readyz, lambda code: code == 503)
        behind = await client.submit_async("work", {"seconds": 0, "n": 2})
        assert (await client.wait_for(task.id, 30)).result == 1
        assert await worker.ended() == 0
        # while it stopped, with slots free, it took nothing new
        assert [entry["task"] for entry in journal.starts()] == [task.id]
        assert (await client.depth()).messages == 1
        await make_command()
        assert (await client.wait_for(behind.id, 30)).result == 2
    assert journal.runs() == {task.id: 1, behind.id: 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_c17_the_second_signal_hands_back_at_once(
    nats_server: NatsProcess,
    queue_name: str,
    journal: Journal,
    make_command: MakeCommand,
    number: signal.Signals,
) -> None:
    first, second = await make_command(), await make_command()
    async with (
        Client(nats_server.url, queue_name) as client,
        Finals(nats_server.url, queue_name) as finals,
    ):
        task = await client.submit_async("work", {"seconds": 4.0, "n": 1})
        (start,) = await journal.started(1)
        holder, other = (first, second) if start["pid"] == first.pid else (second, first)
        holder.tell(number)
        await when(holder.readyz, lambda code: code == 503)
        told = holder.tell(number)
        assert await holder.ended() == 130
        assert time.monotonic() - told < 5  # two seconds on a quiet machine
        (again,) = await journal.started(1, pid=other.pid)
        assert again["at"] - told < 5  # and not after the lease of 15 s
        assert (await client.wait_for(task.id, 30)).result == 1
        assert await finals.of([task.id]) == {task.id: ["completed"]}
    assert journal.runs() == {task.id: 2}


async def test_c17_restarts_at_random_moments_lose_nothing(
    nats_server: NatsProcess, queue_name: str, journal: Journal, make_command: MakeCommand
) -> None:
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    async with (
        Client(nats_server.url, queue_name) as client,
        Finals(nats_server.url, queue_name) as finals,
    ):
        workers = [await make_command(), await make_command()]
        items = [("work", {"seconds": 0.05, "n": n}) for n in range(200)]
        ids = [task.id for task in await client.submit_many(items)]
        for turn in range(4):
            await journal.started((turn + 1) * 40)
            await asyncio.sleep(moments.uniform(0, 0.05))
            old = workers.pop(0)
            replacement = asyncio.create_task(make_command())
            old.tell(signal.SIGTERM)
            if moments.random() < 0.5:
                old.tell(signal.SIGTERM)
            await old.ended()
            workers.append(await replacement)
        ended = await finals.of(ids)
        assert ended == {task_id: ["completed"] for task_id in ids}, f"seed {seed}"
        _, queue = await client.link()
        depth = await depth_when(queue, lambda depth: depth.messages == 0)
        assert depth.dead == 0
    # only what was handed back has run twice
    assert sum(journal.runs().values()) <= 200 + 4 * 4, f"seed {seed}"


async def test_c13_only_a_signal_stops_the_process(
    nats_server: NatsProcess, queue_name: str, journal: Journal, make_command: MakeCommand
) -> None:
    worker = await make_command()
    async with Client(nats_server.url, queue_name) as client:
        neighbour = await client.submit_async("work", {"seconds": 2.0, "n": 1})
        await journal.started(1)
        for how, says in (("interrupt", "KeyboardInterrupt"), ("exit", "SystemExit: 0")):
            task = await client.submit_async("leave", how, retries=0)
            result = await client.wait_for(task.id, 20)
            assert (result.status, (result.error or "")[: len(says)]) == ("failed", says)
        worker.tell(signal.SIGINT)
        assert (await client.wait_for(neighbour.id, 20)).result == 1
        assert await worker.ended() == 0
    assert {entry["pid"] for entry in journal.starts()} == {worker.pid}


INTERRUPTED = """
import asyncio, time
from headrace import Coordinator

coordinator = Coordinator()

@coordinator.handler("block")
async def block(data: dict) -> None:
    print("in the handler", flush=True)
    time.sleep(60)

async def main() -> None:
    await coordinator.start()
    await coordinator.submit("block", {})

asyncio.run(main())
"""


def test_c13_ctrl_c_in_a_handler_stops_a_program_of_ones_own(tmp_path: Path) -> None:
    """The first is asyncio's to cancel the program by; the second arrives in the handler."""
    (tmp_path / "program.py").write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HEADRACE_URL": "memory://"},
        preexec_fn=_end_with_parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the handler\n"
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        process.kill()
        _, stderr = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr


BROKEN = {
    "missing": ("import no_such_module\n", "no_such_module"),
    "raises": ("raise RuntimeError('no settings file')\n", "no settings file"),
    "absent": ("nothing = 1\n", "has no 'coordinator'"),
    "empty": ("from headrace import Coordinator\ncoordinator = Coordinator()\n", "no handlers"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_c16_an_app_that_cannot_be_loaded_ends_the_worker_with_its_cause(
    nats_server: NatsProcess, queue_name: str, tmp_path: Path, name: str
) -> None:
    source, cause = BROKEN[name]
    (tmp_path / "app.py").write_text(source)
    async with Client(nats_server.url, queue_name) as client:
        await client.submit_async("work", {})
        app = "app:coordinator"
        command = Command(nats_server.url, queue_name, tmp_path / "journal", app, tmp_path)
        began = time.monotonic()
        assert await command.ended() in (1, 2)
        assert time.monotonic() - began < 10  # five seconds on a quiet machine
        assert cause in "".join(command.stderr.read_text().splitlines(keepends=True)[-4:])
        depth = await client.depth()
        assert (depth.waiting, depth.running) == (1, 0)
