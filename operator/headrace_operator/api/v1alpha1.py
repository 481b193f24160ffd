"""`WorkerPool` v1alpha1: the status. The spec is `headrace.manifest`, as on one machine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from headrace.manifest import API_VERSION, GROUP, KIND, PoolSpec, WorkerPoolManifest

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "POOL_LABEL",
    "SERVING_LABEL",
    "VERSION",
    "Condition",
    "DecisionStatus",
    "PoolSpec",
    "PoolStatus",
    "QueueStatus",
    "WorkerPoolManifest",
    "WorkersStatus",
]

VERSION = API_VERSION.partition("/")[2]
PLURAL = "workerpools"
POOL_LABEL = f"{GROUP}/pool"
"""On Deployments and pods: the pool's name. The selector."""
SERVING_LABEL = f"{GROUP}/serving"
"""In the pod template and not in the selector: "true", and "false" on a pod that is to be deleted.
A ReplicaSet's `fullyLabeledReplicas` then says whether its controller has seen the mark."""


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )


class WorkersStatus(_Part):
    """Workers by what they do."""

    busy: int = 0
    """Run at least one task."""
    draining: int = 0
    """Finish what they run and take nothing."""
    starting: int = 0
    """Have not been ready yet, without a node included."""
    failing: int = 0
    """Cannot start: no image, a crash loop."""
    terminating: int = 0
    """Were deleted and finish what they run."""


class QueueStatus(_Part):
    """What the pool serves of its queue, at the time of `observedTime`."""

    pending: int = 0
    """Tasks that wait."""
    in_flight: int = 0
    """Tasks that were delivered and are not settled."""
    observed_time: str | None = None
    """When it was read."""


class DecisionStatus(_Part):
    """The last decision: what the law asks for, and what was made of it."""

    raw: int = 0
    """What the law asks for before minimum, maximum and limits."""
    reason: str = ""
    """Why the pool has the size it has."""
    limited_by: str = ""
    """What kept it from the size that the law asks for; "" if nothing does."""
    message: str = ""
    """The reason in one sentence with its numbers."""
    change_time: str | None = None
    """When the desired size last changed."""
    scale_in_not_before: str | None = None
    """Earliest time of the next scale-in, where a window is waited for."""


class Condition(_Part):
    """As `metav1.Condition`."""

    type: str
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, in a sentence."""
    observed_generation: int = 0
    """The generation of the spec that it is about."""
    last_transition_time: str | None = None
    """When the status last changed."""


class PoolStatus(_Part):
    """What the operator found and decided."""

    observed_generation: int = 0
    """The generation of the spec that this is about."""
    replicas: int = 0
    """Pods that are not terminating."""
    ready_replicas: int = 0
    """Of them, those that are ready."""
    desired_replicas: int = 0
    """How many there should be."""
    selector: str = ""
    """The label selector of the pods."""
    workers: WorkersStatus = WorkersStatus()
    """Workers by what they do."""
    queue: QueueStatus = QueueStatus()
    """What the pool serves of its queue."""
    decision: DecisionStatus = DecisionStatus()
    """The last decision."""
    conditions: tuple[Condition, ...] = ()
    """What holds of the pool."""
