"""JSON in and out, the same on every broker.

What goes in is what JSON has: dict, list, tuple (becomes a list), str, int, float, bool, None.
Keys that are int, float, bool or None become text, as JSON's are. Anything else, NaN and the
infinities included, is refused before it is sent.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from headrace.errors import InvalidData

_HINT = "Convert it to what JSON has: text, numbers, lists, dicts, true, false, null"


def _own(value: Any) -> Any:
    """A value of ours that says itself what it is in JSON: a `Blob`."""
    as_json = getattr(type(value), "__headrace_json__", None)
    if as_json is None:
        raise TypeError
    return as_json(value)


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True, default=_own
).encode
_QUICK = frozenset((int, bool, type(None)))


def dumps(value: Any, path: str = "data") -> bytes:
    """`value` as compact JSON in UTF-8.

    Raises `InvalidData`, whose text names the path, from `path` on, and the type of what JSON does
    not have.
    """
    try:
        if type(value) is int:  # the encoder is made anew for each value, which costs more
            return b"%d" % value
        if value is None:
            return b"null"
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        where, problem = _find(value, path, 0) or (path, str(error))
        raise InvalidData(where, problem, hint=_HINT) from None


def loads(body: bytes | bytearray | memoryview) -> Any:
    """The value in `body`; strict: what `dumps` would refuse (NaN, the infinities, a number out of
    range, half of a surrogate pair) is a ValueError like any other bad JSON."""
    body = bytes(body)
    value = _decode(body.decode())
    if b"\\ud" in body or b"\\uD" in body:  # only such an escape makes a surrogate
        _encode(value).encode()
    return value


def visible(text: str) -> str:
    """The text for a terminal: what controls one (escapes, line ends, direction marks) is written
    as JSON writes it, so that what a task says is read and never obeyed."""
    return _CONTROLS.sub(lambda found: json.dumps(found[0])[1:-1], text)


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is out of range")
    return value


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_float).decode


def _find(value: Any, path: str, depth: int) -> tuple[str, str] | None:
    """Where in `value` the first thing is that JSON does not have: path and problem."""
    if depth > 200:
        return path, "is nested too deeply, or contains itself"
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, f"the float {value} is not JSON")
    if isinstance(value, str):
        return _bad_text(value, path)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | bool | None):
                return path, f"a key of type {type(key).__name__} ({key!r:.60}) is not text"
            if isinstance(key, str) and (found := _bad_text(key, f"{path} (a key)")):
                return found
            if found := _find(item, f"{path}.{key}" if path else f"{key}", depth + 1):
                return found
        return None
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if found := _find(item, f"{path}[{index}]", depth + 1):
                return found
        return None
    if hasattr(type(value), "__headrace_json__"):
        return None
    return path, f"a value of type {type(value).__name__} is not JSON"


def _bad_text(text: str, path: str) -> tuple[str, str] | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return path, "text with a lone surrogate is not UTF-8"
    return None
