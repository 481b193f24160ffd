"""The objects: pods that fit restricted namespaces, the CRD, the policies, NATS, the notes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.chart.helm import (
    CHART,
    EXAMPLES,
    URL,
    needs_helm,
    of_kind,
    one,
    operator_env,
    pods,
    render,
    template,
)
from tests.support.nats_servers import NatsProcess, binary

NATS = "nats.enabled=true"
KEEP = "helm.sh/resource-policy"

pytestmark = needs_helm


@pytest.mark.parametrize("settings", [(URL,), (NATS,), (NATS, "nats.persistence.enabled=false")])
def test_every_pod_fits_a_restricted_namespace(settings: tuple[str, ...]) -> None:
    found = dict(pods(render(*settings)))
    assert {"headrace", "headrace-run-a-task"} <= set(found)
    assert ("headrace-nats" in found) == (NATS in settings)
    for name, spec in found.items():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] == 65532, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [v for v in spec["volumes"] if "hostPath" in v], name
        assert any("emptyDir" in v and v["name"] == "tmp" for v in spec["volumes"]), name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], name
            assert container["resources"]["requests"], name


def test_only_the_operator_gets_an_api_token() -> None:
    for name, spec in pods(render(NATS)):
        assert spec["automountServiceAccountToken"] is (name == "headrace")


def test_the_crd_is_the_generated_one_and_is_kept() -> None:
    source = yaml.safe_load((CHART / "files" / "workerpools.headrace.dev.yaml").read_text())
    crd = one(render(URL), "CustomResourceDefinition")
    assert crd["spec"] == source["spec"]
    assert crd["metadata"]["name"] == "workerpools.headrace.dev"
    assert crd["metadata"]["annotations"][KEEP] == "keep"
    assert crd["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_the_crd_may_go_with_the_release_or_be_somebody_elses() -> None:
    gone = one(render(URL, "crds.keep=false"), "CustomResourceDefinition")
    assert KEEP not in gone["metadata"].get("annotations", {})
    assert not of_kind(render(URL, "crds.enabled=false"), "CustomResourceDefinition")


def test_what_the_operator_is_told() -> None:
    env = operator_env(
        render(
            URL,
            "natsConnection.credentialsSecret.name=creds",
            "natsConnection.tlsSecret.name=ca",
            "natsConnection.clientCertificateSecret.name=own",
            "natsConnection.workersUrl=tls://edge:4222",
            "defaultNats.namespaces[0].namespace=team-a",
            "defaultNats.namespaces[0].queues=team-a-*",
            "defaultNats.namespaces[1].namespace=b",
            "defaultNats.namespaces[1].queues=*",
            "allowedNatsHosts={one,two}",
            "maxWorkersPerPool=1000000",
            "logFormat=text",
        )
    )
    assert env == {
        "HEADRACE_OPERATOR_NAMESPACE": None,
        "HEADRACE_OPERATOR_IDENTITY": None,
        "HEADRACE_OPERATOR_NATS_URL": "nats://nats.nats.svc:4222",
        "HEADRACE_OPERATOR_NATS_CREDS": "/etc/headrace/nats/creds/user.creds",
        "HEADRACE_OPERATOR_NATS_CA": "/etc/headrace/nats/tls/ca.crt",
        "HEADRACE_OPERATOR_NATS_CERT": "/etc/headrace/nats/own/tls.crt",
        "HEADRACE_OPERATOR_NATS_KEY": "/etc/headrace/nats/own/tls.key",
        "HEADRACE_OPERATOR_WORKERS_NATS_URL": "tls://edge:4222",
        "HEADRACE_OPERATOR_DEFAULT_NATS_NAMESPACES": "team-a=team-a-*,b=*",
        "HEADRACE_OPERATOR_ALLOWED_NATS_HOSTS": "one,two",
        "HEADRACE_OPERATOR_MAX_WORKERS_PER_POOL": "1000000",
        "HEADRACE_OPERATOR_READ_SECRETS": "true",
        "HEADRACE_OPERATOR_METRICS_PORT": "9090",
        "HEADRACE_OPERATOR_PROBE_PORT": "8081",
        "HEADRACE_OPERATOR_LEASE_NAME": "headrace-operator",
        "HEADRACE_OPERATOR_LEASE_SECONDS": "15",
        "HEADRACE_OPERATOR_LOG_FORMAT": "text",
    }


def test_credentials_are_files_of_whole_secrets() -> None:
    """A subPath mount is never refreshed, so a rotated Secret would not arrive."""
    objects = render(URL, "natsConnection.credentialsSecret.name=creds")
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert [v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v] == ["creds"]
    assert not [m for m in spec["containers"][0]["volumeMounts"] if "subPath" in m]
    test_pod = one(objects, "Pod")
    assert "creds" not in str(test_pod["spec"]["volumes"]), "they are the operator's alone"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ((NATS,), "*=*"),
        ((URL,), ""),
    ],
)
def test_who_may_borrow_the_operators_connection(settings: tuple[str, ...], wanted: str) -> None:
    env = operator_env(render(*settings))
    assert env["HEADRACE_OPERATOR_DEFAULT_NATS_NAMESPACES"] == wanted


def test_nobody_may_borrow_it_where_the_list_is_empty(tmp_path: Path) -> None:
    """An empty list is an answer, and not the same as none."""
    values = tmp_path / "values.yaml"
    values.write_text("defaultNats: {namespaces: []}")
    env = operator_env(render(NATS, files=(values,)))
    assert env["HEADRACE_OPERATOR_DEFAULT_NATS_NAMESPACES"] == ""


def test_the_charts_own_nats_is_reached_by_its_service() -> None:
    objects = render(NATS)
    url = "nats://headrace-nats.system.svc:4222"
    assert operator_env(objects)["HEADRACE_OPERATOR_NATS_URL"] == url
    assert operator_env(objects)["HEADRACE_OPERATOR_WORKERS_NATS_URL"] == url
    service = one(objects, "Service", "headrace-nats")
    assert [port["port"] for port in service["spec"]["ports"]] == [4222]
    stateful = one(objects, "StatefulSet", "headrace-nats")["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [claim] = stateful["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert not [v for v in stateful["template"]["spec"]["volumes"] if v["name"] == "data"]


def test_without_persistence_the_streams_are_in_the_pod() -> None:
    objects = render(NATS, "nats.persistence.enabled=false")
    spec = one(objects, "StatefulSet")["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]


def test_nats_server_accepts_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(one(render(NATS), "ConfigMap")["data"]["nats.conf"])
    done = subprocess.run(
        [binary(), "-t", "-c", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_the_task_of_helm_test_runs(tmp_path: Path) -> None:
    """The very text that the test pod gets, against a real server."""
    [container] = one(render(URL, "test.queue=try"), "Pod")["spec"]["containers"]
    assert container["command"] == ["python3", "-c"]
    server = NatsProcess(tmp_path)
    server.start()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            *container["args"],
            env=os.environ | {"HEADRACE_URL": server.url, "QUEUE": "try"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    finally:
        server.stop()
    assert process.returncode == 0, err.decode()
    assert b"submitted, run and answered" in out


def test_policies_are_bound_and_fail_closed() -> None:
    objects = render(URL, "policies.size=true")
    policies = of_kind(objects, "ValidatingAdmissionPolicy")
    assert {p["metadata"]["name"] for p in policies} == {
        "headrace-pool-authors",
        "headrace-pool-size",
    }
    bound = {
        b["spec"]["policyName"]: b["spec"]
        for b in of_kind(objects, "ValidatingAdmissionPolicyBinding")
    }
    for policy in policies:
        spec = policy["spec"]
        assert spec["failurePolicy"] == "Fail"
        assert bound[policy["metadata"]["name"]]["validationActions"] == ["Deny"]
        for part in ("matchConditions", "variables", "validations"):
            for entry in spec.get(part, []):
                for key in ("expression", "messageExpression"):
                    text = entry.get(key, "true")
                    assert isinstance(text, str), "a bare true or false is a boolean in YAML"
                    assert text.count("(") == text.count(")")
                    assert "{{" not in text


def test_policies_leave_status_scale_and_deletes_alone() -> None:
    spec = one(render(URL), "ValidatingAdmissionPolicy", "headrace-pool-authors")["spec"]
    [rule] = spec["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["workerpools"]
    assert rule["operations"] == ["CREATE", "UPDATE"]


def test_policies_hold_where_the_operator_serves() -> None:
    everywhere = of_kind(render(URL), "ValidatingAdmissionPolicyBinding")
    assert all("matchResources" not in binding["spec"] for binding in everywhere)
    named = one(render(URL, "watchNamespaces={a,b}"), "ValidatingAdmissionPolicyBinding")
    [match] = named["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert match == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}


def test_network_policies_open_what_is_needed_and_no_more() -> None:
    objects = render(NATS, "networkPolicy.enabled=true", "networkPolicy.natsPorts={4222,4223}")
    operator = one(objects, "NetworkPolicy", "headrace-operator")["spec"]
    assert [p["port"] for rule in operator["ingress"] for p in rule["ports"]] == ["metrics"]
    out = {p["port"] for rule in operator["egress"] for p in rule["ports"]}
    assert out == {53, 443, 6443, 4222, 4223}
    nats = one(objects, "NetworkPolicy", "headrace-nats")["spec"]
    assert [p["port"] for rule in nats["ingress"] for p in rule["ports"]] == ["nats"]
    assert "egress" not in nats
    assert not of_kind(render(NATS), "NetworkPolicy")


def test_monitoring_objects_are_off_until_asked_for() -> None:
    kinds = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
    assert not [found for found in render(URL) if found["kind"] in kinds]
    objects = render(URL, *(f"{k[0].lower()}{k[1:]}.enabled=true" for k in kinds))
    selector = one(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= one(objects, "Service")["metadata"]["labels"].items()
    [group] = one(objects, "PrometheusRule")["spec"]["groups"]
    assert {rule["alert"] for rule in group["rules"]} == {
        "HeadraceBusyPodDeleted",
        "HeadraceDecisionStale",
        "HeadraceDrainOverdue",
        "HeadracePoolAtMaximum",
        "HeadracePoolBlind",
        "HeadraceNoLeader",
    }
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_selectors_find_their_pods_and_names_are_unique(example: Path) -> None:
    objects = render(files=(example,))
    for found in objects:
        if found["kind"] in ("Deployment", "StatefulSet"):
            labels = found["spec"]["template"]["metadata"]["labels"]
            assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(keys) == len(set(keys))


def notes(tmp_path: Path, *settings: str) -> str:
    """NOTES.txt is rendered only by an install; here as a template like the others."""
    chart = tmp_path / "headrace"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "NOTES.txt").unlink()
    lines = [line if line.startswith("{{-") else "  " + line for line in text.splitlines()]
    (chart / "templates" / "notes.yaml").write_text("kind: Notes\ntext: |\n" + "\n".join(lines))
    done = template(*settings, chart=chart)
    assert done.returncode == 0, done.stderr
    found = [o for o in yaml.safe_load_all(done.stdout) if o]
    return str(one(found, "Notes")["text"])


def test_notes_name_the_next_three_commands(tmp_path: Path) -> None:
    text = notes(tmp_path, URL)
    apply, submit, watch = (
        text.index(part)
        for part in ("kubectl apply -n system", "headrace submit", "kubectl get workerpools")
    )
    assert apply < submit < watch
    assert "helm test headrace -n system" in text
    assert "all namespaces" in text
    assert "every pool has to bring its own spec.nats" in text
    assert "WARNING" not in text


def test_notes_warn_of_what_is_weak(tmp_path: Path) -> None:
    text = notes(
        tmp_path,
        NATS,
        "nats.persistence.enabled=false",
        "policies.authors=false",
        "watchNamespaces={team-a}",
    )
    assert text.count("WARNING") == 2
    assert "lost with its pod" in text
    assert "policies.authors is off" in text
    assert "kubectl get workerpools -n team-a -w" in text
