"""Cases C18, C31 to C35, C37 and C42 on a real cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import nats as library
import pytest
import yaml
from tests.cluster.conftest import PoolHandle
from tests.cluster.kube import Failed, apply, kubectl, until
from tests.cluster.operator_process import OperatorProcess

Make = Callable[..., PoolHandle]
FINALIZER = "headrace.dev/test-stuck"


def uids(pool: PoolHandle) -> set[str]:
    return {
        each["metadata"]["uid"]
        for each in pool.pods()
        if "deletionTimestamp" not in each["metadata"]
    }


def patch(pool: PoolHandle, what: str, name: str, change: dict[str, Any]) -> None:
    kubectl(
        *("patch", what, name, "-n", pool.namespace, "--type=merge", "-p", json.dumps(change)),
    )


def test_c18_a_work_stream_that_is_deleted_is_no_empty_queue(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=2, replicas=2)
    pool.until_ready(2)

    async def delete() -> None:
        connection = await library.connect(pool.nats_url)
        await connection.jetstream().delete_stream(f"HEADRACE_{pool.queue}")
        await connection.close()

    asyncio.run(delete())
    found = pool.until_condition("QueueReachable", "False", "NoStream", seconds=30)
    assert found["message"]
    patch(pool, "workerpool", pool.name, {"spec": {"replicas": None}})
    pool.until_condition("Paused", "False", "Automatic", seconds=20)
    time.sleep(5)  # longer than the window: nothing is to happen
    assert pool.size() == 2
    assert pool.condition("ScalingActive")["reason"] == "Unknown"


def test_c31_limits_that_change_touch_no_pod(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool(minWorkers=2, maxWorkers=3)
    pool.until_ready(2)
    before, generation = uids(pool), pool.deployment()["metadata"]["generation"]
    pool.apply(
        maxWorkers=7,
        scaling={"scaleUpThreshold": 3, "scaleDownWindow": "5s"},
        drain={"timeout": "2m"},
    )
    wanted = pool.body()["metadata"]["generation"]
    until(lambda: pool.status().get("observedGeneration") == wanted, 20)
    time.sleep(3)  # several looks: nothing is to happen
    assert pool.deployment()["metadata"]["generation"] == generation
    assert uids(pool) == before
    restarts = [
        row["restartCount"] for pod in pool.pods() for row in pod["status"]["containerStatuses"]
    ]
    assert restarts == [0, 0]


def test_c32_a_pin_to_zero_lets_the_busy_ones_finish(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=3, replicas=3)
    pool.until_ready(3)
    pool.submit("hold", [{"n": n, "seconds": 10} for n in range(2)])
    until(lambda: len(pool.runs()) == 2)
    kubectl("scale", f"workerpool/{pool.name}", "-n", pool.namespace, "--replicas=0")
    sizes = [pool.size()]

    def at_zero() -> bool:
        if (size := pool.size()) != sizes[-1]:
            sizes.append(size)
        return size == 0

    until(at_zero, 60, 0.1)
    assert sizes == sorted(sizes, reverse=True)  # down, in steps, and never up again
    assert pool.finish() == {"completed": 2}
    assert pool.runs() == {0: 1, 1: 1}
    pool.until_condition("Paused", "True", "Pinned")
    generation = pool.deployment()["metadata"]["generation"]
    for _ in range(2):  # the same answer each time
        with pytest.raises(Failed, match="replicas is above maxWorkers"):
            kubectl("scale", f"workerpool/{pool.name}", "-n", pool.namespace, "--replicas=500")
    time.sleep(3)
    assert pool.deployment()["metadata"]["generation"] == generation


def test_c33_pods_stuck_in_terminating_hold_nothing_up(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=3, replicas=3)
    pool.until_ready(3)
    stuck = [each["metadata"]["name"] for each in pool.pods()[:2]]
    try:
        for name in stuck:
            patch(pool, "pod", name, {"metadata": {"finalizers": [FINALIZER]}})
            kubectl(
                *("delete", "pod", name, "-n", pool.namespace, "--grace-period=1", "--wait=false")
            )
        pool.until_ready(3)  # the ReplicaSet has replaced them
        patch(pool, "workerpool", pool.name, {"spec": {"replicas": None}})
        pool.until_size(0, seconds=40)  # the three that are idle go
        pool.submit("hold", [{"n": n, "seconds": 3} for n in range(3)])
        until(lambda: pool.size() == 3, 30, what="the maximum, as if the stuck ones were not there")
        assert pool.finish() == {"completed": 3}
        status = pool.status()["workers"]
        assert status["terminating"] >= 2
        pool.until_condition("Draining", "True", "StuckTerminating", seconds=50)
        until(
            lambda: all(name in pool.condition("Draining")["message"] for name in stuck),
            60,  # the next look at a pool at rest
            what="both are named",
        )
        pool.until_size(0, seconds=40)
    finally:
        for name in stuck:
            patch(pool, "pod", name, {"metadata": {"finalizers": None}})


def test_c34_one_bad_pool_of_ten(
    operator: OperatorProcess, make_pool: Make, make_manifest: Callable[..., dict[str, Any]]
) -> None:
    container = {
        "name": "worker",
        "image": "headrace/worker:dev",
        "volumeMounts": [{"name": "nowhere", "mountPath": "/data"}],
    }
    good = [make_pool(f"good-{n}") for n in range(9)]
    began = time.monotonic()
    bad = make_pool("bad", template={"spec": {"containers": [container], "volumes": []}})
    found = bad.until_condition("Ready", "False", "Refused", seconds=10)
    assert "nowhere" in found["message"] or "volumeMounts" in found["message"]
    for pool in good:
        pool.until_condition("ScalingActive", "True", seconds=10)
    for pool in good[::4]:
        pool.submit("hold", [{"n": 1, "seconds": 0.1}])
        until(lambda pool=pool: pool.size() == 1, 5, 0.1)  # type: ignore[misc]
    assert time.monotonic() - began < 60
    assert operator.process is not None
    assert operator.process.poll() is None
    # tried again further and further apart, and not in a loop
    assert operator.words.count("nowhere") < 30
    for pool in good[::4]:
        assert pool.finish() == {"completed": 1}
    bad.apply(template=make_manifest("any")["spec"]["template"])
    bad.until_condition("TemplateValid", "True", "Applied", seconds=20)
    bad.submit("hold", [{"n": 1, "seconds": 0.1}])
    assert bad.finish() == {"completed": 1}


@pytest.mark.parametrize("operator_is", ["running", "gone"])
def test_c35_a_namespace_goes_with_or_without_the_operator(
    operator: OperatorProcess, make_pool: Make, operator_is: str
) -> None:
    pool = make_pool(minWorkers=1)
    pool.until_ready(1)
    assert "finalizers" not in pool.body()["metadata"]
    if operator_is == "gone":
        operator.kill()
    # all of it: the pool, its Deployment, its pods
    kubectl("delete", "namespace", pool.namespace, timeout=60)
    if operator_is == "running":
        time.sleep(3)  # it has heard of it
        lines = operator.words.splitlines()
        assert sum(" ERROR " in line or line.startswith("Traceback") for line in lines) <= 3
        assert operator.alive()


def test_c37_each_pool_counts_only_what_it_can_take_now(
    operator: OperatorProcess, make_pool: Make
) -> None:
    plain = make_pool("plain")
    gpu = make_pool("gpu", queue=plain.queue, tags=["gpu"], untagged="Leave")
    plain.client.submit_many(
        [{"type": "hold", "data": {"n": n}, "delay": 3600} for n in range(100, 200)]
    )
    gpu.submit("hold", [{"n": n, "seconds": 8} for n in range(4)], tag="gpu")
    gpu.until_size(4, seconds=30)

    def counted(pool: PoolHandle) -> int:
        queue = pool.status().get("queue") or {}
        return int(queue.get("pending", 0)) + int(queue.get("inFlight", 0))

    until(lambda: counted(gpu) == 4, 20)
    assert counted(plain) == 0
    assert plain.size() == 0
    plain.submit("hold", [{"n": 10, "seconds": 0.1}], delay=2)
    plain.until_size(1, seconds=20)  # once it is due
    assert plain.finish() == {"completed": 1}
    assert gpu.finish() == {"completed": 4}
    pods = {row["n"]: row["pod"] for row in gpu.journal() if row["what"] == "start"}
    assert all(pods[n].startswith("gpu-") for n in range(4))
    plain.until_size(0)


def test_c42_nothing_drifts_from_what_was_applied(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=3)
    generation = pool.body()["metadata"]["generation"]
    pool.submit("hold", [{"n": n, "seconds": 6} for n in range(3)])
    pool.until_size(3)
    text = yaml.safe_dump(pool.manifest)
    assert kubectl("diff", "-f", "-", stdin=text) == ""  # raises where there is a difference
    apply(pool.manifest)
    apply(pool.manifest)
    assert pool.body()["metadata"]["generation"] == generation
    assert "replicas" not in pool.body()["spec"]  # a size of the operator's is not in the spec
    assert pool.finish() == {"completed": 3}
    pool.until_size(0)
    assert kubectl("diff", "-f", "-", stdin=text) == ""
    assert pool.body()["metadata"]["generation"] == generation
