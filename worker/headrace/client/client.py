"""The client of one queue."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

from headrace.broker.connect import broker_url, make_broker
from headrace.broker.port import (
    Broker,
    BrokerQueue,
    QueueDepth,
    QueueSettings,
    Stored,
    WrongSequence,
)
from headrace.client.blobs import HasBlobs
from headrace.client.inspector import Inspector
from headrace.client.outcome import record_in, result_of, value_of
from headrace.client.schedules import Scheduler, Scheduling
from headrace.client.streaming import TaskStream
from headrace.client.submission import Submission, SubmitOptions, encode, submitted
from headrace.client.waiting import Waiters
from headrace.errors import NotRunning, SubmitRefused, TaskNotFound
from headrace.task import Task, TaskResult, TaskStatus, check_task_id
from headrace.wire import (
    DeadLetter,
    Envelope,
    QueueNames,
    Record,
    encode_record,
)
from headrace.worker_info import WorkerInfo

_UNDER_WAY = 1_000  # submits of one `submit_many` that are not acknowledged yet


class _Link:
    """What a client holds of one event loop."""

    def __init__(self, broker: Broker, queue: BrokerQueue, token: str) -> None:
        self.broker = broker
        self.queue = queue
        self.token = token
        self.waiters = Waiters(queue)
        self.inspector = Inspector(broker, queue)
        self.scheduler = Scheduler(broker, queue)


class Client(Scheduling, HasBlobs):
    """Submits tasks to one queue and asks what became of them.

        async with Client("nats://localhost:4222", queue="documents") as client:
            thumb = await client.submit("resize", {"url": url})          # waits for the result
            task = await client.submit_async("resize", {"url": url})     # durable, goes on
            result = await client.wait_for(task.id, timeout=10)

    It connects at its first use, once for every event loop that it is used in: one client may
    serve several threads that have a loop each, and one `asyncio.run` after the other. `stop` ends
    the connection of the loop that it is called in.

    `url` defaults to HEADRACE_URL, then to `memory://`. `max_queue_size` is the limit that the
    queue gets if this client makes it; a larger one than it has raises it.
    """

    def __init__(
        self,
        url: str | None = None,
        queue: str = "default",
        *,
        max_queue_size: int | None = None,
        settings: QueueSettings | None = None,
        name: str = "headrace-client",
    ) -> None:
        self.url = broker_url(url)
        self.queue = queue
        QueueNames(queue)  # a bad name is refused here, not at the first submit
        if settings is None:
            settings = QueueSettings()
            if max_queue_size is not None:
                settings = QueueSettings(max_size=max_queue_size)
        self._settings = settings
        self._name = name
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
        self._shared: Broker | None = None

    @classmethod
    def on(cls, broker: Broker, queue: str, settings: QueueSettings) -> Client:
        """A client on a connection that somebody else opens and closes."""
        client = cls("memory://", queue, settings=settings)
        client._shared = broker
        return client

    # --- its life ---

    async def start(self) -> Self:
        """Connect. Raises `BrokerError`. Not needed: the first use does it."""
        await self._ready()
        return self

    async def stop(self) -> None:
        """Disconnect. Harmless when it is not connected."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is None:
            return
        link.waiters.close()
        if self._shared is None:
            await link.broker.close()

    async def cancel_at_last(self, task_id: str) -> None:
        """`cancel_task` for a stream that may outlive this client's connection: one that was
        stopped is not connected anew for good. Raises as `cancel_task`."""
        if self._shared is not None or asyncio.get_running_loop() in self._links:
            await self.cancel_task(task_id)
            return
        async with Client(self.url, self.queue, settings=self._settings, name=self._name) as other:
            await other.cancel_task(task_id)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _ready(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is not None:
            return link
        if self._shared is not None and self._links:
            raise NotRunning(
                "the connection belongs to the event loop that it was started in",
                hint="From another loop or thread use a Client or a SyncClient of its own",
            )
        for old in list(self._opening):
            if old.is_closed():  # its connection has gone with it
                self._opening.pop(old, None)
                self._links.pop(old, None)
        async with self._opening.setdefault(loop, asyncio.Lock()):
            link = self._links.get(loop)
            if link is None:
                link = self._links[loop] = await self._open()
            return link

    async def _open(self) -> _Link:
        broker = self._shared
        if broker is None:
            broker = make_broker(self.url, self._name)
            await broker.connect()
        try:
            queue = broker.queue(self.queue, self._settings)
            await queue.ensure()
            token = secrets.token_hex(8)
            link = _Link(broker, queue, token)
            await broker.subscribe(queue.names.reply(token), link.waiters.receive)
            await broker.flush()
        except BaseException:
            if self._shared is None:
                await broker.close()
            raise
        return link

    # --- submit ---

    async def submit(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        wait_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a task, wait for its end, return the handler's result.

        Raises `TaskFailed`, `TaskTimeout` or `TaskCancelled` if it did not complete; `WaitTimeout`
        after `wait_timeout` seconds (the task goes on); `QueueFull`, `PayloadTooLarge`,
        `InvalidData` and `BrokerError` if it was not stored.
        """
        return await self.run(Submission(type, data, **options), wait_timeout)

    async def run(self, submission: Submission, wait_timeout: float | None = None) -> Any:
        """`submit` for a prepared submission."""
        link = await self._ready()
        envelope = submission.envelope(link.token, link.queue.now())
        if submission.unique is not None:
            task = await self._store_unique(link, submission, envelope)
            return value_of(await self._wait(link, task.id, wait_timeout))
        future = link.waiters.expect(envelope.id)
        try:
            await self._store(link, envelope)
        except BaseException:
            link.waiters.forget(envelope.id, future)
            raise
        return value_of(await link.waiters.wait(envelope.id, future, wait_timeout))

    async def submit_async(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task; it is durable when this returns. Raises what `submit` raises for a task
        that was not stored."""
        return await self.send(Submission(type, data, **options))

    async def send(self, submission: Submission) -> Task:
        """`submit_async` for a prepared submission."""
        link = await self._ready()
        envelope = submission.envelope(link.token, link.queue.now())
        if submission.unique is not None:
            return await self._store_unique(link, submission, envelope)
        await self._store(link, envelope)
        return submitted(envelope)

    async def submit_many(
        self, items: Iterable[Submission | tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Task]:
        """Submit many tasks on one connection without waiting for each; all are durable when this
        returns, in the order given.

        Each item is (type, data), a dict with the keywords of `submit_async`, or a `Submission`.
        All are checked before the first is sent. If the broker refuses one, the first refusal is
        raised and its `stored` lists the tasks that were stored.
        """
        link = await self._ready()
        wanted = [Submission.of(item) for item in items]
        envelopes = [submission.envelope(link.token, link.queue.now()) for submission in wanted]
        bodies = [encode(envelope, link.broker.max_payload) for envelope in envelopes]
        stored: list[Task] = []
        refusal: Exception | None = None
        for start in range(0, len(wanted), _UNDER_WAY):
            answers = []
            for index in range(start, min(start + _UNDER_WAY, len(wanted))):
                answers.append(
                    await self._send_soon(link, wanted[index], envelopes[index], bodies[index])
                )
            results = await asyncio.gather(*answers, return_exceptions=True)
            for index, result in enumerate(results, start):
                if isinstance(result, BaseException):
                    if not isinstance(result, Exception):
                        raise result
                    refusal = refusal or result
                elif isinstance(result, Task):
                    stored.append(result)
                else:
                    stored.append(submitted(envelopes[index]))
            if refusal is not None:
                break
        if refusal is not None:
            if isinstance(refusal, SubmitRefused):
                refusal.stored = stored
            raise refusal
        return stored

    async def _send_soon(
        self, link: _Link, submission: Submission, envelope: Envelope, body: bytes
    ) -> Awaitable[Any]:
        if submission.unique is not None:
            return self._store_unique(link, submission, envelope)
        link.waiters.submitted(envelope.id)
        if envelope.due_at is not None:
            return link.queue.schedule(
                envelope.lane, envelope.id, body, envelope.due_at, envelope.id
            )
        return await link.queue.put_soon(envelope.lane, envelope.id, body, envelope.id)

    async def _store(self, link: _Link, envelope: Envelope) -> Stored:
        body = encode(envelope, link.broker.max_payload)
        link.waiters.submitted(envelope.id)
        if envelope.due_at is not None:
            return await link.queue.schedule(
                envelope.lane, envelope.id, body, envelope.due_at, envelope.id
            )
        return await (await link.queue.put_soon(envelope.lane, envelope.id, body, envelope.id))

    async def _store_unique(self, link: _Link, submission: Submission, envelope: Envelope) -> Task:
        """Claim the key, then store the task under the id that the claim names.

        Whoever loses the claim stores the winner's task once more: the broker's dedupe drops it,
        unless the winner died between the two, so that a claim never stands for a task that is
        not there. Only the one whose copy was kept has not submitted a duplicate. The claim ends a
        second before the dedupe does: one that outlived it would store the first task once more.
        """
        encode(envelope, link.broker.max_payload)  # refused before the key is claimed
        key = hashlib.sha256(f"{submission.unique}".encode()).hexdigest()[:40]
        claim, _ = encode_record(Record(envelope.id, TaskStatus.PENDING), None, None)
        try:
            await link.queue.write_record(
                f"unique-{key}", claim, 0, max(1.0, link.queue.settings.dedupe_window - 1.0)
            )
        except WrongSequence:
            first = await link.queue.read_record(f"unique-{key}")
            if first is not None:
                envelope.id = record_in(first).id
                # The claim may outlive the dedupe by a moment: what is known is not stored again.
                known = await link.inspector.task(envelope.id)
                if known is not None:
                    known.duplicate = True
                    return known
        stored = await self._store(link, envelope)
        return submitted(envelope, stored.duplicate)

    # --- wait and look ---

    async def wait_for(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """Wait until the task has ended, whoever submitted it, and tell how.

        Raises `WaitTimeout` after `timeout` seconds, `TaskNotFound` for an id that is unknown or
        has expired, on a cluster of servers after half a minute of looks. A task that failed is a
        result here, not an exception.
        """
        link = await self._ready()
        return result_of(await self._wait(link, task_id, timeout))

    async def wait_for_record(self, task_id: str) -> Record:
        """`wait_for` without a limit, giving all that is known of the end."""
        return await self._wait(await self._ready(), task_id, None)

    async def _wait(self, link: _Link, task_id: str, timeout: float | None) -> Record:
        check_task_id(task_id)
        own = link.waiters.is_own(task_id)
        future = link.waiters.expect(task_id, foreign=not own)
        try:
            await link.waiters.look_now(task_id)
            looks = not (own or future.done() or link.queue.replicated)
            if looks and await link.inspector.task(task_id) is None:
                raise TaskNotFound(task_id)
        except BaseException:
            link.waiters.forget(task_id, future)
            raise
        return await link.waiters.wait(task_id, future, timeout)

    async def get_task(self, task_id: str) -> Task | None:
        """The task as it is now, or None if it is unknown or its record has expired."""
        link = await self._ready()
        return await link.inspector.task(check_task_id(task_id))

    def stream(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        detach: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskStream:
        """Submit a task of a streaming handler and iterate over what it yields.

            async for token in client.stream("chat", "hello"):
                print(token, end="")

        Leaving the loop early cancels the task, unless `detach`. Raises as `submit`, and
        `StreamInterrupted` if chunks are missing.
        """
        return self.open_stream(Submission(type, data, **options), detach=detach)

    def open_stream(self, submission: Submission, *, detach: bool = False) -> TaskStream:
        """`stream` for a prepared submission."""
        return TaskStream(self, submission, detach=detach)

    def watch(self, task_id: str) -> TaskStream:
        """Follow a task that is there already: its `events()`, from now on."""
        return TaskStream(self, check_task_id(task_id), detach=True)

    async def cancel_task(self, task_id: str) -> TaskResult:
        """Cancel a task: a waiting one is removed, the handler of a running one is cancelled.

        The result says `cancelled`; or, with error "Task already complete", how it had ended
        before. Raises `TaskNotFound`.
        """
        link = await self._ready()
        return await link.inspector.cancel(check_task_id(task_id))

    # --- the queue ---

    async def depth(self) -> QueueDepth:
        """How much waits and runs, by priority and tag."""
        return await (await self._ready()).queue.depth()

    async def get_workers(self) -> list[WorkerInfo]:
        """The workers that answer. Silence means unknown, not dead."""
        rows = await (await self._ready()).queue.workers()
        return [WorkerInfo.from_json(row) for row in rows]

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters, at most `limit`. The body of one that is too large for a letter
        is left out here: `dead_letter` has it."""
        return await (await self._ready()).inspector.dead_letters(limit)

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """One dead letter. Raises `TaskNotFound`."""
        return await (await self._ready()).inspector.dead_letter(task_id)

    async def replay(self, task_id: str) -> Task:
        """Submit the task of a dead letter once more, under its id and with all its retries.

        Raises `TaskNotFound`; `ConfigurationError` for a letter that was no task.
        """
        return await (await self._ready()).inspector.replay(task_id)

    async def drop_dead_letter(self, task_id: str) -> bool:
        """Delete a dead letter; whether there was one."""
        return await (await self._ready()).inspector.drop(check_task_id(task_id))

    @property
    def connected(self) -> bool:
        """Whether it is connected just now."""
        links = [link for loop, link in list(self._links.items()) if not loop.is_closed()]
        return bool(links) and all(link.broker.connected for link in links)

    async def _scheduler(self) -> Scheduler:
        return (await self._ready()).scheduler

    async def link(self) -> tuple[Broker, BrokerQueue]:
        """The connection and the queue, for the parts of Headrace that work below the client."""
        link = await self._ready()
        return link.broker, link.queue
