"""kubectl for tests: what a person would type, answered as values."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class Failed(AssertionError):
    """A program refused; its words are the text."""


def run(
    *command: str, stdin: str | None = None, timeout: float = 60, cwd: Path | None = None
) -> str:
    """Run a program; its output. Raises `Failed`."""
    ran = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    if ran.returncode:
        raise Failed(ran.stderr.strip() or ran.stdout.strip())
    return ran.stdout


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run kubectl; its output. Raises `Failed`."""
    return run("kubectl", *arguments, stdin=stdin, timeout=timeout)


def get(*arguments: str) -> Any:
    """An object, or a list's items."""
    found = json.loads(kubectl("get", *arguments, "-o", "json"))
    return found["items"] if found["kind"] == "List" or "items" in found else found


def apply(*objects: dict[str, Any], server_side: bool = False) -> str:
    """Apply objects."""
    text = yaml.safe_dump_all(objects)
    flags = ["--server-side", "--force-conflicts"] if server_side else []
    return kubectl("apply", *flags, "-f", "-", stdin=text)


def until(
    look: Callable[[], T | None], seconds: float = 60, every: float = 0.2, what: str = ""
) -> T:
    """Wait until `look` gives something true; that. An object that is not there yet is waited
    for."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            found = look()
            last = found
            if found:
                return found
        except (Failed, OSError) as error:  # not there yet, or does not listen yet
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or look}; last: {last!r}")
        time.sleep(every)
