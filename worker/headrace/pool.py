"""A pool of workers in this process, and the client that submits to them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Unpack

from headrace.broker.connect import broker_url, make_broker
from headrace.broker.port import Broker, BrokerQueue, Leases, QueueSettings
from headrace.client import Client
from headrace.client.streaming import TaskStream
from headrace.client.submission import Submission, SubmitOptions
from headrace.errors import ConfigurationError, NotRunning
from headrace.registration import HasHandlers
from headrace.registry import InMemoryWorkerRegistry, WorkerRegistry
from headrace.runtime.handlers import Handlers
from headrace.scaling import WorkerFacts, plan_drain
from headrace.task import Task
from headrace.wire import QueueNames
from headrace.worker import Resources, Worker
from headrace.worker_info import WorkerConfig, WorkerInfo

log = logging.getLogger("headrace.pool")

_FOREVER = 10 * 365 * 86_400.0  # a drain that this process itself ends


class WorkerPool(HasHandlers):
    """Several workers of one queue in this process, on one connection.

        pool = WorkerPool(min_workers=2, max_workers=10)
        pool.register_handler("resize", resize)
        await pool.start()
        thumb = await pool.submit("resize", {"url": url})
        await pool.scale(5)
        await pool.stop()

    A pool shrinks by draining: a worker that is busy finishes its tasks first. While it does, it
    no longer counts in `worker_count`, and growing takes it back before a new one is started.
    """

    def __init__(
        self,
        min_workers: int = 1,
        max_workers: int = 10,
        config: WorkerConfig | None = None,
        registry: WorkerRegistry | None = None,
        *,
        url: str | None = None,
        queue: str = "default",
        settings: QueueSettings | None = None,
        resources: Resources | None = None,
    ) -> None:
        if not 0 <= min_workers <= max_workers or max_workers < 1:
            raise ConfigurationError(
                f"min_workers={min_workers}, max_workers={max_workers} is no range",
                hint="0 <= min_workers <= max_workers, and max_workers >= 1",
            )
        QueueNames(queue)
        self.min_workers, self.max_workers = min_workers, max_workers
        self.config = config or WorkerConfig()
        self.registry = registry if registry is not None else InMemoryWorkerRegistry()
        self.url = broker_url(url)
        self.queue = queue
        self.settings = settings or QueueSettings()
        self.handlers = Handlers()
        self._resources = resources
        self._workers: dict[str, Worker] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # of those, the ones that stop by now
        self._completed = self._failed = 0  # of workers that have gone
        self._broker: Broker | None = None
        self._stored: BrokerQueue | None = None
        self._leases: Leases | None = None
        self._client: Client | None = None
        self._changing = asyncio.Lock()

    def _handle_submitter(self) -> Any:
        return lambda: self.client

    # --- its life ---

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return self._client is not None

    async def start(self) -> None:
        """Connect and start `min_workers` workers. Raises `BrokerError`."""
        if self._client is not None:
            return
        self._changing = asyncio.Lock()  # of this event loop: a pool may be started in another one
        broker = make_broker(self.url, f"headrace-pool-{self.queue}")
        await broker.connect()
        self._broker = broker
        try:
            self._stored = broker.queue(self.queue, self.settings)
            await self._stored.ensure()
            slots = self.max_workers * self.config.max_concurrent_tasks
            self._leases = await broker.leases(self.settings.ack_wait, slots)
            self._client = await Client.on(broker, self.queue, self.settings).start()
            await self.scale(self.min_workers)
        except BaseException:
            await self.stop(graceful=False)
            raise

    async def stop(self, graceful: bool = True) -> int:
        """Stop all workers, each within its `graceful_shutdown_timeout`; how many tasks were handed
        back unfinished. On `memory://` what still waits is lost, and that is logged."""
        client, self._client = self._client, None
        for task in self._retiring.values():
            task.cancel()
        self._retiring.clear()
        stops = [worker.stop(graceful) for worker in self._workers.values()]
        results = await asyncio.gather(*stops, return_exceptions=True)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for worker_id in list(self._workers):
            await self._forget(worker_id)
        if client is not None and self._broker is not None and not self._broker.durable:
            await self._say_what_is_lost()
        if client is not None:
            await client.stop()
        if self._leases is not None:
            await self._leases.close()
        if self._broker is not None:
            await self._broker.close()
        self._broker = self._stored = self._leases = None
        for result in results:
            if isinstance(result, BaseException):
                log.error("a worker did not stop cleanly", exc_info=result)
        return sum(result for result in results if isinstance(result, int))

    async def _say_what_is_lost(self) -> None:
        assert self._stored is not None
        depth = await self._stored.depth()
        if depth.messages or depth.delayed:
            log.warning(
                "%d tasks of queue %s still wait, and memory:// does not outlive its process",
                depth.messages + depth.delayed,
                self.queue,
            )

    # --- size ---

    @property
    def worker_count(self) -> int:
        """Workers that take tasks; those that finish their last ones do not count."""
        return len(self._workers) - len(self._retiring)

    async def scale(self, target: int) -> int:
        """Make it `target` workers, within the minimum and the maximum; the size it has then.

        New workers have started when it returns. Surplus ones have been told to drain and go once
        they are idle.
        """
        self._require()
        target = max(self.min_workers, min(target, self.max_workers))
        async with self._changing:
            plan = plan_drain(self._facts(), target)
            for pick in plan.resume:
                self._resume(pick.id)
            for _ in range(plan.start):
                await self._add()
            for pick in (*plan.remove, *plan.drain):
                self._retire(pick.id)
            return self.worker_count

    def _facts(self) -> list[WorkerFacts]:
        return [
            WorkerFacts.of(
                worker.id,
                worker.status,
                worker.running,
                self.config.max_concurrent_tasks,
                worker.info.started_at,
            )
            for worker in self._workers.values()
        ]

    async def _add(self) -> None:
        assert self._broker is not None
        assert self._stored is not None
        assert self._leases is not None
        worker = Worker(
            config=self.config,
            url=self.url,
            queue=self.queue,
            handlers=self.handlers,
            resources=self._resources,
        )
        await worker.start_on(self._broker, self._stored, self._leases)
        self._workers[worker.id] = worker
        await self.registry.register(worker.info)

    def _retire(self, worker_id: str) -> None:
        if worker_id not in self._retiring:
            self._workers[worker_id].drain(_FOREVER)
            self._retiring[worker_id] = asyncio.create_task(self._stop_when_idle(worker_id))

    def _resume(self, worker_id: str) -> None:
        task = self._retiring.pop(worker_id, None)
        if task is not None:
            task.cancel()
            self._workers[worker_id].resume()

    async def _stop_when_idle(self, worker_id: str) -> None:
        worker = self._workers[worker_id]
        await worker.wait_idle()
        # From here on it cannot be taken back.
        del self._workers[worker_id]
        task = self._retiring.pop(worker_id)
        self._leaving.add(task)
        task.add_done_callback(self._left)
        await worker.stop()
        await self._count_out(worker)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a worker did not stop cleanly", exc_info=task.exception())

    async def _forget(self, worker_id: str) -> None:
        await self._count_out(self._workers.pop(worker_id))

    async def _count_out(self, worker: Worker) -> None:
        self._completed += worker.info.total_completed
        self._failed += worker.info.total_failed
        await self.registry.unregister(worker.id)

    async def check_workers(self) -> list[str]:
        """Tell the registry who is alive, and replace workers that have failed; the ids of those.

        What a failed worker held is redelivered once its lease lapses.
        """
        self._require()
        async with self._changing:
            failed = [worker for worker in self._workers.values() if worker.failed]
            for worker in failed:
                log.error("worker %s has failed and is replaced", worker.id)
                task = self._retiring.pop(worker.id, None)
                if task is not None:
                    task.cancel()
                await worker.stop(graceful=False)
                await self._forget(worker.id)
                if task is None:
                    await self._add()
        for worker_id in list(self._workers):
            await self.registry.heartbeat(worker_id)
        return [worker.id for worker in failed]

    # --- tasks ---

    @property
    def client(self) -> Client:
        """The client on the pool's connection. Raises `NotRunning`."""
        return self._require()

    def _require(self) -> Client:
        if self._client is None:
            raise NotRunning("the pool is not running", hint="Call start() first")
        return self._client

    def submission(self, type: str, data: Any, options: SubmitOptions) -> Submission:  # noqa: A002
        """The task to submit. Raises `NoHandler` for a type without a handler here, `InvalidData`
        for data that its handler would refuse."""
        self.handlers.require(type).signature.check(data)
        return Submission(type, data, **options)

    async def submit(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        wait_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a task and wait for its result; see `Client.submit`. Raises `NoHandler` too."""
        return await self._require().run(self.submission(type, data, options), wait_timeout)

    async def submit_async(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task; see `Client.submit_async`. Raises `NoHandler` too."""
        return await self._require().send(self.submission(type, data, options))

    def stream(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        detach: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskStream:
        """Submit a task and iterate over its chunks; see `Client.stream`."""
        return self._require().open_stream(self.submission(type, data, options), detach=detach)

    # --- looking ---

    @property
    def workers(self) -> list[WorkerInfo]:
        """Its workers, those that drain included."""
        return [worker.info for worker in self._workers.values()]

    def facts(self) -> list[WorkerFacts]:
        """Its workers as the scaling core sees them."""
        return self._facts()

    def get_stats(self) -> dict[str, Any]:
        """Size and totals; `workers` has one entry per worker, draining ones included."""
        infos = self.workers
        return {
            "worker_count": self.worker_count,
            "current_tasks": sum(info.current_tasks for info in infos),
            "total_completed": self._completed + sum(info.total_completed for info in infos),
            "total_failed": self._failed + sum(info.total_failed for info in infos),
            "workers": [
                {
                    "id": info.id,
                    "status": info.status.value,
                    "current_tasks": info.current_tasks,
                    "completed": info.total_completed,
                }
                for info in infos
            ],
        }
