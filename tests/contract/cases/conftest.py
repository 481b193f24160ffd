"""A bench for the test's broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from tests.contract.cases.bench import Bench

from headrace import QueueSettings

MakeBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def make_bench(broker_url: str, queue_name: str) -> AsyncIterator[MakeBench]:
    """Makes benches of this test's queue; keywords as `QueueSettings`."""
    async with AsyncExitStack() as stack:

        async def make(**settings: float) -> Bench:
            chosen = QueueSettings(**settings)  # type: ignore[arg-type]
            bench = Bench(broker_url, f"case-{queue_name}", chosen)
            await bench.client.start()
            stack.push_async_callback(bench.close)
            return bench

        yield make


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """A bench with the settings that are the defaults."""
    return await make_bench()
