"""A real API server, real controllers, real kubelets, a real NATS; the operator as a process."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.kube import Failed, apply, get, kubectl, until
from tests.cluster.operator_process import OperatorProcess

from headrace import SyncClient

ROOT = Path(__file__).parents[2]
SYSTEM = "headrace-test"
NATS_INSIDE = f"nats://nats.{SYSTEM}.svc:4222"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> None:
    """There is a cluster, and it knows what a WorkerPool is."""
    if shutil.which("kubectl") is None or not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: run `make test-cluster`")
    define()


def define() -> None:
    """Tell the cluster what a WorkerPool is, and wait until it serves it."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    # A definition that is a moment old has no conditions yet, and `kubectl wait` fails at that.
    until(lambda: kubectl("wait", "--for=condition=Established", "crd/workerpools.headrace.dev"))
    until(lambda: kubectl("get", "workerpools", "-A") is not None)


@pytest.fixture(scope="session")
def nats(cluster: None) -> str:
    """The url of a NATS server in the cluster, from where the tests run."""
    until(lambda: make_namespace(SYSTEM), 90, what="the last run's namespace is gone")
    return deploy_nats(SYSTEM)


def deploy_nats(namespace: str) -> str:
    """A NATS server in a namespace; its url."""
    text = (Path(__file__).parent / "nats.yaml").read_text().replace("headrace-test", namespace)
    objects = list(yaml.safe_load_all(text))
    until(lambda: apply(*objects), 30)  # again where another process of this run was faster
    kubectl("rollout", "status", "-n", namespace, "deployment/nats", "--timeout=60s", timeout=70)
    address = get("service", "nats", "-n", namespace)["spec"]["clusterIP"]
    return f"nats://{address}:4222"


@pytest.fixture
def own_nats(cluster: None, namespace: str) -> str:
    """A NATS server of the test's own, that it may stop."""
    return deploy_nats(namespace)


def make_namespace(name: str) -> bool:
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return bool(get("namespace", name)["status"]["phase"] == "Active")


