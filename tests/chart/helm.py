"""Finds helm, renders the chart with it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "headrace"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

# A helm built without its release's flags renders for a Kubernetes of 2020 if not told.
KUBE_VERSION = "1.34.0"

URL = "natsConnection.url=nats://nats.nats.svc:4222"
NAMESPACED = (
    "watchNamespaces={team-a,team-b}",
    "crds.enabled=false",
    "policies.authors=false",
    "rbac.aggregate=false",
)

Object = dict[str, Any]


@functools.cache
def find_helm() -> str | None:
    """HELM, else what is on the path, else what `make` has built for the cluster tier."""
    if given := os.environ.get("HELM"):
        return given
    if found := shutil.which("helm"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return next((str(path) for path in sorted(cache.glob("headrace/*/bin/helm"))), None)


needs_helm = pytest.mark.skipif(
    find_helm() is None, reason="helm is not there: put it on PATH or name it in HELM"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """helm with these arguments; the caller looks at the code."""
    helm = find_helm()
    assert helm is not None
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)


def template(*settings: str, files: tuple[Path, ...] = (), chart: Path = CHART) -> Any:
    """`helm template` with `--set` for each setting; the caller looks at the code."""
    arguments = ["template", "headrace", str(chart), "-n", "system", "--kube-version", KUBE_VERSION]
    for file in files:
        arguments += ["-f", str(file)]
    for setting in settings:
        arguments += ["--set", setting]
    return run(*arguments)


@functools.cache
def _rendered(settings: tuple[str, ...], files: tuple[Path, ...]) -> str:
    done = template(*settings, files=files)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def render(*settings: str, files: tuple[Path, ...] = ()) -> list[Object]:
    """The objects; a fresh copy of each."""
    return [found for found in yaml.safe_load_all(_rendered(settings, files)) if found]


def refusal(*settings: str) -> str:
    """What helm says when it will not render."""
    done = template(*settings)
    assert done.returncode != 0, "it was rendered"
    return str(done.stderr)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The only one of its kind (and name)."""
    found = [o for o in of_kind(objects, kind) if name is None or o["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and spec of every pod that the chart runs."""
    for found in objects:
        if found["kind"] == "Pod":
            yield found["metadata"]["name"], found["spec"]
        elif found["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield found["metadata"]["name"], found["spec"]["template"]["spec"]


def operator_env(objects: list[Object]) -> dict[str, str | None]:
    """The operator's variables; None for what is read from the pod."""
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def verbs(rules: list[Object], group: str, resource: str) -> set[str]:
    """What these rules allow on a resource."""
    return {
        verb
        for rule in rules
        if group in rule["apiGroups"] and resource in rule["resources"]
        for verb in rule["verbs"]
    }


def leaves(values: Object, prefix: str = "") -> Iterator[str]:
    """Dotted names of values.yaml: down to lists, scalars and objects whose keys are not ours."""
    free = {"resources", "nodeSelector", "affinity", "annotations", "labels"}
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in free:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def schema() -> Object:
    loaded: Object = json.loads((CHART / "values.schema.json").read_text())
    return loaded
