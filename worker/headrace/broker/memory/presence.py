"""A worker that is announced: its facts, and its answers to control requests."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.broker.memory.core import CoreSubscription
from headrace.broker.memory.world import QueueState, arguments, as_json
from headrace.broker.port import ControlCallback, WorkerFacts
from headrace.jsondata import dumps
from headrace.wire import QueueNames

if TYPE_CHECKING:
    from headrace.broker.memory.broker import MemoryBroker

log = logging.getLogger("headrace.broker")

_FACTS = "facts"


class Announcement:
    """Ends with `close`."""

    def __init__(self, broker: MemoryBroker, names: QueueNames, state: QueueState) -> None:
        self._broker, self._names, self._state = broker, names, state
        self._core = broker.world.core
        self._subscriptions: list[CoreSubscription] = []

    def start(
        self, worker_id: str, facts: WorkerFacts, control: Mapping[str, ControlCallback]
    ) -> None:
        """Answer from now on."""

        async def tell(_: Mapping[str, Any]) -> Mapping[str, Any]:
            return facts()

        self._state.workers[self] = facts
        for verb, callback in {**control, _FACTS: tell}.items():
            subject = self._names.worker(worker_id, verb)
            self._subscriptions.append(self._core.subscribe(subject, self._handler(callback)))

    def _handler(self, callback: ControlCallback) -> Callable[[str, bytes, str], Awaitable[None]]:
        async def handle(_: str, body: bytes, reply: str) -> None:
            try:
                answer = dumps(as_json(await callback(arguments(body))))
            except Exception:
                log.exception("a control request failed")
                answer = b""
            if reply:
                self._core.publish(reply, answer)

        return handle

    async def close(self) -> None:
        """Answer no more."""
        self._broker.forget(self)
        self._state.workers.pop(self, None)
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()
