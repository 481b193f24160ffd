"""Durations in manifests: text there, seconds here."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
"""Durations as the Gateway API writes them (GEP-2257): `90s`, `1m30s`, `500ms`."""


def seconds_of(value: object) -> float:
    """Seconds of a duration in the manifest's form. Raises ValueError."""
    import durationpy

    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("duration", "is not a duration: write it like 90s or 1m30s")
    if isinstance(value, int | float):
        raise PydanticCustomError(
            "duration", "is a number without a unit: write {given}s", {"given": f"{value:g}"}
        )
    if not re.fullmatch(DURATION_PATTERN, value):
        raise PydanticCustomError(
            "duration",
            "{given} is not a duration: write it like 90s, 1m30s or 500ms",
            {"given": repr(value)},
        )
    return float(durationpy.from_str(value).total_seconds())


def text_of(seconds: float) -> str:
    """Seconds in the manifest's form."""
    import durationpy

    return str(durationpy.to_str(timedelta(seconds=seconds)))


Duration = Annotated[
    float,
    BeforeValidator(seconds_of),
    PlainSerializer(text_of, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 24}),
]
"""Seconds, written as `1m30s`."""
