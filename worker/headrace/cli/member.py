"""One process of `headrace worker --processes`: a worker that its crew speaks for.

Started by `crew` with a socket; the first line says what to run. Further lines are orders, each
answered with the facts; facts are also sent by themselves when they have changed. It drains when
the socket ends: without its crew nobody would see it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from typing import Any

from headrace.cli.exits import INTERRUPTED, exit_code, say
from headrace.cli.loading import load_app
from headrace.cli.serving import Options, Signals, run, stop_worker, worker_of
from headrace.errors import HeadraceError
from headrace.runtime.collector import tune_collector
from headrace.worker import Worker

_EVERY = 0.2  # seconds between two looks at whether the facts have changed


class _Talk:
    """With the crew."""

    def __init__(self, worker: Worker, writer: asyncio.StreamWriter) -> None:
        self._worker = worker
        self._writer = writer
        self._said: dict[str, Any] = {}

    def tell(self, **more: Any) -> None:
        """The facts, in a line."""
        facts = self._worker.facts()
        self._said = facts | {"last_heartbeat": 0}
        line = json.dumps({"facts": facts, **more})
        self._writer.write(line.encode() + b"\n")

    async def show(self) -> None:
        """Tell whenever they have changed."""
        while True:
            if self._worker.facts() | {"last_heartbeat": 0} != self._said:
                self.tell()
            await asyncio.sleep(_EVERY)

    async def obey(self, reader: asyncio.StreamReader) -> None:
        """Until the crew has gone."""
        while line := await reader.readline():
            order = json.loads(line)
            if order["do"] == "drain":
                self._worker.drain(order["seconds"])
            else:
                self._worker.resume()
            self.tell(answers=order["n"])


async def _work(descriptor: int) -> int:
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connection)
    config = json.loads(await reader.readline())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = worker_of(load_app(config["app"]), Options(**config["options"]))
    signals = Signals(lambda _: None)  # the crew says it for all
    if not await signals.unless_stopped(worker.start(patient=config["patient"], announce=False)):
        return 0
    worker.info.metadata["health_port"] = getattr(worker.leases, "health_port", None)
    if config["drain"] > 0:
        worker.drain(config["drain"])
    tune_collector()
    talk = _Talk(worker, writer)
    parts = [asyncio.create_task(talk.show()), asyncio.create_task(talk.obey(reader))]
    ends = [*parts, asyncio.create_task(signals.stop.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await stop_worker(worker, signals.now)
    for part in ends:
        part.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    writer.close()
    return INTERRUPTED if signals.now.is_set() else 0


def main() -> None:
    """Entry point: its argument is the socket's descriptor."""
    try:
        code = run(_work(int(sys.argv[1])))
    except HeadraceError as error:
        say(error)
        code = exit_code(error)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
