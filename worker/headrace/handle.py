"""What the `handler` decorator leaves: the function, and ways to submit it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

from headrace.client.streaming import TaskStream
from headrace.client.submission import Submission, SubmitOptions
from headrace.errors import NotRunning
from headrace.runtime.handlers import Handler
from headrace.task import Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Submitter(Protocol):
    """What a handle submits through: a coordinator or a pool."""

    async def run(self, submission: Submission, wait_timeout: float | None = None) -> Any:
        """Submit and wait."""

    async def send(self, submission: Submission) -> Task:
        """Submit."""

    def open_stream(self, submission: Submission, *, detach: bool) -> TaskStream:
        """Submit and iterate."""


class _Handle(Generic[P, R]):
    """One task type. Calling it calls the function, here and now, as in a unit test."""

    def __init__(
        self,
        handler: Handler,
        submitter: Callable[[], Submitter] | None,
        options: SubmitOptions | None = None,
    ) -> None:
        self.handler = handler
        self.type = handler.type
        self._submitter = submitter
        self._options: SubmitOptions = options or {}
        self.__wrapped__ = handler.function
        self.__name__ = getattr(handler.function, "__name__", handler.type)
        self.__doc__ = handler.function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self.handler.function(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<handler of {self.type!r}: {self.__name__}>"

    def submission(self, *args: Any, **kwargs: Any) -> Submission:
        """The task that a call with these arguments would submit, for `submit_many`.

        Raises `InvalidData` for arguments that the handler would refuse.
        """
        data = self.handler.signature.data_of(args, kwargs)
        options: dict[str, Any] = {
            "retries": self.handler.retries or None,
            "timeout": self.handler.timeout,
        }
        return Submission(self.type, data, **(options | dict(self._options)))

    def _through(self) -> Submitter:
        if self._submitter is None:
            raise NotRunning(
                f"the handler of {self.type!r} belongs to a worker, which submits nothing",
                hint="Register it with a Coordinator, or use Client.submit",
            )
        return self._submitter()

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> Task:
        """Submit a task with these arguments; durable when it returns."""
        return await self._through().send(self.submission(*args, **kwargs))

    enqueue = submit_async


class Handle(_Handle[P, R]):
    """A handler that gives one result."""

    def using(self, **options: Unpack[SubmitOptions]) -> Handle[P, R]:
        """The same handler with options for its submits: `h.using(priority=HIGH).submit(…)`."""
        return Handle(self.handler, self._submitter, self._options | options)

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Submit a task with these arguments, wait for it, return the typed result."""
        value = await self._through().run(self.submission(*args, **kwargs))
        return cast(R, self.handler.signature.result_from_json(value))


class AsyncHandle(Handle[P, R]):
    """A handler that is a coroutine function: calling it gives an awaitable."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        return cast(R, await self.handler.function(*args, **kwargs))


class StreamHandle(_Handle[P, AsyncIterator[T]], Generic[P, T]):
    """A handler that yields chunks."""

    def using(self, **options: Unpack[SubmitOptions]) -> StreamHandle[P, T]:
        """The same handler with options for its submits."""
        return StreamHandle(self.handler, self._submitter, self._options | options)

    async def stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        """Submit a task and iterate over its chunks. Leaving the loop early cancels it."""
        chunks = self._through().open_stream(self.submission(*args, **kwargs), detach=False)
        async for chunk in chunks:
            yield cast(T, self.handler.signature.result_from_json(chunk))
