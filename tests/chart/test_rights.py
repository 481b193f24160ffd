"""What the operator may do, as docs/reference/rights.md lists it, and what shrinks it."""

from __future__ import annotations

import pytest
from tests.chart.helm import (
    NAMESPACED,
    ROOT,
    URL,
    Object,
    needs_helm,
    of_kind,
    one,
    operator_env,
    render,
    verbs,
)

pytestmark = needs_helm

RIGHTS = {
    ("headrace.dev", "workerpools"): {"get", "list", "watch"},
    ("headrace.dev", "workerpools/status"): {"get", "patch"},
    ("headrace.dev", "workerpools/finalizers"): {"update"},
    ("apps", "deployments"): {"get", "list", "watch", "create", "patch"},
    ("apps", "deployments/scale"): {"get", "patch"},
    ("apps", "replicasets"): {"get", "list"},
    ("", "pods"): {"get", "list", "patch"},
    ("", "events"): {"get", "create", "patch"},
    ("", "secrets"): {"get"},
    ("autoscaling", "horizontalpodautoscalers"): {"list"},
    ("keda.sh", "scaledobjects"): {"list"},
}
CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def allowed(rules: list[Object]) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): verbs(rules, group, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def operator_rules(*settings: str) -> list[Object]:
    rules: list[Object] = one(render(URL, *settings), "ClusterRole", "headrace-operator")["rules"]
    return rules


def test_the_rights_are_exactly_these() -> None:
    assert allowed(operator_rules()) == RIGHTS


def test_the_same_rights_in_each_watched_namespace_and_none_in_the_cluster() -> None:
    objects = render(URL, *NAMESPACED)
    roles = [r for r in of_kind(objects, "Role") if r["metadata"]["name"] == "headrace-operator"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(allowed(role["rules"]) == RIGHTS for role in roles)
    bindings = {
        b["metadata"]["namespace"]: b
        for b in of_kind(objects, "RoleBinding")
        if b["roleRef"]["name"] == "headrace-operator"
    }
    assert set(bindings) == {"team-a", "team-b"}
    for binding in bindings.values():
        assert binding["roleRef"]["kind"] == "Role"
        [subject] = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": "headrace", "namespace": "system"}


def test_a_namespaced_install_renders_nothing_cluster_scoped() -> None:
    objects = render(URL, *NAMESPACED)
    assert not {found["kind"] for found in objects} & CLUSTER_SCOPED
    assert all("namespace" in found["metadata"] for found in objects)
    env = operator_env(objects)
    assert env["HEADRACE_OPERATOR_WATCH_NAMESPACES"] == "team-a,team-b"


def test_no_cluster_right_of_the_operator_once_namespaces_are_named() -> None:
    """Also when the objects for people and the policies stay on."""
    objects = render(URL, "watchNamespaces={team-a}")
    assert not of_kind(objects, "ClusterRoleBinding")
    assert {role["metadata"]["name"] for role in of_kind(objects, "ClusterRole")} == {
        "headrace-pools-view",
        "headrace-pools-edit",
        "headrace-pools-scale",
    }
    assert "HEADRACE_OPERATOR_WATCH_NAMESPACES" not in operator_env(render(URL))


def test_every_reference_to_a_service_account_is_to_the_one_that_runs() -> None:
    objects = render(URL, "serviceAccount.name=ops", "policies.size=true")
    assert one(objects, "ServiceAccount")["metadata"]["name"] == "ops"
    assert one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "ops"
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in of_kind(objects, kind):
            assert [subject["name"] for subject in binding["subjects"]] == ["ops"]
    policy = one(objects, "ValidatingAdmissionPolicy", "headrace-pool-size")
    assert "'system:serviceaccount:system:ops'" in str(policy["spec"]["matchConditions"])


def test_without_secrets_the_right_is_gone_and_the_operator_knows() -> None:
    rules = operator_rules("secrets.read=false")
    assert not verbs(rules, "", "secrets")
    assert allowed(rules) == {k: v for k, v in RIGHTS.items() if k != ("", "secrets")}
    env = operator_env(render(URL, "secrets.read=false"))
    assert env["HEADRACE_OPERATOR_READ_SECRETS"] == "false"
    assert operator_env(render(URL))["HEADRACE_OPERATOR_READ_SECRETS"] == "true"


def test_without_pod_patch_pods_are_only_read() -> None:
    assert verbs(operator_rules("podPatch=false"), "", "pods") == {"get", "list"}


def test_the_lease_is_in_its_own_namespace_and_by_name() -> None:
    role = one(render(URL), "Role", "headrace-lease")
    assert role["metadata"]["namespace"] == "system"
    create, rest = role["rules"]
    assert create["verbs"] == ["create"]
    assert rest["resourceNames"] == ["headrace-operator"]
    assert rest["verbs"] == ["get", "update"]
    env = operator_env(render(URL))
    assert env["HEADRACE_OPERATOR_LEASE_NAME"] == "headrace-operator"


def test_rbac_may_be_left_to_somebody_else() -> None:
    objects = render(URL, "rbac.create=false", "rbac.aggregate=false")
    kinds = {found["kind"] for found in objects}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize(
    ("role", "into", "resource", "wanted"),
    [
        ("view", {"view", "edit", "admin"}, "workerpools", {"get", "list", "watch"}),
        (
            "edit",
            {"edit", "admin"},
            "workerpools",
            {"create", "update", "patch", "delete", "deletecollection"},
        ),
        ("scale", set(), "workerpools/scale", {"get", "update", "patch"}),
    ],
)
def test_roles_of_people(role: str, into: set[str], resource: str, wanted: set[str]) -> None:
    found = one(render(URL), "ClusterRole", f"headrace-pools-{role}")
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels = {
        label.removeprefix(prefix) for label in found["metadata"]["labels"] if prefix in label
    }
    assert labels == into
    assert verbs(found["rules"], "headrace.dev", resource) == wanted
    if role != "scale":
        assert not verbs(found["rules"], "headrace.dev", "workerpools/scale")


def test_every_right_has_its_row_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "rights.md").read_text()
    for (group, resource), allowed_verbs in (
        RIGHTS | {("coordination.k8s.io", "leases"): {"get", "create", "update"}}
    ).items():
        name = f"{resource}.{group}" if group else resource
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        named = {verb.strip(" `") for row in rows for verb in row.split("|")[2].split(",")}
        assert named == allowed_verbs, name
