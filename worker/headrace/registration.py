"""Registering handlers: the same two methods on workers, pools and coordinators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from headrace.handle import AsyncHandle, Handle, StreamHandle, Submitter
from headrace.retry import Backoff
from headrace.runtime.handlers import Exceptions, Handler, Handlers, Kind

P = ParamSpec("P")
R = TypeVar("R")


class Register(Protocol):
    """The decorator that `handler()` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine function is a plain one too
        self, function: Callable[P, AsyncIterator[R]]
    ) -> StreamHandle[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Iterator[R]]
    ) -> StreamHandle[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]]) -> AsyncHandle[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Handle[P, R]: ...


class HasHandlers:
    """Something that handlers are registered with."""

    handlers: Handlers

    def _handle_submitter(self) -> Callable[[], Submitter] | None:
        return None

    def register_handler(
        self,
        task_type: str,
        function: Callable[..., Any],
        *,
        retries: int = 0,
        timeout: float | None = None,
        retry_on: Exceptions = (BaseException,),
        give_up_on: Exceptions = (),
        backoff: Backoff | None = None,
    ) -> Any:
        """Run tasks of this type with this function: a coroutine function, an async generator
        (its values are chunks of a stream), or a plain function, which gets a thread of its own.

        `retries` and `timeout` (seconds) apply to tasks that bring none. A failure is retried if
        its exception is in `retry_on` and not in `give_up_on`.
        """
        function = getattr(function, "__wrapped__", function) if _is_handle(function) else function
        handler = self.handlers.add(
            Handler(
                task_type, function, retries, timeout, retry_on, give_up_on, backoff or Backoff()
            )
        )
        submitter = self._handle_submitter()
        if handler.kind in (Kind.STREAM, Kind.PLAIN_STREAM):
            return StreamHandle[Any, Any](handler, submitter)
        if handler.kind is Kind.COROUTINE:
            return AsyncHandle[Any, Any](handler, submitter)
        return Handle[Any, Any](handler, submitter)

    def handler(
        self,
        task_type: str,
        *,
        retries: int = 0,
        timeout: float | None = None,
        retry_on: Exceptions = (BaseException,),
        give_up_on: Exceptions = (),
        backoff: Backoff | None = None,
    ) -> Register:
        """Decorator form of `register_handler`."""

        def register(function: Callable[..., Any]) -> Any:
            return self.register_handler(
                task_type,
                function,
                retries=retries,
                timeout=timeout,
                retry_on=retry_on,
                give_up_on=give_up_on,
                backoff=backoff,
            )

        return register


def _is_handle(function: object) -> bool:
    return isinstance(function, Handle | StreamHandle)
