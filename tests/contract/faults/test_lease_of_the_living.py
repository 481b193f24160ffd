"""A lease that lapses although its worker lives, as in an outage: the task is not run beside
itself, and its worker is not counted as lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace import CONTEXT, Client, Context, QueueSettings, Worker, WorkerConfig
from headrace.broker.jetstream.keeper.parent import KeeperLeases
from headrace.broker.memory.consumer import MemoryLeases

ACK_WAIT = 0.5


async def test_a_task_whose_worker_lives_is_not_run_beside_itself(
    broker_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease lapses four times in one run; three lost workers would have been its end."""
    for leases in (KeeperLeases, MemoryLeases):
        monkeypatch.setattr(leases, "hold", lambda self, delivery: None)
    began: list[str] = []
    settings = QueueSettings(ack_wait=ACK_WAIT)
    workers = [
        Worker(url=broker_url, queue=queue_name, config=WorkerConfig(2), settings=settings)
        for _ in range(2)
    ]
    handed_back: list[Any] = []
    async with Client(broker_url, queue_name, settings=settings) as client:
        for worker in workers:

            @worker.handler("long")
            async def long(ctx: Context = CONTEXT) -> str:
                began.append(ctx.worker_id)
                async with asyncio.timeout(20):
                    while len(handed_back) < 4:
                        await asyncio.sleep(0.02)
                return ctx.worker_id

            await worker.start()
        _, queue = await client.link()
        nak = type(queue).nak

        async def note(self: Any, delivery: Any, delay: float = 0.0) -> None:
            handed_back.append(delivery)
            await nak(self, delivery, delay)

        monkeypatch.setattr(type(queue), "nak", note)
        task = await client.submit_async("long")
        found = await client.wait_for(task.id, timeout=20)
        assert began == [found.result]
        for worker in workers:
            await worker.stop()
