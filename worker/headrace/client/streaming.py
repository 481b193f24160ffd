"""Chunks and progress of one task, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from headrace.client.outcome import value_of
from headrace.client.submission import Submission
from headrace.errors import StreamInterrupted, TaskNotFound
from headrace.task import Task, new_task_id
from headrace.wire import Record, TaskEvent, Undecodable, decode_event

if TYPE_CHECKING:
    from headrace.client.client import Client

_LAST_CHUNKS_WITHIN = 1.0  # seconds for chunks that were overtaken by the final record


class TaskStream:
    """One task's chunks: `async for chunk in stream`; or all its `events()`.

    `task` is set once it is submitted, `result` once it has ended.
    """

    def __init__(self, client: Client, what: Submission | str, *, detach: bool) -> None:
        self._client = client
        self._what = what
        self._detach = detach
        self.task: Task | None = None
        self.result: Any = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The values that the handler yields. Raises how the task ended, if it did not complete."""
        run, received = "", 0
        events = self.events()
        try:
            async for event in events:
                if event.kind != "chunk":
                    continue
                task_id = self.task.id if self.task else ""
                if run and event.run != run:
                    raise StreamInterrupted(task_id, received, "the handler began again")
                run = event.run
                if event.n != received:
                    raise StreamInterrupted(task_id, received, f"chunk {event.n} came next")
                received += 1
                yield event.value
        finally:
            await events.aclose()
        if self._chunks is not None and received < self._chunks:
            raise StreamInterrupted(
                self.task.id if self.task else "", received, f"{self._chunks} were sent"
            )

    _chunks: int | None = None

    async def events(self) -> AsyncGenerator[TaskEvent, None]:
        """Every event of the task from now on: chunks and progress."""
        broker, queue = await self._client.link()
        if isinstance(self._what, str):
            task_id = self._what
        else:
            task_id = self._what.task_id = self._what.task_id or new_task_id()
        inbox: asyncio.Queue[TaskEvent] = asyncio.Queue()

        def receive(_: str, body: bytes, __: str) -> None:
            try:
                inbox.put_nowait(decode_event(body))
            except Undecodable:
                pass  # not ours: a foreign publish on the subject

        subscription = await broker.subscribe(queue.names.events + task_id, receive)
        sent: asyncio.Future[None] | None = None
        end: asyncio.Future[Record] | None = None
        ended = False
        last: TaskEvent | None = None  # of the chunks that came
        try:
            await broker.flush()
            sent = asyncio.ensure_future(self._submit(task_id))
            end = asyncio.ensure_future(self._end(sent, task_id))
            while True:
                getter = asyncio.ensure_future(inbox.get())
                await asyncio.wait({getter, end}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    event = getter.result()
                    last = event if event.kind == "chunk" else last
                    yield event
                    continue
                getter.cancel()
                ended = True
                break
            record = end.result()
            self._chunks = record.chunks
            async for event in _rest(inbox, record, last):
                yield event
            self.result = value_of(record)
        finally:
            await subscription.close()
            if end is not None:
                end.cancel()
            if sent is not None and not ended and not self._detach:
                await self._cancel(sent, task_id)

    async def _submit(self, task_id: str) -> None:
        if isinstance(self._what, Submission):
            self.task = await self._client.send(self._what)
        else:
            self.task = await self._client.get_task(task_id)

    async def _end(self, sent: asyncio.Future[None], task_id: str) -> Record:
        await asyncio.shield(sent)
        return await self._client.wait_for_record(task_id)

    async def _cancel(self, sent: asyncio.Future[None], task_id: str) -> None:
        # A chunk may overtake the answer to the submission: what is not stored yet cannot be
        # cancelled, and would run with nobody who listens.
        await asyncio.wait({sent})
        if sent.cancelled() or sent.exception() is not None or self.task is None:
            return
        try:
            await self._client.cancel_at_last(task_id)
        except TaskNotFound:
            pass  # it has ended and expired


async def _rest(
    inbox: asyncio.Queue[TaskEvent], record: Record, last: TaskEvent | None
) -> AsyncIterator[TaskEvent]:
    """Chunks that are still under way: the record came by another subject."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LAST_CHUNKS_WITHIN
    seen = last is not None and (last.run, last.n) == (record.run, record.chunks - 1)
    while True:
        try:
            if inbox.empty() and (not record.chunks or seen):
                return
            async with asyncio.timeout_at(deadline):
                event = await inbox.get()
        except TimeoutError:
            return
        yield event
        seen = event.kind == "chunk" and event.n == record.chunks - 1
