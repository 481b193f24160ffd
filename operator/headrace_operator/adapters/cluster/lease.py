"""Who leads: a Lease, held by the monotonic clock.

The client's own leader election compares wall clocks, sets no time limit on its requests and does
not count takeovers. Here a replica that could not renew for the Lease's time stops writing by its
own clock, before anybody else may begin; and nobody takes a Lease over before having watched it
stand still for its whole time by their own clock. `leaseTransitions` is the epoch that drains
carry: workers refuse one that is lower.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from headrace_operator.adapters.cluster.api import KubeApi
from headrace_operator.errors import Conflict, NotFound, OperatorError

log = logging.getLogger("headrace_operator.lease")


class Lease:
    """One candidate. `leading()` is true only while the Lease is certainly ours."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        changed: Callable[[bool], None],
    ) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._duration = duration
        self._changed = changed
        self._held_until = 0.0
        self._epoch = -1
        self._seen: tuple[str, float] = ("", 0.0)
        self._was = False

    @property
    def epoch(self) -> int:
        """How often the Lease has changed hands."""
        return self._epoch

    def leading(self) -> bool:
        """Whether it is ours just now."""
        return time.monotonic() < self._held_until

    async def run(self) -> None:
        """Hold it, or wait for it, until cancelled."""
        while True:
            renewed = False
            try:
                await self._try()
                renewed = True
            except OperatorError as error:
                log.warning("the Lease could not be renewed: %s", error)
            self._tell()
            # Soon again after a failure, so that two renewals may fail.
            pause = self._duration / 3 if self.leading() and renewed else self._duration / 8
            await asyncio.sleep(pause)
            self._tell()

    async def release(self) -> None:
        """Give it up at once, so that another replica need not wait."""
        if not self.leading():
            return
        self._held_until = 0.0
        try:
            raw = await self._read()
            if raw["spec"].get("holderIdentity") == self._identity:
                raw["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._write(raw)
        except OperatorError:
            pass  # it lapses by itself

    def _tell(self) -> None:
        now = self.leading()
        if now != self._was:
            self._was = now
            self._changed(now)

    async def _try(self) -> None:
        asked = time.monotonic()
        try:
            raw = await self._read()
        except NotFound:
            # Somebody may have deleted one that workers have heard high numbers from, and they
            # refuse lower ones: above what any count of takeovers comes to.
            first = max(self._epoch + 1, int(time.time() // 60))
            await self._api.request(
                "POST",
                self._path,
                {"metadata": {"name": self._name}, "spec": self._spec(first)},
                timeout=self._duration / 8,
            )
            self._held_until, self._epoch = asked + self._duration, first
            return
        spec = raw.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder != self._identity and holder and not self._stood_still(raw):
            return
        transitions = int(spec.get("leaseTransitions") or 0)
        if holder != self._identity or not self._was:
            transitions += 1  # a restart counts too: drains of the last process are not ours
        acquired = spec.get("acquireTime") if transitions == spec.get("leaseTransitions") else None
        raw["spec"] = self._spec(transitions)
        if acquired:
            raw["spec"]["acquireTime"] = acquired
        asked = time.monotonic()
        try:
            await self._write(raw)
        except Conflict:
            return  # somebody else was faster
        self._held_until, self._epoch = asked + self._duration, transitions

    def _stood_still(self, raw: dict[str, Any]) -> bool:
        """Whether the Lease has not changed for its time, by our clock and not by its text."""
        version = raw["metadata"]["resourceVersion"]
        now = time.monotonic()
        if version != self._seen[0]:
            self._seen = version, now
            return False
        spec = raw.get("spec") or {}
        return now - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._duration)

    async def _read(self) -> dict[str, Any]:
        return await self._api.request(
            "GET", f"{self._path}/{self._name}", timeout=self._duration / 8
        )

    async def _write(self, raw: dict[str, Any]) -> None:
        raw.setdefault("apiVersion", "coordination.k8s.io/v1")
        raw.setdefault("kind", "Lease")
        await self._api.request(
            "PUT", f"{self._path}/{self._name}", raw, timeout=self._duration / 8
        )

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
