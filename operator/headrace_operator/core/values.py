"""What the operator knows of a pool's objects: what it needs of them and no more.

A whole pod is some 40 KiB as a dict; these are less than one.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.scaling import UNKNOWN, RunCount, Unknown

MARK_COST = -(2**31)
"""The deletion cost of a pod that is to go: lower than any that a user may give."""

FAILING_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerError",
        "CreateContainerConfigError",
        "RunContainerError",
        "CrashLoopBackOff",
    }
)
"""What a waiting container says when it will not start by itself. A pod without a node is not
failing: the cluster's autoscaler needs it there."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a pool's Deployment."""

    name: str
    uid: str
    version: str
    owner: str
    """The uid of its ReplicaSet."""
    created: float
    """Seconds since the epoch."""
    node: str | None = None
    phase: str = "Pending"
    ready: bool = False
    started: bool = False
    """Its worker's container runs."""
    serving: bool = True
    """It carries the serving label of the template."""
    cost: int = 0
    terminating: bool = False
    ends_by: float = 0.0
    """When its grace is over, in seconds since the epoch; 0 while nobody has deleted it."""
    failing: str = ""
    """Why it does not start, in the kubelet's words."""
    restarts: int = 0

    @property
    def active(self) -> bool:
        """Counts for its ReplicaSet."""
        return not self.terminating and self.phase not in ("Succeeded", "Failed")

    @property
    def marked(self) -> bool:
        """To be deleted first, and so labelled."""
        return not self.serving and self.cost == MARK_COST


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """One ReplicaSet of a pool's Deployment, with what its controller has seen."""

    name: str
    uid: str
    desired: int
    replicas: int
    fully_labelled: int
    ready: int
    observed: bool
    """Its status is about its present spec."""
    failure: str = ""
    """Why it could not make a pod: a quota, an admission policy."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The pool's Deployment."""

    uid: str
    version: str
    replicas: int
    ours: bool
    """The pool is its controller."""
    observed: bool
    template: str = ""
    """The hash of the template that was applied last, as the operator noted it there."""
    total: int = 0
    updated: int = 0
    ready: int = 0
    stuck: str = ""
    """Why its rollout does not go on."""
    size_owner: bool = False
    """Somebody else than the operator's apply owns the size in managedFields."""
    generation: int = 0

    @property
    def rolling(self) -> bool:
        """Pods of an older template are still there, or it is not known."""
        return not self.observed or self.updated < self.total


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of itself."""

    worker_id: str
    pod_uid: str
    status: str
    running: int
    slots: int
    started: float
    runs: tuple[RunCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """A pod and the worker in it."""

    pod: Pod
    answer: Answer | None = None

    @property
    def running(self) -> int | Unknown:
        """Tasks that run there; UNKNOWN if nobody answers who might run one."""
        if self.answer is not None:
            return self.answer.running
        return UNKNOWN if self.pod.started else 0
