"""The faults: each is done, and undone some seconds later. What each has hit is its `Window`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from tests.faults.check import Window
from tests.faults.crew import Member
from tests.faults.plan import Fault, Job
from tests.faults.world import World

from headrace.task import TaskPriority

Undo = Callable[[], Awaitable[None]]


class Injector:
    """One kind of fault on one world."""

    whole: ClassVar[bool] = True
    """Whether it may take leases from any worker; else only from those in `hit`."""
    leases: ClassVar[bool] = True
    order: ClassVar[bool] = True

    def __init__(self, world: World, fault: Fault) -> None:
        self.world = world
        self.fault = fault
        self.hit: set[int] = set()
        self.said = ""

    async def do(self) -> None:
        """Do it, and say in `said` what to."""
        raise NotImplementedError

    async def undo(self) -> None:
        """Set right what was done."""

    async def run(self) -> Window:
        """Do it, wait, undo it."""
        began = time.monotonic()
        try:
            await self.do()
            await asyncio.sleep(self.fault.seconds)
        finally:
            await self.undo()
        pids = frozenset() if self.whole else frozenset(self.hit)
        leases = self.leases and (self.whole or bool(pids))
        return Window(self.fault.kind, began, time.monotonic(), pids, leases, self.order)

    def member(self) -> Member:
        """The worker that it picks."""
        member = self.world.member(self.fault.pick)
        self.hit.add(member.pid)
        return member

    def jobs(self, *kinds: tuple[str, float], **more: float) -> None:
        """Submit tasks that are the fault: type and seconds of each."""
        for type_, seconds in kinds:
            name = self.world.new_id()
            job = Job(name, 0.0, type_, TaskPriority.CRITICAL, seconds, **more)  # type: ignore[arg-type]
            self.world.submit(job)


class WorkerKill(Injector):
    """kill -9."""

    whole = False

    async def do(self) -> None:
        member = self.member()
        member.signal(signal.SIGKILL)
        self.said = f"worker {member.number}"


class WorkerStop(Injector):
    """The worker sleeps past its leases, alone or with its lease keeper, and wakes up."""

    whole = False
    _asleep: tuple[int, ...] = ()

    async def do(self) -> None:
        member = self.member()
        keeper = self.world.crew.keeper(member.pid)
        both = self.fault.pick * 16 % 1 < 0.7 and keeper is not None
        self._asleep = (member.pid, keeper) if both and keeper else (member.pid,)
        for pid in self._asleep:
            _signal(pid, signal.SIGSTOP)
        self.said = f"worker {member.number}{' and its keeper' if both else ''}"

    async def undo(self) -> None:
        for pid in self._asleep:
            _signal(pid, signal.SIGCONT)


class WorkerTerm(Injector):
    """SIGTERM while tasks run, and a second one a moment later: what runs is handed back."""

    whole = False

    async def do(self) -> None:
        member = self.member()
        member.signal(signal.SIGTERM)
        self.said = f"worker {member.number}"

    async def undo(self) -> None:
        for pid in self.hit:
            _signal(pid, signal.SIGTERM)


class SlowHandler(Injector):
    """Handlers that take longer than a lease, and one that does not end when it is told to."""

    leases = order = False

    async def do(self) -> None:
        self.jobs(*[("work", self.world.ack_wait * 1.5)] * 4)
        self.jobs(("hang", 12.0), timeout=1.0)
        self.said = f"4 of {self.world.ack_wait * 1.5:.1f} s, 1 that will not end"


class BlockedHandler(Injector):
    """Handlers that block the event loop, or hold the GIL, for longer than a lease."""

    leases = False

    async def do(self) -> None:
        seconds = self.fault.seconds
        self.jobs(("block", seconds), ("gil", seconds))
        self.said = f"the loop and the GIL for {seconds:.1f} s"


class Poison(Injector):
    """A task that kills its workers, one after the other."""

    async def do(self) -> None:
        self.jobs(("poison", 0.1))
        self.said = "1 task"


class BrokerKill(Injector):
    """kill -9 of every server, and a start a moment later."""

    async def do(self) -> None:
        for server in self.world.servers.all:
            await asyncio.to_thread(server.kill)
        self.said = f"{len(self.world.servers.all)} servers"

    async def undo(self) -> None:
        await asyncio.gather(*map(_start, self.world.servers.all))


class LeaderKill(Injector):
    """kill -9 of the server that leads the work stream."""

    async def do(self) -> None:
        number = await self.world.servers.leader(self.world.names.work_stream)
        self._server = self.world.servers.all[number]
        await asyncio.to_thread(self._server.kill)
        self.said = f"server {number}"

    async def undo(self) -> None:
        await _start(self._server)


class Isolation(Injector):
    """One server can reach nobody and nobody it, and nobody is told."""

    _number = 0

    async def do(self) -> None:
        assert self.world.ground is not None
        if self.fault.pick < 0.5:
            self._number = await self.world.servers.leader(self.world.names.work_stream)
        else:
            self._number = int(self.fault.pick * 64) % len(self.world.servers.all)
        self.world.ground.cut(self._number)
        self.said = f"server {self._number}"

    async def undo(self) -> None:
        assert self.world.ground is not None
        self.world.ground.join(self._number)


class FullQueue(Injector):
    """More tasks at once than the queue may hold; retries come due meanwhile."""

    leases = False

    async def do(self) -> None:
        count = self.world.max_size + 50
        for _ in range(count):
            job = Job(self.world.new_id(), 0.0, "work", TaskPriority.LOW, 0.02)
            self.world.submit(job)
        self.said = f"{count} tasks, room for {self.world.max_size}"


class FullDisk(Injector):
    """No room on a server's file system. A server then gives JetStream up until it is started
    again, which is what whoever made room has to do."""

    _number = 0

    async def do(self) -> None:
        assert self.world.ground is not None
        self._number = int(self.fault.pick * len(self.world.servers.all))
        await asyncio.to_thread(self.world.ground.fill, self._number)
        self.said = f"server {self._number}"

    async def undo(self) -> None:
        assert self.world.ground is not None
        self.world.ground.clear(self._number)
        server = self.world.servers.all[self._number]
        await asyncio.to_thread(server.stop)
        await _start(server)


class ClockStep(Injector):
    """Wall clocks of workers are an hour ahead or behind, all at once."""

    leases = False

    async def do(self) -> None:
        seconds = 3600.0 if self.fault.pick < 0.5 else -3600.0
        for member in self.world.crew.members[::2]:
            member.step_clock(seconds)
        self.said = f"{seconds:+.0f} s in every other worker"

    async def undo(self) -> None:
        for member in self.world.crew.members[::2]:
            member.step_clock(0.0)


class Credentials(Injector):
    """The user is revoked; some seconds later there are new credentials in the file."""

    async def do(self) -> None:
        self.world.servers.revoke()
        self.said = "revoked, then a new key in the file"

    async def undo(self) -> None:
        self.world.servers.rotate()


class ConsumerDeleted(Injector):
    """Somebody deletes the consumer of a level: what runs there is delivered once more."""

    async def do(self) -> None:
        level = ("critical", "high", "normal", "low")[int(self.fault.pick * 4)]
        name = self.world.names.work_stream
        found = await self.world.servers.ask(f"CONSUMER.NAMES.{name}")
        for consumer in (found or {}).get("consumers") or []:
            if consumer.startswith(level):
                await self.world.servers.ask(f"CONSUMER.DELETE.{name}.{consumer}")
                self.said = f"{consumer}"


async def _start(server: object) -> None:
    await asyncio.to_thread(server.start)  # type: ignore[attr-defined]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself


INJECTORS: dict[str, type[Injector]] = {
    "worker-kill": WorkerKill,
    "worker-stop": WorkerStop,
    "worker-term": WorkerTerm,
    "slow-handler": SlowHandler,
    "blocked-handler": BlockedHandler,
    "poison": Poison,
    "broker-kill": BrokerKill,
    "broker-outage": BrokerKill,
    "leader-kill": LeaderKill,
    "isolation": Isolation,
    "full-queue": FullQueue,
    "full-disk": FullDisk,
    "clock-step": ClockStep,
    "credentials": Credentials,
    "consumer-deleted": ConsumerDeleted,
}
