"""What fails around a pool: its worker, NATS, the API server, the operator itself."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.conftest import SYSTEM, PoolHandle
from tests.cluster.kube import get, kubectl, until
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.tcp_gate import TcpGate

Make = Callable[..., PoolHandle]
MakeOperator = Callable[..., OperatorProcess]


def restarts(pool: PoolHandle) -> int:
    return sum(
        each["restartCount"]
        for pod in pool.pods()
        for each in pod["status"].get("containerStatuses", [])
    )


def test_a_stuck_worker_is_restarted_and_its_task_finished(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=1)
    container = pool.manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "HEADRACE_STUCK_AFTER", "value": "5"})
    pool.apply()
    pool.submit("block", [{"n": 1, "seconds": 300}])
    until(lambda: restarts(pool) == 1, 90, what="a restart by the kubelet")
    assert pool.finish() == {"completed": 1}
    assert pool.runs()[1] == 2


def test_an_outage_of_nats_restarts_nobody_and_shrinks_nothing(
    make_operator: MakeOperator, make_pool: Make, own_nats: str, namespace: str
) -> None:
    settings = {
        "nats_url": own_nats,
        "workers_nats_url": f"nats://nats.{namespace}.svc:4222",
    }
    operator = make_operator(**settings)
    pool = make_pool(url=own_nats, maxWorkers=3, minWorkers=1)
    pool.submit("hold", [{"n": n, "seconds": 40} for n in range(3)])
    pool.until_ready(3)
    generation = pool.deployment()["metadata"]["generation"]
    kubectl("scale", "deployment/nats", "-n", namespace, "--replicas=0")
    began = time.monotonic()
    try:
        found = pool.until_condition("QueueReachable", "False", seconds=20)
        took = time.monotonic() - began
        assert took < 15, f"{took:.1f} s"
        assert "NATS" in found["message"]
        until(lambda: pool.condition("ScalingActive")["reason"] == "Unknown", 20)
        operator.kill()  # and its successor, which has never seen the queue, holds what it finds
        successor = make_operator("two", **settings)
        until(lambda: successor.metrics().get("headrace_operator_leader") == 1, 30)
        # Longer than a lease, and than the probes that would restart a pod: nothing tells it.
        time.sleep(max(0, 40 - (time.monotonic() - began)))
        assert pool.size() == 3
        assert pool.deployment()["metadata"]["generation"] == generation  # nobody wrote a size
        assert pool.condition("QueueReachable")["status"] != "True"
        assert restarts(pool) == 0
        assert all(each["status"]["containerStatuses"][0]["ready"] for each in pool.pods()), (
            "an outage makes nobody unready"
        )
    finally:
        kubectl("scale", "deployment/nats", "-n", namespace, "--replicas=1")
        kubectl("rollout", "status", "-n", namespace, "deployment/nats", "--timeout=60s")
    pool.until_condition("QueueReachable", "True", seconds=30)
    assert pool.finish() == {"completed": 3}
    pool.until_size(1, seconds=60)
    assert restarts(pool) == 0


def test_workers_that_start_before_nats_wait_for_it(
    operator: OperatorProcess, make_pool: Make
) -> None:
    """Alive and not ready, however long it takes."""
    pool = make_pool(minWorkers=1, nats={"url": "nats://nowhere.example.invalid:4222"})

    def tries() -> int:
        return kubectl("logs", "-n", pool.namespace, f"deployment/{pool.name}").count("waiting for")

    # Eight tries take longer than the 15 s after which a liveness probe that fails restarts it.
    until(lambda: tries() >= 8, 120, what="tries to connect")
    assert restarts(pool) == 0
    status = pool.pods()[0]["status"]["containerStatuses"][0]
    assert status["ready"] is False
    pool.until_condition("QueueReachable", "False")


def test_an_outage_of_the_api_server(
    make_operator: MakeOperator, make_pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator holds, and goes on when it is back; watches that were cut silently too."""
    config = kubectl("config", "view", "--raw", "--minify")
    found = re.search(r"server: https://([\d.]+):(\d+)", config)
    assert found is not None
    gate = TcpGate(found[1], int(found[2]))
    changed = config.replace(found[0], f"server: https://127.0.0.1:{gate.port}")
    path = tmp_path / "kubeconfig"
    path.write_text(changed)
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(path))
        operator = make_operator()
    pool = make_pool(maxWorkers=3)
    pool.submit("hold", [{"n": n, "seconds": 1} for n in range(3)])
    assert pool.finish() == {"completed": 3}
    gate.stall()
    leads = "headrace_operator_leader"
    until(lambda: operator.metrics()[leads] == 0, 20, what="it leads no more by its own clock")
    assert operator.process is not None
    assert operator.process.poll() is None
    gate.resume()
    pool.submit("hold", [{"n": n, "seconds": 1} for n in range(3, 6)])
    assert pool.finish() == {"completed": 6}
    pool.until_size(0, seconds=60)
    gate.close()


def test_a_stopped_leader_is_replaced_and_writes_nothing_when_it_goes_on(
    make_operator: MakeOperator, make_pool: Make
) -> None:
    one = make_operator("one")
    until(lambda: one.metrics().get("headrace_operator_leader") == 1, 20)
    two = make_operator("two")
    pool = make_pool(maxWorkers=3)
    pool.submit("hold", [{"n": 0, "seconds": 1}])
    assert pool.finish() == {"completed": 1}
    one.send(signal.SIGSTOP)
    until(lambda: two.metrics().get("headrace_operator_leader") == 1, 30, what="a takeover")
    pool.submit("hold", [{"n": n, "seconds": 12} for n in range(1, 4)])
    pool.until_size(3)
    one.send(signal.SIGCONT)
    until(lambda: one.metrics().get("headrace_operator_leader") == 0, 10)
    assert pool.finish() == {"completed": 4}
    pool.until_size(0)
    lease = next(
        each for each in get("lease", "-n", SYSTEM) if each["spec"].get("holderIdentity") == "two"
    )
    assert lease["spec"]["leaseTransitions"] >= 1
    assert set(pool.runs().values()) == {1}


def test_a_leader_that_stops_hands_over_at_once(
    make_operator: MakeOperator, make_pool: Make
) -> None:
    one = make_operator("one", lease_seconds="30")
    until(lambda: one.metrics().get("headrace_operator_leader") == 1, 20)
    two = make_operator("two", lease_seconds="30")
    until(lambda: two.alive(), 20)
    assert one.stop() < 5
    until(lambda: two.metrics().get("headrace_operator_leader") == 1, 15)


def test_tasks_that_came_while_the_operator_was_down(
    make_operator: MakeOperator, make_pool: Make
) -> None:
    pool = make_pool()
    pool.submit("hold", [{"n": n, "seconds": 0.1} for n in range(5)])
    threading.Event().wait(1)
    make_operator()
    assert pool.finish() == {"completed": 5}
