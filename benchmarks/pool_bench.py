"""What the benchmarks of one pool on Kubernetes share: a namespace, an operator beside the cluster,
a NATS server in it, and a watch on the Deployment.

They need a cluster by KUBECONFIG (`make cluster-up`; `scripts/cluster/ns` runs a command where it
can be reached) with nothing else on it.
"""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.conftest import NATS_INSIDE, SYSTEM, define, deploy_nats, make_namespace
from tests.cluster.kube import apply, get, kubectl, until
from tests.cluster.operator_process import OperatorProcess

from benchmarks.report import Row
from headrace import SyncClient


class DeploymentWatch:
    """The sizes of a Deployment as they are written, and how many pods are ready, with times."""

    def __init__(self, namespace: str, name: str) -> None:
        self._seen: list[tuple[float, int, int]] = []
        self._changed = threading.Condition()
        path = '{.spec.replicas} {.status.readyReplicas}{"\\n"}'
        self._process = subprocess.Popen(
            ["kubectl", "get", "deployment", name, "-n", namespace, "-w", "-o", f"jsonpath={path}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            size, _, ready = line.strip().partition(" ")
            with self._changed:
                self._seen.append((time.time(), int(size), int(ready or 0)))
                self._changed.notify_all()

    def when(self, size: int, after: float, within: float = 30.0) -> float:
        """When the size was first this one after a time, in seconds since the epoch."""
        return self._first(after, within, size, 1)

    def when_ready(self, pods: int, after: float, within: float = 180.0) -> float:
        """When so many pods were first ready after a time."""
        return self._first(after, within, pods, 2)

    def _first(self, after: float, within: float, wanted: int, column: int) -> float:
        with self._changed:
            deadline = time.monotonic() + within
            while True:
                for row in self._seen:
                    if row[0] >= after and row[column] == wanted:
                        return row[0]
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not {wanted} within {within} s: {self._seen[-5:]}")
                self._changed.wait(left)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class PoolBench:
    """One namespace, one operator, one NATS."""

    def __init__(self, folder: Path) -> None:
        define()
        until(lambda: make_namespace(SYSTEM), 90)
        self.nats = deploy_nats(SYSTEM)
        self.namespace = f"bench-{uuid.uuid4().hex[:6]}"
        apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.operator = OperatorProcess(
            folder,
            "bench",
            namespace=self.namespace,
            nats_url=self.nats,
            workers_nats_url=NATS_INSIDE,
            default_nats_namespaces="*=*",
            watch_namespaces=self.namespace,
            lease_seconds="15",
        ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.operator.stop()
        kubectl("delete", "namespace", self.namespace, "--wait=false")

    def pool(
        self, name: str, pod: dict[str, Any], **spec: Any
    ) -> tuple[SyncClient, DeploymentWatch]:
        """A pool, a client of its queue, a watch on its Deployment. `pod` is the pod's spec."""
        body = self.manifest(name, pod, **spec)
        apply(body)
        until(lambda: get("deployment", name, "-n", self.namespace))
        client = SyncClient(self.nats, body["spec"]["queue"]).start()
        return client, DeploymentWatch(self.namespace, name)

    def manifest(self, name: str, pod: dict[str, Any], **spec: Any) -> dict[str, Any]:
        """A pool of this bench's namespace."""
        return {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "queue": f"{self.namespace}-{name}",
                "scaling": {"scaleDownWindow": "1s"},
                "template": {"spec": pod},
                **spec,
            },
        }


WORKER = {"name": "worker", "image": "headrace/worker:dev", "imagePullPolicy": "IfNotPresent"}

NOWHERE = {"nodeSelector": {"no.such/node": "here"}, "containers": [WORKER]}
"""Pods that find no node, so that starting them takes no time from what is measured."""


def running(app: str) -> dict[str, Any]:
    """Pods that run the app of a ConfigMap by this name."""
    container = WORKER | {
        "env": [{"name": "PYTHONPATH", "value": "/app"}],
        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
    }
    return {
        "containers": [container],
        "volumes": [{"name": "app", "configMap": {"name": app}}],
    }


def config_map(namespace: str, name: str, text: str) -> dict[str, Any]:
    """One with an app in it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"app.py": text},
    }


def percentile(values: list[float], part: float) -> float:
    """The value that `part` of them are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def rows_of(
    metric: str, subject: str, values: list[float], budget: float | None, unit: str = "ms"
) -> list[Row]:
    """Median, 95th percentile (which the budget is for) and maximum."""
    p50, p95 = percentile(values, 0.5), percentile(values, 0.95)
    within = None if budget is None else p95 <= budget
    return [
        Row(f"{metric}_p50", subject, round(p50, 1), unit),
        Row(f"{metric}_p95", subject, round(p95, 1), unit, None, budget, within),
        Row(f"{metric}_max", subject, round(max(values), 1), unit),
    ]
