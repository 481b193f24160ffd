"""What the environment says of the keeper."""

from __future__ import annotations

import math
import os

from headrace.errors import ConfigurationError

STUCK_AFTER = 60.0
"""Seconds without a turn of the event loop after which a worker counts as stuck."""


def stuck_after() -> float:
    """HEADRACE_STUCK_AFTER in seconds. Raises `ConfigurationError`."""
    text = os.environ.get("HEADRACE_STUCK_AFTER", "")
    try:
        seconds = float(text) if text else STUCK_AFTER
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(
            f"HEADRACE_STUCK_AFTER={text!r} is not a number of seconds above 0"
        )
    return seconds


def health_address() -> tuple[str, int] | None:
    """HEADRACE_HEALTH_HOST and HEADRACE_HEALTH_PORT, or None. Raises `ConfigurationError`."""
    text = os.environ.get("HEADRACE_HEALTH_PORT", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise ConfigurationError(f"HEADRACE_HEALTH_PORT={text!r} is not a port")
    return os.environ.get("HEADRACE_HEALTH_HOST") or "127.0.0.1", int(text)
