"""The steps of a shrink or a growth, carried out."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from headrace_operator.app.pool import Pool
from headrace_operator.app.ports import Cluster, Leadership, QueueAddress, Queues
from headrace_operator.core.shrink import Ground, Hold, Steps
from headrace_operator.core.values import Member
from headrace_operator.errors import Conflict, Denied, NotFound, Refused

log = logging.getLogger("headrace_operator.act")

DRAIN_LEASE = 60.0
"""Seconds a drain holds without being renewed: so long may a worker idle when an operator dies."""
RENEW = 15.0


class Actor:
    """Does what a plan says, one pool at a time. Each step may fail; the next look makes a new
    plan."""

    def __init__(self, cluster: Cluster, queues: Queues, leadership: Leadership) -> None:
        self._cluster = cluster
        self._queues = queues
        self._leadership = leadership
        self.can_mark = True
        """The right to patch pods is there, as far as is known."""
        self._renewed: dict[str, float] = {}

    async def carry_out(
        self, pool: Pool, ground: Ground, steps: Steps, address: QueueAddress | None
    ) -> Steps:
        """Drains, marks, the size. Raises `Conflict` where somebody wrote meanwhile."""
        if address is not None:
            await self._resume(steps.resume, address)
            await self._drain(steps.drain, address)
        await self._unmark(pool, steps.unmark)
        await self._mark(pool, steps.mark)
        if steps.size is None:
            return steps
        lowers = steps.size < ground.deployment.replicas
        if lowers and address is not None and not await self._confirmed(steps.confirm, address):
            return replace(steps, size=None, hold=Hold.NOT_ANSWERING, text="a drain is not sure")
        if not self._leadership.leading():
            return replace(steps, size=None, text="another operator leads")
        try:
            await self._cluster.scale(pool.key, steps.size, ground.deployment.version)
        except (Denied, Refused) as error:  # for a condition: it may be so for a long time
            return replace(steps, size=None, hold=Hold.REFUSED, text=str(error))
        if lowers:
            pool.lowered_at = time.monotonic()
        return steps

    # --- workers ---

    async def _drain(self, members: tuple[Member, ...], address: QueueAddress) -> None:
        now = time.monotonic()
        due = [
            each.answer.worker_id
            for each in members
            if each.answer is not None
            and (
                each.answer.status != "draining"
                or now - self._renewed.get(each.answer.worker_id, 0.0) >= RENEW
            )
        ]
        epoch = self._leadership.epoch
        answers = await asyncio.gather(
            *(self._queues.drain(address, worker, epoch, DRAIN_LEASE) for worker in due)
        )
        for worker, answer in zip(due, answers, strict=True):
            if answer is not None:
                self._renewed[worker] = now
        if len(self._renewed) > 1000:
            self._renewed = {
                worker: at for worker, at in self._renewed.items() if now - at < DRAIN_LEASE
            }

    async def _confirmed(self, members: tuple[Member, ...], address: QueueAddress) -> bool:
        """Whether each of them says now, with a whole lease before it, that it is empty."""
        epoch = self._leadership.epoch
        asked = [
            self._queues.drain(address, each.answer.worker_id, epoch, DRAIN_LEASE)
            for each in members
            if each.answer is not None
        ]
        answers = await asyncio.gather(*asked)
        return all(
            answer is not None and answer.status == "draining" and answer.running == 0
            for answer in answers
        )

    async def _resume(self, members: tuple[Member, ...], address: QueueAddress) -> None:
        epoch = self._leadership.epoch
        await asyncio.gather(
            *(
                self._queues.resume(address, each.answer.worker_id, epoch)
                for each in members
                if each.answer is not None
            )
        )

    # --- pods ---

    async def _mark(self, pool: Pool, members: tuple[Member, ...]) -> None:
        for each in members:
            if not self._leadership.leading():
                return
            try:
                await self._cluster.mark(pool.key, each.pod, serving=False)
            except NotFound:
                pass  # it has ended by itself
            except Denied as error:
                if self.can_mark:
                    log.warning("pods cannot be marked, a weaker order is used: %s", error)
                self.can_mark = False
                return

    async def _unmark(self, pool: Pool, members: tuple[Member, ...]) -> None:
        for each in members:
            try:
                await self._cluster.mark(pool.key, each.pod, serving=True)
                pool.unmarked_at = time.monotonic()
            except (NotFound, Conflict):
                pool.unmarked_at = time.monotonic()
            except Denied:
                self.can_mark = False
                return
