"""`headrace worker --processes`: several processes that are one worker to everybody else.

A process of Python uses one core. The crew starts as many as are asked for, each with a connection,
slots and leases of its own, and speaks for them: one worker in `$SRV`, with the slots of all; one
drain, which is answered when every process has obeyed; one `/livez`, `/readyz` and `/metrics`. It
takes no tasks itself. A process that dies, or whose own liveness fails, is started again, and what
it ran comes back like the tasks of any lost worker (docs/adr/0013-several-processes.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.broker.connect import make_broker
from headrace.broker.jetstream.keeper.probes import Probes
from headrace.broker.jetstream.keeper.settings import health_address
from headrace.broker.port import Broker, QueueSettings, Subscription
from headrace.cli.crew_process import CrewProcess
from headrace.cli.exits import INTERRUPTED
from headrace.cli.loading import load_app
from headrace.cli.metrics import serve_metrics
from headrace.cli.serve import is_patient
from headrace.cli.serving import Options, Signals, say, worker_of
from headrace.errors import ConfigurationError, HeadraceError
from headrace.runtime.orders import Orders
from headrace.up.processes import is_alive
from headrace.worker import Worker, until_it_answers
from headrace.worker_info import WorkerInfo, WorkerStatus

log = logging.getLogger("headrace.worker")

MOST = 128
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0  # seconds between two starts of a process
_GOOD_LIFE = 30.0  # seconds after which one that dies is started again without delay
_PROBE_EVERY, _PROBES_FAILED = 2.0, 3
_END_WITHIN = 10.0  # seconds that a process has after the second signal


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The processors that this process may use, by its affinity and its control group's quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit
        pass
    return max(1, count)


def count_of(text: str) -> int:
    """Of `--processes`. Raises `ConfigurationError`."""
    if text == "auto":
        return min(MOST, cores())
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST:
        raise ConfigurationError(
            f"--processes: {text!r} is neither auto nor a number from 1 to {MOST}"
        )
    return int(text)


class Crew:
    """The processes of one worker, seen as one. `worker` says what each of them is."""

    def __init__(
        self, app_name: str, options: Options, worker: Worker, count: int, patient: bool
    ) -> None:
        self.queue = worker.queue
        self._worker = worker
        self._patient = patient
        config = worker.config
        self._info = replace(
            worker.info,
            config=replace(config, max_concurrent_tasks=count * config.max_concurrent_tasks),
            metadata=worker.info.metadata | {"processes": count},
            started_at=time.time(),
        )
        self._orders = Orders(self.facts, self._drain, self._resume)
        self._processes = [
            CrewProcess(
                app_name,
                options._replace(url=worker.url, worker_id=f"{worker.id[:59]}-{number}"),
                patient,
            )
            for number in range(1, count + 1)
        ]
        self._watching: list[asyncio.Task[None]] = []
        self._broker: Broker | None = None
        self._announcement: Subscription | None = None
        self._draining_until = 0.0
        self._ready = False
        self.stopping = False

    # --- what it says of all ---

    @property
    def info(self) -> WorkerInfo:
        """The worker as it is now."""
        info = self._info
        info.last_heartbeat = time.time()
        info.current_tasks = sum(each.running for each in self._processes)
        info.total_completed = sum(each.total("total_completed") for each in self._processes)
        info.total_failed = sum(each.total("total_failed") for each in self._processes)
        info.runs = _sum(each.runs for each in self._processes)
        if self.stopping or self._draining_until > time.monotonic():
            info.status = WorkerStatus.DRAINING
        else:
            info.status = WorkerStatus.BUSY if info.current_tasks else WorkerStatus.IDLE
        return info

    def facts(self) -> Mapping[str, Any]:
        """For who asks."""
        tasks = [task for each in self._processes for task in each.facts.get("tasks", ())]
        return self.info.to_json() | {
            "tasks": tasks[:200],
            "types": self._worker.handlers.types(),
            "epoch": self._orders.epoch,
            "processes": [
                {"pid": each.pid, "running": each.running, "starts": each.starts}
                for each in self._processes
            ],
        }

    def look(self) -> tuple[str, str]:
        """For the probes: a crew that can answer is alive, and mends its processes itself. Not
        ready means "may be deleted first": never while a task may run."""
        if not self._ready:
            return "", "the processes are starting"
        info = self.info
        drained = info.status is WorkerStatus.DRAINING and not info.current_tasks
        return "", "the worker takes no tasks" if self.stopping or drained else ""

    # --- its life ---

    async def start(self) -> None:
        """Connect, start the processes, announce them. Raises `BrokerError`, and `HeadraceError`
        if one ends before it takes tasks."""
        broker = make_broker(self._worker.url, f"headrace-{self._worker.id}")
        self._broker = broker
        await (until_it_answers(broker.connect) if self._patient else broker.connect())
        queue = broker.queue(self.queue, self._worker.settings or QueueSettings())
        await (until_it_answers(queue.ensure) if self._patient else queue.ensure())
        starts = [each.start(self._drain_left) for each in self._processes]
        for problem in await asyncio.gather(*starts, return_exceptions=True):
            if problem is not None:
                raise problem
        self._announcement = await queue.announce(self._info.id, self.facts, self._orders.verbs)
        self._watching = [asyncio.create_task(self._watch(each)) for each in self._processes]
        self._watching += [asyncio.create_task(self._probe(each)) for each in self._processes]
        self._ready = True
        log.info("worker %s takes tasks of queue %s in %d processes", self._info.id, self.queue,
                 len(self._processes))  # fmt: skip

    async def _watch(self, process: CrewProcess) -> None:
        """Start it again whenever it has ended."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            code = await process.ended()
            if self.stopping:
                return
            log.error("process %s of the worker has ended with %s and is started again; "
                      "what it ran comes back", process.options.worker_id, code)  # fmt: skip
            if time.monotonic() - began > _GOOD_LIFE:
                pause = _FIRST_PAUSE
            while not self.stopping:
                await asyncio.sleep(pause)
                pause = min(_MOST_PAUSE, pause * 2)
                try:
                    await process.start(self._drain_left)
                    break
                except (HeadraceError, OSError) as error:
                    log.error("%s", error)

    async def _probe(self, process: CrewProcess) -> None:
        """End a process that is stuck: its own keeper says so."""
        failed = 0
        while True:
            await asyncio.sleep(_PROBE_EVERY)
            port = process.health_port
            failed = 0 if port is None or await is_alive(port) else failed + 1
            if failed >= _PROBES_FAILED:
                log.error("process %s is stuck and is ended", process.options.worker_id)
                process.signal(signal.SIGKILL)
                failed = 0

    async def stop(self, now: asyncio.Event) -> None:
        """Let what runs finish, within its grace; hand back at once after `now`."""
        self.stopping = True
        await asyncio.gather(*(self._end(each, now) for each in self._processes))
        await self.close()

    async def _end(self, process: CrewProcess, now: asyncio.Event) -> None:
        process.signal(signal.SIGTERM)
        ended = asyncio.ensure_future(process.ended())
        hurry = asyncio.ensure_future(now.wait())
        await asyncio.wait({ended, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            process.signal(signal.SIGTERM)
            await asyncio.wait({ended}, timeout=_END_WITHIN)
            process.signal(signal.SIGKILL)
        await ended

    async def close(self) -> None:
        """Whatever is left ends now."""
        self.stopping = True
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._processes))
        if self._announcement is not None:
            await self._announcement.close()
        if self._broker is not None:
            await self._broker.close()

    # --- orders ---

    def _drain_left(self) -> float:
        return max(0.0, self._draining_until - time.monotonic())

    async def _drain(self, seconds: float) -> None:
        self._draining_until = time.monotonic() + seconds
        await asyncio.gather(
            *(each.order({"do": "drain", "seconds": seconds}) for each in self._processes)
        )

    async def _resume(self) -> None:
        self._draining_until = 0.0
        await asyncio.gather(*(each.order({"do": "resume"}) for each in self._processes))


