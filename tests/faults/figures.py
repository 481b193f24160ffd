"""The figures of a run: how much was done, how often again, how long it stood still. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.check import FINAL, TAIL, Seen

_AT_ONCE = 0.5


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which a task waited, a slot was free, and nothing started or ended."""

    seconds: float
    at: float
    during: str
    """The fault that was under way, or had just been undone; "" if none was."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the summary says."""

    tasks: int
    ended: dict[str, int]
    lost: int
    runs: int
    second_runs: int
    """Runs beyond the first of an attempt."""
    refused: int
    """Runs whose handler came to its end and whose outcome is not the task's."""
    worker_deaths: int
    faults: dict[str, int]
    longest_stall: Stall
    stalls: dict[str, float]
    """The longest of each fault, in seconds; "none" where none was near."""
    told: dict[str, object] = field(default_factory=dict)
    """What was counted from outside: redeliveries, errors that submits saw."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def figures(seen: Seen, told: dict[str, object]) -> Figures:
    """What there is to say of a run."""
    finals = {
        task: records[-1].status
        for task, records in seen.records.items()
        if task in seen.jobs and records and records[-1].status in FINAL
    }
    attempts = Counter((run.task, run.attempt) for run in seen.runs)
    done = Counter((run.task, run.attempt) for run in seen.runs if run.how in ("ended", "raised"))
    longest: dict[str, Stall] = {}
    for stall in stalls(seen):
        kind = stall.during or "none"
        if kind not in longest or longest[kind].seconds < stall.seconds:
            longest[kind] = stall
    return Figures(
        tasks=len(seen.jobs),
        ended=dict(Counter(finals.values())),
        lost=sum(task not in finals for task in seen.jobs),
        runs=len(seen.runs),
        second_runs=sum(count - 1 for count in attempts.values()),
        refused=sum(count - 1 for count in done.values()),
        worker_deaths=sum(life.down is not None for life in seen.lives),
        faults=dict(Counter(window.kind for window in seen.windows)),
        longest_stall=max(
            longest.values(), key=lambda stall: stall.seconds, default=Stall(0.0, 0.0, "")
        ),
        stalls={kind: round(stall.seconds, 2) for kind, stall in sorted(longest.items())},
        told=told,
    )


def stalls(seen: Seen) -> Iterator[Stall]:
    """Every time in which nothing happened although something could have."""
    since: float | None = None
    waiting, free = 0, 0
    for at, wait, slot, happened in _moves(seen):
        if since is not None and (happened or not (waiting + wait > 0 and free + slot > 0)):
            yield Stall(at - since, since, _during(seen, since, at))
            since = None
        waiting, free = waiting + wait, free + slot
        if since is None and waiting > 0 and free > 0:
            since = at


def _moves(seen: Seen) -> list[tuple[float, int, int, bool]]:
    """Time, change of waiting tasks, change of free slots, whether a task started or ended."""
    first: dict[str, float] = {}
    moves: list[tuple[float, int, int, bool]] = []
    down = {life.pid: life.down for life in seen.lives}
    for run in seen.runs:
        first[run.task] = min(run.start, first.get(run.task, run.start))
        end = run.end if run.end is not None else down.get(run.pid)
        moves.append((run.start, 0, -1, True))
        if end is not None:
            moves.append((end, 0, 1, run.end is not None))
    for task, stored in seen.stored.items():
        start = first.get(task)
        if start is not None:
            due = stored + seen.jobs[task].delay
            moves += [(min(due, start), 1, 0, False), (start, -1, 0, False)]
    for life in seen.lives:
        moves.append((life.up, 0, life.slots, False))
        if life.down is not None:
            moves.append((life.down, 0, -life.slots, False))
    return sorted(moves)


def _during(seen: Seen, start: float, end: float) -> str:
    near = [
        window
        for window in seen.windows
        if window.began < end and start < window.ended + TAIL + seen.ack_wait
    ]
    before = [window for window in near if window.began <= start + _AT_ONCE]
    return (before[-1] if before else near[0]).kind if near else ""
