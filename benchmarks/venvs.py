"""A venv for every peer, made once, below the user's cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.systems import System


def python_of(system: System, say: Callable[[str], None]) -> str:
    """The Python that runs this system; its venv is made if it is not there yet."""
    if not system.requires:
        return sys.executable
    folder = _folder(system)
    python = folder / "bin" / "python"
    done = folder / "ready"
    if done.exists() and python.exists():
        return str(python)
    say(f"{system.subject}: installing {', '.join(system.requires)}, the first time only")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted install has left
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run([*command, *system.requires], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{system.subject} was not installed:\n{result.stderr[-1500:]}")
    done.touch()
    return str(python)


def _folder(system: System) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    minor = f"py{sys.version_info.major}.{sys.version_info.minor}"
    names = [re.sub(r"\[.*?]", "", each).replace("==", "-") for each in system.requires]
    return cache / "headrace" / "benchmarks" / "_".join([*names, minor])
