"""Exit codes, in one place.

| code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected |
| 2 | usage: bad arguments, manifest or APP |
| 3 | the broker cannot be reached, or refused us |
| 4 | not found |
| 5 | the task failed |
| 6 | the task was cancelled or timed out |
| 7 | our own --timeout has passed |
| 8 | refused: queue full, payload too large |
| 130 | interrupted |
"""

from __future__ import annotations

import sys

from headrace import errors
from headrace.jsondata import visible

INTERRUPTED = 130

_CODES: tuple[tuple[type[errors.HeadraceError], int], ...] = (
    (errors.TaskTimeout, 6),
    (errors.TaskCancelled, 6),
    (errors.TaskFailed, 5),
    (errors.WaitTimeout, 7),
    (errors.TaskNotFound, 4),
    (errors.BlobNotFound, 4),
    (errors.SubmitRefused, 8),
    (errors.BrokerError, 3),
    (errors.ConfigurationError, 2),
    (errors.NoHandler, 2),
)


def exit_code(error: errors.HeadraceError) -> int:
    """The exit code for an error; 1 for one that no command expects."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def say(error: errors.HeadraceError) -> None:
    """The error on stderr: what, and what to do next."""
    print(f"error: {visible(error.message)} [{error.code}]", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"hint: {visible(error.hint)}", file=sys.stderr)  # noqa: T201
