"""What keeps a pool from the size that its queue asks for, and how `kubectl describe` says so."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.conftest import PoolHandle
from tests.cluster.kube import Failed, apply, get, kubectl, until
from tests.cluster.operator_process import OperatorProcess

Make = Callable[..., PoolHandle]
MakeOperator = Callable[..., OperatorProcess]


def described(pool: PoolHandle) -> str:
    return kubectl("describe", "workerpool", pool.name, "-n", pool.namespace)


def scale(pool: PoolHandle, what: str, size: int) -> str:
    return kubectl("scale", what, "-n", pool.namespace, f"--replicas={size}")


def test_kubectl_scale_pins_and_null_frees(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool(maxWorkers=5, replicas=1)
    pool.until_ready(1)
    scale(pool, f"workerpool/{pool.name}", 3)
    pool.until_size(3)
    found = pool.until_condition("Paused", "True", "Pinned")
    assert "replicas" in found["message"]
    until(lambda: "pinned at 3" in described(pool), 20)
    with pytest.raises(Failed, match="replicas is above maxWorkers"):
        scale(pool, f"workerpool/{pool.name}", 9)
    kubectl(
        *("patch", "workerpool", pool.name, "-n", pool.namespace, "--type=merge"),
        *("-p", '{"spec":{"replicas":null}}'),
    )
    pool.until_condition("Paused", "False", "Automatic")
    pool.until_size(0, seconds=60)


def test_pauses_hold_their_direction(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool(maxWorkers=3, scaling={"pause": "Out"})
    pool.submit("hold", [{"n": n, "seconds": 1} for n in range(3)])
    pool.until_condition("Paused", "True", "Out")
    pool.until_condition("ScalingActive", "True", "Paused")
    until(lambda: "scale-out is paused" in described(pool))
    assert pool.size() == 0
    pool.apply(scaling={"pause": "In"})
    assert pool.finish() == {"completed": 3}
    until(lambda: "scale-in is paused" in described(pool), 30)
    assert pool.size() >= 1
    pool.apply(scaling={"pause": "None"})
    pool.until_size(0)


def test_an_image_that_does_not_exist_stops_growth_and_is_named(
    operator: OperatorProcess, make_pool: Make, make_manifest: Callable[..., dict[str, Any]]
) -> None:
    container = {"name": "worker", "image": "headrace/no-such-image:1"}
    pool = make_pool(maxWorkers=8, template={"spec": {"containers": [container]}})
    pool.submit("hold", [{"n": n, "seconds": 1} for n in range(20)])
    found = pool.until_condition("Ready", "False", "PodsFailing")
    assert "no-such-image" in found["message"]
    until(lambda: any(reason == "PodsFailing" for reason, _ in pool.events()))
    size = pool.size()
    pool.until_condition("ScalingLimited", "True", seconds=30)
    generation = pool.deployment()["metadata"]["generation"]
    pool.submit("hold", [{"n": n, "seconds": 0.1} for n in range(20, 60)])
    until(lambda: pool.status()["queue"]["pending"] == 60, 20)
    time.sleep(5)  # longer than any look: nothing is to happen
    assert pool.size() == size <= 8
    assert pool.deployment()["metadata"]["generation"] == generation
    assert pool.status()["readyReplicas"] == 0
    # with an image that is there the backlog drains by itself
    pool.apply(template=make_manifest("any")["spec"]["template"])
    assert pool.finish() == {"completed": 60}


def test_a_quota_stops_growth_and_costs_nobody_a_drain(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=8)
    apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "pods", "namespace": pool.namespace},
            "spec": {"hard": {"pods": "2"}},
        }
    )
    pool.submit("hold", [{"n": n, "seconds": 25} for n in range(6)])
    found = pool.until_condition("ScalingLimited", "True", "QuotaExceeded")
    assert "exceeded quota" in found["message"]
    until(lambda: any(reason == "QuotaExceeded" for reason, _ in pool.events()))
    kubectl("delete", "quota", "pods", "-n", pool.namespace)
    pool.until_ready(6, seconds=120)
    assert pool.finish() == {"completed": 6}
    assert set(pool.runs().values()) == {1}


def test_a_wait_target_sizes_a_pool_that_has_measured_its_tasks(
    operator: OperatorProcess, make_pool: Make
) -> None:
    """For the thresholds one worker is enough."""
    scaling = {"scaleUpThreshold": 1000, "scaleDownThreshold": 1, "targetWait": {"normal": "1s"}}
    pool = make_pool(maxWorkers=3, concurrency=2, scaling=scaling)
    pool.submit("hold", [{"n": n, "seconds": 0.5} for n in range(150)])
    pool.until_size(1)
    pool.until_size(3)
    assert pool.finish() == {"completed": 150}
    assert max(pool.runs().values()) == 1


def test_a_foreign_deployment_is_left_alone(operator: OperatorProcess, make_pool: Make) -> None:
    labels = {"app": "theirs"}
    container = {"name": "c", "image": "headrace/nats:dev", "imagePullPolicy": "IfNotPresent"}
    pool = make_pool(
        replicas=0,
    )
    pool.until_size(0)
    other = dict(pool.manifest) | {
        "metadata": {"name": "theirs", "namespace": pool.namespace},
    }
    apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "theirs", "namespace": pool.namespace},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }
    )
    before = get("deployment", "theirs", "-n", pool.namespace)["metadata"]["generation"]
    apply(other)
    foreign = PoolHandle(pool.namespace, "theirs", pool.client, pool.nats_url, other)
    found = foreign.until_condition("Conflict", "True", "ForeignDeployment")
    assert "rename the pool" in found["message"]
    after = get("deployment", "theirs", "-n", pool.namespace)
    assert after["metadata"]["generation"] == before
    assert "ownerReferences" not in after["metadata"]


def test_an_autoscaler_on_the_deployment_is_a_conflict(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(minWorkers=1)
    pool.until_size(1)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": pool.name}
    apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "theirs", "namespace": pool.namespace},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3},
        }
    )
    found = pool.until_condition("Conflict", "True", "Autoscaler")
    assert "HorizontalPodAutoscaler theirs" in found["message"]
    kubectl("delete", "hpa", "theirs", "-n", pool.namespace)
    pool.until_condition("Conflict", "False", seconds=40)


def test_a_scaled_object_is_a_conflict_and_nobody_fights(
    operator: OperatorProcess, make_pool: Make
) -> None:
    """KEDA's kind alone is enough: it need not run here."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "scaledobjects.keda.sh"},
            "spec": {
                "group": "keda.sh",
                "scope": "Namespaced",
                "names": {"kind": "ScaledObject", "plural": "scaledobjects"},
                "versions": [
                    {
                        "name": "v1alpha1",
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": schema},
                    }
                ],
            },
        }
    )
    pool = make_pool(minWorkers=1, maxWorkers=4)
    pool.until_ready(1)
    theirs = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "theirs", "namespace": pool.namespace},
        "spec": {"scaleTargetRef": {"name": pool.name}},
    }
    until(lambda: apply(theirs), 20)
    pool.until_condition("Conflict", "True", "Autoscaler", seconds=40)
    scale(pool, f"deployment/{pool.name}", 3)
    pool.until_ready(3)
    assert pool.condition("ScalingActive")["status"] == "False"
    assert pool.size() == 3
    kubectl("delete", "scaledobject", "theirs", "-n", pool.namespace)
    pool.until_size(1, seconds=60)


