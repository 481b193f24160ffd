"""A pool of local processes that follows its queue: gather, decide, act, every second."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.broker.port import QueueDepth
from headrace.client import Client
from headrace.errors import BrokerError, ConfigurationError
from headrace.manifest import WorkerPoolManifest
from headrace.scaling import (
    UNKNOWN,
    Decision,
    Depth,
    History,
    RunCount,
    Snapshot,
    Tally,
    decide_next,
    fleet_of,
    measure,
    plan_drain,
)
from headrace.up.processes import Processes, WorkerProcess
from headrace.wire import QueueNames
from headrace.worker_info import WorkerInfo

PERIOD = 0.5  # seconds between two looks
_DRAIN_LEASE = 15.0  # seconds; renewed at every look
_CONTROL_WITHIN = 1.0
_CRASH_PAUSE = (0.0, 1.0, 2.0, 5.0, 10.0)  # seconds before a crashed worker is replaced

Report = Callable[[dict[str, Any]], None]
"""Told of every event: `event` and `message` are always there."""


@dataclass(slots=True)
class View:
    """The pool as of the last look, for whoever shows it."""

    depth: QueueDepth | None
    workers: list[WorkerProcess]
    target: int
    message: str


class LocalPool:
    """Runs a manifest's pool as processes of this machine, from its folder."""

    def __init__(
        self, manifest: WorkerPoolManifest, folder: Path, url: str, report: Report
    ) -> None:
        if manifest.spec.app is None:
            raise ConfigurationError(
                f"pool {manifest.name!r} names no app",
                hint="Add spec.app: module:attribute to the manifest",
            )
        spec = manifest.spec
        self._cwd = folder
        self._grace = spec.drain.timeout
        self._policy = manifest.to_policy(period=PERIOD)
        self._names = QueueNames(spec.queue)
        self._report = report
        self.client = Client(url, spec.queue, name=f"headrace-up-{manifest.name}")
        state = folder / ".headrace" / "logs"
        self.processes = Processes(spec, url, state)
        self.decisions: list[Decision] = []
        """Every change of size."""
        self.crashed = 0
        self._crashes_in_a_row = 0
        self._start_after = 0.0
        self._target = spec.min_workers
        self._history = History()
        self._tally = Tally()
        self._depth: QueueDepth | None = None
        self._message = ""
        self._trouble = ""
        self._oldest_drain: float | None = None
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False

    # --- its life ---

    async def start(self) -> None:
        """Connect and begin to follow the queue. Raises `BrokerError`."""
        await self.client.start()
        self._loop = asyncio.create_task(self._follow(), name="headrace-up")

    async def ended(self) -> None:
        """Wait until it follows the queue no more; raises what ended that."""
        if self._loop is not None:
            await asyncio.shield(self._loop)

    async def stop(self, *, now: bool = False) -> None:
        """Let every worker finish what runs, within the drain's timeout, and end; `now` hands back
        at once."""
        self._stopping = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None
        for worker in list(self.processes.all.values()):
            self.processes.end(worker.id)
            if now:
                self.processes.end(worker.id)
        await asyncio.gather(*(each.process.wait() for each in self.processes.all.values()))
        await self.client.stop()

    def hurry(self) -> None:
        """Wait no longer for what runs: it is handed back."""
        for worker_id in list(self.processes.all):
            self.processes.end(worker_id)

    @property
    def view(self) -> View:
        """The pool as of the last look."""
        return View(self._depth, list(self.processes.all.values()), self._target, self._message)

    # --- the loop ---

    async def _follow(self) -> None:
        while not self._stopping:  # a cancellation alone may be swallowed before Python 3.12
            trouble = ""
            try:
                await self._look()
            except (BrokerError, OSError) as error:  # OSError: a full disk, no more processes
                trouble = f"the pool could not be changed: {error}"
                if trouble != self._trouble:
                    self._event("error", trouble)
            self._trouble = trouble
            await asyncio.sleep(PERIOD)

    async def _look(self) -> None:
        await self._replace_the_dead()
        lanes: Any = UNKNOWN
        try:
            self._depth = await self.client.depth()
            lanes = tuple(
                Depth(row.lane.priority, row.waiting, row.running, row.lane.tag)
                for row in self._depth.lanes
            )
            self.processes.tell(await self._ask_workers())
        except BrokerError as error:
            self._event("outage", f"the queue cannot be read, the size stays: {error.message}")
            self.processes.tell([])
        await self._act(self._decide(lanes))

    async def _ask_workers(self) -> list[WorkerInfo]:
        _, queue = await self.client.link()
        known = sum(worker.info is not None for worker in self.processes.all.values())
        rows = await queue.workers(expect=max(1, known))
        return [WorkerInfo.from_json(row) for row in rows]

    def _decide(self, lanes: Any) -> int:
        facts = [worker.facts() for worker in self.processes.all.values()]
        now = time.monotonic()
        snapshot = Snapshot(
            now=now,
            target=self._target,
            lanes=lanes,
            fleet=fleet_of(facts, now - (self._oldest_drain or now)),
            clock=time.time(),
        )
        runs = [
            count
            for worker in self.processes.all.values()
            if worker.info is not None and worker.answered
            for count in RunCount.of(worker.id, worker.info.runs)
        ]
        self._tally = measure(self._tally, self._policy, snapshot, runs)
        snapshot = replace(snapshot, rates=self._tally.rates)
        decision, self._history = decide_next(self._policy, snapshot, self._history)
        self._message = decision.message
        if decision.changes:
            self.decisions.append(decision)
            self._event(
                "decision",
                decision.message,
                before=self._target,
                desired=decision.desired,
                reason=decision.reason.value,
                limited_by=decision.limited_by.value,
                waiting=decision.inputs.waiting,
                running=decision.inputs.running,
            )
        self._target = decision.desired
        return decision.desired

    async def _act(self, target: int) -> None:
        plan = plan_drain([worker.facts() for worker in self.processes.all.values()], target)
        for pick in plan.resume:
            await self._control(pick.id, "resume")
        for pick in (*plan.drain, *plan.renew):
            await self._control(pick.id, "drain")
        for pick in plan.drain:
            self._event("drain", f"drains {pick.id} ({pick.text})", worker=pick.id)
        for pick in plan.remove:
            self._event("stop", f"stops {pick.id} ({pick.text})", worker=pick.id)
            self.processes.end(pick.id)
        draining = bool(plan.drain or plan.renew)
        self._oldest_drain = (self._oldest_drain or time.monotonic()) if draining else None
        if plan.start and time.monotonic() >= self._start_after:
            for _ in range(plan.start):
                worker = await self.processes.start(self._cwd, self._grace)
                self._event("start", f"starts {worker.id}", worker=worker.id)

    async def _control(self, worker_id: str, verb: str) -> None:
        broker, _ = await self.client.link()
        body = json.dumps({"seconds": _DRAIN_LEASE}).encode()
        await broker.request(self._names.worker(worker_id, verb), body, _CONTROL_WITHIN)

    async def _replace_the_dead(self) -> None:
        for worker in await self.processes.stuck():
            self._event("stuck", f"{worker.id} is stuck and is ended", worker=worker.id)
            worker.process.send_signal(signal.SIGKILL)
            await worker.process.wait()
        for worker in self.processes.reap():
            self.crashed += 1
            quick = worker.info is None
            self._crashes_in_a_row = self._crashes_in_a_row + 1 if quick else 0
            step = min(self._crashes_in_a_row, len(_CRASH_PAUSE) - 1)
            self._start_after = time.monotonic() + _CRASH_PAUSE[step]
            words = self.processes.last_words(worker)
            self._event(
                "crash",
                f"{worker.id} ended with {worker.process.returncode} and is replaced: {words}",
                worker=worker.id,
                code=worker.process.returncode,
            )

    def _event(self, event: str, message: str, **more: Any) -> None:
        self._report({"event": event, "at": time.time(), "message": message} | more)
