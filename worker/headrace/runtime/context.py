"""What a handler can ask and tell while it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar

from headrace.blobs import DEFAULT_BLOB_TTL, Blob, BlobReader, Blobs, Source
from headrace.broker.memory.blobs import MemoryBlobs
from headrace.broker.port import Broker, BrokerQueue
from headrace.errors import NotRunning
from headrace.task import Task
from headrace.wire import QueueNames

T = TypeVar("T")

Sender = Callable[[str, Any, str], None]

PROGRESS_LIMIT = 4_096  # characters kept of a progress text


class _Sent:
    """Awaitable and ignorable: the message is on its way already."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_SENT = _Sent()


class Context:
    """One run of one task, for its handler.

        @app.handler("resize")
        async def resize(job: Resize, *, ctx: Context = CONTEXT) -> Thumb:
            await ctx.progress(0.4, "decoding")

    `task` is the task, `attempt` counts from 1, `worker_id` is who runs it. In a plain function
    leave out the `await`: everything here may be called from its thread.
    """

    __slots__ = ("_blobs", "_loop", "_send", "attempt", "cancelled", "task", "worker_id")

    def __init__(
        self,
        task: Task,
        attempt: int,
        worker_id: str,
        send: Sender,
        blobs: Blobs | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.task = task
        self.attempt = attempt
        self.worker_id = worker_id
        self.cancelled = False
        """True once the task is cancelled, timed out or handed back: a plain function that runs
        long should look at it now and then, since a thread cannot be stopped from outside."""
        self._send = send
        self._blobs = blobs
        self._loop = loop

    def progress(self, fraction: float, text: str = "") -> _Sent:
        """Tell who watches how far the task is, from 0 to 1. Sent at most once, to who listens.

        A text of more than 4,096 characters is cut.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress is from 0 to 1, not {fraction}")
        self._send("progress", float(fraction), text[:PROGRESS_LIMIT])
        return _SENT

    # --- large data ---

    async def put_blob(self, source: Source, *, ttl: float | timedelta = DEFAULT_BLOB_TTL) -> Blob:
        """Store large data and get a reference to it, for the result; see `Client.put_blob`."""
        return await self._the_blobs().put(source, ttl)

    def open_blob(self, blob: Blob | Mapping[str, Any]) -> BlobReader:
        """Read a blob that the task's data names: `async for`, `await ….read()` or `….save(path)`.

        A `BlobNotFound` or `BlobDamaged` that leaves the handler ends the task: the data is not
        there, and another attempt would not find it either.
        """
        return self._the_blobs().open(blob)

    def _the_blobs(self) -> Blobs:
        if self._blobs is None:
            raise NotRunning("this run has no broker, so no blobs")
        return self._blobs

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """In a plain function: do this on the worker's event loop, and wait for it.

        data = ctx.wait(ctx.open_blob(job.file).read())
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # as it should be: this is a thread without a loop
            pass
        else:
            work.close()
            raise NotRunning("ctx.wait() would wait for its own event loop", hint="Use await")
        if self._loop is None:
            return asyncio.run(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @classmethod
    def fake(cls, data: Any = None, **fields: Any) -> FakeContext:
        """A context for a handler's unit test; what it was told is in `sent`."""
        return FakeContext(Task(type=fields.pop("type", "test"), data=data, **fields))


class FakeContext(Context):
    """A context without a worker. `sent` holds (kind, value, text) of every call."""

    __slots__ = ("sent",)

    def __init__(self, task: Task) -> None:
        self.sent: list[tuple[str, Any, str]] = []
        super().__init__(
            task, 1, "test", lambda kind, value, text: self._note(kind, value, text), _fake_blobs()
        )

    def _note(self, kind: str, value: Any, text: str) -> None:
        self.sent.append((kind, value, text))


class _FakeQueue:
    """As much of a broker and its queue as blobs need, in memory."""

    max_payload = 1_048_576

    def __init__(self) -> None:
        self.names = QueueNames("test")
        self.blobs = MemoryBlobs("test", sys.maxsize, self.max_payload)

    def queue(self, name: str) -> _FakeQueue:
        return self


def _fake_blobs() -> Blobs:
    queue: Any = _FakeQueue()

    async def link() -> tuple[Broker, BrokerQueue]:
        return queue, queue

    return Blobs(link)


class _Marker:
    """The default of a parameter that the worker fills in."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}, filled in by the worker>"


class ResourceMarker(_Marker):
    """Names a resource of the worker's lifespan."""

    __slots__ = ()


CONTEXT: Final[Any] = _Marker("ctx")
"""`ctx: Context = CONTEXT` asks for the context."""


def Resource(name: str) -> Any:
    """`db: Pool = Resource("db")` asks for what the worker's lifespan yielded under this name."""
    return ResourceMarker(name)
