"""deploy/headrace.yaml, for who has no Helm."""

from __future__ import annotations

import importlib.util

import yaml
from tests.chart.helm import ROOT, find_helm, needs_helm


@needs_helm
def test_it_is_what_the_chart_renders() -> None:
    spec = importlib.util.spec_from_file_location("plain", ROOT / "scripts/plain_manifests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fresh = module.manifests(find_helm() or "")
    assert (ROOT / "deploy/headrace.yaml").read_text() == fresh, "run `make deploy/headrace.yaml`"


def test_it_holds_all_that_an_operator_needs() -> None:
    found = list(yaml.safe_load_all((ROOT / "deploy/headrace.yaml").read_text()))
    kinds = [each["kind"] for each in found if each]
    for kind in ("Namespace", "CustomResourceDefinition", "ClusterRole", "Deployment"):
        assert kind in kinds
