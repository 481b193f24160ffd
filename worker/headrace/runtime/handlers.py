"""The handlers of a worker, by task type."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from headrace.errors import ConfigurationError, NoHandler
from headrace.retry import Backoff
from headrace.runtime.signature import Signature
from headrace.task import check_task_type

Exceptions = tuple[type[BaseException], ...]


class Kind(Enum):
    """How a handler is run."""

    COROUTINE = "coroutine"
    STREAM = "stream"  # an async generator: each value is a chunk
    PLAIN = "plain"  # in a thread of its own
    PLAIN_STREAM = "plain stream"  # a generator, in a thread of its own


@dataclass(slots=True)
class Handler:
    """One function and what its tasks get when they do not say.

    `retries` and `timeout` (seconds) apply to tasks that bring none. `retry_on` and `give_up_on`
    are exception classes: a failure is retried if it is one of the first and none of the second.
    """

    type: str
    function: Callable[..., Any]
    retries: int = 0
    timeout: float | None = None
    retry_on: Exceptions = (BaseException,)
    give_up_on: Exceptions = ()
    backoff: Backoff = field(default_factory=Backoff)
    signature: Signature = field(init=False)
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        check_task_type(self.type)
        if not callable(self.function):
            raise ConfigurationError(f"the handler of {self.type!r} is not callable")
        if self.retries < 0 or (self.timeout is not None and self.timeout <= 0):
            raise ConfigurationError(
                f"handler {self.type!r}: retries must be 0 or more, timeout above 0 seconds"
            )
        self.signature = Signature(self.function)
        self.kind = _kind(self.function)

    def retries_for(self, error: BaseException) -> bool:
        """Whether a failure with this exception is worth another attempt."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.give_up_on)


def _kind(function: Callable[..., Any]) -> Kind:
    target: Any = function
    while hasattr(target, "func"):  # functools.partial
        target = target.func
    if not inspect.isroutine(target):
        target = target.__call__
    if inspect.iscoroutinefunction(target):
        return Kind.COROUTINE
    if inspect.isasyncgenfunction(target):
        return Kind.STREAM
    if inspect.isgeneratorfunction(target):
        return Kind.PLAIN_STREAM
    return Kind.PLAIN


class Handlers:
    """Handlers by task type; shared by the workers of one process."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}

    def add(self, handler: Handler) -> Handler:
        """Register; a second handler for a type replaces the first."""
        self._by_type[handler.type] = handler
        return handler

    def get(self, task_type: str) -> Handler | None:
        """The handler of a type, or None."""
        return self._by_type.get(task_type)

    def require(self, task_type: str) -> Handler:
        """The handler of a type. Raises `NoHandler`, which names the nearest known type."""
        handler = self._by_type.get(task_type)
        if handler is None:
            raise self.unknown(task_type)
        return handler

    def unknown(self, task_type: str) -> NoHandler:
        """The error for a type that nobody here runs."""
        near = difflib.get_close_matches(task_type, self._by_type, 1)
        hint = f"Did you mean {near[0]!r}?" if near else "Register a handler for it"
        return NoHandler(task_type, self.types(), hint=hint)

    def types(self) -> list[str]:
        """The known types, sorted."""
        return sorted(self._by_type)

    def __iter__(self) -> Iterator[Handler]:
        return iter(list(self._by_type.values()))

    def __len__(self) -> int:
        return len(self._by_type)
