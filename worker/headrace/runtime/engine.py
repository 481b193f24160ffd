"""One worker's runtime: takes tasks, runs them, settles them, drains.

The public `Worker` owns an engine; a `WorkerPool` owns several on one connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from headrace.blobs import Blobs
from headrace.broker.port import Broker, BrokerQueue, Delivery, Leases, Subscription
from headrace.errors import BrokerError, HeadraceError
from headrace.runtime.dispatch import Dispatcher
from headrace.runtime.execute import Executor
from headrace.runtime.handlers import Handler, Handlers
from headrace.runtime.look import ALONE_FROM, Verdict, doubt_of, look
from headrace.runtime.orders import DRAIN_LEASE, Orders
from headrace.runtime.outcome import Outcome
from headrace.runtime.run import Cause, Run, timed_out
from headrace.runtime.settle import Settler
from headrace.runtime.tick import take_tick
from headrace.task import TaskStatus
from headrace.wire import LEVEL_NAMES, Envelope, Reason, Undecodable, decode_task, lanes
from headrace.worker_info import WorkerInfo, WorkerStatus

log = logging.getLogger("headrace.worker")

CANCEL_GRACE = 10.0
"""Seconds in which a handler that was cancelled or timed out must end; then it is abandoned."""
_SWEEP = 0.5
_HAND_BACK_WITHIN = 5.0
_LOOK_AGAIN = 1.0  # seconds

Observer = Callable[[str, Outcome], None]


class Engine:
    """Runs the tasks of one queue in this process, up to `max_concurrent_tasks` at once."""

    def __init__(
        self,
        broker: Broker,
        queue: BrokerQueue,
        handlers: Handlers,
        info: WorkerInfo,
        leases: Leases,
        observe: Observer | None = None,
    ) -> None:
        self.info = info
        self._broker = broker
        self._queue = queue
        self._handlers = handlers
        self._leases = leases
        self._observe = observe
        self._settler = Settler(broker, queue, leases, info.id)
        self._runs: dict[str, Run] = {}  # by task id, while in the handler or being settled
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: dict[str, bool] = {}  # task id → cancelled meanwhile
        self._alone = asyncio.Lock()
        self._suspects: dict[str, Run] = {}  # that wait to run alone
        self._changed = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._exit = AsyncExitStack()
        self._prefix = secrets.token_hex(4)
        self._started = 0
        self._draining_until = 0.0  # monotonic; 0: not draining
        self._orders = Orders(self.facts, self.drain, self.resume)
        self._stopping = False
        self._hurried = False
        self._sweeper: asyncio.Task[None] | None = None
        self._dispatcher: Dispatcher
        self._executor: Executor

    # --- its life ---

    async def start(self, resources: Any = None, *, announce: bool = True) -> None:
        """Enter the resources, announce the worker, begin to take tasks. Not announced: somebody
        else answers for it."""
        loop = asyncio.get_running_loop()
        config = self.info.config
        given: Mapping[str, Any] = {}
        if resources is not None:
            given = await self._exit.enter_async_context(resources(self)) or {}
        try:
            self._executor = Executor(self._send_event, given, Blobs(self.link))
            self._dispatcher = Dispatcher(
                self._queue,
                lanes(config.tags, config.serve_untagged),
                config.max_concurrent_tasks,
                self._start,
                config.starvation_limit,
            )
            names = self._queue.names
            subscribe = self._broker.subscribe
            self._subscriptions = [
                await subscribe(names.cancel("*"), self._on_cancel),
                await subscribe(names.holds("*"), self._on_holds),
            ]
            if announce:
                self._subscriptions.append(
                    await self._queue.announce(self.info.id, self.facts, self._orders.verbs)
                )
            await self._broker.flush()
            self._sweeper = loop.create_task(self._sweep(), name="headrace-sweep")
            await self._dispatcher.open()
        except BaseException:
            await self._exit.aclose()
            raise

    async def stop(self, grace: float) -> int:
        """Take no more tasks, wait up to `grace` seconds for those that run, hand back the rest;
        how many that were."""
        self._stopping = True
        self.info.status = WorkerStatus.DRAINING
        self._dispatcher.hold()
        deadline = time.monotonic() + grace
        while self._tasks and not self._hurried and (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self.wait_changed()
            except TimeoutError:
                break
        handed_back = await self._hand_back_all()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._dispatcher.close()
        for subscription in self._subscriptions:
            await subscription.close()
        self._executor.close()
        for task in list(self._tasks):
            task.cancel()
        self.info.status = WorkerStatus.STOPPED
        self.info.current_tasks = 0
        await self._exit.aclose()
        return handed_back

    async def link(self) -> tuple[Broker, BrokerQueue]:
        """The connection and the queue."""
        return self._broker, self._queue

    def hurry(self) -> None:
        """Let a stop that waits go on to hand back."""
        self._hurried = True
        self._changed.set()

    async def _hand_back_all(self) -> int:
        cut = [run for run in self._runs.values() if self._executor.end(run, Cause.STOP)]
        if cut:
            ends = [run.asyncio_task for run in cut if run.asyncio_task is not None]
            await asyncio.wait(ends, timeout=1.0)
        back = [self._settler.hand_back(run) for run in cut]
        try:
            async with asyncio.timeout(_HAND_BACK_WITHIN):
                await asyncio.gather(*back)
        except TimeoutError:
            log.warning("%d tasks were not handed back; they come back after %g s",
                        len(cut), self._queue.settings.ack_wait)  # fmt: skip
        return len(cut)

    # --- drain ---

    def drain(self, seconds: float = DRAIN_LEASE) -> None:
        """Take no more tasks for so long; drain again to go on, `resume` to end it."""
        if not self._draining_until:  # also while it stops: `resume` takes back just this one
            self._dispatcher.hold()
        self._draining_until = time.monotonic() + seconds
        self._show()
        self._changed.set()

    def resume(self) -> None:
        """Take tasks again."""
        if self._draining_until:
            self._draining_until = 0.0
            self._dispatcher.unhold()
            self._show()
            self._changed.set()

    @property
    def running(self) -> int:
        """Tasks that are taken and not settled."""
        return len(self._tasks)

    def facts(self) -> dict[str, Any]:
        """What the worker says of itself."""
        self.info.last_heartbeat = time.time()
        self._show()
        return self.info.to_json() | {
            "tasks": [
                {"id": run.task.id, "type": run.task.type, "started_at": run.started_at}
                for run in list(self._runs.values())[:200]
            ],
            "types": self._handlers.types(),
            "epoch": self._orders.epoch,
        }

    def _show(self) -> None:
        self.info.current_tasks = len(self._tasks)
        if self._stopping or self._draining_until:
            self.info.status = WorkerStatus.DRAINING
        else:
            self.info.status = WorkerStatus.BUSY if self._tasks else WorkerStatus.IDLE

    # --- one task ---

    def _start(self, delivery: Delivery) -> None:
        self._leases.hold(delivery)
        own: list[asyncio.Task[None]] = []  # cheaper than asking for the current task
        task = asyncio.get_running_loop().create_task(self._take(delivery, own))
        own.append(task)
        self._tasks.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait until a task has left the worker, or a drain begins or ends."""
        self._changed.clear()
        await self._changed.wait()

    @property
    def failed(self) -> bool:
        """Whether a part of the worker has ended that never should."""
        return not self._stopping and (
            self._dispatcher.failed or (self._sweeper is not None and self._sweeper.done())
        )

    async def _take(self, delivery: Delivery, own: list[asyncio.Task[None]]) -> None:
        run: Run | None = None
        try:
            run = self._prepare_now(delivery) or await self._prepare(delivery)
            if run is not None:
                run.asyncio_task = own[0]
                if run.lost >= ALONE_FROM:
                    await self._carry_out_alone(run)
                else:
                    await self._run(run)
        except HeadraceError as error:
            log.error("task %s comes back: %s", delivery.task_id, error)
        except Exception:
            log.exception("task %s comes back: a fault in the worker", delivery.task_id)
        finally:
            if run is None or not run.abandoned:
                self._leases.release(delivery)
                self._dispatcher.release()
                self._changed.set()

    def _prepare_now(self, delivery: Delivery) -> Run | None:
        """The run of a task that comes for the first time and is known here: nearly all of them.
        None: `_prepare` has more to do."""
        if delivery.sourced or delivery.deliveries > 1 or not self._dispatcher.history.sure:
            return None
        try:
            task = decode_task(delivery.lane, delivery.task_id, delivery.body)
        except Undecodable:
            return None
        handler = self._handlers.get(task.type)
        return None if handler is None else self._run_of(delivery, task, handler, task.after, 0)

    def _run_of(
        self, delivery: Delivery, task: Envelope, handler: Handler, expected: int, lost: int
    ) -> Run:
        self._started += 1
        timeout = task.timeout or handler.timeout or self.info.config.task_timeout
        run_id = f"{self._prefix}-{self._started:x}"
        return Run(run_id, delivery, task, handler, self.info.id, timeout, expected, lost)

    async def _prepare(self, delivery: Delivery) -> Run | None:
        """The run to carry out, or None if the task is not to be started."""
        task_id = delivery.task_id
        if delivery.next_at is not None:
            await take_tick(self._queue, delivery, delivery.next_at)
            return None
        try:
            task = decode_task(delivery.lane, task_id, delivery.body)
        except Undecodable as error:
            await self._settler.undecodable(delivery, str(error))
            return None
        expected, lost = task.after, 0
        history = self._dispatcher.history
        doubt = doubt_of(delivery, self._queue.settings.ack_wait, history)
        if doubt is not None:
            self._looking[task_id] = False
            try:
                seen = await look(self._broker, self._queue, delivery, task, doubt, history)
            except BrokerError as error:
                log.warning("task %s is looked at later: %s", task_id, error)
                await self._queue.nak(delivery, _LOOK_AGAIN)
                return None
            finally:
                cancelled = self._looking.pop(task_id, False)
            if seen.verdict is Verdict.DROP or cancelled:
                await self._settler.dropped(delivery, task, seen.record)
                return None
            if seen.verdict is Verdict.HELD:
                log.info("task %s is left to the worker that still runs it", task_id)
                await self._queue.nak(delivery, self._queue.settings.ack_wait)
                return None
            if seen.verdict is Verdict.GIVE_UP:
                await self._lost_again(delivery, task, seen.expected, seen.lost)
                return None
            expected, lost = seen.expected, seen.lost
        handler = self._handlers.get(task.type)
        if handler is None:
            await self._settler.unknown_type(
                delivery, task, self._handlers.unknown(task.type).message
            )
            return None
        return self._run_of(delivery, task, handler, expected, lost)

    async def _lost_again(
        self, delivery: Delivery, task: Envelope, expected: int, lost: int
    ) -> None:
        text = f"{lost} workers died while they ran this task"
        log.error("task %s is given up: %s", task.id, text)
        outcome = Outcome(TaskStatus.FAILED, error=f"WorkerLost: {text}", reason=Reason.WORKER_LOST)
        await self._settler.give_up(delivery, task, outcome, expected, lost)
        self._count(task.id, outcome)

    async def _carry_out_alone(self, run: Run) -> None:
        """With no neighbour, so that it alone is to blame if the worker dies once more."""
        self._dispatcher.hold()
        self._suspects[run.task.id] = run
        try:
            async with self._alone:
                while self._runs:
                    await self.wait_changed()
                await self._run(run)
        finally:
            del self._suspects[run.task.id]
            self._dispatcher.unhold()

    async def _run(self, run: Run) -> None:
        self._runs[run.task.id] = run
        try:
            if run.lost and not await self._settler.mark_running(run):
                return
            run.started_at, run.began = time.time(), time.monotonic()
            outcome = await self._executor.execute(run)
            level = LEVEL_NAMES[run.delivery.lane.priority]
            runs, seconds = self.info.runs[level]
            self.info.runs[level] = runs + 1, seconds + time.monotonic() - run.began
            if not run.abandoned:
                await self._finish(run, outcome)
        finally:
            if self._runs.get(run.task.id) is run:
                del self._runs[run.task.id]

    async def _finish(self, run: Run, outcome: Outcome | None) -> None:
        if run.marking is not None:
            await run.marking
        if outcome is None:
            if run.cause is Cause.CANCEL:  # who cancelled has written the record
                await self._queue.ack(run.delivery)
            return
        status = await self._settler.settle(run, outcome)
        if status is not None and status.is_final:
            self._count(run.task.id, outcome)

    def _count(self, task_id: str, outcome: Outcome) -> None:
        if outcome.status is TaskStatus.COMPLETED:
            self.info.total_completed += 1
        else:
            self.info.total_failed += 1
        if self._observe is not None:
            self._observe(task_id, outcome)

    # --- what comes from outside ---

    def _on_cancel(self, subject: str, _: bytes, __: str) -> None:
        task_id = subject.rpartition(".")[2]
        if task_id in self._looking:
            self._looking[task_id] = True
        run = self._runs.get(task_id)
        if run is not None:
            self._executor.end(run, Cause.CANCEL)

    async def _on_holds(self, subject: str, _: bytes, reply: str) -> None:
        task_id = subject.rpartition(".")[2]
        run = self._runs.get(task_id) or self._suspects.get(task_id)
        if run is not None and reply:
            await self._broker.publish(reply, self._settler.running_record(run))

    async def _send_event(self, task_id: str, body: bytes) -> None:
        try:
            await self._broker.publish(self._queue.names.events + task_id, body)
        except BrokerError:
            pass  # who listens sees the gap in the numbers

    # --- watching over what runs ---

    async def _sweep(self) -> None:
        mark_after = self._queue.settings.ack_wait / 3  # `look` counts on it
        while True:
            await asyncio.sleep(min(_SWEEP, mark_after / 2))
            now = time.monotonic()
            if self._draining_until and now > self._draining_until:
                log.info("the drain was not renewed: taking tasks again")
                self.resume()
            for run in list(self._runs.values()):
                if not run.in_handler or run.abandoned:
                    continue
                if run.cause is not None:
                    if now - run.told_at > CANCEL_GRACE:
                        self._abandon(run)
                elif not run.marked and now - run.began > mark_after:
                    run.marked = True
                    run.marking = asyncio.create_task(self._mark(run))

    async def _mark(self, run: Run) -> None:
        if not await self._settler.mark_running(run):
            # Cancelled, or somebody else's by now.
            self._executor.end(run, Cause.CANCEL)

    def _abandon(self, run: Run) -> None:
        """Free the slot of a handler that will not end, and settle its task."""
        run.abandoned = True
        log.error("the handler of %s (%s) did not end within %g s of being told to: abandoned",
                  run.task.id, run.task.type, CANCEL_GRACE)  # fmt: skip
        task = asyncio.get_running_loop().create_task(self._settle_abandoned(run))
        self._tasks.add(task)
        task.add_done_callback(self._gone)
        if run.asyncio_task is not None:
            self._gone(run.asyncio_task)

    async def _settle_abandoned(self, run: Run) -> None:
        try:
            await self._finish(run, timed_out(run) if run.cause is Cause.TIMEOUT else None)
        finally:
            self._leases.release(run.delivery)
            self._dispatcher.release()
            if self._runs.get(run.task.id) is run:
                del self._runs[run.task.id]
            self._changed.set()
