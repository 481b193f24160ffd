"""The queue alone, for those who write their own loop around it."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Self

from headrace.broker.connect import broker_url, make_broker
from headrace.broker.port import Broker, BrokerQueue, Delivery, Leases, QueueDepth, QueueSettings
from headrace.client import Client
from headrace.client.outcome import result_of
from headrace.errors import BrokerError, NotRunning, TaskNotFound
from headrace.runtime.dispatch import Dispatcher
from headrace.runtime.handlers import Handler
from headrace.runtime.outcome import Outcome
from headrace.runtime.run import Run, timed_out
from headrace.runtime.settle import Settler
from headrace.task import Task, TaskPriority, TaskResult, TaskStatus
from headrace.wire import Reason, Undecodable, decode_record, decode_task, lanes


class TaskQueue:
    """Enqueue, dequeue, complete: the queue without workers of ours.

        queue = TaskQueue(max_queue_size=10_000)
        task = await queue.enqueue("analyze", {"document": "…"}, priority=TaskPriority.HIGH)
        task = await queue.dequeue(worker_id="mine", timeout=5.0)
        await queue.complete(task.id, {"analysis": "…"})

    A task that was dequeued is leased to this process until it is completed or failed here, for
    its `timeout` at most: then it ends as one that took too long, and is retried if it may be. If
    the process dies, the task comes back.

    On `memory://` (the default) each `TaskQueue` without a `queue` name has a queue of its own.
    """

    def __init__(
        self,
        max_queue_size: int = 10_000,
        *,
        url: str | None = None,
        queue: str | None = None,
    ) -> None:
        self.url = broker_url(url)
        if queue is None:
            private = self.url.startswith("memory:")
            queue = f"taskqueue-{secrets.token_hex(6)}" if private else "default"
        self.queue = queue
        self._settings = QueueSettings(max_size=max_queue_size)
        self._broker: Broker | None = None
        self._stored: BrokerQueue
        self._leases: Leases
        self._client: Client
        self._dispatcher: Dispatcher
        self._opening = asyncio.Lock()
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._runs: dict[str, tuple[Run, asyncio.TimerHandle]] = {}
        self._ending: set[asyncio.Task[Any]] = set()
        self._depth: QueueDepth | None = None

    # --- its life ---

    async def start(self) -> Self:
        """Connect. Raises `BrokerError`. Not needed: the first use does it."""
        await self._ready()
        return self

    async def _ready(self) -> Client:
        async with self._opening:
            if self._broker is None:
                await self._open()
        return self._client

    async def _open(self) -> None:
        self._arrived = asyncio.Queue()  # of this event loop
        broker = make_broker(self.url, "headrace-taskqueue")
        await broker.connect()
        try:
            self._stored = broker.queue(self.queue, self._settings)
            await self._stored.ensure()
            self._leases = await broker.leases(self._settings.ack_wait, 1_000)
            self._client = await Client.on(broker, self.queue, self._settings).start()
            # No slot is free until somebody asks for a task.
            self._dispatcher = Dispatcher(
                self._stored, lanes([], True), 0, self._arrived.put_nowait, float("inf")
            )
            await self._dispatcher.open()
        except BaseException:
            await broker.close()
            raise
        self._broker = broker

    async def stop(self) -> None:
        """Disconnect. Tasks that were dequeued and not completed come back."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        for task_id in list(self._runs):
            await self._hand_back(task_id)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._opening = asyncio.Lock()  # it may be used again, in another event loop too
        await self._dispatcher.close()
        await self._client.stop()
        await self._leases.close()
        await broker.close()

    # --- producing ---

    async def enqueue(
        self,
        task_type: str,
        data: Any = None,
        *,
        priority: TaskPriority = TaskPriority.NORMAL,
        timeout: float = 300.0,
        retries: int = 0,
        metadata: dict[str, Any] | None = None,
    ) -> Task:
        """Store a task. Raises `QueueFull` at once when the queue holds its limit."""
        client = await self._ready()
        task = await client.submit_async(
            task_type,
            data,
            priority=priority,
            timeout=timeout,
            retries=retries,
            metadata=metadata,
        )
        await self._note_size()
        return task

    # --- consuming ---

    async def dequeue(self, worker_id: str, timeout: float | None = None) -> Task | None:
        """The next task, of the highest priority there is; None if none comes within `timeout`
        seconds (0: look once; None: wait as long as it takes)."""
        await self._ready()
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0.05)
        self._dispatcher.release()
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                async with asyncio.timeout(left):
                    delivery = await self._arrived.get()
            except (TimeoutError, asyncio.CancelledError) as error:
                await self._give_slot_back()
                if isinstance(error, TimeoutError):
                    return None
                raise
            task = await self._take(delivery, worker_id)
            if task is not None:
                try:
                    await self._note_size()
                except BaseException:
                    await self._hand_back(task.id)
                    raise
                return task
            self._dispatcher.release()

    async def _give_slot_back(self) -> None:
        """Nobody waits for it any more; a task that came meanwhile goes back."""
        if self._arrived.empty():
            self._dispatcher.free -= 1
        else:
            await self._stored.nak(self._arrived.get_nowait())

    async def _hand_back(self, task_id: str) -> None:
        held = self._runs.pop(task_id, None)
        if held is not None:
            run, timer = held
            timer.cancel()
            self._leases.release(run.delivery)
            await self._stored.nak(run.delivery)

    async def _take(self, delivery: Delivery, worker_id: str) -> Task | None:
        self._leases.hold(delivery)
        try:
            return await self._take_held(delivery, worker_id)
        except BaseException:  # who asked has been cancelled, or the broker does not answer
            self._leases.release(delivery)
            await self._stored.nak(delivery)
            raise

    async def _take_held(self, delivery: Delivery, worker_id: str) -> Task | None:
        settler = Settler(self._the_broker(), self._stored, self._leases, worker_id)
        try:
            task = decode_task(delivery.lane, delivery.task_id, delivery.body)
        except Undecodable as error:
            await settler.undecodable(delivery, str(error))
            self._leases.release(delivery)
            return None
        expected, lost = task.after, 0
        stored = await self._stored.read_record(task.id)
        if stored is not None:
            record = decode_record(stored.body)
            if record.is_final and stored.seq != task.after:
                await settler.dropped(delivery, task, record)
                self._leases.release(delivery)
                return None
            expected, lost = stored.seq, record.lost
        seconds = task.timeout or 300.0
        handler = Handler(task.type, _settled_by_the_caller)
        run = Run(secrets.token_hex(8), delivery, task, handler, worker_id, seconds, expected, lost)
        if not await settler.mark_running(run):
            self._leases.release(delivery)
            return None
        timer = asyncio.get_running_loop().call_later(seconds, self._on_timeout, task.id)
        self._runs[task.id] = (run, timer)
        found = task.to_task(TaskStatus.RUNNING)
        found.worker_id, found.started_at = worker_id, run.started_at
        return found

    def _on_timeout(self, task_id: str) -> None:
        held = self._runs.get(task_id)
        if held is not None:
            task = asyncio.ensure_future(self._settle(task_id, timed_out(held[0])))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def complete(self, task_id: str, result: Any = None) -> TaskResult:
        """The task is done. If it has ended otherwise meanwhile (cancelled, timed out), that stands
        and is what comes back. Raises `TaskNotFound`."""
        return await self._settle(task_id, Outcome(TaskStatus.COMPLETED, result))

    async def fail(self, task_id: str, error: str, *, retry: bool = True) -> TaskResult:
        """The task has failed. With `retry` and an attempt left it is queued again, after a pause
        that grows; else it ends as failed, with a dead letter. Raises `TaskNotFound`."""
        outcome = Outcome(TaskStatus.FAILED, error=error, reason=Reason.HANDLER, retry=retry)
        return await self._settle(task_id, outcome)

    async def _settle(self, task_id: str, outcome: Outcome) -> TaskResult:
        client = await self._ready()
        held = self._runs.pop(task_id, None)
        if held is None:
            return await self._ended_otherwise(task_id)
        run, timer = held
        timer.cancel()
        settler = Settler(self._the_broker(), self._stored, self._leases, run.worker_id)
        try:
            status = await settler.settle(run, outcome)
        finally:
            self._leases.release(run.delivery)
        await self._note_size()
        if status is TaskStatus.QUEUED:
            text = f"Retry {run.task.retry_count + 1}/{run.task.retries}: {outcome.error}"
            return TaskResult(task_id, status, error=text, worker_id=run.worker_id)
        if status is None:
            return await self._ended_otherwise(task_id)
        return await client.wait_for(task_id)

    async def _ended_otherwise(self, task_id: str) -> TaskResult:
        stored = await self._stored.read_record(task_id)
        record = None if stored is None else decode_record(stored.body)
        if record is None or not record.is_final:
            raise TaskNotFound(task_id)
        return result_of(record)

    # --- looking ---

    async def cancel(self, task_id: str) -> TaskResult:
        """Cancel a task; see `Client.cancel_task`."""
        client = await self._ready()
        result = await client.cancel_task(task_id)
        held = self._runs.pop(task_id, None)
        if held is not None:
            held[1].cancel()
            self._leases.release(held[0].delivery)
        await self._note_size()
        return result

    async def get_task(self, task_id: str) -> Task | None:
        """The task as it is now, or None."""
        return await (await self._ready()).get_task(task_id)

    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """Wait for a task's end. Raises `WaitTimeout`, `TaskNotFound`."""
        return await (await self._ready()).wait_for(task_id, timeout)

    async def depth(self) -> QueueDepth:
        """How much waits and runs, by priority."""
        depth = await (await self._ready()).depth()
        self._depth = depth
        return depth

    async def _note_size(self) -> None:
        try:
            await self.depth()
        except BrokerError:
            pass  # what was asked for is done; `size` stays what it was

    @property
    def size(self) -> int:
        """Tasks that wait, as of the last call of this object; `depth()` looks anew."""
        return 0 if self._depth is None else self._depth.waiting

    def get_stats(self) -> dict[str, Any]:
        """`queue_size`, `pending_count` and `max_size`, as of the last call of this object."""
        return {
            "queue_size": self.size,
            "pending_count": self.size,
            "max_size": self._settings.max_size,
        }

    def _the_broker(self) -> Broker:
        if self._broker is None:
            raise NotRunning("the queue was stopped", hint="Make a new TaskQueue")
        return self._broker


def _settled_by_the_caller(data: dict[str, Any]) -> None:
    """Stands where a worker has its handler."""
