"""Acknowledgements, of which the last one of a long lane waits for a moment.

The server finds the next message of a lane at once, unless that message is the oldest of the whole
stream: then it first walks over all subjects that match, and every waiting task has its own. With
one slot each task is the oldest by the time it is asked for, since the one before it was
acknowledged: 100,000 waiting tasks then cost 10 to 30 ms of the server's time for each start, and
it grows with what waits. A task that has ended and is not acknowledged yet keeps the next one from
being the oldest.

So in a lane with many waiting tasks the newest acknowledgement is held until the next one of the
lane, at most `HOLD` seconds. Whoever dies meanwhile leaves a task that is delivered again, and
dropped for its final record. The queue does not hold those whose record may be gone by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from headrace.broker.port import Delivery
from headrace.wire import Lane

HOLD = 0.5  # seconds
FAR = 1_000  # waiting tasks of a lane from which the walk is worth avoiding

Send = Callable[[Delivery], Awaitable[None]]
"""Sends an acknowledgement; does not raise when there is no connection."""


class HeldAcks:
    """The acknowledgements of one queue on one connection."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: dict[Lane, tuple[Delivery, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def ack(self, delivery: Delivery) -> None:
        """Acknowledge it: now, or after the next one of its lane."""
        if delivery.pending < FAR:
            await self._send(delivery)
            return
        loop = asyncio.get_running_loop()
        before = self._held.get(delivery.lane)
        self._held[delivery.lane] = delivery, loop.time() + HOLD
        if self._timer is None:
            self._timer = loop.call_later(HOLD, self._tick)
        if before is not None:
            await self._send(before[0])

    async def release(self) -> None:
        """Send all that is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, {}
        for delivery, _ in held.values():
            await self._send(delivery)
        if self._sending:
            await asyncio.gather(*self._sending)

    def _tick(self) -> None:
        """Send what was held long enough; come back for the rest."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for lane, (delivery, until) in list(self._held.items()):
            if until <= now:
                del self._held[lane]
                task = loop.create_task(self._sent(delivery))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
        ends = [until for _, until in self._held.values()]
        self._timer = loop.call_at(min(ends), self._tick) if ends else None

    async def _sent(self, delivery: Delivery) -> None:
        await self._send(delivery)
