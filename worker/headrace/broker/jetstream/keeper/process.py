"""The keeper's side. Started by `parent`; its first line of input is its configuration.

It ends when its input does: when the worker dies, what it held is not extended any more. Its output
is JSON lines for the worker: first `{"health_port": …}` or `{"error": …}`, later `{"problem": …}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from typing import Any

from nats.errors import Error as NatsError

from headrace.broker.jetstream.connection import NatsConnection, adapt
from headrace.broker.jetstream.keeper.probes import Probes
from headrace.broker.jetstream.keeper.table import Table
from headrace.broker.jetstream.options import ConnectOptions
from headrace.errors import HeadraceError

_IN_PROGRESS = b"+WPI"
_CONNECT_AGAIN = 0.5  # seconds
_TURNS = 12  # in one `ack_wait`: how often it looks for leases that are due


class Keeper:
    """Extends every held lease each third of `ack_wait`, and until the server has answered again
    each twelfth; answers the probes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._table = Table(config["descriptor"], config["slots"])
        self._ack_wait: float = config["ack_wait"]
        self._stuck_after: float = config["stuck_after"]
        self._health: list[Any] | None = config["health"]
        self._parent: int = config["parent"]
        options = ConnectOptions.from_json(config["options"])
        self._connection = NatsConnection(options, config["name"])
        self._reconnected = asyncio.Event()
        self._inbox = ""
        self._late_since = 0.0
        self._complained = False

    async def run(self) -> None:
        """Until the worker has gone."""
        try:
            port = None
            if self._health is not None:
                port = await Probes(self._look).serve(*self._health)
        except OSError as error:
            _say(error=f"{self._health} cannot be served: {error.strerror or error}")
            return
        _say(health_port=port)
        tasks = [asyncio.create_task(self._extend()), asyncio.create_task(_until_input_ends())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    # --- leases ---

    async def _extend(self) -> None:
        await self._connect()
        age = self._ack_wait / 3
        while not self._orphaned():
            if self._connection.nc.is_connected and not self._blocked():
                await self._round(age)
            self._complain()
            try:
                await asyncio.wait_for(self._reconnected.wait(), self._ack_wait / _TURNS)
            except TimeoutError:
                age = self._ack_wait / 3
            else:
                self._reconnected.clear()
                age = 0.0  # all at once: how much time the outage has left them is not known

    def _orphaned(self) -> bool:
        # The input does not end with a worker that has forked: its children have it open too.
        return os.getppid() != self._parent

    async def _connect(self) -> None:
        while not self._orphaned():
            try:
                await self._connection.connect()
                break
            except HeadraceError:
                self._complain()
                await asyncio.sleep(_CONNECT_AGAIN)
        else:
            return
        self._connection.on_reconnect.append(self._reconnected.set)
        self._inbox = self._connection.nc.new_inbox()
        await self._connection.subscribe(self._inbox + ".*", adapt(self._answered))

    async def _round(self, age: float) -> None:
        now = time.monotonic()
        for held in self._table.held():
            if now - held.extended_at < age:
                continue
            # With a reply subject, so that the consumer's leader itself answers; the reply's
            # subject says which signal it answers.
            reply = f"{self._inbox}.{held.slot}-{held.generation}-{time.monotonic_ns()}"
            try:
                await self._connection.nc.publish(held.ack_subject.decode(), _IN_PROGRESS, reply)
            except (NatsError, OSError):
                return  # a lost connection; the next round sends again

    def _answered(self, subject: str, _: bytes, __: str) -> None:
        index, generation, sent_at = subject.rpartition(".")[2].split("-")
        self._table.answered(
            int(index), int(generation), int(sent_at) / 1e9, time.monotonic(), self._ack_wait
        )

    def _blocked(self) -> float:
        """Seconds for which the worker's loop has not turned, if that is too long, else 0."""
        blocked = time.monotonic() - self._table.beaten_at
        return blocked if blocked > self._stuck_after else 0.0

    def _complain(self) -> None:
        """Say once when leases are about to lapse."""
        now = time.monotonic()
        limit = now - self._ack_wait * 2 / 3
        held = self._table.held()
        late = sum(max(each.extended_at, self._table.sure_from(each.slot)) < limit for each in held)
        if not late:
            self._late_since, self._complained = now, False
        elif not self._complained and now - self._late_since > self._ack_wait / 6:
            self._complained = True  # and not for what this turn's signals are just curing
            _say(problem=f"the leases of {late} tasks are not extended: {self._why_late()}")

    def _why_late(self) -> str:
        if blocked := self._blocked():
            return f"the event loop has been blocked for {blocked:.0f} s"
        if self._connection.nc.is_connected:
            return "the server does not confirm them"
        return self._connection.trouble

    def _look(self) -> tuple[str, str]:
        blocked = self._blocked()
        return (
            f"the worker's event loop has been blocked for {blocked:.0f} s" if blocked else "",
            "" if self._table.ready else "the worker takes no tasks",
        )


async def _until_input_ends() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201  # the worker reads it


def _config() -> dict[str, Any]:
    """The first line of the input, read byte by byte so that nothing behind it is buffered."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit("the keeper is started by a worker")
        line += byte
    config: dict[str, Any] = json.loads(line)
    return config


def main() -> None:
    """Entry point."""
    # A Ctrl-C goes to the whole group; the keeper outlives the worker's drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The worker's own connection logs what happens to the server.
    logging.getLogger("headrace").addHandler(logging.NullHandler())
    config = _config()

    async def run() -> None:
        await Keeper(config).run()
        # At once: what is still buffered must not extend anything.
        os._exit(0)

    asyncio.run(run())


if __name__ == "__main__":
    main()
