"""A worker: takes tasks of one queue and runs them in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from headrace.blobs import Blobs
from headrace.broker.connect import broker_url, make_broker
from headrace.broker.port import Broker, BrokerQueue, Delivery, Leases, QueueSettings
from headrace.errors import BrokerUnavailable, NotRunning, TaskError, TaskFailed, TaskTimeout
from headrace.registration import HasHandlers
from headrace.runtime.engine import Engine
from headrace.runtime.execute import Executor
from headrace.runtime.handlers import Handlers
from headrace.runtime.outcome import Outcome
from headrace.runtime.run import Run
from headrace.task import TaskPriority, TaskStatus
from headrace.wire import Envelope, Lane, QueueNames, check_worker_id
from headrace.worker_info import WorkerConfig, WorkerInfo, WorkerStatus, new_worker_id

log = logging.getLogger("headrace.worker")

OnComplete = Callable[[str, Any], Any]
OnError = Callable[[str, BaseException], Any]
Resources = Callable[[Any], AbstractAsyncContextManager[dict[str, Any] | None]]


class Worker(HasHandlers):
    """Runs tasks of one queue, `config.max_concurrent_tasks` at once.

        worker = Worker(url="nats://localhost:4222", queue="documents")

        @worker.handler("resize")
        async def resize(data: dict) -> dict: ...

        await worker.start()
        ...
        await worker.stop()

    `resources` is an async context manager factory, entered once when the worker starts; what it
    yields is there for handlers by `Resource("name")`.
    """

    def __init__(
        self,
        id: str | None = None,  # noqa: A002  # the seed's name
        config: WorkerConfig | None = None,
        *,
        url: str | None = None,
        queue: str = "default",
        handlers: Handlers | None = None,
        resources: Resources | None = None,
        settings: QueueSettings | None = None,
    ) -> None:
        self.config = config or WorkerConfig()
        self.url = broker_url(url)
        self.queue = queue
        self.handlers = handlers if handlers is not None else Handlers()
        self._info = WorkerInfo(
            check_worker_id(id if id is not None else new_worker_id()),
            WorkerStatus.STOPPED,
            config=self.config,
            metadata={"pid": os.getpid(), "host": socket.gethostname()} | _pod(),
        )
        QueueNames(queue)
        self.settings = settings
        self._resources = resources
        self._complete: list[OnComplete] = []
        self._error: list[OnError] = []
        self._engine: Engine | None = None
        self._broker: Broker | None = None
        self._leases: Leases | None = None
        self._stopping: Engine | None = None
        self._owns = True
        self._callbacks: set[asyncio.Future[Any]] = set()

    @property
    def id(self) -> str:
        """The worker's id."""
        return self._info.id

    def facts(self) -> dict[str, Any]:
        """What it says of itself to who asks: `info`, its tasks and its task types."""
        return self._info.to_json() if self._engine is None else self._engine.facts()

    @property
    def info(self) -> WorkerInfo:
        """The worker as it is now."""
        if self._engine is not None:
            self._engine.facts()
        return self._info

    @property
    def status(self) -> WorkerStatus:
        """Idle, busy, draining or stopped."""
        return self.info.status

    @property
    def failed(self) -> bool:
        """Whether it runs and takes no tasks any more: a fault, not a drain."""
        return self._engine is not None and self._engine.failed

    @property
    def leases(self) -> Leases | None:
        """What keeps its tasks leased, and answers liveness; None before the start."""
        return self._leases

    @property
    def running(self) -> int:
        """Tasks that it has taken and not settled."""
        engine = self._engine or self._stopping
        return 0 if engine is None else engine.running

    def on_task_complete(self, callback: OnComplete) -> OnComplete:
        """Call `callback(task id, result)` after each task that completed. May be async."""
        self._complete.append(callback)
        return callback

    def on_task_error(self, callback: OnError) -> OnError:
        """Call `callback(task id, exception)` after each task that did not. May be async."""
        self._error.append(callback)
        return callback

    # --- its life ---

    async def start(self, *, patient: bool = False, announce: bool = True) -> None:
        """Connect and begin to take tasks. Raises `BrokerError`.

        `patient` waits for a NATS server that cannot be reached, for as long as it takes, and
        answers the liveness probe meanwhile: an outage restarts nobody. Not for `embedded://`.
        Without `announce` nobody sees the worker: it is a part of one that somebody else answers
        for (`headrace worker --processes`).
        """
        if self._engine is not None:
            return
        broker = make_broker(self.url, f"headrace-{self.id}")
        settings = self.settings or QueueSettings()
        slots = self.config.max_concurrent_tasks
        leases: Leases | None = None
        try:
            if patient:
                leases = await broker.leases(settings.ack_wait, slots)
            await (until_it_answers(broker.connect) if patient else broker.connect())
            queue = broker.queue(self.queue, settings)
            await (until_it_answers(queue.ensure) if patient else queue.ensure())
            if leases is None:
                leases = await broker.leases(settings.ack_wait, slots)
            await self.start_on(broker, queue, leases, announce=announce)
        except BaseException:
            if leases is not None:
                await leases.close()
            await broker.close()
            raise
        self._owns = True

    async def start_on(
        self, broker: Broker, queue: BrokerQueue, leases: Leases, *, announce: bool = True
    ) -> None:
        """Start on a connection and leases that somebody else closes: a pool."""
        self._broker, self._leases, self._owns = broker, leases, False
        self._info.started_at = time.time()
        engine = Engine(broker, queue, self.handlers, self._info, leases, self._observe)
        await engine.start(self._resources, announce=announce)
        self._engine = engine
        log.info("worker %s takes tasks of queue %s", self.id, self.queue)

    async def stop(self, graceful: bool = True) -> int:
        """Take no more tasks, wait up to `config.graceful_shutdown_timeout` for those that run,
        hand back the rest; how many that were. Not graceful: hand back at once.

        A plain function that is handed back runs on in its thread until the process ends.
        """
        engine, self._engine = self._engine, None
        if engine is None:
            return 0
        self._stopping = engine
        grace = self.config.graceful_shutdown_timeout if graceful else 0.0
        handed_back = await engine.stop(grace)
        if self._callbacks:
            await asyncio.gather(*self._callbacks, return_exceptions=True)
        if self._owns:
            if self._leases is not None:
                await self._leases.close()
            if self._broker is not None:
                await self._broker.close()
        log.info("worker %s has stopped, %d tasks handed back", self.id, handed_back)
        return handed_back

    async def wait_idle(self) -> None:
        """Wait until nothing runs; with `drain`, until it may be stopped without a cut."""
        while self._engine is not None and self._engine.running:
            await self._engine.wait_changed()

    async def wait_changed(self) -> None:
        """Wait until a task has left the worker, or a drain begins or ends."""
        await self._require().wait_changed()

    def hurry(self) -> None:
        """A stop that is under way waits no longer: what still runs is handed back now."""
        if self._stopping is not None:
            self._stopping.hurry()

    def drain(self, seconds: float = 60.0) -> None:
        """Take no more tasks for so long, or until `resume`."""
        self._require().drain(seconds)

    def resume(self) -> None:
        """Take tasks again."""
        self._require().resume()

    def _require(self) -> Engine:
        if self._engine is None:
            raise NotRunning(f"worker {self.id} is not running", hint="Call start() first")
        return self._engine

    # --- observers ---

    def _observe(self, task_id: str, outcome: Outcome) -> None:
        if outcome.status is TaskStatus.COMPLETED:
            for completed in self._complete:
                self._call(completed, task_id, outcome.result)
        else:
            error = outcome.exception or _error_of(task_id, outcome)
            for failed in self._error:
                self._call(failed, task_id, error)

    def _call(self, callback: Callable[[str, Any], Any], task_id: str, value: Any) -> None:
        try:
            result = callback(task_id, value)
            if asyncio.iscoroutine(result):
                future = asyncio.ensure_future(result)
                self._callbacks.add(future)
                future.add_done_callback(self._called)
        except Exception:
            log.exception("a callback for task %s failed", task_id)

    def _called(self, future: asyncio.Future[Any]) -> None:
        self._callbacks.discard(future)
        if not future.cancelled() and future.exception() is not None:
            log.error("a callback failed", exc_info=future.exception())

    # --- without the queue ---

    async def execute_task(
        self, task_id: str, task_type: str, data: Any, timeout: float | None = None
    ) -> Any:
        """Run a handler here and now, without the queue; its result.

        Raises what the handler raised, `TaskTimeout`, `NoHandler`, `NotRunning`.
        """
        engine = self._require()
        handler = self.handlers.require(task_type)
        lane = Lane(TaskPriority.NORMAL)
        seconds = timeout or handler.timeout or self.config.task_timeout
        task = Envelope(task_id, lane, task_type, data, seconds, created_at=time.time())
        now = time.monotonic()
        delivery = Delivery(lane, task_id, "", b"", 0, time.time(), 1, 0, False, "", now)
        run = Run(f"direct-{task_id}", delivery, task, handler, self.id, seconds, 0)
        executor = Executor(_send_nothing, {}, Blobs(engine.link))
        run.asyncio_task = asyncio.ensure_future(executor.execute(run))  # type: ignore[arg-type]
        try:
            outcome: Outcome | None = await run.asyncio_task  # type: ignore[func-returns-value]
        finally:
            executor.close()
        if outcome is None:
            raise TaskFailed("the run was ended", task_id=task_id, task_type=task_type)
        if outcome.status is TaskStatus.COMPLETED:
            self._info.total_completed += 1
        else:
            self._info.total_failed += 1
        self._observe(task_id, outcome)
        if outcome.status is TaskStatus.COMPLETED:
            return outcome.result
        raise outcome.exception or _error_of(task_id, outcome)


async def until_it_answers(step: Callable[[], Awaitable[None]]) -> None:
    """Do it, and again for as long as the broker cannot be reached."""
    pause = 0.5
    while True:
        try:
            return await step()
        except BrokerUnavailable as error:
            log.warning("waiting for the broker: %s", error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 5.0)


def _pod() -> dict[str, str]:
    """Which pod this is, for the operator: the pods' template says so."""
    names = {"pod": "HEADRACE_POD_NAME", "pod_uid": "HEADRACE_POD_UID"}
    return {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}


async def _send_nothing(_: str, __: bytes) -> None:
    """Events of a task that is not in the queue have no listener."""


def _error_of(task_id: str, outcome: Outcome) -> TaskError:
    kind = TaskTimeout if outcome.status is TaskStatus.TIMEOUT else TaskFailed
    return kind(outcome.error or outcome.status.value, task_id=task_id, reason=outcome.reason)
