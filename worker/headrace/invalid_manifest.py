"""What pydantic found wrong with a manifest, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from headrace.errors import InvalidManifest

# What people write for these fields that no likeness of letters would find.
_OTHER_NAMES = {
    "handlers": "app",
    "min": "minWorkers",
    "max": "maxWorkers",
    "slots": "concurrency",
    "broker": "nats",
    "window": "scaleDownWindow",
}


def translated(
    error: ValidationError, source: str, node: Any, model: type[BaseModel]
) -> InvalidManifest:
    """The most telling of the findings; `node` is where the document stands in its file."""
    found = error.errors(include_url=False)
    # An unknown field first: it is often the reason for a missing one.
    first = min(found, key=lambda row: row["type"] != "extra_forbidden")
    where = tuple(step for step in first["loc"] if step not in _UNION_STEPS)
    path = _path(where)
    line = _line(node, where)
    at = f"{source}:{line}: {path}" if line is not None else f"{source}: {path}"
    more = len(found) - 1
    tail = f" ({more} more problems in this file)" if more > 1 else ""
    tail = " (1 more problem in this file)" if more == 1 else tail
    if first["type"] == "extra_forbidden":
        hint = _hint_for_unknown(where, model)
        return InvalidManifest(at, f"is not a known field{tail}", hint=hint)
    if first["type"] == "missing":
        return InvalidManifest(at, f"is missing{tail}", hint=f"Add {where[-1]}: …")
    given = first.get("input")
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("manifest", "duration"):
        text = f"{given!r:.60} will not do: {text[:1].lower()}{text[1:]}"
    return InvalidManifest(at, f"{text}{tail}", hint="docs/reference/manifest.md lists the fields")


_UNION_STEPS = frozenset({"function-before[_seconds(), float]", "constrained-int", "int"})


def _path(where: Sequence[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return text.lstrip(".") or "the manifest"


def _line(node: Any, where: Sequence[str | int]) -> int | None:
    """The line of a field, or of the innermost mapping that should have it."""
    if node is None:
        return None
    line = int(node.start_mark.line)
    for step in where:
        if isinstance(step, int):
            items = node.value if isinstance(node.value, list) else []
            if step >= len(items):
                break
            node = items[step]
            line = int(node.start_mark.line)
            continue
        pairs = node.value if node.id == "mapping" else []
        for key, value in pairs:
            if key.value == step:
                line, node = int(key.start_mark.line), value
                break
        else:
            break
    return line + 1


def _hint_for_unknown(where: Sequence[str | int], model: type[BaseModel]) -> str:
    name = str(where[-1])
    known = _fields_at(where[:-1], model)
    plain = {field.lower(): field for field in known}
    asked = name.replace("_", "").replace("-", "").lower()
    near = difflib.get_close_matches(asked, list(plain), 1, 0.7)
    if near:
        return f"Did you mean {plain[near[0]]}?"
    if _OTHER_NAMES.get(name) in known:
        return f"Did you mean {_OTHER_NAMES[name]}?"
    for path, fields in _all_fields(model):
        for field in fields:
            if field.lower() == asked:
                return f"It belongs in {path or 'the manifest'}: {path}.{field}".replace(
                    ": .", ": "
                )
    return f"Known here: {', '.join(sorted(known))}"


def _fields_at(where: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    for path, fields in _all_fields(model):
        if path == _path(where) or (not where and not path):
            return fields
    return []


def _all_fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    yield path, [field.alias or name for name, field in model.model_fields.items()]
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _all_fields(inner, f"{path}.{field.alias or name}".lstrip("."))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
