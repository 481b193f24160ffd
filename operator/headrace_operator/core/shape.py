"""The Deployment of a pool, from its spec: everything but its size."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_operator.api.v1alpha1 import (
    API_VERSION,
    GROUP,
    KIND,
    POOL_LABEL,
    SERVING_LABEL,
    PoolSpec,
)

HASH_ANNOTATION = f"{GROUP}/template-hash"
HEALTH_PORT, METRICS_PORT = 8081, 9091
GRACE_BEYOND_DRAIN = 30
"""Seconds between the drain's end and the kubelet's SIGKILL: to hand back and write results."""
_STUCK_GRACE = 10
_CREDENTIALS = "/var/run/headrace/nats"
_CA = "/var/run/headrace/nats-ca"
_CERTIFICATE = "/var/run/headrace/nats-tls"


class BadTemplate(ValueError):
    """The pool's template cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The pool, as its Deployment names it."""

    name: str
    namespace: str
    uid: str


def deployment(owner: Owner, spec: PoolSpec, url: str) -> dict[str, Any]:
    """The object to apply; without `replicas`. Raises `BadTemplate`."""
    template = pod_template(owner.name, spec, url)
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": owner.name,
            "namespace": owner.namespace,
            "labels": {POOL_LABEL: owner.name, "app.kubernetes.io/managed-by": "headrace"},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,  # deleting a pool waits for nobody
                }
            ],
        },
        "spec": {
            "selector": {"matchLabels": {POOL_LABEL: owner.name}},
            "revisionHistoryLimit": 3,
            "strategy": {
                "type": "RollingUpdate",
                # An old worker goes when a new one is there, never before.
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
            },
            "template": template,
        },
    }
    body["metadata"]["annotations"] = {HASH_ANNOTATION: hash_of(body)}
    return body


def hash_of(body: Mapping[str, Any]) -> str:
    """A short name of what was applied."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pod_template(name: str, spec: PoolSpec, url: str) -> dict[str, Any]:
    """The pods' template: the owner's, and what makes its container a worker of the pool."""
    if spec.template is None:
        raise BadTemplate("spec.template is missing: it names the image of the workers")
    template = copy.deepcopy(spec.template)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = (metadata.get("labels") or {}) | {
        POOL_LABEL: name,
        SERVING_LABEL: "true",
    }
    pod = template.setdefault("spec", {})
    pod.setdefault(
        "terminationGracePeriodSeconds", math.ceil(spec.drain.timeout) + GRACE_BEYOND_DRAIN
    )
    pod.setdefault("automountServiceAccountToken", False)
    container = _worker_of(pod)
    _complete(container, spec, url)
    _credentials(pod, container, spec)
    return template


def _worker_of(pod: dict[str, Any]) -> dict[str, Any]:
    for container in pod.get("containers") or []:
        if isinstance(container, dict) and container.get("name") == "worker":
            return container
    raise BadTemplate("spec.template needs a container named worker")


def _complete(container: dict[str, Any], spec: PoolSpec, url: str) -> None:
    if spec.app and not container.get("command") and not container.get("args"):
        container["args"] = ["worker", spec.app]
    env = {
        "HEADRACE_URL": url,
        "HEADRACE_QUEUE": spec.queue,
        "HEADRACE_CONCURRENCY": str(spec.concurrency),
        "HEADRACE_TAGS": " ".join(spec.tags),
        "HEADRACE_UNTAGGED": "true" if spec.untagged == "Serve" else "false",
        "HEADRACE_GRACE": f"{spec.drain.timeout:g}",
        "HEADRACE_HEALTH_HOST": "0.0.0.0",
        "HEADRACE_HEALTH_PORT": str(HEALTH_PORT),
        "HEADRACE_METRICS_PORT": str(METRICS_PORT),
    }
    if spec.processes > 1:  # else not there, as in the template of an older operator
        env["HEADRACE_PROCESSES"] = str(spec.processes)
    given = {each.get("name") for each in container.get("env") or []}
    rows = [{"name": key, "value": value} for key, value in env.items() if key not in given]
    pod = {"HEADRACE_POD_NAME": "metadata.name", "HEADRACE_POD_UID": "metadata.uid"}
    fields = [
        {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in pod.items()
    ]
    container["env"] = [*(container.get("env") or []), *rows, *fields]
    ports = container.setdefault("ports", [])
    for name, port in (("health", HEALTH_PORT), ("metrics", METRICS_PORT)):
        if all(each.get("name") != name for each in ports):
            ports.append({"name": name, "containerPort": port})
    container.setdefault("startupProbe", _probe("/livez", period=1, failures=120))
    # Who fails this one is stuck for good, and would only sit out the pod's long grace.
    stuck = {"terminationGracePeriodSeconds": _STUCK_GRACE}
    container.setdefault("livenessProbe", _probe("/livez", period=5, failures=3) | stuck)
    container.setdefault("readinessProbe", _probe("/readyz", period=1, failures=1))


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _credentials(pod: dict[str, Any], container: dict[str, Any], spec: PoolSpec) -> None:
    """Secrets as files, so that a rotated one is read at the next reconnect."""
    nats = spec.nats
    mounts: list[tuple[str, str, str, dict[str, str]]] = []
    if creds := nats.credentials_secret_ref:
        files = {"HEADRACE_NATS_CREDS": creds.key or "user.creds"}
        mounts.append(("headrace-nats", creds.name, _CREDENTIALS, files))
    if ca := nats.tls_secret_ref:
        mounts.append(("headrace-nats-ca", ca.name, _CA, {"HEADRACE_NATS_CA": ca.key or "ca.crt"}))
    if own := nats.client_certificate_secret_ref:
        files = {"HEADRACE_NATS_CERT": "tls.crt", "HEADRACE_NATS_KEY": "tls.key"}
        mounts.append(("headrace-nats-tls", own.name, _CERTIFICATE, files))
    for volume, secret, folder, files in mounts:
        pod["volumes"] = [
            *(pod.get("volumes") or []),
            {"name": volume, "secret": {"secretName": secret}},
        ]
        container["volumeMounts"] = [
            *(container.get("volumeMounts") or []),
            {"name": volume, "mountPath": folder, "readOnly": True},
        ]
        container["env"] += [
            {"name": variable, "value": f"{folder}/{name}"} for variable, name in files.items()
        ]
