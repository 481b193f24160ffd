"""The worker's side of the lease keeper."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

from headrace.broker.jetstream.keeper.settings import health_address, stuck_after
from headrace.broker.jetstream.keeper.table import LONGEST_SUBJECT, Table, size_of
from headrace.broker.jetstream.options import ConnectOptions
from headrace.broker.port import Delivery
from headrace.errors import ConfigurationError, HeadraceError

log = logging.getLogger("headrace.worker")

SLOTS = 4096
"""Of a table, unless more are asked for: all engines of a process may share one. Memory that is
never touched costs nothing."""
_SPARE = 64  # slots beyond those asked for: deliveries that are looked at and not started
_BEAT = 0.5  # seconds
_START_WITHIN = 20.0
_END_WITHIN = 2.0
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0
_GOOD_LIFE = 30.0  # seconds after which a keeper that dies is started again without delay

# Process id and leases whose keeper serves the probes on a port that was named: one a process.
_serving: tuple[int, KeeperLeases] | None = None


class KeeperLeases:
    """The port's `Leases` on NATS, kept by a process of its own.

    HEADRACE_STUCK_AFTER (seconds, default 60) is how long the event loop may be blocked before the
    leases are let go and `/livez` fails. With HEADRACE_HEALTH_PORT (0: any free one) the keeper
    serves `/livez` and `/readyz` on HEADRACE_HEALTH_HOST (default 127.0.0.1). Of several in one
    process only the first serves them on a port that is not 0.
    """

    def __init__(self, options: ConnectOptions, ack_wait: float, slots: int) -> None:
        self._options = options
        self._ack_wait = ack_wait
        self._slots = max(SLOTS, slots + _SPARE)
        self._stuck_after = stuck_after()
        self._health = health_address()
        self.health_port: int | None = None
        """Where the probes are answered, if they are."""
        self._descriptor = _memory(size_of(self._slots))
        self._table = Table(self._descriptor, self._slots)
        self._free = list(range(self._slots - 1, -1, -1))
        self._held: dict[Delivery, int] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._guard: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def start(cls, options: ConnectOptions, ack_wait: float, slots: int) -> KeeperLeases:
        """Start the keeper for `slots` tasks at once, leased for `ack_wait` seconds.

        Raises `ConfigurationError` for an environment variable that makes no sense or a health
        port that is taken, `HeadraceError` if the keeper does not start.
        """
        leases = cls(options, ack_wait, slots)
        leases._claim_probes()
        leases._beat()
        try:
            await leases._spawn()
        except BaseException:
            await leases.close()
            raise
        leases._guard = asyncio.create_task(leases._watch(), name="headrace-keeper")
        return leases

    @property
    def pid(self) -> int | None:
        """The keeper's process."""
        return None if self._process is None else self._process.pid

    # --- leases ---

    def hold(self, delivery: Delivery) -> None:
        """Extend this delivery's lease from now on."""
        if delivery in self._held:
            return
        subject = delivery.token.encode()
        if not self._free or len(subject) > LONGEST_SUBJECT:
            problem = "its subject is too long" if self._free else "no slot is free"
            log.error("the lease of %s cannot be kept: %s", delivery.task_id, problem)
            return
        index = self._free.pop()
        self._held[delivery] = index
        self._table.fill(index, subject, delivery.received_at)

    def release(self, delivery: Delivery) -> None:
        """Stop extending it."""
        index = self._held.pop(delivery, None)
        if index is not None:
            self._table.empty(index)
            self._free.append(index)

    def sure_until(self, delivery: Delivery) -> float:
        """Monotonic time until which nobody else can have been given this delivery."""
        index = self._held.get(delivery)
        since = delivery.received_at if index is None else self._table.sure_from(index)
        return since + self._ack_wait

    def set_ready(self, ready: bool) -> None:
        """What `/readyz` says; not ready until it is said."""
        self._table.ready = ready

    # --- the keeper's life ---

    def _claim_probes(self) -> None:
        global _serving
        if self._health is None or self._health[1] == 0:
            return
        if _serving is not None and _serving[0] == os.getpid():
            self._health = None
        else:
            _serving = os.getpid(), self

    def _beat(self) -> None:
        self._table.beaten_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(_BEAT, self._beat)

    async def _spawn(self) -> None:
        process = await asyncio.create_subprocess_exec(
            # -P: a module of this name in the current folder is not ours
            *(sys.executable, "-P", "-m", "headrace.broker.jetstream.keeper.process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._descriptor],
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(self._config()).encode() + b"\n")
            await process.stdin.drain()
            async with asyncio.timeout(_START_WITHIN):
                line = await process.stdout.readline()
            answer = json.loads(line)
        except (OSError, ValueError, TimeoutError) as error:
            raise HeadraceError(
                f"the lease keeper did not start: {error or type(error).__name__}",
                hint="Its reason is on stderr",
            ) from error
        if "error" in answer:
            raise ConfigurationError(
                f"the probes of HEADRACE_HEALTH_PORT do not start: {answer['error']}",
                hint="Choose another port, or 0 for any free one",
            )
        self.health_port = answer["health_port"]
        if self._health is not None and self.health_port is not None:
            self._health = (self._health[0], self.health_port)  # the same one after a restart

    def _config(self) -> dict[str, Any]:
        return {
            "parent": os.getpid(),
            "descriptor": self._descriptor,
            "slots": self._slots,
            "ack_wait": self._ack_wait,
            "stuck_after": self._stuck_after,
            "health": self._health,
            "options": self._options.to_json(),
            "name": f"headrace-keeper-{os.getpid()}",
        }

    async def _watch(self) -> None:
        """Log what the keeper says, and start it again when it ends: the table goes on."""
        pause = _FIRST_PAUSE
        while not self._closed:
            started = time.monotonic()
            code = await self._until_it_ends()
            log.error("the lease keeper has ended with %s and is started again", code)
            if time.monotonic() - started > _GOOD_LIFE:
                pause = _FIRST_PAUSE
            while not self._closed:
                try:
                    await self._spawn()
                    break
                except (HeadraceError, OSError) as error:
                    log.error("%s", error)
                    await self._end()
                    await asyncio.sleep(pause)
                    pause = min(_MOST_PAUSE, pause * 2)

    async def _until_it_ends(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                log.warning("%s", json.loads(line)["problem"])
            except (ValueError, KeyError, TypeError):
                log.warning("the lease keeper said %r", line)
        return await self._process.wait()

    async def close(self) -> None:
        """End the keeper. What is held lapses `ack_wait` later."""
        global _serving
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
        await self._end()
        os.close(self._descriptor)
        if _serving is not None and _serving[1] is self:
            _serving = None

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _END_WITHIN)
            except TimeoutError:
                process.kill()
                await process.wait()
        # Its pipes end with the process; a loop that is closed before it has noticed warns.
        process._transport.close()  # type: ignore[attr-defined]


def _memory(size: int) -> int:
    """A descriptor of so many bytes that have no name in any folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("headrace-leases")
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor
