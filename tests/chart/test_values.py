"""What the chart refuses, what it says then, and that its papers agree with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.chart.helm import (
    CHART,
    EXAMPLES,
    KUBE_VERSION,
    ROOT,
    URL,
    Object,
    leaves,
    needs_helm,
    operator_env,
    refusal,
    render,
    run,
    schema,
)

VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text())


@needs_helm
@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("watchNamespace=team-a", "watchNamespace"),
        ("natsConnection.urls=x", "urls"),
        ("policies.author=false", "author"),
        ("nats.persistance.enabled=false", "persistance"),
        ("natsConnection.credentialsSecret.secretName=x", "secretName"),
    ],
)
def test_a_typo_is_refused_by_its_name(setting: str, where: str) -> None:
    said = refusal(URL, setting)
    assert f"additional properties '{where}' not allowed" in said


@needs_helm
@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("logFormat=xml", "/logFormat"),
        ("replicas=-1", "/replicas"),
        ("watchNamespaces={Team_A}", "/watchNamespaces/0"),
        ("defaultNats.namespaces[0].namespace=a", "/defaultNats/namespaces/0"),
        ("nats.persistence.size=lots", "/nats/persistence/size"),
        ("allowedNatsHosts={a b}", "/allowedNatsHosts/0"),
        ("secrets.read=maybe", "/secrets/read"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(setting: str, where: str) -> None:
    assert f"at '{where}'" in refusal(URL, setting)


@needs_helm
def test_what_a_parent_chart_adds_is_allowed() -> None:
    """Helm gives `global` to subcharts, and parents switch them by `enabled`."""
    assert render(URL, "global.registry=x", "enabled=true")


@needs_helm
def test_without_a_nats_it_says_what_to_set() -> None:
    said = refusal()
    assert "natsConnection.url is needed" in said
    assert "nats.enabled=true" in said


@needs_helm
def test_two_nats_are_one_too_many() -> None:
    assert "both set" in refusal(URL, "nats.enabled=true")


@needs_helm
@pytest.mark.parametrize("key", ["natsConnection.url", "natsConnection.workersUrl"])
def test_credentials_do_not_go_into_a_url(key: str) -> None:
    said = refusal(URL, f"{key}=nats://user:secret@nats:4222")
    assert f"{key} must not contain a user" in said
    assert "credentialsSecret" in said
    assert "secret@nats" not in said


@needs_helm
@pytest.mark.parametrize("url", ["nats", "http://nats:4222", "nats://", r"nats://a:4222\,b:4222"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert "is not the url of a NATS server" in refusal(f"natsConnection.url={url}")


@needs_helm
def test_several_servers_are_one_url() -> None:
    objects = render(r"natsConnection.url=nats://a:4222\,nats://b:4222")
    assert operator_env(objects)["HEADRACE_OPERATOR_NATS_URL"] == "nats://a:4222,nats://b:4222"


@needs_helm
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_render_and_pass_the_linter(example: Path) -> None:
    assert render(files=(example,))
    done = run("lint", "--strict", "--kube-version", KUBE_VERSION, str(CHART), "-f", str(example))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_the_defaults_pass_the_linter() -> None:
    done = run("lint", "--strict", "--kube-version", KUBE_VERSION, str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_value_is_commented_in_the_schema_and_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "helm.md").read_text()
    source = (CHART / "values.yaml").read_text().splitlines()
    for name in leaves(VALUES):
        assert f"| `{name}` |" in page, f"docs/reference/helm.md does not have {name}"
        node = schema()
        for part in name.split("."):
            node = node["properties"][part]
        key = name.rpartition(".")[2]
        spots = [i for i, line in enumerate(source) if line.strip().startswith(f"{key}:")]
        assert any(source[i - 1].strip().startswith("#") for i in spots), f"{name} has no comment"


def test_the_page_has_no_value_that_is_gone() -> None:
    page = (ROOT / "docs" / "reference" / "helm.md").read_text()
    table = page.split("## Values", 1)[1].split("\n## ", 1)[0]
    named = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert named == set(leaves(VALUES))


def test_schema_is_closed_wherever_the_keys_are_ours() -> None:
    def closed(node: Object, where: str) -> None:
        if "properties" in node:
            open_on_purpose = where.endswith("extraEnv[]")
            assert node.get("additionalProperties") is False or open_on_purpose, where
        for key, inner in node.get("properties", {}).items():
            closed(inner, f"{where}.{key}")
        if isinstance(node.get("items"), dict):
            closed(node["items"], where + "[]")

    closed(schema(), "")
