"""The operator as a process beside the cluster, so that it can be killed between two steps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class OperatorProcess:
    """One replica."""

    def __init__(self, folder: Path, identity: str, **settings: str) -> None:
        self.log = folder / f"{identity}.log"
        self.metrics_port, self.probe_port = free_port(), free_port()
        self._env = os.environ | {
            "HEADRACE_OPERATOR_IDENTITY": identity,
            "HEADRACE_OPERATOR_LOG_FORMAT": "text",
            "HEADRACE_OPERATOR_METRICS_PORT": str(self.metrics_port),
            "HEADRACE_OPERATOR_PROBE_PORT": str(self.probe_port),
            "HEADRACE_OPERATOR_LEASE_SECONDS": "8",
            **{f"HEADRACE_OPERATOR_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> OperatorProcess:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace_operator"],
                env=self._env,
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a node that dies."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> float:
        """As a rollout; the seconds that it took."""
        if self.process is None or self.process.poll() is not None:
            return 0.0
        began = time.monotonic()
        self.send(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        """`name{labels}` → value."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def alive(self) -> bool:
        """What its liveness probe says."""
        url = f"http://127.0.0.1:{self.probe_port}/healthz"
        try:
            return bool(urllib.request.urlopen(url, timeout=5).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def words(self) -> str:
        """Its log."""
        return self.log.read_text()
