"""What the use cases need of the world. The adapters implement it; wiring alone knows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.scaling import Depth
from headrace_operator.core.values import Answer, Deployment, Pod, ReplicaSet

Key = tuple[str, str]
"""Namespace and name of a pool."""


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """Where a pool's queue is, and with whose rights it is read."""

    url: str = field(repr=False)  # it may hold a password
    queue: str
    credentials: str = ""
    """Path of a credentials file; "": none."""
    ca: str = ""
    """Path of the certificate authority; "": the system's."""
    certificate: str = ""
    """Path of the client's own certificate; "": none."""
    key: str = ""
    """Path of its key."""


@dataclass(frozen=True, slots=True)
class QueueLook:
    """The figures of one queue, as of `age` seconds ago."""

    lanes: tuple[Depth, ...]
    messages: int
    age: float


class Queues(Protocol):
    """NATS, as the operator reads it."""

    def pools(self, address: QueueAddress) -> Collection[Key]:
        """The pools for which this queue is watched."""

    def look(self, address: QueueAddress) -> QueueLook:
        """The newest figures, without waiting. Raises `QueueUnreadable`."""

    def watch(self, key: Key, address: QueueAddress) -> None:
        """Read this queue from now on, and wake the pool when something changes there."""

    def forget(self, key: Key) -> None:
        """The pool has gone, or has another queue."""

    async def workers(self, address: QueueAddress, pods: Collection[str]) -> list[Answer]:
        """The workers that answer, until those in all of these pods have. Raises
        `QueueUnreadable`."""

    async def drain(
        self, address: QueueAddress, worker_id: str, epoch: int, seconds: float
    ) -> Answer | None:
        """Ask a worker to take no more tasks for so long; its answer, None without one."""

    async def resume(self, address: QueueAddress, worker_id: str, epoch: int) -> Answer | None:
        """Ask a worker to take tasks again."""


class Cluster(Protocol):
    """The API server. Each raises `Unreachable`, `Conflict`, `Denied`, `Refused`, `NotFound`."""

    async def deployment(self, key: Key, pool_uid: str) -> Deployment | None:
        """The pool's Deployment, or the foreign one of its name; perhaps as it was a moment ago."""

    def forget(self, key: Key) -> None:
        """The pool has gone."""

    async def replica_sets(self, key: Key) -> tuple[ReplicaSet, ...]:
        """Those of the pool's Deployment that still matter."""

    async def pods(self, key: Key) -> tuple[Pod, ...]:
        """All pods of the pool, from a consistent list."""

    async def apply(self, body: Mapping[str, Any]) -> Deployment:
        """Server-side apply of the Deployment."""

    async def scale(self, key: Key, replicas: int, version: str) -> None:
        """Set the size, if the Deployment is still at `version`."""

    async def mark(self, key: Key, pod: Pod, serving: bool) -> None:
        """Label and deletion cost of a pod in one patch, if it is still at its version."""

    async def conflicts(self, key: Key) -> tuple[str, ...]:
        """Names of autoscalers that change the Deployment's size too."""

    async def secret(self, namespace: str, name: str, key: str) -> bytes:
        """One value of a Secret."""

    async def status(self, key: Key, status: Mapping[str, Any]) -> tuple[str, ...]:
        """Replace the pool's status; the paths that the cluster's definition does not keep."""

    async def event(self, key: Key, uid: str, kind: str, reason: str, message: str) -> None:
        """An Event on the pool; `kind` is Normal or Warning."""


class Leadership(Protocol):
    """Who reconciles."""

    @property
    def epoch(self) -> int:
        """How often the Lease has changed hands."""

    def leading(self) -> bool:
        """Whether this replica may write now."""


class Meter(Protocol):
    """Where figures go."""

    def decided(self, key: Key, figures: Mapping[str, float], reason: str) -> None:
        """A decision and the pool's numbers."""

    def condition(self, key: Key, states: Sequence[tuple[str, str]]) -> None:
        """The pool's conditions."""

    def busy_deleted(self, key: Key) -> None:
        """A scale-in ended a pod in which a task ran."""

    def reconciled(self, seconds: float) -> None:
        """How long one look took."""

    def forget(self, key: Key) -> None:
        """The pool has gone."""
