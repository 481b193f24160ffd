"""As a person who installs the chart: helm, kubectl, the SDK, and nothing beside them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.kube import apply, kubectl, run

ROOT = Path(__file__).parents[2]


def helm(*arguments: str, timeout: float = 180) -> str:
    """Run helm; its output. Raises `Failed`."""
    return run("helm", *arguments, timeout=timeout, cwd=ROOT)


CHART = (
    *("--set", "image.tag=dev,nats.image=headrace/nats:dev,test.image=headrace/worker:dev"),
    *("--set", "nats.enabled=true,nats.persistence.enabled=false"),
)


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """There is a cluster, and helm."""
    if not os.environ.get("KUBECONFIG") or shutil.which("helm") is None:
        pytest.skip("no cluster: run `make test-cluster`")


@pytest.fixture
def restricted() -> Iterator[str]:
    """A namespace that admits only pods of the restricted profile."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    try:
        helm("uninstall", "headrace", "-n", name, "--ignore-not-found")
    finally:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
