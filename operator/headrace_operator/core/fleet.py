"""Pods and what their workers say, joined: the facts that the scaling core plans with."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.scaling import WorkerFacts, WorkerState
from headrace_operator.core.values import Answer, Member, Pod

STUCK_AFTER = 30.0
"""Seconds after the end of its grace from which a pod that is still there is called stuck."""
_STATUSES = frozenset({"idle", "busy", "draining", "stopped", "error"})


def join(pods: Iterable[Pod], answers: Iterable[Answer]) -> tuple[Member, ...]:
    """Each pod with its worker's answer.

    A container that was restarted is another worker with another id: of two answers from one pod
    the younger one counts, and a drain of the older one is over.
    """
    latest: dict[str, Answer] = {}
    for answer in answers:
        known = latest.get(answer.pod_uid)
        if known is None or answer.started > known.started:
            latest[answer.pod_uid] = answer
    return tuple(Member(pod, latest.get(pod.uid)) for pod in pods)


def facts_of(member: Member, slots: int) -> WorkerFacts:
    """One worker as the scaling core sees it; its id is the pod's name."""
    pod, answer = member.pod, member.answer
    if not pod.active:
        return WorkerFacts(pod.name, WorkerState.GONE, member.running, slots, pod.created)
    if answer is not None and pod.started:
        # A status of a later version is that of somebody who may take tasks.
        status = answer.status if answer.status in _STATUSES else "busy"
        return WorkerFacts.of(pod.name, status, answer.running, slots, pod.created)
    return WorkerFacts(pod.name, _unanswered(pod), member.running, slots, pod.created)


def _unanswered(pod: Pod) -> WorkerState:
    if pod.failing:
        return WorkerState.FAILING
    if pod.started and pod.ready:
        return WorkerState.SERVING
    if pod.node is None:
        return WorkerState.UNSCHEDULED
    return WorkerState.STARTING


def stuck(pods: Iterable[Pod], now: float) -> tuple[str, ...]:
    """Names of pods that should have gone long ago: a finalizer that nobody removes, a node that
    does not answer. They count for nothing, and a person should look."""
    return tuple(sorted(pod.name for pod in pods if 0 < pod.ends_by < now - STUCK_AFTER))


def never_started(pod: Pod) -> bool:
    """It has run nothing, and a ReplicaSet deletes it before any that has."""
    return pod.active and (pod.node is None or pod.phase == "Pending")


def next_victims(pods: Iterable[Pod], count: int) -> tuple[Pod, ...]:
    """The pods that a ReplicaSet would delete first, by the parts of its order that matter here.

    Source: Kubernetes, pkg/controller/controller_utils.go, ActivePodsWithRanks: without a node
    first, then Pending before Unknown before Running, not ready before ready, lower deletion cost
    first. What follows (ranks, ages, restarts) only orders pods that are equal up to there.
    """
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}

    def rank(pod: Pod) -> tuple[bool, int, bool, int]:
        return pod.node is not None, phases.get(pod.phase, 2), pod.ready, pod.cost

    ordered = sorted((pod for pod in pods if pod.active), key=rank)
    if not 0 < count < len(ordered):
        return tuple(ordered[: max(0, count)])
    # Who is equal to the last one may be chosen in its place.
    last = rank(ordered[count - 1])
    return tuple(pod for pod in ordered if rank(pod) <= last)
