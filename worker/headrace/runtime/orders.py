"""What an operator orders of a worker: drain, resume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headrace.broker.port import ControlCallback, WorkerFacts

DRAIN_LEASE = 60.0
"""Seconds for which a drain without a time of its own lasts unless it is renewed."""
_LONGEST_LEASE = 3600.0


class Orders:
    """Obeys, unless an operator that has taken over since has spoken: each takeover counts the
    epoch up. Answers with the facts, as they are once the order is carried out."""

    def __init__(
        self,
        facts: WorkerFacts,
        drain: Callable[[float], Awaitable[None] | None],
        resume: Callable[[], Awaitable[None] | None],
    ) -> None:
        self._facts = facts
        self._drain = drain
        self._resume = resume
        self.epoch = 0
        """The highest that orders have come with."""

    @property
    def verbs(self) -> Mapping[str, ControlCallback]:
        """For `BrokerQueue.announce`."""
        return {"drain": self._on_drain, "resume": self._on_resume}

    async def _on_drain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._obeys(request):
            return self._refusal()
        seconds = request.get("seconds", DRAIN_LEASE)
        if type(seconds) not in (int, float) or not 0 < seconds <= _LONGEST_LEASE:
            seconds = DRAIN_LEASE
        done = self._drain(seconds)
        if done is not None:
            await done
        return self._facts()

    async def _on_resume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._obeys(request):
            return self._refusal()
        done = self._resume()
        if done is not None:
            await done
        return self._facts()

    def _refusal(self) -> Mapping[str, Any]:
        return {**self._facts(), "refused": f"epoch {self.epoch} has spoken"}

    def _obeys(self, request: Mapping[str, Any]) -> bool:
        epoch = request.get("epoch", self.epoch)
        if type(epoch) is not int or epoch < self.epoch:
            return False
        self.epoch = epoch
        return True
