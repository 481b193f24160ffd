"""JSON in and out, the same on every broker.

What goes in is what JSON has: dict, list, tuple (becomes a list), str, int, float, bool, None.
Keys that are int, float, bool or None become text, as JSON's are. Anything else, NaN and the
infinities included, is refused before it is sent.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from headrace.errors import InvalidData

_HINT = "Convert it to what JSON has: text, numbers, lists, dicts, true, false, null"

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True
).encode


def dumps(value: Any, path: str = "data") -> bytes:
    """`value` as compact JSON in UTF-8.

    Raises `InvalidData`, whose text names the path and the type of what JSON does not have.
    """
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        where, problem = _find(value, path, 0) or (path, str(error))
        raise InvalidData(where, problem, hint=_HINT) from None


def loads(body: bytes | bytearray | memoryview) -> Any:
    """The value in `body`; strict: NaN and Infinity are a ValueError like any other bad JSON."""
    return _decode(bytes(body).decode())


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _find(value: Any, path: str, depth: int) -> tuple[str, str] | None:
    """Where in `value` the first thing is that JSON does not have: path and problem."""
    if depth > 200:
        return path, "is nested too deeply, or contains itself"
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, f"{value} is not a JSON number")
    if isinstance(value, str):
        return _bad_text(value, path)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | bool | None):
                return path, f"a key of type {type(key).__name__} ({key!r:.60}) is not text"
            if isinstance(key, str) and (found := _bad_text(key, f"{path} (a key)")):
                return found
            if found := _find(item, f"{path}.{key}", depth + 1):
                return found
        return None
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if found := _find(item, f"{path}[{index}]", depth + 1):
                return found
        return None
    return path, f"a value of type {type(value).__name__} is not JSON"


def _bad_text(text: str, path: str) -> tuple[str, str] | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return path, "text with a lone surrogate is not UTF-8"
    return None
