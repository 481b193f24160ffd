"""Which workers go, and which come back: a pure plan for a pool that is to have another size.

Nothing is killed. A worker that never started, or that has drained, can go at once; any other is
asked to drain, finishes what runs, and goes later. Order in which workers are chosen to go:

1. never started: no place to run, failing, starting. They do no work and lose none (dask#659);
2. drained, then draining: a choice once made stands, so that a depth that wobbles does not drain
   one worker after the other;
3. the rest, fewest running tasks first, youngest first among equals (as a ReplicaSet would).

A worker whose load is not known is not chosen: it cannot be asked either. When fewer are to go than
are going, workers are resumed in the opposite order, before any new one is started.

The plan is for one moment and remembers nothing: make it anew at every look. The same facts always
give the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import ConfigurationError
from headrace.scaling.text import plural
from headrace.scaling.values import UNKNOWN, Fleet, Unknown


class WorkerState(StrEnum):
    """The states of a worker as a plan needs them."""

    UNSCHEDULED = "unscheduled"  # no node, no process yet
    FAILING = "failing"  # cannot start: no image, a crash loop, an import error
    STARTING = "starting"
    SERVING = "serving"  # takes tasks, idle or busy
    DRAINING = "draining"  # asked to take no more, and not yet known to be empty
    DRAINED = "drained"  # says itself that it takes no more and that nothing runs
    GONE = "gone"  # stopped or stopping for good; counts for nothing


NEVER_STARTED = (WorkerState.UNSCHEDULED, WorkerState.FAILING, WorkerState.STARTING)
LEAVING = (WorkerState.DRAINING, WorkerState.DRAINED)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker of a pool. `running` is UNKNOWN if it did not answer."""

    id: str
    state: WorkerState
    running: int | Unknown = 0
    slots: int = 1
    started: float = 0.0
    """When it started, in seconds; only compared with the others'."""

    @classmethod
    def of(
        cls,
        worker_id: str,
        status: str,
        running: int | Unknown,
        slots: int = 1,
        started: float = 0.0,
    ) -> WorkerFacts:
        """The facts of a worker from what it says of itself: `WorkerInfo.status` and the rest.

        A state's own name is taken too, for what a supervisor knows better (`starting`, `failing`).
        """
        known = {"idle": "serving", "busy": "serving", "stopped": "gone", "error": "failing"}
        try:
            state = WorkerState(known.get(str(status), str(status)))
        except ValueError:
            raise ConfigurationError(f"worker {worker_id}: {status!r} is no status") from None
        if state is WorkerState.DRAINING and running == 0:
            state = WorkerState.DRAINED
        return cls(worker_id, state, running, slots, started)


class Why(StrEnum):
    """Why a worker was chosen."""

    NEVER_STARTED = "NeverStarted"
    DRAINED = "Drained"
    STILL_DRAINING = "StillDraining"
    LEAST_LOADED = "LeastLoaded"
    LOAD_BACK = "LoadBack"


@dataclass(frozen=True, slots=True)
class Pick:
    """One worker of a plan. `text` says why in words, with its numbers."""

    id: str
    why: Why
    text: str


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What to do so that `target` workers serve."""

    target: int
    active: int
    """Workers that are there, the draining ones included, those that are gone not."""
    remove: tuple[Pick, ...] = ()
    """May be stopped now: nothing runs there and nothing will."""
    drain: tuple[Pick, ...] = ()
    """Are to be asked to drain."""
    renew: tuple[Pick, ...] = ()
    """Drain already and should go on: their drain's lease is to be renewed."""
    resume: tuple[Pick, ...] = ()
    """Drain and are needed again."""
    start: int = 0
    """Workers to start, when all that are there are not enough."""
    short: int = 0
    """Workers that should go and could not be chosen, because they do not answer."""

    @property
    def message(self) -> str:
        """The plan in one sentence; "" if there is nothing to do."""
        parts = [
            f"{verb} {_some(picks)}"
            for verb, picks in (
                ("removes", self.remove),
                ("drains", self.drain),
                ("waits for", self.renew),
                ("resumes", self.resume),
            )
            if picks
        ]
        if self.start:
            parts.append(f"starts {plural(self.start, 'worker')}")
        if self.short:
            parts.append(f"{self.short} more should go, but those left do not answer")
        return "; ".join(parts)


