"""From `module:attribute` to the object with the handlers."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from typing import Any

from headrace.errors import AppNotFound
from headrace.runtime.handlers import Handlers


def load_app(name: str) -> Any:
    """The Coordinator, WorkerPool or Worker that `name` means; the current folder is looked in
    first. Raises `AppNotFound`, and what the module raises when it is imported."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise AppNotFound(
            f"{name!r} is not module:attribute", hint="Such as app:coordinator for app.py"
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        root = module_name.split(".")[0]
        if error.name is not None and error.name.split(".")[0] == root:
            raise AppNotFound(
                f"there is no module {module_name!r}",
                hint=f"Run the command in its folder (this is {folder}), or install it",
            ) from None
        raise AppNotFound(
            f"{module_name!r} needs the module {error.name!r}, which is not installed",
            hint=f"pip install {error.name}",
        ) from error
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        near = difflib.get_close_matches(attribute, vars(module), 1)
        hint = f"Did you mean {module_name}:{near[0]}?" if near else f"See {module.__file__}"
        raise AppNotFound(f"{module_name!r} has no {attribute!r}", hint=hint)
    handlers = getattr(found, "handlers", None)
    if not isinstance(handlers, Handlers) or not len(handlers):
        raise AppNotFound(
            f"{name!r} has no handlers",
            hint="It must be a Coordinator, WorkerPool or Worker with @….handler(…) functions",
        )
    return found
