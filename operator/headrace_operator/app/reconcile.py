"""One look at one pool: gather, decide, drain, apply, say so. The same facts lead to the same
writes, whatever happened before."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.scaling import (
    UNKNOWN,
    Decision,
    Depth,
    Snapshot,
    Unknown,
    decide_next,
    fleet_of,
    measure,
)
from headrace_operator.app.act import Actor
from headrace_operator.app.addresses import Addresses
from headrace_operator.app.pool import Pool, read
from headrace_operator.app.ports import Cluster, Key, Leadership, Meter, QueueAddress, Queues
from headrace_operator.app.report import Reporter
from headrace_operator.core.conditions import Findings
from headrace_operator.core.fleet import facts_of, join, stuck
from headrace_operator.core.shape import HASH_ANNOTATION, BadTemplate, Owner, deployment
from headrace_operator.core.sharing import Share, split
from headrace_operator.core.shrink import Ground, Hold, Steps, starting_target, steps
from headrace_operator.core.values import Deployment, Member, ReplicaSet
from headrace_operator.errors import Denied, QueueUnreadable, Refused
from headrace_operator.settings import Settings

log = logging.getLogger("headrace_operator.reconcile")

PERIOD = 1.0
"""Seconds between two looks at a pool that has tasks or pods."""
_QUICK = 0.25  # while a step waits for the kubelet or for a controller
_IDLE = 4.0  # a pool without either: nothing is asked of anybody for it
_CONFLICTS_EVERY = 10.0
_QUICK_HOLDS = (Hold.SETTLING, Hold.BARRIER, Hold.RELEASING, Hold.VICTIMS)


@dataclass(slots=True)
class Look:
    """What was gathered."""

    deployment: Deployment
    replica_sets: tuple[ReplicaSet, ...] = ()
    members: tuple[Member, ...] = ()
    lanes: tuple[Depth, ...] | Unknown = UNKNOWN
    age: float = 0.0
    messages: int = 0
    queue_problem: tuple[str, str] | None = None
    address: QueueAddress | None = None
    shared: tuple[str, ...] = ()
    """Other pools that serve the same tasks."""


def _share(pool: Pool) -> Share:
    if pool.manifest is None:
        return Share(pool.key[1], frozenset(), False, 0)
    spec = pool.manifest.spec
    untagged = spec.untagged == "Serve"
    size = spec.max_workers if spec.replicas is None else min(spec.replicas, spec.max_workers)
    return Share("/".join(pool.key), frozenset(spec.tags), untagged, size * spec.slots)


class Reconciler:
    """Keeps every pool's Deployment as large as its queue needs."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        queues: Queues,
        leadership: Leadership,
        meter: Meter,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._queues = queues
        self._leadership = leadership
        self._meter = meter
        self._addresses = Addresses(settings, cluster)
        self._actor = Actor(cluster, queues, leadership)
        self._reporter = Reporter(cluster, meter)
        self.pools: dict[Key, Pool] = {}

    async def close(self) -> None:
        """Leave nothing behind."""
        self._addresses.close()

    # --- what the watch says ---

    def seen(self, body: Mapping[str, Any]) -> Key | None:
        """A pool is there, or has changed; its key if there is something to do."""
        fresh = read(body)
        known = self.pools.get(fresh.key)
        if known is None or known.uid != fresh.uid:
            self.pools[fresh.key] = fresh
            return fresh.key
        return fresh.key if known.renew(body) else None  # our own status comes back too

    def deleted(self, key: Key) -> None:
        """A pool has gone; its Deployment follows it by itself."""
        if self.pools.pop(key, None) is not None:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._queues.forget(key)
        self._cluster.forget(key)
        self._meter.forget(key)

    # --- one look ---

    async def reconcile(self, key: Key) -> float | None:
        """In how many seconds to look again; None: when something happens."""
        try:
            return await self._look_at(key)
        finally:
            if key not in self.pools:  # deleted meanwhile: nothing of it may stay
                self._forget(key)

    async def _look_at(self, key: Key) -> float | None:
        pool = self.pools.get(key)
        if pool is None or not self._leadership.leading():
            return None
        if pool.epoch != self._leadership.epoch:
            pool.begin(self._leadership.epoch)
        if pool.manifest is None:
            await self._reporter.report(
                pool, None, None, Findings(template_problem=("InvalidSpec", pool.problem))
            )
            return None
        began = time.monotonic()
        address, problem = await self._address(pool)
        deployment, findings = await self._deployment(pool)
        if deployment is None:
            findings = replace(findings, queue_problem=problem)
            await self._reporter.report(pool, None, None, findings)
            return _IDLE
        look = await self._gather(pool, deployment, address, problem)
        decision = self._decide(pool, look)
        done = await self._act(pool, look, decision)
        self._count_the_cut(pool, look)
        await self._report(pool, look, decision, done, findings)
        self._meter.reconciled(time.monotonic() - began)
        return self._next(look, done)

    async def _address(self, pool: Pool) -> tuple[QueueAddress | None, tuple[str, str] | None]:
        try:
            address = await self._addresses.of(pool)
        except QueueUnreadable as error:
            self._queues.forget(pool.key)
            return None, (error.reason, str(error))
        self._queues.watch(pool.key, address)
        return address, None

    # --- the Deployment, all but its size ---

    async def _deployment(self, pool: Pool) -> tuple[Deployment | None, Findings]:
        """The Deployment as it should be, or why it cannot be."""
        assert pool.manifest is not None
        key = pool.key
        there = await self._cluster.deployment(key, pool.uid)
        if there is not None and not there.ours:
            text = f"Deployment {key[1]} is there and belongs to somebody else: rename the pool"
            return None, Findings(conflict=("ForeignDeployment", text))
        try:
            body = self._shape(pool)
        except BadTemplate as error:
            return there, Findings(template_problem=("InvalidTemplate", str(error)))
        digest = body["metadata"]["annotations"][HASH_ANNOTATION]
        if there is not None and pool.applied == (digest, there.generation):
            return there, Findings(template_known=True)
        problem: tuple[str, str] | None = None
        try:
            there = await self._apply(pool, body, digest, there)
        except Refused as error:
            problem = ("Refused", str(error))
        except Denied as error:
            problem = ("Denied", str(error))
        return there, Findings(template_known=problem is None, template_problem=problem)

    def _shape(self, pool: Pool) -> dict[str, Any]:
        """What to apply; made again only for another spec or server. Raises `BadTemplate`."""
        assert pool.manifest is not None
        made_for = pool.generation, self._addresses.workers_url(pool)
        if pool.shape is None or pool.shape[0] != made_for:
            owner = Owner(pool.key[1], pool.key[0], pool.uid)
            pool.shape = made_for, deployment(owner, pool.manifest.spec, made_for[1])
        return pool.shape[1]

    async def _apply(
        self, pool: Pool, body: dict[str, Any], digest: str, there: Deployment | None
    ) -> Deployment:
        # The size is ours by the scale subresource. Until managedFields show that, an apply without
        # it would set it to 1.
        if there is None or not there.size_owner:
            size = 0 if there is None else there.replicas
            body = body | {"spec": body["spec"] | {"replicas": size}}
        after = await self._cluster.apply(body)
        edited = (
            there is not None and pool.applied[0] == digest and after.generation > there.generation
        )
        if edited:
            await self._reporter.say(
                pool,
                "Warning",
                "DeploymentReverted",
                "a change by hand of the Deployment was undone",
            )
        pool.applied = (digest, after.generation)
        return after

    # --- gather, decide ---

    async def _gather(
        self,
        pool: Pool,
        there: Deployment,
        address: QueueAddress | None,
        problem: tuple[str, str] | None,
    ) -> Look:
        look = Look(there, address=address, queue_problem=problem)
        known = pool.running or pool.leaving  # a Deployment does not count pods that end
        if there.replicas or there.total or pool.target is None or known:
            pods = await self._cluster.pods(pool.key)
            look.replica_sets = await self._cluster.replica_sets(pool.key)
            look.members = join(pods, ())
            # A kubelet's word may lag behind: where a pod has a node, a task may run.
            started = {each.uid for each in pods if each.node is not None and each.active}
            if started and address is not None:
                try:
                    answers = await self._queues.workers(address, started)
                    look.members = join(pods, answers)
                except QueueUnreadable:
                    pass  # said by the look at the depth below
        if address is not None:
            try:
                seen = self._queues.look(address)
                look.lanes, look.age, look.messages = seen.lanes, seen.age, seen.messages
            except QueueUnreadable as error:
                look.queue_problem = (error.reason, str(error))
                if error.reason == "NoStream" and not look.members:
                    # A queue that nobody has used yet holds nothing. With workers there it has been
                    # used, and then its stream's absence is a loss and no zero.
                    look.lanes, look.queue_problem = (), None
            if not isinstance(look.lanes, Unknown):
                look.lanes, look.shared = split(look.lanes, *self._shares(pool, address))
        now = time.monotonic()
        if now - pool.conflicts_at > _CONFLICTS_EVERY:
            pool.conflicts = await self._cluster.conflicts(pool.key)
            pool.conflicts_at = now
        return look

    def _shares(self, pool: Pool, address: QueueAddress) -> tuple[Share, list[Share]]:
        """This pool's share of its queue, and those of the others that serve it."""
        others = [
            _share(self.pools[key])
            for key in self._queues.pools(address)
            if key != pool.key and key in self.pools
        ]
        return _share(pool), others

    def _decide(self, pool: Pool, look: Look) -> Decision:
        assert pool.manifest is not None
        policy = pool.manifest.to_policy(period=PERIOD)
        most = self._settings.max_workers_per_pool
        if policy.max_workers > most:
            policy = replace(policy, max_workers=most, min_workers=min(policy.min_workers, most))
        if pool.target is None:
            pool.target = starting_target(look.deployment, look.members)
        now = time.monotonic()
        facts = [facts_of(each, policy.slots) for each in look.members]
        snapshot = Snapshot(
            now=now,
            target=pool.target,
            lanes=look.lanes,
            age=look.age,
            fleet=fleet_of(facts, now - min(pool.drains.values(), default=now)),
            rollout=look.deployment.rolling and not self._stuck_and_idle(look),
            quota_exceeded=any(each.failure for each in look.replica_sets),
            clock=time.time(),
        )
        runs = [run for each in look.members if each.answer for run in each.answer.runs]
        pool.tally = measure(pool.tally, policy, snapshot, runs)
        snapshot = replace(snapshot, rates=pool.tally.rates)
        decision, pool.history = decide_next(policy, snapshot, pool.history)
        return decision

    @staticmethod
    def _stuck_and_idle(look: Look) -> bool:
        """A rollout that does not go on, and nothing that runs: then a shrink hurts nobody."""
        if not look.deployment.stuck or isinstance(look.lanes, Unknown):
            return False
        return not any(each.waiting or each.running for each in look.lanes)

    # --- act ---

    async def _act(self, pool: Pool, look: Look, decision: Decision) -> Steps:
        ground = Ground(
            look.deployment,
            look.replica_sets,
            look.members,
            slots=pool.manifest.spec.slots if pool.manifest else 1,
            can_mark=self._actor.can_mark,
            quiet=pool.quiet,
            idle=self._stuck_and_idle(look),
        )
        plan = steps(ground, decision.desired)
        if pool.conflicts:
            # Never a fight: two who size one Deployment would undo each other's work for ever.
            pool.target = look.deployment.replicas
            return replace(plan, drain=(), mark=(), size=None)
        done = await self._actor.carry_out(pool, ground, plan, look.address)
        pool.target = decision.desired
        self._note_drains(pool, done)
        return done

    @staticmethod
    def _note_drains(pool: Pool, done: Steps) -> None:
        now = time.monotonic()
        names = {each.pod.name for each in done.drain}
        pool.drains = {name: since for name, since in pool.drains.items() if name in names} | {
            name: now for name in names if name not in pool.drains
        }

    def _count_the_cut(self, pool: Pool, look: Look) -> None:
        """The promise, watched: a pod in which a task ran and that a scale-in of ours ended."""
        present = {each.pod.uid: each for each in look.members}
        recent = time.monotonic() - pool.lowered_at < 60
        for uid, running in pool.running.items():
            member = present.get(uid)
            ended = member is None or member.pod.terminating
            if not ended or uid in pool.gone:
                continue
            pool.gone.add(uid)
            if running and recent and not look.deployment.rolling:
                log.error("pool %s/%s: a pod was deleted with %d tasks", *pool.key, running)
                self._meter.busy_deleted(pool.key)
        pool.running = {
            uid: each.answer.running if each.answer is not None else 0
            for uid, each in present.items()
            if not each.pod.terminating
        }
        pool.leaving = any(each.pod.terminating for each in look.members)
        pool.gone &= set(present) | set(pool.running)

    # --- report ---

    async def _report(
        self, pool: Pool, look: Look, decision: Decision, done: Steps, findings: Findings
    ) -> None:
        assert pool.manifest is not None
        now = time.monotonic()
        oldest = now - min(pool.drains.values(), default=now)
        conflict = findings.conflict
        if pool.conflicts:
            names = ", ".join(pool.conflicts)
            text = f"{names} changes the Deployment's size too: the pool holds until it is deleted"
            conflict = ("Autoscaler", text)
        elif look.shared and conflict is None:
            text = f"{', '.join(look.shared)} serves the same tasks: they are split by capacity"
            conflict = ("QueueShared", text)
        active = [each for each in look.members if each.pod.active]
        findings = replace(
            findings,
            decision=decision,
            steps=done,
            ready=sum(each.pod.ready for each in active),
            desired=decision.desired,
            queue_problem=look.queue_problem,
            queue_known=not isinstance(look.lanes, Unknown),
            conflict=conflict,
            pods_message=next((each.pod.failing for each in active if each.pod.failing), ""),
            quota_message=next((each.failure for each in look.replica_sets if each.failure), ""),
            draining=tuple(sorted(pool.drains, key=lambda name: pool.drains[name])),
            overdue=oldest > pool.manifest.spec.drain.timeout,
            pause=pool.manifest.spec.scaling.pause.value,
            pinned=pool.manifest.spec.replicas is not None,
            stuck=look.deployment.stuck,
            terminating=stuck((each.pod for each in look.members), time.time()),
            can_mark=self._actor.can_mark,
        )
        await self._reporter.report(pool, look.members, look.deployment, findings)

    @staticmethod
    def _next(look: Look, done: Steps) -> float:
        if done.hold in _QUICK_HOLDS or (done.size is not None and done.size > 0):
            return _QUICK
        busy = look.members or look.messages or look.deployment.replicas
        return PERIOD if busy else _IDLE
