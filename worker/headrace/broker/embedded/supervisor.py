"""The process that holds a folder's nats-server and restarts it when it dies.

Started by the first user; it lives as long as somebody holds `users.lock`. It says on its output,
in one JSON line, whether the server runs: `{}` or `{"error": …, "hint": …}`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from headrace.broker.embedded.files import lock, lock_within, read_server, write_server
from headrace.broker.server import NatsServer
from headrace.errors import BrokerUnavailable, HeadraceError

_TICK = 0.2  # seconds
_GRACE = 1.0  # seconds without a user after which it stops: commands in a row use one server
_LOOKERS = 0.5  # seconds: who only looks whether there is a supervisor has its lock for a moment
_ORPHAN_ENDS_WITHIN = 5.0
_MOST_PAUSE = 5.0
_SAME_PORT_TRIES = 3


def supervise(folder: Path) -> None:
    """Hold the server until the last user has gone. Raises what its first start raises."""
    mine = lock_within(folder / "supervisor.lock", _LOOKERS)
    if mine is None:
        _answer({})  # somebody else was faster
        return
    old = read_server(folder) or {}
    life = _outlive_orphan(folder, old.get("pid"))
    # The port and token of before, so that clients of a server that died find the new one.
    server = NatsServer(folder, port=old.get("port", 0), token=old.get("token", ""), inherit=[life])
    try:
        _start_first(server)
        _publish(folder, server)
        _answer({})
        _hold(folder, server)
    finally:
        server.stop()
        os.close(life)
        # Before `users.lock`: who gets that one must not take us for alive.
        os.close(mine)


def _outlive_orphan(folder: Path, pid: int | None) -> int:
    """Lock `server.lock`: wait for the end of a server whose supervisor was killed, or end it.

    Linux ends it with its supervisor; elsewhere this does. Two servers would share a store.
    """
    found = lock_within(folder / "server.lock", _ORPHAN_ENDS_WITHIN)
    if found is None and pid:
        os.kill(pid, signal.SIGKILL)  # no other process: the lock shows that this one lives
        found = lock_within(folder / "server.lock", _ORPHAN_ENDS_WITHIN)
    if found is None:
        raise BrokerUnavailable("another nats-server uses this folder and does not end")
    return found


def _start_first(server: NatsServer) -> None:
    for _ in range(_SAME_PORT_TRIES if server.port else 0):
        try:
            server.start()
            return
        except BrokerUnavailable:
            time.sleep(_TICK)
    server.port = 0  # somebody has the port by now
    server.start()


def _hold(folder: Path, server: NatsServer) -> None:
    pause, last_used = _TICK, time.monotonic()
    while True:
        time.sleep(_TICK)
        unused = lock(folder / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        if unused is None:
            last_used = time.monotonic()
        elif time.monotonic() - last_used > _GRACE:
            return  # who comes now waits for this lock until the process has ended
        else:
            os.close(unused)
        if server.running:
            pause = _TICK
            continue
        try:
            server.start()
            _publish(folder, server)
        except HeadraceError as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201  # its log
            time.sleep(pause)
            pause = min(_MOST_PAUSE, pause * 2)


def _publish(folder: Path, server: NatsServer) -> None:
    facts = {
        "url": server.url,
        "port": server.port,
        "token": server.token,
        "pid": server.pid,
        "supervisor": os.getpid(),
    }
    write_server(folder, facts)


def _answer(answer: dict[str, str]) -> None:
    """Tell who started this; once, and then the output is closed."""
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        pass  # that one has gone; the users decide how long this lives
    os.dup2(2, 1)


def main() -> None:
    """Entry point: the folder is the only argument."""
    # Ctrl-C and a closing terminal are meant for the users; when they have gone, this goes too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    os.umask(0o077)  # logs and the store are the owner's, also in a folder that is open to others
    if os.fork():
        # Nobody's child: whoever is left when it ends has not started it and would not reap it.
        os._exit(0)
    try:
        supervise(Path(sys.argv[1]))
    except HeadraceError as error:
        _answer({"error": error.message, "hint": error.hint})
    except OSError as error:
        _answer({"error": str(error), "hint": ""})  # such as a folder that was removed


if __name__ == "__main__":
    main()
