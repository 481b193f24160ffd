"""`make demo`: a burst of real tasks on a pool of this machine, and what became of it."""

import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from headrace import Task, TaskPriority
from headrace.manifest import load
from headrace.up.command import Screen, drain
from headrace.up.pool import LocalPool

HERE = Path(__file__).parent
TASKS = 2_100
TYPES = ("measure", "index", "summarise")
LEVELS = tuple(TaskPriority)
GIVE_UP = 110.0  # seconds


def burst() -> list[dict]:
    """Tasks over the text files of the Python installation, all types at all priorities."""
    library = Path(asyncio.__file__).parents[1]
    files = [path for path in sorted(library.rglob("*.py")) if path.stat().st_size < 60_000]
    return [
        {
            "type": TYPES[number % 3],
            "data": str(files[number % len(files)]),
            "priority": LEVELS[number // 3 % 4],
        }
        for number in range(TASKS)
    ]


async def until_small(pool: LocalPool, tasks: list[Task]) -> None:
    """Until every task has ended and the pool is back at its minimum."""
    for task in tasks:
        await pool.client.wait_for(task.id)
    while len(pool.view.workers) > 1 or pool.view.target > 1:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def summary(pool: LocalPool, tasks: list[Task], seconds: float) -> None:
    """Figures from the tasks' own records."""
    ended = [await pool.client.get_task(task.id) for task in tasks]
    states = Counter(task.status.value for task in ended if task is not None)
    print(f"\n{len(tasks)} tasks in {seconds:.1f} s: {dict(states)}")
    print(f"\n{'priority':<10} {'tasks':>6} {'wait p50':>9} {'p95':>8}")
    for level in reversed(LEVELS):
        waits = sorted(
            task.started_at - task.created_at
            for task in ended
            if task is not None and task.priority is level and task.started_at
        )
        if len(waits) > 1:
            p95 = statistics.quantiles(waits, n=20)[-1]
            row = f"{level.name.lower():<10} {len(waits):>6}"
            print(f"{row} {statistics.median(waits):>7.2f} s {p95:>6.2f} s")
    print("\nsizes and why:")
    for decision in pool.decisions:
        print(f"  {decision.inputs.target} -> {decision.desired}  {decision.message}")
    print(
        "\nnext: headrace up -f examples/documents/pool.yaml; it prints the HEADRACE_URL for\n"
        "  headrace submit index '\"/etc/services\"' -q documents --wait\n"
        "README.md says how the same code runs on your own NATS."
    )


async def main() -> int:
    """Run it; the exit code."""
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: (again if stop.is_set() else stop).set())
    (manifest,) = load(HERE / "pool.yaml")
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
        screen = Screen("documents (make demo)")
        pool = LocalPool(manifest, HERE, f"embedded://{folder}/nats", screen.report)
        screen.say("starting a nats-server and a pool of 1 worker")
        await pool.start()
        view = asyncio.create_task(screen.show(pool))
        started = time.monotonic()
        tasks = await pool.client.submit_many(burst())
        screen.say(f"submitted {len(tasks)} tasks at four priorities")
        work = asyncio.create_task(until_small(pool, tasks))
        told = asyncio.create_task(stop.wait())
        await asyncio.wait({work, told}, timeout=GIVE_UP, return_when=asyncio.FIRST_COMPLETED)
        seconds = time.monotonic() - started
        view.cancel()
        await asyncio.gather(view, return_exceptions=True)
        finished = work.done()
        for task in (work, told):
            task.cancel()
        if finished:
            await work
            await summary(pool, tasks, seconds)
        code = await drain(pool, screen, again)
        if stop.is_set():
            return 130
        if not finished:
            print(f"not done within {GIVE_UP:g} s", file=sys.stderr)
            return 1
        return code


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
