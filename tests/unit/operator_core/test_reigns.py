"""A replica that leads again, after another one has led."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.unit.operator_core.builders import pod
from tests.unit.scaling.builders import depth

from headrace.scaling import Depth
from headrace_operator.adapters.metrics import Metrics
from headrace_operator.app.ports import QueueLook
from headrace_operator.app.reconcile import Reconciler
from headrace_operator.core.values import Answer, Deployment, Pod, ReplicaSet
from headrace_operator.errors import QueueUnreadable
from headrace_operator.settings import Settings

KEY = ("n", "p")


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "queue": "q",
            "concurrency": 1,
            "maxWorkers": 50,
            "template": {"spec": {"containers": [{"name": "worker", "image": "i"}]}},
        }
        | spec,
    }


class Cluster:
    """A Deployment whose pods are there at once."""

    size = 0
    listing: asyncio.Event | None = None
    """Set when the pods are being listed, which then waits for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def deployment(self, key: object, uid: str) -> Deployment:
        return Deployment(
            uid="d", version="1", replicas=self.size, ours=True, observed=True, total=self.size,
            updated=self.size, ready=self.size, size_owner=True, generation=1,
        )  # fmt: skip

    async def apply(self, body: object) -> Deployment:
        return await self.deployment(KEY, "u")

    def forget(self, key: object) -> None: ...

    async def replica_sets(self, key: object) -> tuple[ReplicaSet, ...]:
        return (ReplicaSet("rs", "rs", self.size, self.size, self.size, self.size, True),)

    async def pods(self, key: object) -> tuple[Pod, ...]:
        if self.listing is not None:
            self.listing.set()
            await self.go.wait()
        return tuple(pod(f"p{n}", owner="rs") for n in range(self.size))

    async def scale(self, key: object, replicas: int, version: str) -> None:
        self.size = replicas

    async def mark(self, key: object, pod: object, serving: bool) -> None: ...

    async def conflicts(self, key: object) -> tuple[str, ...]:
        return ()

    async def status(self, key: object, status: object) -> tuple[str, ...]:
        return ()

    async def event(self, *args: object) -> None: ...


class Queues:
    """Idle workers that do what they are told."""

    lanes: tuple[Depth, ...] | None = ()

    def __init__(self) -> None:
        self.drained: list[str] = []

    def pools(self, address: object) -> set[tuple[str, str]]:
        return {KEY}

    def watch(self, key: object, address: object) -> None: ...

    def forget(self, key: object) -> None: ...

    def look(self, address: object) -> QueueLook:
        if self.lanes is None:
            raise QueueUnreadable("Unreachable", "the NATS server is gone")
        return QueueLook(self.lanes, 1, 0.0)

    async def workers(self, address: object, pods: list[str]) -> list[Answer]:
        return [Answer(f"w{uid}", uid, "idle", 0, 1, 0.0) for uid in pods]

    async def drain(self, address: object, worker: str, epoch: int, seconds: float) -> Answer:
        self.drained.append(worker)
        return Answer(worker, worker[1:], "draining", 0, 1, 0.0)

    async def resume(self, address: object, worker: str, epoch: int) -> None: ...


class Leadership:
    """Leads, or not."""

    epoch, on = 1, True

    def leading(self) -> bool:
        return self.on


class Bench:
    def __init__(self, **spec: Any) -> None:
        self.cluster, self.queues, self.leadership = Cluster(), Queues(), Leadership()
        self.meter = Metrics()
        given: Any = (self.cluster, self.queues, self.leadership, self.meter)
        settings = Settings(nats_url="nats://x", default_nats_namespaces="n=*")
        self.reconciler = Reconciler(settings, *given)
        self.reconciler.seen(manifest(**spec))


@pytest.mark.parametrize(
    ("spec", "lanes"),
    [({}, None), ({}, (depth(60),)), ({"scaling": {"pause": "In"}}, (depth(60),))],
    ids=["outage", "inside the band", "paused"],
)
async def test_it_decides_from_the_size_that_is_there(
    spec: dict[str, Any], lanes: tuple[Depth, ...] | None
) -> None:
    """It went on from the target of its first reign: every rule that keeps a size kept that one,
    and 19 of 20 workers were drained in an outage."""
    bench = Bench(**spec)
    bench.queues.lanes = (depth(2),)
    await bench.reconciler.reconcile(KEY)
    await bench.reconciler.reconcile(KEY)
    assert bench.reconciler.pools[KEY].target == 1
    bench.leadership.on = False
    await bench.reconciler.reconcile(KEY)
    bench.cluster.size, bench.queues.lanes = 20, lanes  # another replica has led meanwhile
    bench.leadership.on, bench.leadership.epoch = True, 3
    await bench.reconciler.reconcile(KEY)
    assert bench.reconciler.pools[KEY].target == 20
    assert bench.queues.drained == []


async def test_a_pool_that_is_deleted_during_a_look_leaves_nothing() -> None:
    """Its age of the last decision grew for ever, and an alert fired for a pool that was gone."""
    bench = Bench()
    await bench.reconciler.reconcile(KEY)
    bench.cluster.size = 1
    bench.cluster.listing = asyncio.Event()
    look = asyncio.create_task(bench.reconciler.reconcile(KEY))
    await bench.cluster.listing.wait()
    bench.reconciler.deleted(KEY)
    bench.cluster.go.set()
    await look
    assert bench.reconciler.pools == {}
    assert b'pool="p"' not in generate_latest(bench.meter.registry)
