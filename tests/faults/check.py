"""What must hold after a run, judged from what the handlers did, what clients were told and what is
stored; never from what a worker says of itself.

Pure: `violations` is a function of a `Seen`. All times are monotonic seconds of this machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.plan import Job

from headrace.runtime.look import MAX_LOST_WORKERS

FINAL = frozenset({"completed", "failed", "timeout", "cancelled"})
TAIL = 10.0
"""Seconds after a fault of the broker in which what it did to leases may still show."""
SETTLE = 2.0
"""Seconds in which an outcome is stored and acknowledged when nothing is wrong."""
EARLY = 0.1
"""Seconds by which the server's clock and this one may be read apart."""
SLACK = 1.0
"""Seconds by which starts in two processes may be told apart from their order in the queue."""
_OVER = 0.75
"""Seconds for which a slot may seem taken twice: a handler says that it ends a moment after."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler."""

    task: str
    attempt: int
    level: int
    pid: int
    start: float
    end: float | None = None
    """None: its process died, or it had not ended when the run was over."""
    how: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """One worker process, from when it took tasks."""

    pid: int
    slots: int
    up: float
    down: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A fault, from before it was done until it was undone."""

    kind: str
    began: float
    ended: float
    pids: frozenset[int] = frozenset()
    """The workers that it hit; none: any may have lost its leases."""
    leases: bool = True
    """Whether it can take a lease away."""
    order: bool = True
    """Whether it can change the order of starts."""


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a task's record."""

    status: str
    reason: str = ""
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known of a run."""

    jobs: Mapping[str, Job]
    asked: Mapping[str, float]
    """When each task was first submitted."""
    stored: Mapping[str, float]
    """When that was answered."""
    runs: Sequence[Run]
    lives: Sequence[Life]
    windows: Sequence[Window]
    records: Mapping[str, Sequence[Record]]
    """Every record ever written of each task, in order."""
    dead: frozenset[str] = frozenset()
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What clients that waited or cancelled were told."""
    left: Sequence[str] = ()
    """Subjects of what is in the queue at the end, delayed tasks included."""
    deepest: int = 0
    max_size: int = 10_000
    ack_wait: float = 5.0
    starvation_limit: float = 60.0
    broken: Sequence[str] = ()
    """What clients met that they never should."""


def violations(seen: Seen) -> list[str]:
    """What does not hold, in words; empty if all does."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(seen.runs, key=lambda run: run.start):
        by_task[run.task].append(run)
    found: list[str] = []
    for name, job in seen.jobs.items():
        found += _ends(seen, job, by_task[name])
        found += _attempts(seen, job, by_task[name])
    found += _slots(seen)
    found += inversions(seen, by_task)
    found += seen.broken
    if seen.left:
        found.append(f"{len(seen.left)} messages are left in the queue, such as {seen.left[0]}")
    if seen.deepest > seen.max_size:
        found.append(f"the queue held {seen.deepest} tasks, its limit is {seen.max_size}")
    return found


# --- one task ---


def _ends(seen: Seen, job: Job, runs: Sequence[Run]) -> Iterator[str]:
    """Exactly one final state, a right one, the one that clients were told."""
    records = seen.records.get(job.id, ())
    finals = [record for record in records if record.status in FINAL]
    if job.id not in seen.stored:
        yield f"{job.id} was never stored"
        return
    if not finals:
        yield f"{job.id} ({job.type}) is lost: {len(runs)} runs, no final state"
        return
    if len(finals) > 1 or records[-1] is not finals[-1]:
        yield f"{job.id} has more than one end: {' '.join(record.status for record in records)}"
    final = finals[-1]
    told = set(seen.answers.get(job.id, ())) - {final.status}
    if told:
        yield f"{job.id} is {final.status}, and a client was told {', '.join(sorted(told))}"
    if final.status not in job.ends and not _given_up(final, seen, runs):
        yield f"{job.id} ({job.type}) ended {final.status} ({final.reason})"
    letter = job.id in seen.dead
    if letter != (final.status in ("failed", "timeout")):
        yield f"{job.id} is {final.status} and {'has a' if letter else 'has no'} dead letter"
    if final.status == "completed" and not any(run.how == "ended" for run in runs):
        yield f"{job.id} is completed and no run of its handler ended"


def _given_up(final: Record, seen: Seen, runs: Sequence[Run]) -> bool:
    """Whether a task rightly failed for the workers that it lost: they did die."""
    if final.reason != "worker_lost":
        return False
    died = {life.pid: life.down for life in seen.lives if life.down is not None}
    cut = [run for run in runs if run.attempt == final.attempt and run.pid in died and not run.how]
    return len(cut) >= MAX_LOST_WORKERS


def _attempts(seen: Seen, job: Job, runs: Sequence[Run]) -> Iterator[str]:
    """No run without a submit, an attempt left and a lease lost, and none too early."""
    by_attempt: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_attempt[run.attempt].append(run)
    most = job.retries + 1
    if by_attempt and max(by_attempt) > most:
        yield f"{job.id} had attempt {max(by_attempt)} of {most}"
    for attempt, same in sorted(by_attempt.items()):
        for first, second in pairwise(same):
            if not excused(seen, first, second):
                yield (
                    f"{job.id} attempt {attempt} ran again {second.start - first.start:.2f} s later"
                    f" in {second.pid} though {first.pid} had lost no lease ({first.how or 'open'})"
                )
        before = by_attempt.get(attempt - 1)
        if before and (ends := [run.end for run in before if run.end is not None]):
            wait = same[0].start - min(ends)
            if wait < job.pause - EARLY:
                yield f"{job.id} attempt {attempt} came {wait:.2f} s after {attempt - 1}, "\
                    f"it had asked for {job.pause:.2f} s"  # fmt: skip
    if job.delay and runs and job.id in seen.asked:
        wait = runs[0].start - seen.asked[job.id]
        if wait < job.delay - EARLY:
            yield f"{job.id} came {wait:.2f} s after its submit, not after {job.delay:.2f} s"


def excused(seen: Seen, first: Run, second: Run) -> bool:
    """Whether the first run's lease may have been lost while it was needed."""
    until = (second.start if first.end is None else first.end) + SETTLE
    for life in seen.lives:
        if life.pid == first.pid and life.down is not None and first.start <= life.down <= until:
            return True
    for window in seen.windows:
        if not window.leases or (window.pids and first.pid not in window.pids):
            continue
        tail = 0.0 if window.pids else TAIL
        if window.began <= until and first.start <= window.ended + tail:
            return True
    return False


