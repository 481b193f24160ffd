"""What happens in a run, from its seed alone: which tasks and which faults come, and when.

Pure: no clock, no chance beside the seed's. Times are seconds from the start of the run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.task import TaskPriority

HANG_TIMEOUT = 1.0
_FIRST_FAULT = 2.0
_BURST_EVERY = 12.0
_LEVELS = (
    (TaskPriority.CRITICAL, 1),
    (TaskPriority.HIGH, 2),
    (TaskPriority.NORMAL, 4),
    (TaskPriority.LOW, 3),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One task, and what its handler will do."""

    id: str
    at: float
    type: str
    """`work` (a coroutine), `plain` (a function in a thread), `block` (blocks the event loop),
    `gil` (holds the GIL), `hang` (does not end when it is told to), `poison` (kills its worker)."""
    priority: TaskPriority
    seconds: float
    fails: int = 0
    """Attempts that raise before one succeeds."""
    retries: int = 0
    pause: float = 0.0
    """Seconds that a failed attempt asks for before the next."""
    delay: float = 0.0
    """Seconds for which the submit holds it back."""
    cancel_after: float | None = None
    """Seconds after its submit at which a client cancels it."""
    twice: bool = False
    """Whether a second client submits the same id."""
    timeout: float = 120.0

    @property
    def ends(self) -> frozenset[str]:
        """The final states that are right."""
        if self.cancel_after is not None:
            return frozenset({"completed", "cancelled"})
        if self.type == "hang":
            return frozenset({"timeout"})
        if self.type == "poison" or self.fails > self.retries:
            return frozenset({"failed"})
        return frozenset({"completed"})


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault that can be planned."""

    name: str
    shortest: float
    longest: float
    """Seconds between doing it and undoing it; leases count as 1 where `in_leases`."""
    in_leases: bool = False
    servers: int = 1
    """How many the run must have."""
    namespaces: bool = False
    """Whether it needs network and mount namespaces of its own."""


KINDS = (
    FaultKind("worker-kill", 0.0, 0.0),
    FaultKind("worker-stop", 1.2, 2.0, in_leases=True),
    FaultKind("worker-term", 0.5, 1.0),
    FaultKind("slow-handler", 1.0, 2.0),
    FaultKind("blocked-handler", 1.2, 1.6, in_leases=True),
    FaultKind("poison", 1.0, 2.0),
    FaultKind("broker-kill", 0.5, 3.0),
    FaultKind("broker-outage", 1.2, 1.8, in_leases=True),
    FaultKind("leader-kill", 2.0, 8.0, servers=3),
    FaultKind("isolation", 4.0, 15.0, servers=3, namespaces=True),
    FaultKind("full-queue", 1.0, 3.0),
    FaultKind("full-disk", 2.0, 5.0, namespaces=True),
    FaultKind("clock-step", 2.0, 6.0),
    FaultKind("credentials", 1.0, 4.0),
    FaultKind("consumer-deleted", 0.0, 0.0),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: done at `at`, undone `seconds` later."""

    kind: str
    at: float
    seconds: float
    pick: float
    """From 0 to 1: which worker, server, direction."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    seconds: float
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]


def make_plan(
    seed: int,
    seconds: float,
    kinds: Sequence[str],
    *,
    rate: float = 30.0,
    ack_wait: float = 5.0,
    once: bool = False,
) -> Plan:
    """The run of this seed: `rate` tasks a second, faults of `kinds` one after the other.

    `once`: each kind once, in the order given, as early as it can be.
    """
    chance = random.Random(seed)
    faults = _once(chance, kinds, ack_wait) if once else _faults(chance, seconds, kinds, ack_wait)
    if once and faults:
        seconds = max(seconds, faults[-1].at + faults[-1].seconds + 1.0)
    return Plan(seed, seconds, tuple(_jobs(chance, seconds, rate)), tuple(faults))


def _span(chance: random.Random, kind: FaultKind, ack_wait: float) -> float:
    unit = ack_wait if kind.in_leases else 1.0
    return chance.uniform(kind.shortest, kind.longest) * unit


def _once(chance: random.Random, kinds: Sequence[str], ack_wait: float) -> list[Fault]:
    faults, at = [], _FIRST_FAULT
    for name in kinds:
        seconds = _span(chance, BY_NAME[name], ack_wait)
        faults.append(Fault(name, at, seconds, chance.random()))
        at += seconds + 1.0
    return faults


def _faults(
    chance: random.Random, seconds: float, kinds: Sequence[str], ack_wait: float
) -> list[Fault]:
    faults: list[Fault] = []
    waiting: list[str] = []
    at = _FIRST_FAULT + chance.uniform(0.0, 3.0)
    while kinds:
        if not waiting:  # every kind once before any comes again
            waiting = list(kinds)
            chance.shuffle(waiting)
        kind = BY_NAME[waiting.pop()]
        lasting = _span(chance, kind, ack_wait)
        if at + lasting > seconds - 1.0:
            break
        faults.append(Fault(kind.name, at, lasting, chance.random()))
        at += lasting + chance.uniform(2.0, 8.0)
    return faults


def _jobs(chance: random.Random, seconds: float, rate: float) -> list[Job]:
    moments: list[float] = []
    at = 0.0
    while (at := at + chance.expovariate(rate * 0.7)) < seconds:
        moments.append(at)
    burst = chance.uniform(1.0, 4.0)
    while burst < seconds:  # more than there are slots, so that levels wait for each other
        moments += [burst] * int(rate * _BURST_EVERY * 0.3)
        burst += _BURST_EVERY
    moments.sort()
    levels = [level for level, weight in _LEVELS for _ in range(weight)]
    return [
        _job(chance, f"j{number}", at, chance.choice(levels)) for number, at in enumerate(moments)
    ]


def _job(chance: random.Random, name: str, at: float, level: TaskPriority) -> Job:
    seconds = min(4.0, chance.expovariate(1 / 0.15))
    draw = chance.random()
    if draw < 0.06:
        return Job(name, at, "work", level, seconds, chance.randint(1, 2), 2,
                   chance.uniform(0.5, 2.0))  # fmt: skip
    if draw < 0.09:
        return Job(name, at, "work", level, seconds, fails=9, retries=1, pause=0.5)
    if draw < 0.13:
        return Job(name, at, "work", level, seconds, delay=chance.uniform(0.3, 4.0))
    if draw < 0.17:
        return Job(name, at, "work", level, seconds, cancel_after=chance.uniform(0.0, 0.6))
    if draw < 0.20:
        return Job(name, at, "work", level, seconds, twice=True)
    if draw < 0.30:
        return Job(name, at, "plain", level, seconds)
    if draw < 0.302:
        return Job(name, at, "hang", level, 12.0, timeout=HANG_TIMEOUT)
    return Job(name, at, "work", level, seconds)
