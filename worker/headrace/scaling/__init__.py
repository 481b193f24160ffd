"""How many workers a pool should have, why, and which of them go: the pure core of scaling.

    policy, history, target = Policy(max_workers=20, slots=4), History(), 0
    async for look in looks:                        # the caller's, every policy.period seconds
        workers = [WorkerFacts.of(w.id, w.status, w.current_tasks, slots=4) for w in look.workers]
        lanes = tuple(Depth(d.lane.priority, d.waiting, d.running, d.lane.tag) for d in look.lanes)
        fleet = fleet_of(workers)
        snapshot = Snapshot(now=look.time, target=target, lanes=lanes, fleet=fleet)
        decision, history = decide_next(policy, snapshot, history)
        target = decision.desired                   # decision.message says why
        plan = plan_drain(workers, target)          # .remove .drain .renew .resume .start

No clock, no I/O, no logging, no chance: the same arguments give the same answer. Frozen values go
in and come out; what could not be read is `UNKNOWN`, and never zero. The coordinator,
`headrace up`, the operator and the simulator all decide with this and with nothing else.

| module | what it holds |
|---|---|
| `policy` | what the owner asks for |
| `values` | what was seen, what is answered |
| `load` | sums of what a pool serves and what is known |
| `thresholds`, `wait`, `absolute` | the laws: from load to wish |
| `gates` | the limits: from wish to size |
| `decide`, `message` | all of it in order, and one sentence on it |
| `history` | what is remembered |
| `rates` | run times and arrivals, measured |
| `drain` | which workers go or come back |

Architecture invariant: nothing here imports more than the standard library, `headrace.task` and
`headrace.errors`.
"""

from headrace.scaling.decide import decide, decide_next
from headrace.scaling.drain import (
    DrainPlan,
    Pick,
    Why,
    WorkerFacts,
    WorkerState,
    fleet_of,
    plan_drain,
    serving_target,
)
from headrace.scaling.history import History, Mark, observe
from headrace.scaling.policy import Law, Pause, Policy, Step, WaitTargets
from headrace.scaling.rates import RunCount, Tally, measure
from headrace.scaling.values import (
    UNKNOWN,
    Decision,
    Depth,
    Fleet,
    Inputs,
    LevelRates,
    LimitedBy,
    Reason,
    Snapshot,
    Unknown,
)

__all__ = [
    "UNKNOWN",
    "Decision",
    "Depth",
    "DrainPlan",
    "Fleet",
    "History",
    "Inputs",
    "Law",
    "LevelRates",
    "LimitedBy",
    "Mark",
    "Pause",
    "Pick",
    "Policy",
    "Reason",
    "RunCount",
    "Snapshot",
    "Step",
    "Tally",
    "Unknown",
    "WaitTargets",
    "Why",
    "WorkerFacts",
    "WorkerState",
    "decide",
    "decide_next",
    "fleet_of",
    "measure",
    "observe",
    "plan_drain",
    "serving_target",
]
