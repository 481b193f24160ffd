"""How one attempt ended; an exception as text that travels, bounded."""

from __future__ import annotations

import traceback as tracebacks
from dataclasses import dataclass
from typing import Any

from headrace.task import TaskStatus

ERROR_LIMIT = 4_096  # characters kept of an error's text
TRACEBACK_LIMIT = 16_384  # characters kept of a traceback, its end
_NAME_LIMIT = 256  # characters kept of the name of an exception's class
_SHORT = 512  # characters kept of an error's text where the server's limit leaves no room for more


@dataclass(slots=True)
class Outcome:
    """How one attempt ended."""

    status: TaskStatus
    result: Any = None
    error: str | None = None
    reason: str = ""
    remote_type: str = ""
    remote_traceback: str = ""
    retry: bool = False
    """Whether another attempt may help."""
    delay: float | None = None
    """Seconds until then, if the handler said so."""
    exception: BaseException | None = None
    """What the handler raised, for `on_task_error`."""

    def become(self, other: Outcome) -> None:
        """End as `other` says: this outcome cannot be stored."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(other, name))

    def bound(self) -> None:
        """Cut the error's text to what is kept, whoever made it."""
        if self.error is not None:
            self.error = printable(self.error)[:ERROR_LIMIT]

    def shorten(self) -> None:
        """Keep the least that says why: on a server whose limit is small."""
        self.remote_traceback = ""
        if self.error is not None:
            self.error = self.error[:_SHORT]


def describe(error: BaseException, reason: str, *, traceback: bool = True) -> Outcome:
    """A failed outcome that says what the exception said."""
    try:
        text = str(error)
    except Exception:  # a __str__ that raises must not hide the failure
        text = "(its text could not be made)"
    name = printable(type(error).__qualname__)[:_NAME_LIMIT]
    shown = f"{name}: {text}" if text else name
    return Outcome(
        TaskStatus.FAILED,
        error=printable(shown)[:ERROR_LIMIT],
        reason=reason,
        remote_type=printable(f"{type(error).__module__}.{name}".removeprefix("builtins."))[
            :_NAME_LIMIT
        ],
        remote_traceback=_traceback(error) if traceback else "",
        exception=error,
    )


def _traceback(error: BaseException) -> str:
    try:
        text = "".join(tracebacks.format_exception(error))
    except Exception:
        return ""
    return printable(text)[-TRACEBACK_LIMIT:]


def printable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 does not have."""
    return text.encode(errors="replace").decode()
