"""The decision: what is known, what the law asks for, what the limits leave of it."""

from __future__ import annotations

import math

from headrace.scaling.absolute import absolute_wish
from headrace.scaling.gates import Outcome, bounded, limited, pinned
from headrace.scaling.history import History, observe
from headrace.scaling.load import Load, load_of
from headrace.scaling.message import sentence
from headrace.scaling.policy import Law, Policy
from headrace.scaling.thresholds import threshold_wish
from headrace.scaling.values import (
    Decision,
    Inputs,
    LimitedBy,
    Reason,
    Snapshot,
    Wish,
)
from headrace.scaling.wait import wait_wish


def decide(policy: Policy, snapshot: Snapshot, history: History) -> Decision:
    """How many workers there should be, and why.

    The same arguments always give the same answer. Follow it with `observe`.
    """
    load = load_of(policy, snapshot)
    wish = _wish(policy, snapshot, load)
    since = history.complete_from(snapshot.now, policy.max_age) if load.complete else None
    if policy.pin is not None:
        outcome = pinned(policy, policy.pin, snapshot)
    else:
        outcome = bounded(policy, wish.raw, snapshot.target, load.complete)
        outcome = limited(policy, snapshot, history, outcome, since)
    reason = _reason(policy, snapshot, load, wish, outcome)
    inputs = Inputs(
        now=snapshot.now,
        target=snapshot.target,
        waiting=_whole(load.waiting),
        running=_whole(load.running),
        unknown=load.unknown,
        age=snapshot.age,
        raw=wish.raw,
        law=wish.reason,
        wanted=max(policy.min_workers, min(wish.raw, policy.max_workers)),
        ready=snapshot.fleet.ready,
        failing=snapshot.fleet.failing,
        draining=snapshot.fleet.draining,
        complete_since=since,
        not_before=outcome.not_before,
    )
    message = sentence(policy, snapshot, inputs, wish, outcome)
    return Decision(outcome.size, reason, message, outcome.limit, inputs)


def decide_next(policy: Policy, snapshot: Snapshot, history: History) -> tuple[Decision, History]:
    """`decide` and `observe` in one: the decision, and the history for the next one."""
    decision = decide(policy, snapshot, history)
    return decision, observe(history, decision)


def _wish(policy: Policy, snapshot: Snapshot, load: Load) -> Wish:
    if policy.law is Law.ABSOLUTE:
        wish = absolute_wish(policy, load, snapshot.target)
    else:
        # No target set, or none of their levels measured yet: the thresholds decide.
        wish = wait_wish(policy, snapshot, load) or threshold_wish(policy, load, snapshot.target)
    if load.tasks and wish.raw < 1:
        # From zero at any depth: one task must not wait for nine others, and under the original's
        # law it would wait for ever.
        reason = Reason.WITHIN_BAND if snapshot.target else Reason.BACKLOG_HIGH
        return Wish(1, reason, "one for any task at all")
    return wish


def _reason(policy: Policy, snapshot: Snapshot, load: Load, wish: Wish, outcome: Outcome) -> Reason:
    if policy.pin is not None:
        return Reason.PINNED
    if outcome.limit is not LimitedBy.NONE:
        return Reason(outcome.limit.value)
    if not load.complete and outcome.size == snapshot.target:
        return Reason.UNKNOWN
    return wish.reason


def _whole(tasks: float) -> int:
    return math.ceil(tasks - 1e-9)
