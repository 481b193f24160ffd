"""The files by which the users of one folder find each other.

| file | what |
|---|---|
| `users.lock` | locked shared by every user, as long as it uses the server |
| `start.lock` | locked while somebody starts a supervisor |
| `supervisor.lock` | locked by the supervisor |
| `server.lock` | locked by the supervisor and its server: free when both are gone |
| `server.json` | url, port and token of the server, readable by the owner only |

The kernel drops a lock when its processes die, however that happens.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

_STEP = 0.02  # seconds


def lock(path: Path, kind: int) -> int | None:
    """A descriptor that holds this lock, or None if LOCK_NB was given and it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock(descriptor: int) -> None:
    """Give a lock back. Closing alone is not enough: a process that was forked meanwhile has a
    copy of the descriptor, and holds the lock with it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def lock_within(path: Path, seconds: float) -> int | None:
    """A descriptor that holds this lock alone, or None if it stays taken for so long."""
    deadline = time.monotonic() + seconds
    while (found := lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(_STEP)
    return found


def is_supervised(folder: Path) -> bool:
    """Whether a supervisor is there."""
    descriptor = lock(folder / "supervisor.lock", fcntl.LOCK_SH | fcntl.LOCK_NB)
    if descriptor is None:
        return True
    unlock(descriptor)
    return False


def read_server(folder: Path) -> dict[str, Any] | None:
    """What `server.json` says, or None."""
    try:
        found: dict[str, Any] = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def write_server(folder: Path, facts: dict[str, Any]) -> None:
    """Replace `server.json` in one step."""
    new = folder / "server.json.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(facts, file)
    os.replace(new, folder / "server.json")
