"""Doing something in the broker for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.errors import BrokerError, QueueFull

log = logging.getLogger("headrace.worker")

_MAX_PAUSE = 2.0  # seconds

T = TypeVar("T")


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Do it, and again for as long as the broker is away: what a handler has done is not thrown
    away for an outage. A worker that must stop meanwhile cancels this."""
    pause = 0.1
    while True:
        try:
            return await call()
        except (BrokerError, QueueFull) as error:
            log.warning("not settled yet, trying on: %s", error)
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE, pause * 2)
