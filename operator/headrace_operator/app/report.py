"""What was found and decided, said: status, Events, metrics, log. One sentence in all of them."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from headrace_operator.api.v1alpha1 import (
    POOL_LABEL,
    DecisionStatus,
    PoolStatus,
    QueueStatus,
    WorkersStatus,
)
from headrace_operator.app.pool import Pool
from headrace_operator.app.ports import Cluster, Meter
from headrace_operator.core.conditions import Findings, clean, conditions
from headrace_operator.core.shrink import Hold
from headrace_operator.core.values import Deployment, Member

log = logging.getLogger("headrace_operator.report")

NUMBERS_EVERY = 10.0
"""Seconds between two writes of which only numbers are new: each wakes all who watch."""
_Members = tuple[Member, ...]


class Reporter:
    """Writes a pool's status when it says something new, and Events when something happened."""

    def __init__(self, cluster: Cluster, meter: Meter) -> None:
        self._cluster = cluster
        self._meter = meter
        self._said_older = False

    async def report(
        self,
        pool: Pool,
        members: _Members | None,
        deployment: Deployment | None,
        found: Findings,
    ) -> None:
        """Status, Events, metrics of one look."""
        now = datetime.now(UTC)
        found = replace(found, pruned=pool.pruned)
        status = self._status(pool, members or (), deployment, found, now)
        await self._events(pool, found)
        self._measure(pool, status, found)
        before, pool.decision = pool.decision, found.decision
        if found.decision is not None and (
            before is None or before.desired != found.decision.desired
        ):
            log.info("%s/%s: %s", *pool.key, found.decision.message)
        if not self._worth_writing(pool, status):
            return
        body = status.model_dump(mode="json", by_alias=True)
        pool.pruned = await self._cluster.status(pool.key, body)
        pool.status, pool.written_at = status, time.monotonic()
        if pool.pruned and not self._said_older:
            self._said_older = True  # once: it is the same for all pools
            log.warning("the cluster's definition of a WorkerPool is older than this operator and "
                        "drops %s: apply the chart's crds", ", ".join(pool.pruned))  # fmt: skip

    async def say(self, pool: Pool, kind: str, reason: str, message: str) -> None:
        """An Event."""
        await self._cluster.event(pool.key, pool.uid, kind, reason, clean(message))

    # --- status ---

    def _status(
        self,
        pool: Pool,
        members: _Members,
        deployment: Deployment | None,
        found: Findings,
        now: datetime,
    ) -> PoolStatus:
        active = [each for each in members if each.pod.active]
        rows = conditions(found, pool.generation, pool.status.conditions, _stamp(now))
        decision = found.decision
        if decision is None:
            return pool.status.model_copy(
                update={
                    "observed_generation": pool.generation,
                    "conditions": rows,
                    "selector": f"{POOL_LABEL}={pool.key[1]}",
                }
            )
        if pool.status.desired_replicas != decision.desired or pool.change_time is None:
            pool.change_time = _stamp(now)
        inputs = decision.inputs
        not_before = None
        if inputs.not_before is not None:
            not_before = _stamp(now + timedelta(seconds=inputs.not_before - inputs.now))
        return PoolStatus(
            observed_generation=pool.generation,
            replicas=len(active),
            ready_replicas=sum(each.pod.ready for each in active),
            desired_replicas=decision.desired,
            selector=f"{POOL_LABEL}={pool.key[1]}",
            workers=WorkersStatus(
                busy=sum(bool(each.answer and each.answer.running) for each in active),
                draining=len(found.draining),
                starting=sum(not each.pod.ready and not each.answer for each in active),
                failing=inputs.failing,
                terminating=sum(each.pod.terminating for each in members),
            ),
            queue=QueueStatus(
                pending=inputs.waiting,
                in_flight=inputs.running,
                observed_time=_stamp(now - timedelta(seconds=inputs.age)),
            ),
            decision=DecisionStatus(
                raw=inputs.raw,
                reason=decision.reason.value,
                limited_by=decision.limited_by.value,
                message=clean(decision.message),
                change_time=pool.change_time,
                scale_in_not_before=not_before,
            ),
            conditions=rows,
        )

    @staticmethod
    def _worth_writing(pool: Pool, status: PoolStatus) -> bool:
        old = pool.status
        if _gist(old) != _gist(status):
            return True
        if time.monotonic() - pool.written_at < NUMBERS_EVERY:
            return False
        return _numbers(old) != _numbers(status)

    # --- Events ---

    async def _events(self, pool: Pool, found: Findings) -> None:
        decision, before = found.decision, pool.decision
        if decision is not None and before is not None and decision.desired != before.desired:
            reason = "ScaledOut" if decision.desired > before.desired else "ScaledIn"
            text = f"{before.desired} -> {decision.desired}: {decision.message}"
            await self.say(pool, "Normal", reason, text)
        await self._on_change(pool, "DrainStarted", ", ".join(found.draining[:3]), "Normal")
        overdue = ", ".join(found.draining[:3]) if found.overdue else ""
        await self._on_change(pool, "DrainOverdue", overdue, "Warning")
        await self._on_change(pool, "PodsFailing", found.pods_message, "Warning")
        await self._on_change(pool, "QuotaExceeded", found.quota_message, "Warning")
        refused = found.steps.text if found.steps and found.steps.hold is Hold.REFUSED else ""
        await self._on_change(pool, "SizeRefused", refused, "Warning")
        await self._on_change(pool, "PodsStuck", ", ".join(found.terminating[:3]), "Warning")
        conflict = found.conflict[1] if found.conflict else ""
        await self._on_change(pool, "Conflict", conflict, "Warning")
        template = found.template_problem[1] if found.template_problem else ""
        await self._on_change(pool, "TemplateInvalid", template, "Warning")
        problem = found.queue_problem
        outage = problem[1] if problem and problem[0] not in ("NotRead", "NoStream") else ""
        was = pool.said.get("QueueUnreachable", "")
        await self._on_change(pool, "QueueUnreachable", outage, "Warning")
        if was and not outage and problem is None:
            await self.say(pool, "Normal", "QueueRecovered", "the queue's figures are known again")
        if not found.can_mark:
            text = "pods cannot be marked without the right to patch them: a weaker order is used"
            await self._on_change(pool, "PodsNotMarked", text, "Warning")

    async def _on_change(self, pool: Pool, reason: str, text: str, kind: str) -> None:
        if pool.said.get(reason, "") != text:
            pool.said[reason] = text
            if text:
                await self.say(pool, kind, reason, text)

    # --- metrics ---

    def _measure(self, pool: Pool, status: PoolStatus, found: Findings) -> None:
        self._meter.condition(pool.key, [(each.type, each.status) for each in status.conditions])
        if found.decision is None:
            return
        self._meter.decided(
            pool.key,
            {
                "desired": status.desired_replicas,
                "ready": status.ready_replicas,
                "busy": status.workers.busy,
                "draining": status.workers.draining,
                "waiting": status.queue.pending,
                "running": status.queue.in_flight,
            },
            found.decision.reason.value,
        )


def _gist(status: PoolStatus) -> tuple[object, ...]:
    """What is worth a write at once."""
    return (
        status.desired_replicas,
        status.observed_generation,
        status.selector,
        tuple((each.type, each.status, each.reason) for each in status.conditions),
    )


def _numbers(status: PoolStatus) -> tuple[object, ...]:
    return (
        status.replicas,
        status.ready_replicas,
        status.workers,
        status.queue.pending,
        status.queue.in_flight,
        status.decision.message,
    )


def _stamp(time_: datetime) -> str:
    return time_.strftime("%Y-%m-%dT%H:%M:%SZ")
