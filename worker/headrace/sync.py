"""The client for code without an event loop: Django, Flask, scripts, notebooks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import threading
import weakref
from collections.abc import AsyncIterable, Coroutine, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from headrace.broker.connect import broker_url, preload
from headrace.broker.port import QueueDepth, QueueSettings
from headrace.client import Client
from headrace.client.schedules import ScheduleOptions
from headrace.client.submission import Submission, SubmitOptions
from headrace.errors import ConfigurationError, NotRunning
from headrace.schedule import Schedule
from headrace.task import Task, TaskResult
from headrace.wire import DeadLetter
from headrace.worker_info import WorkerInfo

if TYPE_CHECKING:
    from headrace.blobs import Blob, Source

T = TypeVar("T")

# A forked process never touches the loop and the sockets of its parent, not even to collect them:
# closing the copy of a selector takes the parent's sockets out of it.
_left_to_the_parent: list[Any] = []

_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()

_STOP_WITHIN = 5.0  # seconds for the connection to end


class _Background:
    """One event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._ended = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="headrace-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_it_ends())  # and what runs then is cancelled

    async def _until_it_ends(self) -> None:
        await self._end.wait()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there, wait for it here."""
        if threading.current_thread() is self._thread:
            work.close()
            raise NotRunning(
                "SyncClient was called from its own background thread, which would wait for itself",
                hint="Use Client inside coroutines",
            )
        with self._gate:
            if self._ended:
                work.close()
                raise _stopped()
            try:
                future = asyncio.run_coroutine_threadsafe(work, self.loop)
            except KeyboardInterrupt:  # in the middle of it: Python would warn of what never ran
                if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                    work.close()
                raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _stopped() from None
        except BaseException:
            future.cancel()  # Ctrl-C here ends it there; harmless when it has ended
            raise

    def stop(self) -> None:
        """End the loop and its thread; calls that are under way raise `NotRunning`."""
        with self._gate:
            self._ended = True
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_STOP_WITHIN)

    def leave(self) -> None:
        """In a forked child: its thread is not here, and its gate may be held for ever."""
        self._gate = threading.Lock()
        self._ended = True
        _left_to_the_parent.append(self)


def _stopped() -> NotRunning:
    return NotRunning("the client was stopped meanwhile")


def _after_a_fork() -> None:
    for client in _clients:
        client._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_a_fork)


class SyncClient:
    """`Client` for code without an event loop; safe to share between threads.

        with SyncClient("nats://localhost:4222", queue="documents") as client:
            thumb = client.submit("resize", {"url": url})
            task = client.submit_async("resize", {"url": url})
            print(client.wait_for(task.id, timeout=10))

    One background thread holds the connection, made at the first use, and made anew in a process
    that was forked (gunicorn --preload). It may be called while an event loop runs (a notebook);
    it blocks that loop meanwhile, so a web handler that is `async def` uses `Client`.
    """

    def __init__(
        self,
        url: str | None = None,
        queue: str = "default",
        *,
        max_queue_size: int | None = None,
        settings: QueueSettings | None = None,
        name: str = "headrace-sync-client",
    ) -> None:
        self.url = broker_url(url)
        if self.url.startswith("memory:"):
            raise ConfigurationError(
                "memory:// lives in one event loop, and a SyncClient has one of its own",
                hint="Use embedded:///some/folder or nats://host:4222",
            )
        self.queue = queue
        self._options: dict[str, Any] = {
            "max_queue_size": max_queue_size,
            "settings": settings,
            "name": name,
        }
        self._lock = threading.Lock()
        self._background: _Background | None = None
        preload(self.url)
        self._client = self._new_client()
        self._streams: set[_Chunks] = set()
        _clients.add(self)

    def _new_client(self) -> Client:
        return Client(self.url, self.queue, **self._options)

    # --- its life ---

    def _begin_anew(self) -> None:
        """In a forked child, which has the object and not the thread; the lock may be held by a
        thread that is not there."""
        if self._background is not None:
            self._background.leave()
            _left_to_the_parent.append(self._client)
        self._lock = threading.Lock()
        self._background = None
        self._client = self._new_client()
        self._streams = set()

    def _ready(self) -> _Background:
        background = self._background
        if background is None:
            with self._lock:
                background = self._background
                if background is None:
                    background = self._background = _Background()
        return background

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._ready().call(work)

    def start(self) -> Self:
        """Connect. Raises `BrokerError`. Not needed: the first use does it."""
        self._call(self._client.start())
        return self

    def stop(self) -> None:
        """Disconnect. Harmless when it is not connected; the next use connects again."""
        with self._lock:
            background, self._background = self._background, None
        if background is None:
            return
        try:
            background.call(self._disconnect())
        finally:
            background.stop()

    async def _disconnect(self) -> None:
        for chunks in list(self._streams):  # while their tasks can still be cancelled
            await chunks.end()
        await self._client.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- tasks ---

    def submit(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        wait_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a task, wait for its end, return its result; see `Client.submit`."""
        return self._call(self._client.submit(type, data, wait_timeout=wait_timeout, **options))

    def submit_async(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task and do not wait for its end; durable when this returns."""
        return self._call(self._client.submit_async(type, data, **options))

    enqueue = submit_async

    def submit_many(
        self, items: Iterable[Submission | tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Task]:
        """Submit many at once; see `Client.submit_many`."""
        return self._call(self._client.submit_many(items))

    def stream(
        self,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        *,
        detach: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Iterator[Any]:
        """Submit a task and iterate over what its handler yields; see `Client.stream`."""
        return self._iterate(self._client.stream(type, data, detach=detach, **options))

    def _iterate(self, source: AsyncIterable[Any]) -> Iterator[Any]:
        background = self._ready()
        chunks = _Chunks(source)
        self._streams.add(chunks)
        try:
            while True:
                try:
                    chunk = background.call(chunks.next())
                except _End:
                    return
                yield chunk
        finally:
            self._streams.discard(chunks)
            try:
                background.call(chunks.end())
            except NotRunning:
                pass  # the client was stopped before its stream, and the stream with it

    def wait_for(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """Wait for a task's end; see `Client.wait_for`."""
        return self._call(self._client.wait_for(task_id, timeout))

    def get_task(self, task_id: str) -> Task | None:
        """The task as it is now, or None."""
        return self._call(self._client.get_task(task_id))

    def cancel_task(self, task_id: str) -> TaskResult:
        """Cancel a task; see `Client.cancel_task`."""
        return self._call(self._client.cancel_task(task_id))

    # --- large data ---

    def put_blob(self, source: Source, *, ttl: float | timedelta = 86_400.0) -> Blob:
        """Store large data, get a reference to it; see `Client.put_blob`."""
        return self._call(self._client.put_blob(source, ttl=ttl))

    def open_blob(self, blob: Blob | Mapping[str, Any]) -> Iterator[bytes]:
        """Iterate over what a blob holds; see `Client.open_blob`."""
        return self._iterate(self._client.open_blob(blob))

    def get_blob(self, blob: Blob | Mapping[str, Any]) -> bytes:
        """All that a blob holds."""
        return self._call(self._client.get_blob(blob))

    def save_blob(self, blob: Blob | Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
        """Write what a blob holds to a file, which appears once it is whole."""
        return self._call(self._client.open_blob(blob).save(path))

    def delete_blob(self, blob: Blob | Mapping[str, Any]) -> bool:
        """Drop a blob before its time."""
        return self._call(self._client.delete_blob(blob))

    # --- schedules ---

    def schedule(
        self,
        name: str,
        type: str,  # noqa: A002  # the seed's name
        data: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Have a task come again and again; see `Client.schedule`."""
        return self._call(self._client.schedule(name, type, data, **options))

    def schedules(self) -> list[Schedule]:
        """The schedules of the queue by name."""
        return self._call(self._client.schedules())

    def unschedule(self, name: str) -> bool:
        """Remove a schedule; whether there was one."""
        return self._call(self._client.unschedule(name))

    # --- the queue ---

    def depth(self) -> QueueDepth:
        """How much waits and runs."""
        return self._call(self._client.depth())

    def get_workers(self) -> list[WorkerInfo]:
        """The workers that answer."""
        return self._call(self._client.get_workers())

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters."""
        return self._call(self._client.dead_letters(limit))

    def replay(self, task_id: str) -> Task:
        """Submit a dead letter's task once more."""
        return self._call(self._client.replay(task_id))


class _End(Exception):
    """A StopAsyncIteration cannot travel through a future."""


class _Chunks:
    """A stream, read from another thread."""

    def __init__(self, stream: AsyncIterable[Any]) -> None:
        self._chunks: Any = aiter(stream)  # an async generator
        self._reading = asyncio.Lock()
        self._reader: asyncio.Task[Any] | None = None
        self._stopped = False

    async def next(self) -> Any:
        async with self._reading:
            if self._stopped:  # between two chunks
                raise _stopped()
            self._reader = asyncio.current_task()
            try:
                return await anext(self._chunks)
            except StopAsyncIteration:
                raise _End from None
            finally:
                self._reader = None

    async def end(self) -> None:
        """Close it, whoever reads, and tell who reads on."""
        self._stopped = True
        # A Ctrl-C may have left it without anybody who waits for it. Not twice: the second time
        # would cut off the cancelling of the task.
        if self._reader is not None and not self._reader.cancelling():
            self._reader.cancel()
        async with self._reading:  # only what nobody reads can be closed
            await self._chunks.aclose()