def plan_drain(workers: Iterable[WorkerFacts], target: int) -> DrainPlan:
    """The plan that leaves `target` of these workers, starting or serving.

    `target` is a decision's `desired`. Never chooses more workers than there are too many of, and
    never removes one on which a task runs or may run.
    """
    active = [worker for worker in workers if worker.state is not WorkerState.GONE]
    surplus = max(0, len(active) - target)
    going = sorted((worker for worker in active if _may_go(worker)), key=_order)[:surplus]
    chosen = {worker.id for worker in going}
    resumed = [worker for worker in active if worker.state in LEAVING and worker.id not in chosen]
    removed = [worker for worker in going if _removable(worker)]
    left = [worker for worker in going if not _removable(worker)]
    return DrainPlan(
        target=target,
        active=len(active),
        remove=tuple(_pick(worker) for worker in removed),
        drain=tuple(_pick(each) for each in left if each.state not in LEAVING),
        renew=tuple(_pick(each) for each in left if each.state in LEAVING),
        resume=tuple(
            Pick(worker.id, Why.LOAD_BACK, _load(worker)) for worker in sorted(resumed, key=_order)
        ),
        start=max(0, target - len(active)),
        short=surplus - len(going),
    )


def serving_target(workers: Iterable[WorkerFacts]) -> int:
    """The size that a pool has now, for the first snapshot after a restart.

    Workers that drain are taken off it: counted, each look at them would call the drain back.
    """
    return sum(worker.state not in (*LEAVING, WorkerState.GONE) for worker in workers)


def fleet_of(workers: Iterable[WorkerFacts], oldest_drain: float = 0.0) -> Fleet:
    """The workers added up for a snapshot. `oldest_drain`: seconds since the first drain began."""
    states = [worker.state for worker in workers]
    return Fleet(
        ready=states.count(WorkerState.SERVING),
        failing=states.count(WorkerState.FAILING),
        draining=states.count(WorkerState.DRAINING) + states.count(WorkerState.DRAINED),
        oldest_drain=oldest_drain,
    )


def _may_go(worker: WorkerFacts) -> bool:
    return worker.running is not UNKNOWN or worker.state in LEAVING


def _removable(worker: WorkerFacts) -> bool:
    return worker.running == 0 and worker.state in (*NEVER_STARTED, WorkerState.DRAINED)


def _order(worker: WorkerFacts) -> tuple[int, float, float, str]:
    order = (
        WorkerState.UNSCHEDULED,
        WorkerState.FAILING,
        WorkerState.STARTING,
        WorkerState.DRAINED,
        WorkerState.DRAINING,
        WorkerState.SERVING,
    )
    rank = order.index(worker.state)
    running = float("inf") if isinstance(worker.running, Unknown) else worker.running
    if worker.state in NEVER_STARTED and running:
        rank = len(order)  # it did start, whatever its supervisor says: by its load, last
    return rank, running, -worker.started, worker.id


def _pick(worker: WorkerFacts) -> Pick:
    if _removable(worker):
        why = Why.DRAINED if worker.state is WorkerState.DRAINED else Why.NEVER_STARTED
        return Pick(worker.id, why, worker.state.value)
    why = Why.STILL_DRAINING if worker.state in LEAVING else Why.LEAST_LOADED
    return Pick(worker.id, why, _load(worker))


def _load(worker: WorkerFacts) -> str:
    if isinstance(worker.running, Unknown):
        return "no answer"
    if worker.running == 0:
        return "idle"
    return f"{worker.running} of {plural(worker.slots, 'slot')} busy"


def _some(picks: tuple[Pick, ...]) -> str:
    shown = ", ".join(f"{pick.id} ({pick.text})" for pick in picks[:3])
    return shown if len(picks) <= 3 else f"{shown} and {len(picks) - 3} more"
