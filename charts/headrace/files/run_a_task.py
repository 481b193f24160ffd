# ruff: noqa: INP001, T201
"""`helm test`: a worker with one handler, and a client whose task it has to run."""

import asyncio
import os
import uuid

from headrace import Client, Worker

QUEUE = os.environ["QUEUE"]


async def main() -> None:
    # The token shows that the answer is to this run's task and not to one that was left over.
    token = uuid.uuid4().hex
    worker = Worker(queue=QUEUE)

    @worker.handler("echo")
    async def echo(data: dict) -> dict:
        return {"echo": data}

    await worker.start()
    try:
        async with Client(queue=QUEUE) as client:
            answer = await client.submit("echo", {"token": token}, wait_timeout=30)
    finally:
        await worker.stop()
    assert answer == {"echo": {"token": token}}, answer
    print(f"a task of the queue {QUEUE} was submitted, run and answered")


asyncio.run(main())