def _sum(counts: Iterable[Mapping[str, tuple[int, float]]]) -> dict[str, tuple[int, float]]:
    """`WorkerInfo.runs` of several."""
    found: dict[str, tuple[int, float]] = {}
    for each in counts:
        for level, (runs, seconds) in each.items():
            known = found.get(level, (0, 0.0))
            found[level] = known[0] + runs, known[1] + seconds
    return found


async def serve_crew(app_name: str, options: Options, count: int) -> int:
    """Work in so many processes until told to stop; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = worker_of(load_app(app_name), options)
    if worker.url.startswith("memory:"):
        raise ConfigurationError(
            "--processes needs a broker that processes can share",
            hint="Give --url or HEADRACE_URL: embedded:///some/folder or nats://host:4222",
        )
    crew = Crew(app_name, options, worker, count, is_patient(worker))

    def first(number: signal.Signals) -> None:
        running = crew.info.current_tasks
        text = f"{number.name}: draining {running} tasks, again to stop now"
        say(text if running else number.name)

    signals = Signals(first)
    serve_metrics(crew)
    address = health_address()
    if address is not None:
        await _serve_probes(crew, *address)
    try:
        if not await signals.unless_stopped(crew.start()):
            await crew.close()
            return 0
    except BaseException:
        await crew.close()
        raise
    await signals.stop.wait()
    await crew.stop(signals.now)
    say("stopped; what was not finished is queued" if signals.now.is_set() else "stopped")
    return INTERRUPTED if signals.now.is_set() else 0


async def _serve_probes(crew: Crew, host: str, port: int) -> None:
    try:
        crew.info.metadata["health_port"] = await Probes(crew.look).serve(host, port)
    except OSError as error:
        raise ConfigurationError(
            f"the probes of HEADRACE_HEALTH_PORT do not start: {error.strerror or error}",
            hint="Choose another port, or 0 for any free one",
        ) from None