@pytest.fixture
def namespace(cluster: None) -> Iterator[str]:
    """A namespace of the test's own, with the app of its workers."""
    name = f"t{next(_numbers)}-{uuid.uuid4().hex[:6]}"
    apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "app", "namespace": name},
            "data": {"app.py": (Path(__file__).parent / "app.py").read_text()},
        },
    )
    yield name
    kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def make_operator(
    nats: str, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    """Starts replicas of the operator, with a Lease of the test's own."""
    started: list[OperatorProcess] = []
    lease = f"lease-{uuid.uuid4().hex[:8]}"

    def make(identity: str = "one", **settings: str) -> OperatorProcess:
        process = OperatorProcess(
            tmp_path,
            identity,
            **{
                "namespace": SYSTEM,
                "lease_name": lease,
                "nats_url": nats,
                "workers_nats_url": NATS_INSIDE,
                "default_nats_namespaces": "*=*",
                "watch_namespaces": namespace,
            }
            | settings,
        )
        started.append(process)
        return process.start()

    yield make
    for process in started:
        if process.process is not None and process.process.poll() is None:
            process.process.send_signal(18)  # SIGCONT, for those that a test has stopped
            process.stop()
    kubectl("delete", "lease", "-n", SYSTEM, lease, "--ignore-not-found")


@pytest.fixture
def operator(make_operator: Callable[..., OperatorProcess], namespace: str) -> OperatorProcess:
    """One replica that serves the test's namespace."""
    return make_operator(watch_namespaces=namespace)


@dataclass
class PoolHandle:
    """One WorkerPool, its queue, and what its tasks told of themselves."""

    namespace: str
    name: str
    client: SyncClient
    nats_url: str
    manifest: dict[str, Any]
    submitted: list[str] = field(default_factory=list)

    @property
    def queue(self) -> str:
        return str(self.manifest["spec"]["queue"])

    def apply(self, **spec: Any) -> None:
        """Apply it, with changes."""
        self.manifest["spec"] = merged(self.manifest["spec"], spec)
        apply(self.manifest)

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = get("workerpool", self.name, "-n", self.namespace)
        return found

    def status(self) -> dict[str, Any]:
        return dict(self.body().get("status") or {})

    def condition(self, kind: str) -> dict[str, Any]:
        rows = self.status().get("conditions") or []
        return next((each for each in rows if each["type"] == kind), {})

    def until_condition(
        self, kind: str, status: str, reason: str | None = None, seconds: float = 60
    ) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.condition(kind)
            right = found.get("status") == status and reason in (None, found.get("reason"))
            return found if right else None

        return until(look, seconds, what=f"{kind}={status}/{reason}; {self.status()}")

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = get("deployment", self.name, "-n", self.namespace)
        return found

    def size(self) -> int:
        return int(self.deployment()["spec"]["replicas"])

    def pods(self) -> list[dict[str, Any]]:
        found = get("pods", "-n", self.namespace, "-l", f"headrace.dev/pool={self.name}")
        return list(found)

    def until_size(self, size: int, seconds: float = 60) -> None:
        until(lambda: self.size() == size, seconds, what=f"size {size}")

    def until_ready(self, count: int, seconds: float = 90) -> None:
        def look() -> bool:
            return int(self.deployment()["status"].get("readyReplicas", 0)) == count

        until(look, seconds, what=f"{count} ready; {[each['status'] for each in self.pods()]}")

    def events(self) -> list[tuple[str, str]]:
        rows = get("events", "-n", self.namespace)
        return [
            (each["reason"], each["message"])
            for each in rows
            if each["involvedObject"]["name"] == self.name
            and each["involvedObject"]["kind"] == "WorkerPool"
        ]

    def submit(self, type_: str, rows: list[dict[str, Any]], **options: Any) -> list[str]:
        tasks = self.client.submit_many([{"type": type_, "data": data, **options} for data in rows])
        found = [task.id for task in tasks]
        self.submitted += found
        return found

    def finish(self, seconds: float = 120) -> Counter[str]:
        """Wait for all that was submitted; how it ended."""
        return Counter(
            self.client.wait_for(task, timeout=seconds).status.value for task in self.submitted
        )

    def journal(self) -> list[dict[str, Any]]:
        """What the handlers told, in order."""
        import asyncio

        import nats as client

        async def read() -> list[dict[str, Any]]:
            connection = await client.connect(self.nats_url)
            stream = connection.jetstream()
            info = await stream.stream_info(f"journal-{self.queue}")
            rows = []
            for n in range(1, info.state.last_seq + 1):
                message = await stream.get_msg(f"journal-{self.queue}", n)
                rows.append(json.loads(message.data or b"{}"))
            await connection.close()
            return rows

        return asyncio.run(read())

    def runs(self) -> Counter[int]:
        """How often each task was begun."""
        return Counter(row["n"] for row in self.journal() if row["what"] == "start")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    found = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = merged(found[key], value)
        else:
            found[key] = value
    return found


def _spec(queue: str) -> dict[str, Any]:
    return {
        "queue": queue,
        "app": "app:app",
        "concurrency": 1,
        "minWorkers": 0,
        "maxWorkers": 10,
        "scaling": {"scaleUpThreshold": 1, "scaleDownThreshold": 1, "scaleDownWindow": "2s"},
        "drain": {"timeout": "2m"},
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "worker",
                        "image": "headrace/worker:dev",
                        "imagePullPolicy": "IfNotPresent",
                        "env": [{"name": "PYTHONPATH", "value": "/app"}],
                        "volumeMounts": [
                            {"name": "app", "mountPath": "/app"},
                            {"name": "scratch", "mountPath": "/scratch"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "app", "configMap": {"name": "app"}},
                    {"name": "scratch", "emptyDir": {}},
                ],
            }
        },
    }


@pytest.fixture
def make_manifest(namespace: str) -> Callable[..., dict[str, Any]]:
    """A good manifest in the test's namespace, with changes."""

    def make(name: str, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name, "namespace": namespace},
            "spec": merged(_spec(spec.get("queue") or f"{namespace}-{name[:20]}"), spec),
        }

    return make


@pytest.fixture
def make_pool(
    nats: str, namespace: str, make_manifest: Callable[..., dict[str, Any]]
) -> Iterator[Callable[..., PoolHandle]]:
    """Makes pools in the test's namespace."""
    clients: list[SyncClient] = []

    def make(name: str = "pool", url: str = nats, **spec: Any) -> PoolHandle:
        import asyncio

        import nats as library

        queue = spec.get("queue") or f"{namespace}-{name}"

        async def journal() -> None:
            connection = await library.connect(url)
            await connection.jetstream().add_stream(
                name=f"journal-{queue}", subjects=[f"journal.{queue}"]
            )
            await connection.close()

        asyncio.run(journal())
        client = SyncClient(url, queue).start()
        clients.append(client)
        manifest = make_manifest(name, **spec | {"queue": queue})
        handle = PoolHandle(namespace, name, client, url, manifest)
        apply(handle.manifest)
        return handle

    yield make
    for client in clients:
        client.stop()


__all__ = ["Failed"]
