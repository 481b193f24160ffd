"""The three commands of the README, and every order of taking it away again."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.kube import Failed, apply, get, kubectl, until
from tests.e2e.conftest import CHART, ROOT, helm

from headrace import SyncClient

PRIORITIES = ("critical", "high", "normal", "low")
PYTHON = "/usr/lib/python3.11"


def nats_url(namespace: str) -> str:
    address = get("service", "headrace-nats", "-n", namespace)["spec"]["clusterIP"]
    return f"nats://{address}:4222"


def pool(namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = get("workerpool", "documents", "-n", namespace)
    return found


def status(namespace: str) -> dict[str, Any]:
    return dict(pool(namespace).get("status") or {})


def submitter(namespace: str, count: int) -> dict[str, Any]:
    """A Job that submits from inside."""
    code = (
        "import os\nfrom headrace import SyncClient, TaskPriority\n"
        "client = SyncClient(os.environ['HEADRACE_URL'], 'documents')\n"
        "levels = list(TaskPriority)\n"
        f"rows = [{{'type': 'index', 'data': '{PYTHON}/ast.py',"
        f" 'priority': levels[n % 4], 'task_id': f'inside-{{n}}'}} for n in range({count})]\n"
        "client.submit_many(rows)\nclient.stop()\n"
    )
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "submit",
        "image": "headrace/worker:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code],
        "env": [{"name": "HEADRACE_URL", "value": f"nats://headrace-nats.{namespace}.svc:4222"}],
        "securityContext": restricted,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "submit", "namespace": namespace},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


def test_install_apply_submit_and_take_it_away(restricted: str, tmp_path: Path) -> None:
    helm("install", "headrace", "charts/headrace", "-n", restricted, "--take-ownership",
         "--wait", *CHART)  # fmt: skip
    manifest = yaml.safe_load((ROOT / "examples/documents/pool.yaml").read_text())
    manifest["metadata"]["namespace"] = restricted
    manifest["spec"]["minWorkers"] = 0
    apply(manifest)
    with (tmp_path / "watch").open("w") as output:
        watch = subprocess.Popen(
            ["kubectl", "get", "wp", "-n", restricted, "-w", "--no-headers"], stdout=output
        )
    try:
        ended = submit_from_both_sides(restricted)
        assert ended == {"completed": 500}
        until(lambda: status(restricted).get("desiredReplicas") == 0, 90)
        until(lambda: not get("pods", "-n", restricted, "-l", "headrace.dev/pool=documents"), 90)
    finally:
        watch.terminate()
        watch.wait()
    rows = [line.split() for line in (tmp_path / "watch").read_text().splitlines()]
    sizes = [row[1] for row in rows if len(row) > 5]
    assert "4" in sizes
    assert sizes[-1] == "0"
    text = kubectl("describe", "wp", "documents", "-n", restricted)
    for words in ("ScaledOut", "ScaledIn", "tasks"):
        assert words in text
    helm("test", "headrace", "-n", restricted)
    helm("upgrade", "headrace", "charts/headrace", "-n", restricted, "--wait", *CHART,
         "--set", "logFormat=text")  # fmt: skip
    leave_and_come_back(restricted)


def submit_from_both_sides(namespace: str) -> Counter[str]:
    apply(submitter(namespace, 250))
    with SyncClient(nats_url(namespace), "documents") as client:
        rows = [
            {
                "type": ("measure", "index")[n % 2],
                "data": f"{PYTHON}/argparse.py",
                "priority": [20, 10, 5, 0][n % 4],
                "task_id": f"outside-{n}",
            }
            for n in range(250)
        ]
        client.submit_many(rows)
        until(lambda: get("job", "submit", "-n", namespace)["status"].get("succeeded"), 60)
        ended = [
            client.wait_for(f"{side}-{n}", timeout=180)
            for side in ("inside", "outside")
            for n in range(250)
        ]
        problems = {each.error for each in ended if each.error}
        assert not problems
        return Counter(each.status.value for each in ended)


def leave_and_come_back(namespace: str) -> None:
    """Without the operator pools and their work stay; deleting never waits for it."""
    kubectl("patch", "wp", "documents", "-n", namespace, "--type=merge", "-p",
            '{"spec":{"minWorkers":1}}')  # fmt: skip
    until(lambda: status(namespace).get("readyReplicas") == 1, 60)
    kubectl("scale", "deployment/headrace", "-n", namespace, "--replicas=0")
    with SyncClient(nats_url(namespace), "documents") as client:
        client.submit("index", f"{PYTHON}/ast.py", wait_timeout=30)
    helm("uninstall", "headrace", "-n", namespace, "--wait")
    assert pool(namespace)["metadata"]["name"] == "documents"
    assert get("deployment", "documents", "-n", namespace)["spec"]["replicas"] == 1
    kubectl("delete", "wp", "documents", "-n", namespace, timeout=20)
    kubectl("delete", "namespace", namespace, timeout=90)


def test_a_namespaced_install_has_roles_only_and_drains(restricted: str) -> None:
    helm(
        *("install", "headrace", "charts/headrace", "-n", restricted, "--wait", *CHART),
        *("--set", f"watchNamespaces={{{restricted}}},crds.enabled=false,podPatch=false"),
        *("--set", "policies.authors=false,rbac.aggregate=false"),
    )
    user = f"system:serviceaccount:{restricted}:headrace"
    bindings = get("clusterrolebindings")
    assert not [
        each["metadata"]["name"]
        for each in bindings
        for subject in each.get("subjects") or []
        if subject.get("namespace") == restricted
    ]
    assert "no" in denied("patch", "pods", user, restricted)
    manifest = yaml.safe_load((ROOT / "examples/documents/pool.yaml").read_text())
    manifest["metadata"]["namespace"] = restricted
    manifest["spec"] |= {"minWorkers": 0, "replicas": 3}
    apply(manifest)
    until(lambda: status(restricted).get("readyReplicas") == 3, 90)
    kubectl("patch", "wp", "documents", "-n", restricted, "--type=merge", "-p",
            '{"spec":{"replicas":1}}')  # fmt: skip
    until(lambda: status(restricted).get("replicas") == 1, 60)
    events = [each for each in get("events", "-n", restricted) if each["reason"] == "PodsNotMarked"]
    assert len(events) == 1
    kubectl("delete", "wp", "documents", "-n", restricted, timeout=20)


def denied(verb: str, what: str, user: str, namespace: str) -> str:
    ran = subprocess.run(
        ["kubectl", "auth", "can-i", verb, what, f"--as={user}", "-n", namespace],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout


def test_an_author_needs_what_a_deployments_author_needs(restricted: str) -> None:
    helm("install", "headrace", "charts/headrace", "-n", restricted, "--take-ownership",
         "--wait", *CHART)  # fmt: skip
    apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "author", "namespace": restricted},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "pools", "namespace": restricted},
            "rules": [
                {
                    "apiGroups": ["headrace.dev"],
                    "resources": ["workerpools"],
                    "verbs": ["get", "create", "update", "patch"],
                }
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "pools", "namespace": restricted},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "pools",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "author", "namespace": restricted}],
        },
    )
    manifest = yaml.safe_load((ROOT / "examples/documents/pool.yaml").read_text())
    manifest["metadata"]["namespace"] = restricted

    def refused() -> str:
        try:
            kubectl(
                *("apply", f"--as=system:serviceaccount:{restricted}:author", "-f", "-"),
                stdin=json.dumps(manifest),
            )
        except Failed as error:
            return str(error)
        kubectl("delete", "wp", "documents", "-n", restricted)
        return ""

    # A new policy is in force a moment after it was made.
    text = until(refused, 30)
    assert "deployments" in text, text
    with pytest.raises(Failed):
        get("deployment", "documents", "-n", restricted)
