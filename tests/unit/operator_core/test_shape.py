"""The Deployment of a pool."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from headrace.manifest import parse
from headrace_operator.api.v1alpha1 import POOL_LABEL, SERVING_LABEL, PoolSpec
from headrace_operator.core.shape import (
    GRACE_BEYOND_DRAIN,
    HASH_ANNOTATION,
    BadTemplate,
    Owner,
    deployment,
    hash_of,
)

OWNER = Owner("documents", "team-a", "uid-1")
URL = "nats://nats:4222"


def template(*, pod: dict[str, Any] | None = None, **container: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "mine"}},
        "spec": (pod or {}) | {"containers": [{"name": "worker", "image": "app:1"} | container]},
    }


def spec(**fields: Any) -> PoolSpec:
    fields = {"queue": "documents", "template": template()} | fields
    return parse(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": "documents"},
            "spec": fields,
        }
    ).spec


def made(**fields: Any) -> dict[str, Any]:
    return deployment(OWNER, spec(**fields), URL)


def pod_of(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["spec"]["template"]["spec"]
    return found


def worker_of(body: dict[str, Any]) -> dict[str, Any]:
    (found,) = [each for each in pod_of(body)["containers"] if each["name"] == "worker"]
    assert isinstance(found, dict)
    return found


def env_of(body: dict[str, Any]) -> dict[str, Any]:
    rows = worker_of(body)["env"]
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    return {row["name"]: row.get("value", row.get("valueFrom")) for row in rows}


# --- the object ---


def test_it_belongs_to_the_pool_and_blocks_nobodys_deletion() -> None:
    body = made()
    assert (body["apiVersion"], body["kind"]) == ("apps/v1", "Deployment")
    assert body["metadata"]["name"] == "documents"
    assert body["metadata"]["namespace"] == "team-a"
    (owner,) = body["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "WorkerPool",
        "name": "documents",
        "uid": "uid-1",
        "controller": True,
        "blockOwnerDeletion": False,
    }


def test_it_says_nothing_of_the_size() -> None:
    assert "replicas" not in made()["spec"]
    assert "replicas" not in made(replicas=3, minWorkers=2)["spec"]


def test_it_surges_and_is_never_short() -> None:
    strategy = made()["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "25%"}


def test_the_serving_label_is_in_the_template_and_not_in_the_selector() -> None:
    body = made()
    assert body["spec"]["selector"] == {"matchLabels": {POOL_LABEL: "documents"}}
    labels = body["spec"]["template"]["metadata"]["labels"]
    assert labels == {"team": "a", POOL_LABEL: "documents", SERVING_LABEL: "true"}
    assert body["metadata"]["labels"][POOL_LABEL] == "documents"


def test_the_owners_labels_cannot_take_the_operators_place() -> None:
    mine = template()
    mine["metadata"]["labels"][SERVING_LABEL] = "false"
    labels = made(template=mine)["spec"]["template"]["metadata"]["labels"]
    assert labels[SERVING_LABEL] == "true"


@pytest.mark.parametrize("metadata", [None, {}, {"labels": None}])
def test_a_template_without_labels_will_do(metadata: dict[str, Any] | None) -> None:
    mine = template()
    if metadata is None:
        del mine["metadata"]
    else:
        mine["metadata"] = metadata
    labels = made(template=mine)["spec"]["template"]["metadata"]["labels"]
    assert labels == {POOL_LABEL: "documents", SERVING_LABEL: "true"}


# --- the pod ---


@pytest.mark.parametrize(
    ("timeout", "grace"), [(None, 630), ("90s", 120), ("500ms", 31), ("0s", 30)]
)
def test_grace_is_the_drains_time_and_some_more(timeout: str | None, grace: int) -> None:
    body = made(**({} if timeout is None else {"drain": {"timeout": timeout}}))
    assert pod_of(body)["terminationGracePeriodSeconds"] == grace
    assert GRACE_BEYOND_DRAIN == 30


def test_the_owners_own_grace_and_token_are_kept() -> None:
    mine = template(
        pod={"terminationGracePeriodSeconds": 900, "automountServiceAccountToken": True}
    )
    pod = pod_of(made(template=mine))
    assert pod["terminationGracePeriodSeconds"] == 900
    assert pod["automountServiceAccountToken"] is True


def test_workers_get_no_token_of_the_api() -> None:
    assert pod_of(made())["automountServiceAccountToken"] is False


def test_other_containers_are_left_alone() -> None:
    mine = template()
    sidecar = {"name": "proxy", "image": "proxy:1"}
    mine["spec"]["containers"].insert(0, copy.deepcopy(sidecar))
    assert pod_of(made(template=mine))["containers"][0] == sidecar


# --- the container ---


def test_what_a_worker_is_told_by_its_environment() -> None:
    body = made(concurrency=7, tags=["gpu", "big"], untagged="Leave", drain={"timeout": "1m30s"})
    assert env_of(body) == {
        "HEADRACE_URL": URL,
        "HEADRACE_QUEUE": "documents",
        "HEADRACE_CONCURRENCY": "7",
        "HEADRACE_TAGS": "gpu big",
        "HEADRACE_UNTAGGED": "false",
        "HEADRACE_GRACE": "90",
        "HEADRACE_HEALTH_HOST": "0.0.0.0",
        "HEADRACE_HEALTH_PORT": "8081",
        "HEADRACE_METRICS_PORT": "9091",
        "HEADRACE_POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "HEADRACE_POD_UID": {"fieldRef": {"fieldPath": "metadata.uid"}},
    }
    assert env_of(made())["HEADRACE_UNTAGGED"] == "true"
    assert env_of(made())["HEADRACE_TAGS"] == ""
    assert env_of(made(processes=3))["HEADRACE_PROCESSES"] == "3"


def test_the_owners_environment_comes_first_and_wins() -> None:
    mine = [{"name": "HEADRACE_URL", "value": "nats://near"}, {"name": "OTHER", "value": "1"}]
    body = made(template=template(env=mine))
    assert env_of(body)["HEADRACE_URL"] == "nats://near"
    assert worker_of(body)["env"][:2] == mine


def test_args_name_the_app() -> None:
    assert worker_of(made(app="shop.tasks:coordinator"))["args"] == [
        "worker",
        "shop.tasks:coordinator",
    ]


@pytest.mark.parametrize(
    "own", [{"command": ["run"]}, {"args": ["worker", "x:y"]}, {"command": ["a"], "args": ["b"]}]
)
def test_args_are_given_only_where_the_owner_gives_neither_command_nor_args(
    own: dict[str, Any],
) -> None:
    worker = worker_of(made(app="shop:app", template=template(**own)))
    assert {key: worker[key] for key in ("command", "args") if key in worker} == own


@pytest.mark.parametrize("empty", [{"command": []}, {"args": []}, {"args": None}])
def test_an_empty_command_is_none(empty: dict[str, Any]) -> None:
    worker = worker_of(made(app="shop:app", template=template(**empty)))
    assert worker["args"] == ["worker", "shop:app"]


def test_without_an_app_there_are_no_args() -> None:
    assert "args" not in worker_of(made())


def test_probes_and_their_port() -> None:
    worker = worker_of(made())
    assert worker["ports"] == [
        {"name": "health", "containerPort": 8081},
        {"name": "metrics", "containerPort": 9091},
    ]
    assert worker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert worker["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    # The pod's own grace is long, and a worker that is stuck would sit it out.
    assert worker["livenessProbe"]["terminationGracePeriodSeconds"] == 10
    assert "terminationGracePeriodSeconds" not in worker["readinessProbe"]
    # Settling and the order of deletion wait for it.
    assert worker["readinessProbe"]["periodSeconds"] == 1
    assert worker["readinessProbe"]["failureThreshold"] == 1


def test_the_owners_probes_and_ports_are_kept() -> None:
    own = {"exec": {"command": ["true"]}}
    ports = [{"name": "health", "containerPort": 9}, {"name": "metrics", "containerPort": 80}]
    worker = worker_of(made(template=template(livenessProbe=own, ports=ports)))
    assert worker["livenessProbe"] == own
    assert worker["ports"] == ports


# --- Secrets ---


def test_secrets_are_files() -> None:
    nats = {
        "url": "tls://nats:4222",
        "credentialsSecretRef": {"name": "creds"},
        "tlsSecretRef": {"name": "ca", "key": "root.pem"},
        "clientCertificateSecretRef": {"name": "own"},
    }
    own = {"name": "data", "emptyDir": {}}
    body = made(nats=nats, template=template(pod={"volumes": [own]}))
    assert pod_of(body)["volumes"] == [
        own,
        {"name": "headrace-nats", "secret": {"secretName": "creds"}},
        {"name": "headrace-nats-ca", "secret": {"secretName": "ca"}},
        {"name": "headrace-nats-tls", "secret": {"secretName": "own"}},
    ]
    mounts = worker_of(body)["volumeMounts"]
    assert [each["name"] for each in mounts] == [
        "headrace-nats",
        "headrace-nats-ca",
        "headrace-nats-tls",
    ]
    assert all(each["readOnly"] for each in mounts)
    # A mount of one key (subPath) would never see a rotation.
    assert not any("subPath" in each for each in mounts)
    env = env_of(body)
    assert env["HEADRACE_NATS_CREDS"] == "/var/run/headrace/nats/user.creds"
    assert env["HEADRACE_NATS_CA"] == "/var/run/headrace/nats-ca/root.pem"
    assert env["HEADRACE_NATS_CERT"] == "/var/run/headrace/nats-tls/tls.crt"
    assert env["HEADRACE_NATS_KEY"] == "/var/run/headrace/nats-tls/tls.key"


def test_without_secrets_nothing_is_mounted() -> None:
    body = made()
    assert "volumes" not in pod_of(body)
    assert "volumeMounts" not in worker_of(body)
    assert not {"HEADRACE_NATS_CREDS", "HEADRACE_NATS_CA"} & set(env_of(body))


# --- the hash ---


def test_the_hash_is_of_the_body_and_stays() -> None:
    body = made()
    noted = body["metadata"].pop("annotations")
    assert noted == {HASH_ANNOTATION: hash_of(body)}
    assert made()["metadata"]["annotations"] == noted


CHANGED: tuple[dict[str, Any], ...] = (
    {"queue": "others"},
    {"app": "a:b"},
    {"concurrency": 5},
    {"processes": 2},
    {"tags": ["gpu"]},
    {"drain": {"timeout": "1m"}},
    {"nats": {"credentialsSecretRef": {"name": "creds"}}},
    {"template": template(image="app:2")},
)


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: next(iter(change)))
def test_the_hash_changes_with_what_the_pods_are(change: dict[str, Any]) -> None:
    assert _hash(**change) != _hash()


@pytest.mark.parametrize(
    "change",
    [
        {"minWorkers": 1},
        {"maxWorkers": 9},
        {"replicas": 2},
        {"scaling": {"scaleUpThreshold": 20, "pause": "Both"}},
        {"drain": {"timeout": "600s"}},
    ],
    ids=str,
)
def test_the_hash_stays_when_only_the_size_is_concerned(change: dict[str, Any]) -> None:
    assert _hash(**change) == _hash()


def test_the_hash_knows_the_url_and_the_owner() -> None:
    other = deployment(OWNER, spec(), "nats://else")
    again = deployment(Owner("documents", "team-a", "uid-2"), spec(), URL)
    hashes = {_hash()} | {
        each["metadata"]["annotations"][HASH_ANNOTATION] for each in (other, again)
    }
    assert len(hashes) == 3


def _hash(**fields: Any) -> str:
    return str(made(**fields)["metadata"]["annotations"][HASH_ANNOTATION])


# --- what must not be touched, and what cannot be used ---


def test_the_owners_template_is_not_changed() -> None:
    given = spec(
        app="a:b",
        template=template(env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 80}]),
        nats={"credentialsSecretRef": {"name": "creds"}},
    )
    before = copy.deepcopy(given.template)
    first = deployment(OWNER, given, URL)
    assert given.template == before
    assert deployment(OWNER, given, URL) == first


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (None, "template is missing"),
        ({}, "container named worker"),
        ({"spec": {}}, "container named worker"),
        ({"spec": {"containers": None}}, "container named worker"),
        ({"spec": {"containers": []}}, "container named worker"),
        ({"spec": {"containers": [{"name": "main"}]}}, "container named worker"),
        ({"spec": {"containers": ["worker"]}}, "container named worker"),
    ],
)
def test_a_template_without_a_worker_is_refused(bad: Any, text: str) -> None:
    with pytest.raises(BadTemplate, match=text):
        made(template=bad)
