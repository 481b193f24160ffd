"""What the brokers of one name in one event loop share."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

from headrace.broker.memory.blobs import MemoryBlobs
from headrace.broker.memory.core import Core
from headrace.broker.memory.records import StateStream
from headrace.broker.memory.work import WorkStream
from headrace.broker.port import QueueSettings, WorkerFacts
from headrace.jsondata import dumps, loads
from headrace.wire import QueueNames

log = logging.getLogger("headrace.broker")


class QueueState:
    """One queue: its streams and the workers that are announced."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        names: QueueNames,
        settings: QueueSettings,
        blobs: MemoryBlobs,
    ) -> None:
        self.work = WorkStream(loop, names, settings)
        self.state = StateStream(loop, names)
        self.blobs = blobs
        self.workers: dict[object, WorkerFacts] = {}

    def stop(self) -> None:
        """No timers any more."""
        self.work.stop()
        self.state.stop()

    def answers(self) -> list[dict[str, Any]]:
        """What the workers say of themselves; one that fails to answer is left out."""
        found = []
        for facts in list(self.workers.values()):
            try:
                found.append(as_json(facts()))
            except Exception:
                log.exception("a worker could not tell its facts")
        return found


class World:
    """The queues and core subscriptions of one name in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.core = Core(loop)
        self.queues: dict[str, QueueState] = {}
        self.users = 0

    def stop(self) -> None:
        """Drop all of it."""
        for queue in self.queues.values():
            queue.stop()
        self.queues.clear()


_worlds: dict[tuple[int, str], World] = {}
_lock = threading.Lock()  # event loops of several threads open and close brokers


def enter(name: str) -> World:
    """The world of this name in the running event loop; leave it by `leave`."""
    loop = asyncio.get_running_loop()
    with _lock:
        # A loop that ended without closing its brokers leaves its worlds, and its id, behind.
        for key in [key for key, world in _worlds.items() if world.loop.is_closed()]:
            del _worlds[key]
        world = _worlds.setdefault((id(loop), name), World(loop))
        world.users += 1
        return world


def leave(name: str, world: World) -> None:
    """One broker less; the last one drops the world."""
    with _lock:
        world.users -= 1
        if world.users:
            return
        _worlds.pop((id(world.loop), name), None)
    world.stop()


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """What arrives of an answer that travels as JSON. Raises `InvalidData`."""
    found: dict[str, Any] = loads(dumps(dict(value), "answer"))
    return found


def arguments(body: bytes) -> dict[str, Any]:
    """What a control request says; nothing is {}. Raises ValueError for what is no object."""
    found = loads(body) if body else {}
    if not isinstance(found, dict):
        raise ValueError(f"{found!r:.80} is not an object")
    return found
