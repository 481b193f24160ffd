"""`headrace worker --processes`: several processes, one worker to everybody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess, _end_with_parent, free_ports
from tests.support.workers import Journal

from headrace import Client, TaskStatus, WorkerInfo

pytestmark = pytest.mark.timeout(180)

APP = """
import asyncio, json, os
from headrace import CONTEXT, Context, Coordinator
from headrace.broker.port import QueueSettings
app = Coordinator(queue="unused", settings=QueueSettings(ack_wait=3.0))

import time
until = time.monotonic() + 30
while os.path.exists("slow") and time.monotonic() < until:  # it imports for a while
    time.sleep(0.05)

@app.handler("work")
async def work(data: dict, *, ctx: Context = CONTEXT) -> int:
    def note(event):
        with open(data["journal"], "a") as log:
            log.write(json.dumps({"event": event, "task": ctx.task.id, "pid": os.getpid(),
                                  "worker": ctx.worker_id}) + "\\n")
    note("start")
    await asyncio.sleep(data["seconds"])
    note("end")
    return os.getpid()

@app.handler("block")
async def block(data: dict) -> None:
    import time
    with open(data["journal"], "a") as log:
        log.write(json.dumps({"event": "start", "task": "block", "pid": os.getpid()}) + "\\n")
    time.sleep(data["seconds"])
