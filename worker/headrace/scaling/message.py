"""The one sentence that says why a pool has its size.

It is the same in status, conditions, Events, logs and metrics:

    29 tasks (12 waiting, 17 running) on 8 workers; wants 6 (at least 5 tasks a worker);
    scale-in not before 03:01:10; stays at 8; draining 2, oldest 4m of 10m

Times are of day, in UTC, and not a countdown: a sentence that changes every second would be a write
to the cluster every second.
"""

from __future__ import annotations

from headrace.scaling.gates import Outcome
from headrace.scaling.policy import Policy
from headrace.scaling.text import duration, plural, time_of_day
from headrace.scaling.values import Inputs, LimitedBy, Snapshot, Unknown, Wish


def sentence(
    policy: Policy, snapshot: Snapshot, inputs: Inputs, wish: Wish, outcome: Outcome
) -> str:
    """Facts, the law's wish, the limit and what ends it, drains under way."""
    parts = [_facts(snapshot, inputs), _wants(policy, inputs, wish)]
    parts += _limit(policy, snapshot, inputs, outcome)
    if outcome.limit is not LimitedBy.NONE or policy.pin is not None:
        stays = outcome.size == snapshot.target
        parts.append(f"stays at {outcome.size}" if stays else f"goes to {outcome.size}")
    fleet = snapshot.fleet
    if fleet.draining:
        oldest, longest = duration(fleet.oldest_drain), duration(policy.drain_timeout)
        parts.append(f"draining {fleet.draining}, oldest {oldest} of {longest}")
    return "; ".join(part for part in parts if part)


def _facts(snapshot: Snapshot, inputs: Inputs) -> str:
    workers = plural(snapshot.target, "worker")
    details = []
    if inputs.tasks:
        tasks = ("at least " if inputs.unknown else "") + plural(inputs.tasks, "task")
        details = [f"{inputs.waiting} waiting", f"{inputs.running} running"]
    else:
        tasks = "no task known" if inputs.unknown else "no tasks"
    if inputs.unknown:
        details.append(f"unknown: {_names(inputs.unknown)}")
    # Below a second the data is as fresh as it gets, and saying so would only be noise.
    if inputs.age >= 1:
        details.append(f"{duration(round(inputs.age))} old")
    bracket = f" ({', '.join(details)})" if details else ""
    return f"{tasks}{bracket} on {workers}"


def _wants(policy: Policy, inputs: Inputs, wish: Wish) -> str:
    if policy.pin is not None:
        automatic = "" if inputs.unknown else f" (automatic: {wish.raw})"
        return f"pinned at {policy.pin}{automatic}"
    # What the law makes of figures that are missing is no wish that anyone should read.
    if inputs.unknown and wish.raw <= inputs.target:
        return ""
    return f"wants {wish.raw} ({wish.because})"


def _limit(policy: Policy, snapshot: Snapshot, inputs: Inputs, outcome: Outcome) -> list[str]:
    match outcome.limit:
        case LimitedBy.NONE:
            return []
        case LimitedBy.UNKNOWN:
            return ["no scale-in until all of it is known"]
        case LimitedBy.AT_MIN:
            return [f"the minimum is {policy.min_workers}"]
        case LimitedBy.AT_MAX:
            return [f"the maximum is {policy.max_workers}"]
        case LimitedBy.PAUSED:
            direction = "out" if inputs.wanted > snapshot.target else "in"
            return [f"scale-{direction} is paused"]
        case LimitedBy.ROLLOUT_IN_PROGRESS:
            return ["no scale-in before the rollout has ended"]
        case LimitedBy.STABILIZING:
            further = "" if outcome.size == snapshot.target else "further "
            return [f"{further}scale-in not before {_when(snapshot, outcome)}"]
        case LimitedBy.QUOTA_EXCEEDED:
            return ["a further worker was refused: no more until the quota allows it"]
        case LimitedBy.PODS_FAILING:
            ready = snapshot.fleet.ready
            known = "an unknown number" if isinstance(ready, Unknown) else ready
            failing = plural(snapshot.fleet.failing, "worker")
            most = f"at most {outcome.size} until more are"
            return [f"{failing} cannot start, {known} ready: {most}"]
        case LimitedBy.STEP_LIMITED:
            return [_step(policy, snapshot, inputs, outcome)]


def _step(policy: Policy, snapshot: Snapshot, inputs: Inputs, outcome: Outcome) -> str:
    step = policy.step
    if step is None:  # cannot be: only a step limits by one
        return ""
    size = step.max_up if inputs.wanted > snapshot.target else step.max_down
    next_one = f"next not before {_when(snapshot, outcome)}"
    return f"the step is {size} in {duration(step.period)}, {next_one}"


def _when(snapshot: Snapshot, outcome: Outcome) -> str:
    ends = snapshot.now if outcome.not_before is None else outcome.not_before
    if snapshot.clock is None:
        return f"{duration(ends - snapshot.now)} from now"
    return time_of_day(snapshot.clock + ends - snapshot.now)


def _names(unknown: tuple[str, ...]) -> str:
    """At most three names: a pool can have many tags, and a condition's text has an end."""
    shown = ", ".join(unknown[:3])
    return shown if len(unknown) <= 3 else f"{shown} and {len(unknown) - 3} more"
