"""A process that uses an embedded server until its input ends.

python -m tests.contract.embedded.program embedded:///some/folder
"""

from __future__ import annotations

import asyncio
import json
import sys

from headrace.broker.connect import make_broker
from headrace.broker.embedded.broker import EmbeddedBroker
from headrace.broker.embedded.files import read_server


async def main() -> None:
    """Connect, say which server that is, wait, close."""
    broker = make_broker(sys.argv[1])
    assert isinstance(broker, EmbeddedBroker)
    await broker.connect()
    facts = {"folder": str(broker.folder), **(read_server(broker.folder) or {})}
    print(json.dumps(facts), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
