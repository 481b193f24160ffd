"""Short ways to write pods, ReplicaSets, Deployments and what workers answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from headrace_operator.core.shrink import Ground, Steps
from headrace_operator.core.values import MARK_COST, Answer, Deployment, Member, Pod, ReplicaSet

OWNER = "rs-1"


def pod(name: str, **changes: Any) -> Pod:
    """A pod that runs and is ready."""
    usual = Pod(
        name=name,
        uid=f"uid-{name}",
        version="1",
        owner=OWNER,
        created=100.0,
        node="node-1",
        phase="Running",
        ready=True,
        started=True,
    )
    return replace(usual, **changes)


def serving(name: str, running: int = 0, **changes: Any) -> Member:
    """A worker that takes tasks and runs so many."""
    each = pod(name, **changes)
    return Member(each, answer(each, "busy" if running else "idle", running))


def draining(name: str, running: int = 0, **changes: Any) -> Member:
    """A worker that takes none; empty unless told otherwise."""
    each = pod(name, **({"ready": bool(running)} | changes))
    return Member(each, answer(each, "draining", running))


def marked(name: str, **changes: Any) -> Member:
    """Drained, not ready, labelled."""
    return draining(name, **({"serving": False, "cost": MARK_COST} | changes))


def pending(name: str, **changes: Any) -> Member:
    """A pod whose image is being pulled."""
    usual = {"phase": "Pending", "ready": False, "started": False}
    return Member(pod(name, **(usual | changes)))


def unscheduled(name: str, **changes: Any) -> Member:
    """A pod for which there is no node."""
    return pending(name, **({"node": None} | changes))


def silent(name: str, **changes: Any) -> Member:
    """A ready pod whose worker says nothing."""
    return Member(pod(name, **changes))


def answer(of: Pod, status: str, running: int, started: float = 100.0) -> Answer:
    """What the worker in this pod says."""
    return Answer(f"worker-{of.name}", of.uid, status, running, 4, started)


def replica_set(members: Iterable[Member], **changes: Any) -> ReplicaSet:
    """One that has seen all of it."""
    active = [each.pod for each in members if each.pod.active]
    usual = ReplicaSet(
        name="pool-1",
        uid=OWNER,
        desired=len(active),
        replicas=len(active),
        fully_labelled=sum(each.serving for each in active),
        ready=sum(each.ready for each in active),
        observed=True,
    )
    return replace(usual, **changes)


def deployment(replicas: int, **changes: Any) -> Deployment:
    """One that is in order."""
    usual = Deployment(
        uid="deployment",
        version="1",
        replicas=replicas,
        ours=True,
        observed=True,
        total=replicas,
        updated=replicas,
        ready=replicas,
        size_owner=True,
        generation=1,
    )
    return replace(usual, **changes)


def ground(*members: Member, **changes: Any) -> Ground:
    """What a look finds where all controllers have caught up."""
    size = sum(each.pod.active for each in members)
    usual = Ground(deployment(size), (replica_set(members),), members, slots=4)
    return replace(usual, **changes)


def names(members: Iterable[Member]) -> list[str]:
    """Of which pods."""
    return [each.pod.name for each in members]


def nothing_is_done(found: Steps) -> bool:
    """Whether no step touches a worker, a pod or the size."""
    return found.size is None and not (
        found.drain or found.mark or found.unmark or found.resume or found.confirm
    )
