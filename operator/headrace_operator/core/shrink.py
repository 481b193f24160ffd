"""The scale-in protocol: from what is there to the next steps, with nothing remembered.

A Deployment's size is lowered by exactly the pods of which it is certain that the ReplicaSet will
choose them: pods that never started, and pods whose worker has drained, that are not ready, that
carry the mark, and whose mark the ReplicaSet's controller has seen. Every step is derived anew from
the cluster and from the workers, so that a crash between two of them leaves nothing undone: drains
are leased and end by themselves, and a mark without a drain is taken back.

| step | in | next |
|---|---|---|
| drain | a worker is to go | ask it, again at every look: the lease is renewed |
| settle | it is drained and still ready | wait for the kubelet |
| mark | it is drained and not ready | label and deletion cost in one patch |
| barrier | it is marked | wait until the ReplicaSet counts as many unlabelled pods as are marked |
| lower | the next victims are all marked or never started | the size, with a resourceVersion |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from headrace.scaling import DrainPlan, plan_drain
from headrace_operator.core.fleet import facts_of, never_started, next_victims
from headrace_operator.core.values import Deployment, Member, ReplicaSet


class Hold(StrEnum):
    """Why a shrink does not go on just now."""

    NONE = ""
    ROLLOUT = "RolloutInProgress"
    DRAINING = "Draining"  # workers finish what they run
    NOT_ANSWERING = "NotAnswering"  # workers that should go do not answer
    SETTLING = "Settling"  # the API does not show yet that a drained pod is not ready
    BARRIER = "Barrier"  # the ReplicaSet has not seen the marks
    VICTIMS = "VictimsDiffer"  # it would delete others
    RELEASING = "Releasing"  # marks are taken back first
    REFUSED = "Refused"  # the API server does not take the size


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do now. `size` is None where the Deployment's size stays."""

    plan: DrainPlan
    drain: tuple[Member, ...] = ()
    """Ask, or ask again."""
    confirm: tuple[Member, ...] = ()
    """Must confirm that they drain and are empty before the size is lowered."""
    mark: tuple[Member, ...] = ()
    unmark: tuple[Member, ...] = ()
    resume: tuple[Member, ...] = ()
    size: int | None = None
    hold: Hold = Hold.NONE
    text: str = ""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the protocol stands on."""

    deployment: Deployment
    replica_sets: tuple[ReplicaSet, ...]
    members: tuple[Member, ...]
    slots: int
    can_mark: bool = True
    """The right to patch pods is there."""
    idle: bool = False
    """A rollout is stuck and no task is there at all: then the order does not matter."""
    quiet: bool = True
    """No mark was taken back in the last seconds: two marks and one between them that went away
    look the same to the barrier."""

    @property
    def active(self) -> tuple[Member, ...]:
        """The pods that count."""
        return tuple(member for member in self.members if member.pod.active)


def steps(ground: Ground, target: int) -> Steps:
    """The next steps towards `target` serving workers."""
    problem = "" if ground.idle else _not_in_order(ground)
    if problem:
        return _hold(ground, target, problem)
    if ground.idle:
        return Steps(_no_plan(target), size=_changed(ground, target))
    plan = plan_drain([facts_of(each, ground.slots) for each in ground.members], target)
    by_name = {each.pod.name: each for each in ground.members}
    leaving = tuple(by_name[pick.id] for pick in (*plan.drain, *plan.renew))
    gone = tuple(by_name[pick.id] for pick in plan.remove)
    # A drained worker's lease is renewed until its pod is being deleted.
    drained = tuple(each for each in gone if each.answer is not None)
    resume = tuple(by_name[pick.id] for pick in plan.resume)
    orphans = _orphans(ground, {each.pod.name for each in (*leaving, *gone)})
    # First the room, then the worker: a ReplicaSet that still holds the lower number would delete
    # the pod in which a task has just begun.
    back = {each.pod.name: each for each in (*resume, *orphans)}
    room = _room_for_all(ground)
    unmark = _marked(tuple(back.values())) if room else ()
    resume = resume if room else ()
    if target >= len(ground.active):
        size = _grown(ground, target)
        hold = Hold.RELEASING if back else Hold.NONE
        return Steps(plan, resume=resume, unmark=unmark, size=size, hold=hold)
    found = _lower(ground, plan, target, gone)
    if unmark:
        found = replace(found, mark=(), size=None, hold=Hold.RELEASING)
    return replace(found, drain=(*leaving, *drained), resume=resume, unmark=unmark)


def _hold(ground: Ground, target: int, problem: str) -> Steps:
    """While pods of two templates are there both sets shrink in proportion, whatever is marked: so
    nothing shrinks, and growing is allowed."""
    grows = target > ground.deployment.replicas
    return Steps(_no_plan(target), size=target if grows else None, hold=Hold.ROLLOUT, text=problem)


def _no_plan(target: int) -> DrainPlan:
    return plan_drain([], target)


def _changed(ground: Ground, target: int) -> int | None:
    return target if target != ground.deployment.replicas else None


def _grown(ground: Ground, target: int) -> int | None:
    """The size of a pool that has no pod too many; also a lower one, where pods are missing."""
    size = _changed(ground, target)
    if size is not None and size < ground.deployment.replicas and not _counts(ground):
        return None  # it may still count a pod that has ended, and delete another in its place
    return size


def _room_for_all(ground: Ground) -> bool:
    """Whether the ReplicaSets' own sizes leave room for all pods that are there."""
    wanted = sum(each.desired for each in ground.replica_sets)
    return all(
        each.observed and each.replicas <= each.desired for each in ground.replica_sets
    ) and wanted >= len(ground.active)