def test_two_pools_on_one_queue_split_it(operator: OperatorProcess, make_pool: Make) -> None:
    one = make_pool("one", maxWorkers=4)
    two = make_pool("two", maxWorkers=4, queue=one.queue)
    one.submit("hold", [{"n": n, "seconds": 12} for n in range(4)])
    found = one.until_condition("Conflict", "True", "QueueShared")
    assert f"{two.namespace}/two" in found["message"]
    until(lambda: one.size() == 2 and two.size() == 2, 30, what="half of it each")
    assert one.finish() == {"completed": 4}
    assert set(one.runs().values()) == {1}
    one.until_size(0)
    two.until_size(0)


def test_a_plain_publish_wakes_a_pool_that_has_never_run(
    operator: OperatorProcess, make_pool: Make
) -> None:
    """No worker has made a consumer yet; the task was not submitted by the SDK either."""
    import asyncio

    import nats

    pool = make_pool()
    pool.until_size(0)

    async def publish() -> None:
        connection = await nats.connect(pool.nats_url)
        body = json.dumps({"type": "hold", "data": {"n": 1, "seconds": 0.1}}).encode()
        await connection.jetstream().publish(
            f"headrace.q.{pool.queue}.normal._.by-hand", body, headers={"Nats-Msg-Id": "by-hand"}
        )
        await connection.close()

    asyncio.run(publish())
    pool.submitted.append("by-hand")
    assert pool.finish(60) == {"completed": 1}