"""
PATIENCE = 60.0


class Crew:
    """The command, its queue and its probes."""

    def __init__(self, folder: Path, url: str, queue: str, *more: str, **env: str) -> None:
        self.journal = Journal(folder / "journal")
        self.client = Client(url, queue)
        self.port, self.metrics = free_ports(2)
        (folder / "app.py").write_text(APP)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "headrace", "worker", "app:app", "-q", queue),
                    *("--id", "crew", "-c", "2", "--processes", "2", *more),
                ],
                cwd=folder,
                env=os.environ
                | {"HEADRACE_URL": url, "HEADRACE_HEALTH_PORT": str(self.port)}
                | {"HEADRACE_METRICS_PORT": str(self.metrics)}
                | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
            )

    async def until(self, what: Callable[[], Awaitable[Any]]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := await what()):
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            await asyncio.sleep(0.05)
        return found

    async def probe(self, path: str) -> int:
        """The status of a probe; 0 if nobody listens."""

        def ask() -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as a:
                    return int(a.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        return await asyncio.to_thread(ask)

    async def figures(self) -> str:
        """/metrics."""

        def ask() -> str:
            url = f"http://127.0.0.1:{self.metrics}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(ask)

    async def ready(self) -> Crew:
        async def is_ready() -> bool:
            return await self.probe("/readyz") == 200

        await self.until(is_ready)
        return self

    async def info(self) -> WorkerInfo:
        """The one worker there is."""
        (info,) = await self.client.get_workers()
        return info

    async def facts(self) -> dict[str, Any]:
        _, queue = await self.client.link()
        (facts,) = await queue.workers()
        return facts

    async def tell(self, verb: str, **body: Any) -> dict[str, Any]:
        broker, queue = await self.client.link()
        subject = queue.names.worker("crew", verb)
        answer = await broker.request(subject, json.dumps(body).encode(), 5.0)
        assert answer is not None
        found: dict[str, Any] = json.loads(answer)
        return found

    async def submit(self, count: int, seconds: float) -> list[str]:
        data = {"journal": str(self.journal.path), "seconds": seconds}
        tasks = await self.client.submit_many([("work", data)] * count)
        return [task.id for task in tasks]

    async def results(self, ids: list[str]) -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.gather(*(self.client.wait_for(task) for task in ids))
        assert {each.status for each in found} == {TaskStatus.COMPLETED}
        return [each.result for each in found]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.to_thread(self._process.wait, PATIENCE)

    async def close(self) -> None:
        await self.client.stop()
        self._process.kill()
        self._process.wait()


Start = Callable[..., Awaitable[Crew]]


@pytest.fixture(params=["nats", "embedded"])
async def crew(
    request: pytest.FixtureRequest, tmp_path: Path, queue_name: str, nats_server: NatsProcess
) -> AsyncIterator[Crew]:
    url = nats_server.url
    if request.param == "embedded":
        url = f"embedded://{request.getfixturevalue('embedded_folder')}"
    crew = Crew(tmp_path, url, f"crew-{queue_name}", "--grace", "20")
    try:
        yield await crew.ready()
    finally:
        await crew.close()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_it_is_one_worker_with_the_slots_of_all(crew: Crew) -> None:
    info = await crew.info()
    assert (info.id, info.config.max_concurrent_tasks) == ("crew", 4)
    assert info.metadata["processes"] == 2
    ids = await crew.submit(8, 0.5)
    assert len(set(await crew.results(ids))) == 2  # both processes ran some
    starts = crew.journal.starts()
    assert {each["worker"] for each in starts} == {"crew-1", "crew-2"}

    async def counted() -> bool:
        return (await crew.info()).total_completed == 8

    await crew.until(counted)
    figures = await crew.figures()
    assert "headrace_worker_tasks_completed_total" in figures
    assert f'headrace_worker_slots{{queue="{crew.client.queue}"}} 4.0' in figures


async def test_a_killed_process_is_replaced_and_its_tasks_come_back(crew: Crew) -> None:
    ids = await crew.submit(4, 6.0)
    await crew.journal.started(4)
    victim = crew.journal.starts()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    await crew.results(ids)
    runs = crew.journal.runs()
    lost = {each["task"] for each in crew.journal.starts(pid=victim)}
    assert all(runs[task] == (2 if task in lost else 1) for task in ids)
    facts = await crew.facts()
    assert sorted(each["starts"] for each in facts["processes"]) == [1, 2]
    assert victim not in {each["pid"] for each in facts["processes"]}
    assert await crew.probe("/livez") == 200


async def test_a_stuck_process_is_replaced_and_its_neighbour_goes_on(
    tmp_path: Path, queue_name: str, nats_server: NatsProcess
) -> None:
    crew = Crew(tmp_path, nats_server.url, f"crew-{queue_name}", HEADRACE_STUCK_AFTER="1")
    try:
        await crew.ready()
        data = {"journal": str(crew.journal.path), "seconds": 600}
        stuck = await crew.client.submit_async("block", data)
        pid = (await crew.journal.started(1))[0]["pid"]
        await crew.client.cancel_task(stuck.id)  # else it blocks the next one too

        async def gone() -> bool:
            return not alive(pid)

        await crew.until(gone)
        assert pid not in await crew.results(await crew.submit(4, 0.1))
    finally:
        await crew.close()


async def test_sigterm_drains_all_and_ends_with_0(crew: Crew) -> None:
    ids = await crew.submit(4, 2.0)
    await crew.journal.started(4)
    waiting = await crew.submit(3, 0.0)
    crew.signal(signal.SIGTERM)

    async def not_ready() -> bool:
        return await crew.probe("/readyz") != 200

    await crew.until(not_ready)
    assert await crew.ended() == 0
    assert len(crew.journal.entries("end")) == 4
    await crew.results(ids)
    for task in waiting:  # taken by nobody
        found = await crew.client.get_task(task)
        assert found is not None
        assert found.status is TaskStatus.QUEUED
    for entry in crew.journal.starts():
        assert not alive(entry["pid"])


async def test_a_second_signal_hands_back_at_once(crew: Crew) -> None:
    ids = await crew.submit(4, 60.0)
    await crew.journal.started(4)

    async def seen() -> bool:
        return (await crew.info()).current_tasks == 4

    await crew.until(seen)
    crew.signal(signal.SIGINT)

    async def told() -> bool:
        return "draining 4 tasks" in crew.log.read_text()

    await crew.until(told)
    crew.signal(signal.SIGINT)
    assert await crew.ended() == 130
    assert crew.journal.entries("end") == []
    for task in ids:
        found = await crew.client.get_task(task)
        assert found is not None
        assert found.status is TaskStatus.QUEUED


async def test_a_drain_is_for_all_and_busy_implies_ready(crew: Crew) -> None:
    ids = await crew.submit(3, 3.0)
    await crew.journal.started(3)
    answer = await crew.tell("drain", seconds=60, epoch=2)
    assert (answer["status"], answer["current_tasks"]) == ("draining", 3)
    late = await crew.submit(2, 0.0)  # nobody may take these
    assert await crew.probe("/readyz") == 200
    await crew.results(ids)

    async def not_ready() -> bool:
        return await crew.probe("/readyz") == 503

    await crew.until(not_ready)
    assert (await crew.info()).current_tasks == 0
    assert (await crew.client.depth()).messages == 2
    assert len(crew.journal.starts()) == 3
    assert "refused" in await crew.tell("resume", epoch=1)
    answer = await crew.tell("resume", epoch=2)
    assert answer["status"] != "draining"
    await crew.results(late)
    assert await crew.probe("/readyz") == 200


async def test_a_process_that_is_replaced_during_a_drain_stays_drained(crew: Crew) -> None:
    await crew.tell("drain", seconds=60)
    facts = await crew.facts()
    victim = facts["processes"][0]["pid"]
    os.kill(victim, signal.SIGKILL)

    async def replaced() -> bool:
        rows = (await crew.facts())["processes"]
        return all(each["pid"] and alive(each["pid"]) for each in rows) and rows[0]["starts"] == 2

    await crew.until(replaced)
    await crew.submit(2, 0.0)
    await asyncio.sleep(1.0)  # nothing tells that nothing happens
    assert (await crew.client.depth()).messages == 2
    assert crew.journal.starts() == []


async def test_a_process_that_is_starting_is_not_drained_yet_and_then_is(
    crew: Crew, tmp_path: Path
) -> None:
    """It was left out: the crew said that it is drained and empty, and then a process of it came
    up that took tasks."""
    slow = tmp_path / "slow"
    slow.touch()
    os.kill((await crew.facts())["processes"][0]["pid"], signal.SIGKILL)

    async def starting() -> bool:
        first = (await crew.facts())["processes"][0]
        return bool(first["starts"] == 2 and first["pid"])

    await crew.until(starting)
    await asyncio.sleep(0.5)  # it has its configuration by now
    answer = await crew.tell("drain", seconds=60)
    assert answer["current_tasks"] > 0  # nobody knows, and the operator must not lower the size
    slow.unlink()

    async def drained() -> bool:
        return (await crew.info()).current_tasks == 0

    await crew.until(drained)
    await crew.submit(4, 0.0)
    await asyncio.sleep(1.0)  # nothing tells that nothing happens
    assert (await crew.client.depth()).messages == 4


async def test_the_runs_of_all_processes_are_counted(crew: Crew) -> None:
    """`targetWait` sizes a pool by them."""
    await crew.results(await crew.submit(8, 0.2))

    async def counted() -> bool:
        runs, seconds = (await crew.facts())["runs"]["normal"]
        return bool(runs == 8 and seconds >= 1.6)

    await crew.until(counted)
    os.kill((await crew.facts())["processes"][0]["pid"], signal.SIGKILL)

    async def replaced() -> bool:
        return [each["starts"] for each in (await crew.facts())["processes"]] == [2, 1]

    await crew.until(replaced)
    assert await counted()  # they do not fall


async def test_processes_do_not_outlive_their_crew(crew: Crew) -> None:
    pids = [each["pid"] for each in (await crew.facts())["processes"]]
    crew.signal(signal.SIGKILL)
    await crew.ended()
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["app:app", "--processes", "two"], 2, "neither auto nor a number"),
        (["app:app", "--processes", "0"], 2, "neither auto nor a number"),
        (["app:app", "--processes", "2", "--url", "memory://"], 2, "processes can share"),
        (["broken:app", "--processes", "2"], 2, "no_such_module"),
        (["dies:app", "--processes", "2"], 1, "before it took tasks"),
    ],
)
def test_what_cannot_start_says_why(
    tmp_path: Path, nats_server: NatsProcess, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "dies.py").write_text(
        APP + "import sys\nif 'headrace.cli.member' in sys.modules or "
        "'member' in sys.argv[0]:\n    os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "worker", "-q", "crew-errors", *arguments],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
        | {"HEADRACE_URL": nats_server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert says in done.stderr