# --- all of them ---


def _slots(seen: Seen) -> Iterator[str]:
    """No worker runs more than its slots at once; a handler that was abandoned holds none."""
    slots = {life.pid: life.slots for life in seen.lives}
    steps: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for run in seen.runs:
        if seen.jobs[run.task].type == "hang" or run.end is None:
            continue
        if run.end - run.start > _OVER:
            steps[run.pid] += [(run.start + _OVER, 1), (run.end, -1)]
    for pid, moves in steps.items():
        held = most = 0
        for _, step in sorted(moves):
            held += step
            most = max(most, held)
        if most > slots.get(pid, most):
            yield f"worker {pid} ran {most} tasks at once in {slots[pid]} slots"


def quiet(seen: Seen, start: float, end: float) -> bool:
    """Whether no fault that touches the order of starts is near."""
    near = seen.ack_wait + TAIL
    return not any(
        window.began - SLACK < end and start < window.ended + near
        for window in seen.windows
        if window.order
    )


def inversions(seen: Seen, by_task: Mapping[str, Sequence[Run]]) -> list[str]:
    """Lower tasks that started while a higher one had long waited and went on to wait.

    Only where no fault is near: an election of one level's consumer lets the others go on. A lower
    task over the starvation limit has a right to its share.
    """
    starts = [
        (runs[0].start, runs[0].level, task)
        for task, runs in by_task.items()
        if runs and task in seen.stored
    ]
    starts.sort()
    found = []
    for task, runs in by_task.items():
        if not runs or task not in seen.stored:
            continue
        since = seen.stored[task] + seen.jobs[task].delay + SLACK
        until = runs[0].start - SLACK
        if until <= since or seen.jobs[task].delay or not quiet(seen, since, runs[0].start):
            continue
        passed = [
            other
            for start, level, other in _between(starts, since, until)
            if level < runs[0].level and start - seen.stored[other] < seen.starvation_limit
        ]
        if passed:
            found.append(
                f"{task} (level {runs[0].level}) waited {until - since + 2 * SLACK:.1f} s while "
                f"{len(passed)} lower tasks started, such as {passed[0]}"
            )
    return found


def _between(
    starts: Sequence[tuple[float, int, str]], since: float, until: float
) -> Iterable[tuple[float, int, str]]:
    return (entry for entry in starts if since < entry[0] < until)