def test_what_is_changed_by_hand_comes_back(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool(minWorkers=2, maxWorkers=2)
    pool.until_ready(2)
    scale(pool, f"deployment/{pool.name}", 4)
    until(lambda: pool.size() == 2, 60, what="the size is the pool's again")
    kubectl(
        *("set", "env", f"deployment/{pool.name}", "-n", pool.namespace),
        "HEADRACE_QUEUE=somebody-elses",
    )

    def queue() -> str:
        container = pool.deployment()["spec"]["template"]["spec"]["containers"][0]
        return next(each["value"] for each in container["env"] if each["name"] == "HEADRACE_QUEUE")

    until(lambda: queue() == pool.queue)
    until(lambda: any(reason == "DeploymentReverted" for reason, _ in pool.events()))


def test_the_size_survives_every_apply(operator: OperatorProcess, make_pool: Make) -> None:
    """An apply that leaves the size out after one that had it would set it to 1 (k8s#67135)."""
    pool = make_pool(minWorkers=3, maxWorkers=3)
    pool.until_ready(3)

    def is_now(version: str) -> bool:
        labels = pool.deployment()["spec"]["template"]["metadata"]["labels"]
        return bool(labels.get("version") == version)

    for wanted in ("a", "b", "c"):
        pool.apply(template={"metadata": {"labels": {"version": wanted}}})
        until(functools.partial(is_now, wanted))
        assert pool.size() == 3


def test_a_template_that_the_server_refuses(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool()
    pool.until_size(0)
    container = {"name": "worker", "image": "headrace/worker:dev", "imagePullPolicy": "Perhaps"}
    pool.apply(template={"spec": {"containers": [container]}})
    found = pool.until_condition("TemplateValid", "False", "Refused")
    assert "imagePullPolicy" in found["message"]


def test_a_queue_that_the_namespace_may_not_use(
    make_operator: MakeOperator, make_pool: Make, namespace: str
) -> None:
    make_operator(default_nats_namespaces="team-a=team-a-*")
    pool = make_pool()
    found = pool.until_condition("QueueReachable", "False", "NotAllowed")
    assert "defaultNats.namespaces" in found["message"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"minWorkers": 9, "maxWorkers": 3}, "minWorkers is above maxWorkers"),
    ({"replicas": 99}, "replicas is above maxWorkers"),
    ({"untagged": "Leave"}, "untagged: Leave leaves nothing to serve"),
    ({"untagged": "Maybe"}, "Unsupported value"),
    ({"queue": "a.b"}, "should match"),
    ({"concurrency": 0}, "greater than or equal to 1"),
    ({"tags": ["a", "a"]}, "Duplicate value"),
    ({"scaling": {"scaleUpThreshold": 1, "scaleDownThreshold": 5}}, "is above scaleUpThreshold"),
    ({"scaling": {"scaleDownWindow": "60"}}, "should match"),
    ({"scaling": {"scaleDownWindow": "9h"}}, "scaleDownWindow must be at most"),
    ({"scaling": {"step": {"period": "0s"}}}, "period must be longer than 0s"),
    (
        {"scaling": {"targetWait": {"critical": "9s", "low": "1s"}}},
        "critical waits longer than low",
    ),
    ({"scaling": {"targetWait": {"high": "0s"}}}, "high must be longer than 0s"),
    ({"nats": {"url": "http://x"}}, "should match"),
    ({"nats": {"url": "nats://user:secret@x"}}, "should match"),
    (
        {"template": {"spec": {"containers": [{"name": "web", "image": "x"}]}}},
        "one container named worker",
    ),
    ({"template": {"spec": {"terminationGracePeriodSeconds": 5}}}, "would cut tasks"),
    ({"template": {"spec": {"restartPolicy": "Never"}}}, "Unsupported value"),
    (
        {"template": {"metadata": {"labels": {"headrace.dev/pool": "x"}}}},
        "labels under headrace.dev/ are the operator's",
    ),
    ({"maxworkers": 3}, "unknown field"),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=[json.dumps(spec)[:40] for spec, _ in BAD])
def test_a_bad_manifest_is_refused_with_what_to_do(
    spec: dict[str, Any], message: str, namespace: str, make_manifest: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(Failed, match=message):
        apply(make_manifest("bad", **spec))


def test_the_queue_cannot_be_changed(
    namespace: str, make_manifest: Callable[..., dict[str, Any]]
) -> None:
    apply(make_manifest("one", queue="first"))
    with pytest.raises(Failed, match="queue cannot be changed"):
        apply(make_manifest("one", queue="second"))


def test_a_pools_name_is_short(
    namespace: str, make_manifest: Callable[..., dict[str, Any]]
) -> None:
    for name in ("a" * 53, "with.dot"):
        with pytest.raises(Failed, match="up to 52"):
            apply(make_manifest(name))


def test_deleting_in_any_order_never_hangs(operator: OperatorProcess, make_pool: Make) -> None:
    pool = make_pool(minWorkers=1)
    pool.until_ready(1)
    kubectl("delete", "workerpool", pool.name, "-n", pool.namespace, timeout=20)
    until(lambda: not get("deployments", "-n", pool.namespace), 30)
    apply(pool.manifest)
    pool.until_size(1)
    operator.kill()
    kubectl("delete", "workerpool", pool.name, "-n", pool.namespace, timeout=20)
    until(lambda: not get("deployments", "-n", pool.namespace), 30)
