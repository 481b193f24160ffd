"""From the API server's JSON to the few facts that are used."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.adapters.cluster import parse
from headrace_operator.api.v1alpha1 import POOL_LABEL, SERVING_LABEL
from headrace_operator.core.shape import HASH_ANNOTATION
from headrace_operator.core.values import FAILING_REASONS, MARK_COST

COST = "controller.kubernetes.io/pod-deletion-cost"


def conditions(**states: str) -> list[dict[str, Any]]:
    return [
        {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": "x"}
        for kind, status in states.items()
    ]


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "worker",
        "image": "app:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    } | more


RUNNING = {"running": {"startedAt": "2026-03-01T10:00:05Z"}}


def pod(status: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    """A pod that runs, as the API server gives it."""
    return {
        "metadata": {
            "name": "documents-7f9c-abcde",
            "generateName": "documents-7f9c-",
            "namespace": "team-a",
            "uid": "pod-uid",
            "resourceVersion": "4711",
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "labels": {POOL_LABEL: "documents", SERVING_LABEL: "true", "pod-template-hash": "7f"},
            "ownerReferences": [
                {"apiVersion": "x/v1", "kind": "Other", "name": "o", "uid": "other-uid"},
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "documents-7f9c",
                    "uid": "rs-uid",
                    "controller": True,
                    "blockOwnerDeletion": True,
                },
            ],
        }
        | meta,
        "spec": {"nodeName": "node-1", "containers": [{"name": "worker", "image": "app:1"}]},
        "status": status
        if status is not None
        else {
            "phase": "Running",
            "conditions": conditions(
                PodReadyToStartContainers="True",
                Initialized="True",
                Ready="True",
                ContainersReady="True",
                PodScheduled="True",
            ),
            "containerStatuses": [container(RUNNING, ready=True, restartCount=2)],
        },
    }


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    state = {"reason": reason} | ({"message": message} if message else {})
    return container({"waiting": state}, **more)


# --- pods ---


def test_a_pod_that_runs() -> None:
    found = parse.pod(pod())
    assert (found.name, found.uid, found.version) == ("documents-7f9c-abcde", "pod-uid", "4711")
    assert (found.owner, found.node, found.phase) == ("rs-uid", "node-1", "Running")
    assert found.created == 1772359200.0
    assert (found.ready, found.started, found.serving, found.cost) == (True, True, True, 0)
    assert (found.terminating, found.failing, found.restarts) == (False, "", 2)
    assert found.active
    assert not found.marked


def test_a_pod_that_was_just_made_has_no_status() -> None:
    raw = pod(status={})
    del raw["spec"]["nodeName"]
    found = parse.pod(raw)
    assert (found.phase, found.node, found.ready, found.started) == ("Pending", None, False, False)
    del raw["status"]
    assert parse.pod(raw) == found


def test_a_pod_for_which_there_is_no_room_has_no_node_and_does_not_fail() -> None:
    raw = pod(
        status={
            "phase": "Pending",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient cpu.",
                }
            ],
        }
    )
    del raw["spec"]["nodeName"]
    found = parse.pod(raw)
    assert (found.node, found.phase, found.failing) == (None, "Pending", "")


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull"])
def test_an_image_that_cannot_be_pulled(reason: str) -> None:
    message = 'Back-off pulling image "app:typo"'
    found = parse.pod(
        pod(
            status={
                "phase": "Pending",
                "conditions": conditions(Ready="False", PodScheduled="True"),
                "containerStatuses": [waiting(reason, message)],
            }
        )
    )
    assert found.failing == f"{reason}: {message}"
    assert (found.started, found.ready, found.node) == (False, False, "node-1")


def test_a_crash_loop_says_how_the_container_ended() -> None:
    back_off = "back-off 40s restarting failed container=worker pod=documents-7f9c-abcde"
    last = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": "x", "finishedAt": "y"}}
    status = {
        "phase": "Running",
        "conditions": conditions(Ready="False"),
        "containerStatuses": [
            waiting("CrashLoopBackOff", back_off, restartCount=4, lastState=last)
        ],
    }
    found = parse.pod(pod(status=status))
    assert found.failing == f"CrashLoopBackOff: {back_off}"
    assert (found.restarts, found.started, found.active) == (4, False, True)
    del status["containerStatuses"][0]["state"]["waiting"]["message"]  # type: ignore[index]
    assert parse.pod(pod(status=status)).failing == "CrashLoopBackOff: Error with code 1"


def test_a_container_that_fails_without_a_word() -> None:
    status = {"phase": "Pending", "containerStatuses": [waiting("CreateContainerConfigError")]}
    assert parse.pod(pod(status=status)).failing == "CreateContainerConfigError"


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", ""])
def test_a_container_that_is_being_made_does_not_fail(reason: str) -> None:
    status = {"phase": "Pending", "containerStatuses": [waiting(reason)]}
    assert reason not in FAILING_REASONS
    assert parse.pod(pod(status=status)).failing == ""


def test_an_init_container_or_a_sidecar_can_fail_too() -> None:
    init = waiting("CrashLoopBackOff", "back-off", name="migrate")
    status = {
        "phase": "Pending",
        "initContainerStatuses": [init],
        "containerStatuses": [waiting("PodInitializing")],
    }
    assert parse.pod(pod(status=status)).failing == "CrashLoopBackOff: back-off"
    sidecar = waiting("ErrImagePull", "no such image", name="proxy")
    status = {"phase": "Running", "containerStatuses": [container(RUNNING), sidecar]}
    found = parse.pod(pod(status=status))
    assert found.failing == "ErrImagePull: no such image"
    assert found.started


def test_only_the_workers_container_says_whether_it_has_started() -> None:
    sidecar = container(RUNNING, name="proxy", restartCount=7)
    worker = waiting("ContainerCreating")
    found = parse.pod(pod(status={"phase": "Pending", "containerStatuses": [sidecar, worker]}))
    assert (found.started, found.restarts) == (False, 0)


def test_a_container_that_has_ended_runs_no_more() -> None:
    ended = container({"terminated": {"exitCode": 0, "reason": "Completed"}})
    found = parse.pod(pod(status={"phase": "Running", "containerStatuses": [ended]}))
    assert not found.started


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_does_not_count(phase: str) -> None:
    assert not parse.pod(pod(status={"phase": phase, "reason": "Evicted"})).active


def test_a_pod_that_is_being_deleted() -> None:
    found = parse.pod(pod(deletionTimestamp="2026-03-01T10:10:30Z", deletionGracePeriodSeconds=630))
    assert found.terminating
    assert not found.active


def test_a_marked_pod() -> None:
    found = parse.pod(pod(labels={SERVING_LABEL: "false"}, annotations={COST: str(MARK_COST)}))
    assert (found.serving, found.cost, found.marked) == (False, MARK_COST, True)


@pytest.mark.parametrize(
    ("labels", "serving"),
    [(None, False), ({}, False), ({SERVING_LABEL: "yes"}, False), ({SERVING_LABEL: "true"}, True)],
)
def test_serving_is_what_the_template_says_and_nothing_else(labels: Any, serving: bool) -> None:
    # A ReplicaSet counts a pod as fully labelled by the same measure.
    assert parse.pod(pod(labels=labels)).serving is serving


@pytest.mark.parametrize(
    ("annotations", "cost"),
    [(None, 0), ({}, 0), ({COST: "7"}, 7), ({COST: "-7"}, -7), ({COST: "low"}, 0), ({COST: ""}, 0)],
)
def test_the_deletion_cost(annotations: Any, cost: int) -> None:
    assert parse.pod(pod(annotations=annotations)).cost == cost


def test_a_pod_without_a_controller_belongs_to_nobody() -> None:
    assert parse.pod(pod(ownerReferences=None)).owner == ""
    loose = [{"kind": "ReplicaSet", "uid": "rs-uid", "controller": False}]
    assert parse.pod(pod(ownerReferences=loose)).owner == ""


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T00:00:10.500000Z", 10.5),
        ("1970-01-01T01:00:10+01:00", 10.0),
        (None, 0.0),
        ("", 0.0),
    ],
)
def test_times(stamp: str | None, time: float) -> None:
    assert parse.seconds(stamp) == time


# --- ReplicaSets ---


def replica_set(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "documents-7f9c", "uid": "rs-uid", "generation": 4},
        "spec": {"replicas": 3},
        "status": {"observedGeneration": 4} | status,
    }


def test_a_replica_set() -> None:
    found = parse.replica_set(
        replica_set(replicas=3, fullyLabeledReplicas=2, readyReplicas=1, availableReplicas=1)
    )
    assert (found.name, found.uid, found.desired) == ("documents-7f9c", "rs-uid", 3)
    assert (found.replicas, found.fully_labelled, found.ready) == (3, 2, 1)
    assert found.observed
    assert found.failure == ""


def test_counts_that_are_zero_are_left_out_by_the_server() -> None:
    found = parse.replica_set(replica_set())
    assert (found.replicas, found.fully_labelled, found.ready) == (0, 0, 0)


def test_a_replica_set_whose_controller_has_not_looked_yet() -> None:
    assert not parse.replica_set(replica_set(observedGeneration=3)).observed
    fresh = replica_set()
    del fresh["status"]
    found = parse.replica_set(fresh)
    assert (found.observed, found.replicas) == (False, 0)


def test_a_quota_that_refuses_pods() -> None:
    text = 'pods "documents-7f9c-x" is forbidden: exceeded quota: compute'
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
    assert parse.replica_set(replica_set(conditions=[refused | {"message": text}])).failure == text
    assert parse.replica_set(replica_set(conditions=[refused])).failure == "FailedCreate"
    over = refused | {"status": "False", "message": text}
    assert parse.replica_set(replica_set(conditions=[over])).failure == ""


# --- Deployments ---


def manager(name: str, operation: str = "Update", **fields: Any) -> dict[str, Any]:
    return {
        "manager": name,
        "operation": operation,
        "apiVersion": "apps/v1",
        "time": "2026-03-01T10:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields.pop("fields", {}),
    } | fields


def deployment(**changes: Any) -> dict[str, Any]:
    found = {
        "metadata": {
            "name": "documents",
            "uid": "d-uid",
            "resourceVersion": "99",
            "generation": 5,
            "annotations": {HASH_ANNOTATION: "abc", "deployment.kubernetes.io/revision": "2"},
            "ownerReferences": [
                {"kind": "WorkerPool", "name": "documents", "uid": "pool-uid", "controller": True}
            ],
        },
        "spec": {"replicas": 4},
        "status": {
            "observedGeneration": 5,
            "replicas": 4,
            "updatedReplicas": 4,
            "readyReplicas": 3,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        },
    }
    for path, value in changes.items():
        found[path] = found[path] | value
    return found


def test_a_deployment() -> None:
    found = parse.deployment(deployment(), "pool-uid")
    assert (found.uid, found.version, found.replicas, found.generation) == ("d-uid", "99", 4, 5)
    assert (found.ours, found.observed, found.template) == (True, True, "abc")
    assert (found.total, found.updated, found.ready, found.stuck) == (4, 4, 3, "")
    assert not found.rolling
    assert not found.size_owner


def test_whose_deployment_it_is() -> None:
    assert not parse.deployment(deployment(), "another-pool-of-that-name").ours
    assert not parse.deployment(deployment(metadata={"ownerReferences": None}), "pool-uid").ours
    loose = [{"kind": "WorkerPool", "uid": "pool-uid"}]
    assert not parse.deployment(deployment(metadata={"ownerReferences": loose}), "pool-uid").ours


@pytest.mark.parametrize(
    ("status", "rolling"),
    [
        ({"observedGeneration": 4}, True),
        ({"updatedReplicas": 3}, True),
        ({"replicas": 5}, True),
        ({"readyReplicas": 0}, False),
        ({"replicas": 0, "updatedReplicas": 0}, False),
    ],
)
def test_a_rollout_goes_on_until_all_pods_are_of_the_new_template(
    status: dict[str, Any], rolling: bool
) -> None:
    assert parse.deployment(deployment(status=status), "pool-uid").rolling is rolling


def test_a_deployment_that_no_controller_has_seen() -> None:
    raw = deployment()
    raw["status"] = {}
    raw["metadata"]["annotations"] = None
    found = parse.deployment(raw, "pool-uid")
    assert (found.observed, found.rolling, found.total, found.template) == (False, True, 0, "")


@pytest.mark.parametrize(("replicas", "size"), [(None, 1), (0, 0), (7, 7)])
def test_an_absent_size_is_one(replicas: int | None, size: int) -> None:
    found = parse.deployment(deployment(spec={"replicas": replicas}), "pool-uid")
    assert found.replicas == size


def test_a_rollout_that_does_not_go_on_says_why() -> None:
    text = 'ReplicaSet "documents-7f9c" has timed out progressing.'
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    raw = deployment(status={"conditions": [stuck | {"message": text}]})
    assert parse.deployment(raw, "pool-uid").stuck == text
    raw = deployment(status={"conditions": [stuck]})
    assert parse.deployment(raw, "pool-uid").stuck == "ProgressDeadlineExceeded"


SIZE: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
APPLIED = manager("headrace-operator", "Apply", fields={"f:spec": {"f:template": {}}})
CONTROLLER = manager(
    "kube-controller-manager", subresource="status", fields={"f:status": {"f:replicas": {}}}
)


@pytest.mark.parametrize(
    ("entries", "owned"),
    [
        (None, False),
        ([], False),
        ([APPLIED, CONTROLLER], False),
        ([manager("headrace-operator", "Apply", fields=SIZE), CONTROLLER], False),
        ([APPLIED, manager("headrace-scale", subresource="scale", fields=SIZE)], True),
        ([manager("kubectl", subresource="scale", fields=SIZE), APPLIED], True),
        ([manager("kubectl-edit", fields=SIZE)], True),
        ([manager("headrace-operator", "Update", fields=SIZE)], True),
        ([manager("headrace-operator", "Apply", fields=SIZE), manager("x", fields=SIZE)], True),
        ([manager("x", fields=None)], False),
        ([manager("x", fields={"f:spec": None})], False),
    ],
)
def test_who_owns_the_size(entries: Any, owned: bool) -> None:
    raw = deployment(metadata={"managedFields": entries})
    assert parse.deployment(raw, "pool-uid").size_owner is owned