def _counts(ground: Ground) -> bool:
    """Whether the ReplicaSet's controller has seen the pods that are there, as they are."""
    sets = [each for each in ground.replica_sets if each.replicas or each.desired]
    if not sets:
        return True
    active = ground.active
    return (
        sets[0].observed
        and sets[0].replicas == len(active)
        and sets[0].ready == sum(each.pod.ready for each in active)
    )


def _orphans(ground: Ground, chosen: set[str]) -> tuple[Member, ...]:
    """Marked pods that are not to go: their drain has lapsed, or their container began anew."""
    return tuple(
        each for each in ground.active if not each.pod.serving and each.pod.name not in chosen
    )


def _marked(members: Sequence[Member]) -> tuple[Member, ...]:
    return tuple(each for each in members if not each.pod.serving or each.pod.cost < 0)


def _lower(ground: Ground, plan: DrainPlan, target: int, gone: tuple[Member, ...]) -> Steps:
    """What may go now, and how low the size may be set."""
    active = [each.pod for each in ground.active]
    size_now = ground.deployment.replicas
    free = [each for each in gone if never_started(each.pod)]
    drained = [each for each in gone if not never_started(each.pod)]
    settled = [each for each in drained if not each.pod.ready]
    mark = tuple(each for each in settled if not each.pod.marked) if ground.can_mark else ()
    sure = [each for each in settled if each.pod.marked or not ground.can_mark]
    hold, text = _waits_for(plan, drained, settled, mark)
    seen, why = _barrier(ground)
    if (mark or sure) and not (seen and ground.quiet):
        mark, sure = (), []
        hold, text = Hold.BARRIER, why or "a mark was taken back a moment ago"
    # Phantoms first: a size above the pods that exist (a quota) costs nobody anything.
    size = max(target, len(active) - len(free) - len(sure))
    lowered = min(size_now, size)
    if not _counts(ground) and lowered < size_now:
        lowered = size_now
        if hold is Hold.NONE:
            hold, text = Hold.BARRIER, "the ReplicaSet has not seen all pods as they are"
    allowed = {each.pod.name for each in (*free, *sure)}
    victims = next_victims(active, len(active) - lowered)
    busy = {each.pod.name for each in ground.active if each.running != 0}
    strangers = [
        pod.name
        for pod in victims
        if pod.name not in allowed and (not never_started(pod) or pod.name in busy)
    ]
    if strangers:
        lowered = min(size_now, max(target, len(active)))
        hold, text = Hold.VICTIMS, f"{strangers[0]} would be deleted in their place"
        sure = []
    changes = lowered < size_now
    return Steps(
        plan,
        mark=mark,
        confirm=tuple(each for each in sure if each.answer is not None) if changes else (),
        size=lowered if changes else None,
        hold=Hold.NONE if changes and lowered == target else hold,
        text=text,
    )


def _not_in_order(ground: Ground) -> str:
    """Why the protocol cannot run: more than one ReplicaSet has pods, or one lags behind."""
    if ground.deployment.rolling:
        return "a rollout is under way"
    sets = [each for each in ground.replica_sets if each.desired or each.replicas]
    if len(sets) > 1:
        return "pods of an older template are still there"
    owners = {each.pod.owner for each in ground.active}
    if sets and owners - {sets[0].uid}:
        return "pods of an older template are still there"
    return ""


def _waits_for(
    plan: DrainPlan,
    drained: list[Member],
    settled: list[Member],
    mark: tuple[Member, ...],
) -> tuple[Hold, str]:
    if plan.drain or plan.renew:
        return Hold.DRAINING, plan.message
    if len(settled) < len(drained):
        return Hold.SETTLING, "a drained pod is still shown as ready"
    if mark:
        return Hold.BARRIER, "pods are being marked"
    if plan.short:
        return Hold.NOT_ANSWERING, plan.message
    return Hold.NONE, ""


def _barrier(ground: Ground) -> tuple[bool, str]:
    """Whether the ReplicaSet's controller has seen every mark that is there, and no other."""
    sets = [each for each in ground.replica_sets if each.replicas]
    if not sets:
        return True, ""
    mine = sets[0]
    active = [each.pod for each in ground.active]
    if ground.can_mark:
        marked = sum(not pod.serving for pod in active)
        seen = mine.replicas - mine.fully_labelled
        ok = seen == marked and mine.replicas == len(active)
        return ok, "" if ok else f"the ReplicaSet has seen {seen} of {marked} marks"
    ready = sum(pod.ready for pod in active)
    ok = mine.ready == ready and mine.replicas == len(active)
    return ok, "" if ok else f"the ReplicaSet counts {mine.ready} ready pods of {ready}"


def starting_target(deployment: Deployment, members: Sequence[Member]) -> int:
    """The size that a pool had when an operator begins: pods that were marked are taken off it."""
    marked = sum(each.pod.active and each.pod.marked for each in members)
    return max(0, deployment.replicas - marked)
