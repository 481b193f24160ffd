"""deploy/headrace.yaml: the chart, rendered, for who has no Helm. Prints it; needs helm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
# Made by `make deploy/headrace.yaml` from charts/headrace and deploy/values.yaml.
#   kubectl apply --server-side -f deploy/headrace.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: headrace
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def manifests(helm: str) -> str:
    """The text. Raises `CalledProcessError`."""
    rendered = subprocess.run(
        [
            *(helm, "template", "headrace", str(ROOT / "charts" / "headrace"), "-n", "headrace"),
            *("--no-hooks", "--kube-version", "1.34.0"),
            *("-f", str(ROOT / "deploy" / "values.yaml")),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return HEAD + rendered


if __name__ == "__main__":
    sys.stdout.write(manifests(os.environ.get("HELM") or shutil.which("helm") or "helm"))
