"""A pool of real worker processes: it grows, it shrinks, and it cuts nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats_servers import NatsProcess

from headrace import TaskStatus
from headrace.manifest import load
from headrace.up.pool import LocalPool

APP = """
import asyncio, os
from pathlib import Path
from headrace import Coordinator
app = Coordinator(queue="unused")

@app.handler("work")
async def work(data: dict) -> int:
    with open(data["log"], "a") as log:
        log.write(f"start {data['n']} {os.getpid()}\\n")
    await asyncio.sleep(data["seconds"])
    with open(data["log"], "a") as log:
        log.write(f"end {data['n']} {os.getpid()}\\n")
    return data["n"]
"""
POOL = """
apiVersion: headrace.dev/v1alpha1
kind: WorkerPool
metadata: {{name: up}}
spec:
  queue: {queue}
  app: app:app
  concurrency: 2
  minWorkers: 1
  maxWorkers: 3
  scaling: {{scaleDownWindow: 1s, {scaling}}}
  drain: {{timeout: 30s}}
"""


BY_THRESHOLDS = "scaleUpThreshold: 4, scaleDownThreshold: 1"
BY_WAITS = "scaleUpThreshold: 1000, targetWait: {normal: 1s}"


@pytest.fixture
def scaling() -> str:
    """What a test does not ask for otherwise."""
    return BY_THRESHOLDS


@pytest.fixture(params=["nats", "embedded"])
async def pool(
    tmp_path: Path,
    nats_server: NatsProcess,
    queue_name: str,
    scaling: str,
    request: pytest.FixtureRequest,
) -> AsyncIterator[LocalPool]:
    url = nats_server.url
    if request.param == "embedded":  # what `headrace up` takes where nothing is named
        url = f"embedded://{tmp_path / 'nats'}"
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "pool.yaml").write_text(POOL.format(queue=f"up-{queue_name}", scaling=scaling))
    (manifest,) = load(tmp_path / "pool.yaml")
    events: list[dict[str, Any]] = []
    pool = LocalPool(manifest, tmp_path, url, events.append)
    pool.events = events  # type: ignore[attr-defined]
    await pool.start()
    yield pool
    await pool.stop(now=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.05)


def jobs(tmp_path: Path, count: int, seconds: Callable[[int], float]) -> list[dict[str, Any]]:
    log = str(tmp_path / "log")
    return [
        {"type": "work", "data": {"n": n, "log": log, "seconds": seconds(n)}} for n in range(count)
    ]


async def test_it_grows_with_its_queue_and_shrinks_without_cutting_a_long_task(
    pool: LocalPool, tmp_path: Path
) -> None:
    """The backlog ends while long tasks still run: each of them runs once and to its end."""
    tasks = await pool.client.submit_many(
        jobs(tmp_path, 30, lambda n: 6.0 if n in (27, 28, 29) else 0.2)
    )
    results = await asyncio.gather(*(pool.client.wait_for(task.id) for task in tasks))
    assert {result.status for result in results} == {TaskStatus.COMPLETED}
    await until(lambda: pool.view.target == 1 and len(pool.view.workers) == 1)
    lines = (tmp_path / "log").read_text().split("\n")
    for n in range(30):
        starts = [line for line in lines if line.startswith(f"start {n} ")]
        ends = [line for line in lines if line.startswith(f"end {n} ")]
        assert (len(starts), len(ends)) == (1, 1)
    assert max(decision.desired for decision in pool.decisions) == 3
    events: list[dict[str, Any]] = pool.events  # type: ignore[attr-defined]
    for event in events:
        assert json.loads(json.dumps(event))["message"]
    assert all(e["reason"] for e in events if e["event"] == "decision")


@pytest.mark.parametrize("scaling", [BY_WAITS])
async def test_a_wait_target_sizes_the_pool_once_run_times_are_measured(
    pool: LocalPool, tmp_path: Path
) -> None:
    """One worker would be enough for the thresholds; 120 tasks of 0.3 s would wait 18 s."""
    tasks = await pool.client.submit_many(jobs(tmp_path, 120, lambda _: 0.3))
    await asyncio.gather(*(pool.client.wait_for(task.id) for task in tasks))
    grown = [each for each in pool.decisions if each.desired > 1]
    assert "normal to start within 5s, the time a worker takes to start" in grown[0].message


async def test_what_the_machine_refuses_is_said_and_tried_again(
    pool: LocalPool, tmp_path: Path
) -> None:
    """The loop ended without a word, and `headrace up` stood there for ever."""
    events: list[dict[str, Any]] = pool.events  # type: ignore[attr-defined]
    await until(lambda: any(worker.info for worker in pool.view.workers))
    logs = tmp_path / ".headrace" / "logs"
    shutil.rmtree(logs)
    logs.touch()  # as good as a full disk
    (first,) = pool.view.workers
    first.process.kill()
    await until(lambda: any(each["event"] == "error" for each in events))
    logs.unlink()
    await until(lambda: any(worker.id != first.id for worker in pool.view.workers))
    said = [each["message"] for each in events if each["event"] == "error"]
    assert len(said) == len(set(said))
    assert "the pool could not be changed" in said[0]


async def test_a_worker_that_cannot_start_is_told_with_its_error(
    pool: LocalPool, tmp_path: Path
) -> None:
    """It was told with the hint, which is the last line that it says."""
    await until(lambda: any(worker.info for worker in pool.view.workers))
    (tmp_path / "app.py").unlink()
    (first,) = pool.view.workers
    first.process.kill()
    events: list[dict[str, Any]] = pool.events  # type: ignore[attr-defined]
    await until(lambda: any("there is no module" in each["message"] for each in events))


async def test_a_killed_worker_is_replaced(pool: LocalPool, tmp_path: Path) -> None:
    await until(lambda: any(worker.info for worker in pool.view.workers))
    (first,) = pool.view.workers
    os.kill(first.process.pid, signal.SIGKILL)
    await until(lambda: any(w.info and w.answered for w in pool.view.workers if w.id != first.id))
    (task,) = await pool.client.submit_many(jobs(tmp_path, 1, lambda _: 0.0))
    assert (await pool.client.wait_for(task.id)).status is TaskStatus.COMPLETED
    assert pool.crashed == 1


async def test_a_stop_lets_what_runs_finish(pool: LocalPool, tmp_path: Path) -> None:
    (task,) = await pool.client.submit_many(jobs(tmp_path, 1, lambda _: 2.0))
    log = tmp_path / "log"
    await until(lambda: log.exists() and "start 0" in log.read_text())
    await pool.stop()
    assert "end 0" in log.read_text()
    assert (await pool.client.wait_for(task.id)).status is TaskStatus.COMPLETED
    await pool.client.stop()


async def test_a_worker_of_two_processes_is_one_worker_with_the_slots_of_both(
    tmp_path: Path, nats_server: NatsProcess, queue_name: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    manifest = POOL.format(queue=f"up-{queue_name}", scaling=BY_THRESHOLDS).replace(
        "concurrency: 2", "concurrency: 2\n  processes: 2"
    )
    (tmp_path / "pool.yaml").write_text(manifest)
    (found,) = load(tmp_path / "pool.yaml")
    assert (found.spec.slots, found.to_policy().slots) == (4, 4)
    pool = LocalPool(found, tmp_path, nats_server.url, lambda _: None)
    await pool.start()
    try:
        await until(lambda: any(worker.info for worker in pool.view.workers))
        tasks = await pool.client.submit_many(jobs(tmp_path, 4, lambda _: 1.0))
        results = await asyncio.gather(*(pool.client.wait_for(task.id) for task in tasks))
        assert {result.status for result in results} == {TaskStatus.COMPLETED}
        (worker,) = pool.view.workers
        assert worker.info is not None
        assert worker.info.config.max_concurrent_tasks == 4
        lines = (tmp_path / "log").read_text().splitlines()
        assert len({line.split()[2] for line in lines}) == 2
    finally:
        await pool.stop(now=True)
