"""The coordinator: handlers, client and a pool that follows its queue, in one object."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack

from headrace.broker.port import Broker, BrokerQueue, QueueDepth, QueueSettings
from headrace.client import Client
from headrace.client.blobs import HasBlobs
from headrace.client.schedules import ScheduleOptions, Scheduler, Scheduling
from headrace.client.streaming import TaskStream
from headrace.client.submission import Submission, SubmitOptions
from headrace.errors import BrokerError, ConfigurationError, NotRunning
from headrace.handle import Submitter
from headrace.pool import WorkerPool
from headrace.registration import HasHandlers
from headrace.registry import WorkerRegistry
from headrace.scaling import (
    UNKNOWN,
    Decision,
    Depth,
    History,
    Law,
    Policy,
    Snapshot,
    decide_next,
    fleet_of,
)
from headrace.schedule import Schedule
from headrace.task import Task, TaskResult
from headrace.wire import DeadLetter
from headrace.worker import Resources
from headrace.worker_info import WorkerConfig, WorkerInfo

log = logging.getLogger("headrace.coordinator")

_LOOK_EVERY = 0.5  # seconds between two looks at the queue


@dataclass(slots=True)
class CoordinatorConfig:
    """How a coordinator sizes its pool.

    The pool grows above `scale_up_threshold` tasks per worker and shrinks below
    `scale_down_threshold`, to the size needed, looking twice a second. With `law="absolute"` the
    thresholds are sizes of the whole queue and the pool moves by one worker every
    `health_check_interval` seconds, as the in-memory original did.

    Every `health_check_interval` seconds workers that have failed are replaced, and registered ones
    that have not been heard of for `worker_timeout` seconds are dropped from the registry.
    """

    min_workers: int = 1
    max_workers: int = 10
    scale_up_threshold: float = 10
    scale_down_threshold: float = 2
    health_check_interval: float = 10.0
    worker_timeout: float = 30.0
    auto_scale: bool = True
    law: Law | str = Law.THRESHOLDS

    def __post_init__(self) -> None:
        for name in ("health_check_interval", "worker_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be above 0 seconds")
        try:
            self.law = Law(self.law)
        except ValueError:
            raise ConfigurationError(
                f"law={self.law!r} is not known", hint="Use 'thresholds' or 'absolute'"
            ) from None
        self.policy(WorkerConfig())  # a bad range is refused here, not at start()

    def policy(self, worker: WorkerConfig) -> Policy:
        """The same for the scaling core."""
        absolute = self.law is Law.ABSOLUTE
        period = self.health_check_interval if absolute else self.look_every
        return Policy.in_process(
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            scale_up_threshold=self.scale_up_threshold,
            scale_down_threshold=self.scale_down_threshold,
            slots=worker.max_concurrent_tasks,
            tags=tuple(worker.tags),
            serve_untagged=worker.serve_untagged,
            period=period,
            law=Law(self.law),
        )

    @property
    def look_every(self) -> float:
        """Seconds between two looks at the queue."""
        return min(_LOOK_EVERY, self.health_check_interval)


class Coordinator(HasHandlers, Scheduling, HasBlobs):
    """Handlers, a client and a local pool that follows its queue.

        coordinator = Coordinator(CoordinatorConfig(min_workers=2, max_workers=10))

        @coordinator.handler("resize")
        async def resize(data: dict) -> dict: ...

        await coordinator.start()
        thumb = await coordinator.submit("resize", {"url": url})
        task = await coordinator.submit_async("resize", {"url": url}, retries=3)
        print(await coordinator.wait_for(task.id))
        await coordinator.stop()

    `url` picks the broker: `memory://` (nothing durable, the default), `embedded:///folder`,
    `nats://host`; HEADRACE_URL where it is not given. With `min_workers=0` it may submit and leave
    the work to the workers of other processes: `headrace worker module:coordinator`.
    """

    def __init__(
        self,
        config: CoordinatorConfig | None = None,
        worker_config: WorkerConfig | None = None,
        registry: WorkerRegistry | None = None,
        *,
        url: str | None = None,
        queue: str = "default",
        settings: QueueSettings | None = None,
        resources: Resources | None = None,
    ) -> None:
        self.config = config or CoordinatorConfig()
        self.worker_config = worker_config or WorkerConfig()
        self.resources = resources
        self.pool = WorkerPool(
            self.config.min_workers,
            self.config.max_workers,
            self.worker_config,
            registry,
            url=url,
            queue=queue,
            settings=settings,
            resources=resources,
        )
        self.handlers = self.pool.handlers
        self.decisions: deque[Decision] = deque(maxlen=200)
        """The last changes of size, and what was decided last, with their reasons."""
        self._history = History()
        self._target = self.config.min_workers
        self._depth: QueueDepth | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.pool.queue

    @property
    def url(self) -> str:
        """The broker's url."""
        return self.pool.url

    @property
    def settings(self) -> QueueSettings:
        """How the queue is made."""
        return self.pool.settings

    @property
    def registry(self) -> WorkerRegistry:
        """Where its workers are registered."""
        return self.pool.registry

    def _handle_submitter(self) -> Callable[[], Submitter]:
        return lambda: self._require()

    # --- its life ---

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return self.pool.is_running

    async def start(self) -> None:
        """Connect, start `min_workers` workers, follow the queue. Raises `BrokerError`."""
        if self.is_running:
            return
        await self.pool.start()
        self._history, self._target = History(), self.config.min_workers
        self._depth = await self.pool.client.depth()
        absolute = self.config.law is Law.ABSOLUTE
        self._stopping = asyncio.Event()
        self._loops = [
            asyncio.create_task(self._follow(not absolute)),
            asyncio.create_task(self._check(absolute)),
        ]

    async def stop(self, graceful: bool = True) -> int:
        """Stop the workers, each within its `graceful_shutdown_timeout`, and disconnect; how many
        tasks were handed back unfinished. On a durable broker they and what waits stay there."""
        self._stopping.set()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        return await self.pool.stop(graceful)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[dict[str, Any]]:
        """Start with an ASGI app and stop with it: `FastAPI(lifespan=coordinator.lifespan)`.

        Requests find it as `request.state.headrace`.
        """
        async with self:
            yield {"headrace": self}

    # --- following the queue ---

    # Both loops ask `_stopping` too: before Python 3.12 `asyncio.wait_for`, which nats-py is built
    # on, swallows a cancellation that comes together with the answer. And nothing that goes wrong
    # in one turn ends them, a registry of the user's own included.

    async def _follow(self, decides: bool) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(self.config.look_every)
            try:
                await self._look(decides)
            except Exception:
                log.exception("the queue was not followed this time")

    async def _look(self, decides: bool) -> None:
        try:
            self._depth = await self.pool.client.depth()
            lanes = tuple(
                Depth(lane.lane.priority, lane.waiting, lane.running, lane.lane.tag)
                for lane in self._depth.lanes
            )
            snapshot_lanes: Any = lanes
        except (BrokerError, NotRunning) as error:
            log.warning("the queue cannot be read, the pool keeps its size: %s", error)
            snapshot_lanes = UNKNOWN
        if not decides or not self.config.auto_scale:
            return
        try:
            await self._decide(snapshot_lanes)
        except BrokerError as error:
            log.warning("the pool could not be resized: %s", error)

    async def _decide(self, lanes: Any) -> None:
        snapshot = Snapshot(
            now=time.monotonic(),
            target=self._target,
            lanes=lanes,
            fleet=fleet_of(self.pool.facts()),
            clock=time.time(),
        )
        policy = self.config.policy(self.worker_config)
        decision, self._history = decide_next(policy, snapshot, self._history)
        if decision.changes:
            log.info("%s", decision.message)
            self.decisions.append(decision)
        self._target = decision.desired
        if decision.changes or self.pool.worker_count != decision.desired:
            await self.pool.scale(decision.desired)

    async def _check(self, decides: bool) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(self.config.health_check_interval)
            try:
                await self.pool.check_workers()
                await self._drop_stale()
            except (BrokerError, NotRunning) as error:
                log.warning("health check: %s", error)
            except Exception:
                log.exception("the health check failed")
            if decides:
                await self._look(True)

    async def _drop_stale(self) -> None:
        oldest = time.time() - self.config.worker_timeout
        for info in await self.registry.get_workers():
            if info.last_heartbeat < oldest:
                log.warning("worker %s was not heard of for %g s: dropped from the registry",
                            info.id, self.config.worker_timeout)  # fmt: skip
                await self.registry.unregister(info.id)

    async def scale(self, workers: int) -> int:
        """Set the size by hand, within the minimum and the maximum; the size it has then.

        With `auto_scale` the queue decides again from the next look on.
        """
        self._require()
        size = await self.pool.scale(workers)
        self._target = size
        return size

    # --- tasks ---

    def _require(self) -> Client:
        if not self.is_running:
            raise NotRunning("the coordinator is not running", hint="Call start() first")
        return self.pool.client

    async def submit(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        wait_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a task, wait for it, return the handler's result; see `Client.submit`.

        Raises `NoHandler` and `InvalidData` before anything is stored.
        """
        client = self._require()
        return await client.run(self.pool.submission(type, data, options), wait_timeout)

    async def submit_async(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task; durable when it returns. See `Client.submit_async`."""
        client = self._require()
        return await client.send(self.pool.submission(type, data, options))

    async def submit_many(
        self, items: Iterable[Submission | tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Task]:
        """Submit many tasks at once; see `Client.submit_many`."""
        client = self._require()
        wanted = [Submission.of(item) for item in items]
        for submission in wanted:
            self.handlers.require(submission.type).signature.check(submission.data)
        return await client.submit_many(wanted)

    def stream(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        detach: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskStream:
        """Submit a task and iterate over its chunks; see `Client.stream`."""
        client = self._require()
        return client.open_stream(self.pool.submission(type, data, options), detach=detach)

    async def wait_for(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """Wait for a task's end. Raises `WaitTimeout`, `TaskNotFound`."""
        return await self._require().wait_for(task_id, timeout)

    async def get_task(self, task_id: str) -> Task | None:
        """The task as it is now, or None."""
        return await self._require().get_task(task_id)

    async def cancel_task(self, task_id: str) -> TaskResult:
        """Cancel a waiting or running task; see `Client.cancel_task`."""
        return await self._require().cancel_task(task_id)

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters."""
        return await self._require().dead_letters(limit)

    async def replay(self, task_id: str) -> Task:
        """Submit a dead letter's task once more."""
        return await self._require().replay(task_id)

    async def link(self) -> tuple[Broker, BrokerQueue]:
        """The connection and the queue, for the parts of Headrace that work below."""
        return await self._require().link()

    async def schedule(
        self,
        name: str,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Have a task come again and again; see `Client.schedule`. Raises `NoHandler` too."""
        self._require()
        self.handlers.require(type).signature.check(data)
        return await super().schedule(name, type, data, **options)

    async def _scheduler(self) -> Scheduler:
        return await self._require()._scheduler()

    # --- looking ---

    async def get_workers(self) -> list[WorkerInfo]:
        """The registered workers; those of this pool unless another registry was given."""
        return await self.registry.get_workers()

    async def depth(self) -> QueueDepth:
        """How much waits and runs, by priority and tag."""
        return await self._require().depth()

    def get_stats(self) -> dict[str, Any]:
        """`running`, `workers`, `queue`, `config`, `scaling`. The queue's figures are those of the
        last look, at most half a second old while the broker answers."""
        config, depth = self.config, self._depth
        last = self.decisions[-1] if self.decisions else None
        return {
            "running": self.is_running,
            "workers": self.pool.get_stats(),
            "queue": {
                "queue_size": 0 if depth is None else depth.waiting,
                "pending_count": 0 if depth is None else depth.waiting,
                "running": 0 if depth is None else depth.running,
                "delayed": 0 if depth is None else depth.delayed,
                "dead": 0 if depth is None else depth.dead,
                "max_size": self.settings.max_size,
            },
            "config": {
                "min_workers": config.min_workers,
                "max_workers": config.max_workers,
                "auto_scale": config.auto_scale,
                "law": str(config.law),
            },
            "scaling": None if last is None else {"desired": last.desired, "reason": last.message},
        }
