"""What is measured: the systems, what each needs, and how many tasks are enough for a figure."""

from __future__ import annotations

from dataclasses import dataclass, replace

HEADRACE = "headrace"
BARE = "bare"
TWICE = "-x2"  # behind a subject: the same with two worker processes


@dataclass(frozen=True)
class System:
    """One subject of the tables."""

    subject: str
    """The name in tables and rows."""
    family: str
    """What `--only` names."""
    module: str
    """Module of `benchmarks.peers`."""
    tasks: int
    """Tasks of one drain: some seconds of work, so that neither start nor end shows."""
    requires: tuple[str, ...] = ()
    """Packages of its own venv; none: it runs in this one."""
    servers: tuple[str, ...] = ("nats",)
    slots: int = 1
    submits: bool = True
    """Whether its submits are measured; not again for a mere other number of slots."""
    processes: int = 1
    """Worker processes."""
    starts_them: bool = True
    """Whether its own command starts several; else the command is run several times, as its users
    do."""
    records: bool = True
    """Whether it stores results: what does not is no task queue, and no peer to be the best of."""

    @property
    def is_peer(self) -> bool:
        """Whether it is neither Headrace nor the bare loop."""
        return self.family not in (HEADRACE, BARE)

    @property
    def submit_subject(self) -> str:
        """Who submits: slots are none of the producer's business."""
        return self.family

    @property
    def commands(self) -> int:
        """How often its worker is started."""
        return 1 if self.starts_them else self.processes

    def twice(self) -> System:
        """The same with two worker processes."""
        return replace(self, subject=self.subject + TWICE, processes=2, submits=False)


_REDIS = ("redis",)
_TASKIQ = (
    "taskiq-nats==0.7.0", "taskiq==0.13.0", "taskiq-redis==1.2.4", "uvloop==0.23.0",
    "hiredis==3.5.0",
)  # fmt: skip
CELERY = System(
    "celery", "celery", "celery", 4_000, ("celery[redis]==5.7.0", "hiredis==3.5.0"), _REDIS
)
PEERS = (
    CELERY,
    System(
        "dramatiq", "dramatiq", "dramatiq", 6_000,
        ("dramatiq[redis]==2.2.1", "hiredis==3.5.0"), _REDIS,
    ),
    System("taskiq-nats", "taskiq-nats", "taskiq_nats", 8_000, _TASKIQ, ("nats", "redis")),
    System("taskiq-redis", "taskiq-redis", "taskiq_redis", 6_000, _TASKIQ, _REDIS),
    System(
        "arq", "arq", "arq", 4_000, ("arq==0.28.0", "uvloop==0.23.0"), _REDIS, starts_them=False
    ),
    System(
        "streaq", "streaq", "streaq", 4_000, ("streaq==7.2.0", "uvloop==0.23.0"), _REDIS,
        starts_them=False,
    ),
    System(
        "faststream", "faststream", "faststream", 8_000,
        ("faststream[nats]==0.7.8", "uvloop==0.23.0"), starts_them=False, records=False,
    ),
)  # fmt: skip
OURS = (
    System("bare-16", BARE, "bare", 30_000, slots=16, submits=False, starts_them=False),
    System("bare-128", BARE, "bare", 50_000, slots=128, starts_them=False),
    System("headrace-1", HEADRACE, "headrace", 3_000, slots=1, submits=False),
    System("headrace-16", HEADRACE, "headrace", 20_000, slots=16, submits=False),
    System("headrace-128", HEADRACE, "headrace", 40_000, slots=128),
)
TWO = tuple(each.twice() for each in OURS if each.slots == 128) + tuple(
    each.twice() for each in PEERS
)
FAMILIES = tuple(dict.fromkeys(system.family for system in OURS + PEERS))


def chosen(only: str | None, systems: tuple[System, ...]) -> list[System]:
    """The systems that `--only` names, all without it. Raises `ValueError`."""
    if only is None:
        return list(systems)
    names = {name.strip() for name in only.split(",") if name.strip()}
    known = set(FAMILIES) | {system.subject for system in systems}
    if unknown := names - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: choose from {', '.join(sorted(known))}")
    return [each for each in systems if each.family in names or each.subject in names]
