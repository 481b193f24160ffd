"""A worker's process, as far as leases go: takes one task of a queue, holds it, does as it is
told on its input, and says on its output what it did.

python -m tests.contract.keeper.program <url> <queue> <ack_wait>
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from tests.support.recorder import NORMAL, Recorder

from headrace.broker.connect import open_broker
from headrace.broker.jetstream.keeper.parent import KeeperLeases
from headrace.broker.port import QueueSettings


async def main() -> None:
    """Until the input ends; commands: `block <seconds>`, `fork`."""
    url, name, ack_wait = sys.argv[1], sys.argv[2], float(sys.argv[3])
    broker = await open_broker(url)
    queue = broker.queue(name, QueueSettings(ack_wait=ack_wait))
    leases = await broker.leases(ack_wait, 1)
    assert isinstance(leases, KeeperLeases)
    async with Recorder(queue, NORMAL) as taker:
        (delivery,) = await taker.take()
        leases.hold(delivery)
        _say(keeper=leases.pid, health_port=leases.health_port)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, _, argument = line.strip().partition(" ")
            if command == "block":
                _say(blocked=True)
                time.sleep(float(argument))  # noqa: ASYNC251  # that is the point
            elif command == "fork":
                _say(child=_fork())
        await leases.close()
    await broker.close()


def _fork() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
