"""Where a run takes place: namespaces of its own, so that it can cut cables and fill disks, and so
that nothing of it is left behind, also when it is killed.

`enter` runs the whole program in new network, mount and process namespaces. In them every server
has a network namespace too, with a cable (veth) to a bridge on which clients and workers are, and a
small file system of its own. When the program ends, however it ends, the kernel removes all of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.nats_servers import _end_with_parent

_INSIDE = "HEADRACE_FAULTS_INSIDE"
_ROOM = Path("/run")  # covered by a file system of our own: ip keeps its names there
_DISK = 256  # MiB of each server
_NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class Unable(Exception):
    """This machine cannot make the namespaces."""


def inside() -> bool:
    """Whether this process is in namespaces of its own."""
    return os.environ.get(_INSIDE) == "1"


def enter(arguments: list[str]) -> int | None:
    """Run the same program in namespaces of its own; its exit code, None where that cannot be, or
    where it is so already. The program ends with this process, however that ends."""
    if inside() or why_not():
        return None
    command = ["unshare", *_NAMESPACES, sys.executable, "-m", "tests.faults", *arguments]
    sys.stdout.flush()
    child = subprocess.Popen(command, env=os.environ | {_INSIDE: "1"}, preexec_fn=_end_with_parent)
    # unshare itself ignores what it is told while it waits.
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    signal.signal(signal.SIGINT, lambda *_: child.kill())
    return child.wait()


def why_not() -> str:
    """Why namespaces cannot be made; "" if they can."""
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    if sys.platform != "linux":
        return "they are Linux's"
    probe = "ip link add hr0 type bridge && mount -t tmpfs none /run"
    done = subprocess.run(
        ["unshare", *_NAMESPACES, "sh", "-c", probe], capture_output=True, text=True, timeout=30
    )
    return done.stderr.strip() if done.returncode else ""


class Ground:
    """The bridge, the cables and the disks; made once, in namespaces that `enter` made."""

    def __init__(self, servers: int) -> None:
        _run("mount", "-t", "tmpfs", "none", str(_ROOM))
        self.folder = _ROOM / "headrace-faults"
        self.folder.mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "hr0", "type", "bridge")
        _run("ip", "addr", "add", "10.77.0.1/24", "dev", "hr0")
        _run("ip", "link", "set", "hr0", "up")
        for number in range(servers):
            self._add(number)

    def _add(self, number: int) -> None:
        name, cable = f"n{number}", f"hrv{number}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", cable, "master", "hr0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
        store = self.disk(number)
        store.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={_DISK}m", "none", str(store))

    def host(self, number: int) -> str:
        """The address of a server."""
        return f"10.77.0.{11 + number}"

    def disk(self, number: int) -> Path:
        """Where a server stores."""
        return self.folder / f"n{number}" / "store"

    def before(self, number: int) -> list[str]:
        """What a server's command line begins with."""
        return ["ip", "netns", "exec", f"n{number}"]

    def cut(self, number: int) -> None:
        """Pull the cable of a server: nothing goes through, and nobody is told."""
        _run("ip", "link", "set", f"hrv{number}", "down")

    def join(self, number: int) -> None:
        """Put it in again."""
        _run("ip", "link", "set", f"hrv{number}", "up")

    def fill(self, number: int) -> None:
        """Take all the room that is left on a server's disk."""
        size, step = 0, 1 << 22
        with self._filler(number).open("wb") as filler:
            while step >= 4096:  # the server writes beside us, so what is free is found by trying
                try:
                    os.posix_fallocate(filler.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 2

    def clear(self, number: int) -> None:
        """Give the room back."""
        self._filler(number).unlink(missing_ok=True)

    def _filler(self, number: int) -> Path:
        return self.disk(number) / "filler"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unable(f"{' '.join(command)}: {done.stderr.strip()}")
