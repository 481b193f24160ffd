"""The limits between what the law asks for and what is decided: ordered, pure checks.

Each takes the outcome so far and returns it or a tighter one, with the limit's name. Growth passes
`out_gates`, a shrink `in_gates`; a pin passes neither, and goes by the owner's word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.scaling.history import History
from headrace.scaling.policy import Policy
from headrace.scaling.values import LimitedBy, Snapshot, Unknown


@dataclass(frozen=True, slots=True)
class Outcome:
    """A size, the last limit that changed it, and when that limit can end at the earliest."""

    size: int
    limit: LimitedBy = LimitedBy.NONE
    not_before: float | None = None


def bounded(policy: Policy, raw: int, current: int, complete: bool) -> Outcome:
    """`raw` between minimum and maximum, and not below `current` unless the data is complete."""
    held = raw if complete else max(raw, current)
    outcome = Outcome(held, LimitedBy.NONE if held == raw else LimitedBy.UNKNOWN)
    if outcome.size < policy.min_workers:
        outcome = Outcome(policy.min_workers, LimitedBy.AT_MIN)
    elif outcome.size > policy.max_workers:
        outcome = Outcome(policy.max_workers, LimitedBy.AT_MAX)
    if not complete and outcome.size < current:
        # The maximum was lowered while nothing is known: it can wait until something is.
        outcome = Outcome(current, LimitedBy.UNKNOWN)
    return outcome


def pinned(policy: Policy, pin: int, snapshot: Snapshot) -> Outcome:
    """The owner's size, up to the maximum; a rollout holds it up only if it is a smaller one."""
    size = min(pin, policy.max_workers)
    if snapshot.rollout and size < snapshot.target:
        return Outcome(snapshot.target, LimitedBy.ROLLOUT_IN_PROGRESS)
    return Outcome(size, LimitedBy.AT_MAX if size < pin else LimitedBy.NONE)


def limited(
    policy: Policy, snapshot: Snapshot, history: History, outcome: Outcome, since: float | None
) -> Outcome:
    """The outcome after all limits of its direction. `since`: when complete data began."""
    if outcome.size > snapshot.target:
        return _out(policy, snapshot, history, outcome)
    if outcome.size < snapshot.target:
        return _in(policy, snapshot, history, outcome, since)
    return outcome


def _out(policy: Policy, snapshot: Snapshot, history: History, outcome: Outcome) -> Outcome:
    current = snapshot.target
    if policy.pause.stops_out:
        return Outcome(current, LimitedBy.PAUSED)
    if snapshot.quota_exceeded:
        return Outcome(current, LimitedBy.QUOTA_EXCEEDED)
    fleet = snapshot.fleet
    if fleet.failing > 0:
        # Twice the ready ones: a few bad nodes slow a pool down, a bad image stops it. From zero
        # one worker is always tried, or nobody would ever find out that the image is there again.
        ready = 0 if isinstance(fleet.ready, Unknown) else fleet.ready
        outcome = _at_most(outcome, max(current, 2 * ready, 1), LimitedBy.PODS_FAILING)
    step = policy.step
    if step is None or step.max_up is None or outcome.size <= current:
        return outcome
    used = history.moved(snapshot.now - step.period, up=True)
    left = max(step.max_up - sum(mark.workers for mark in used), 0 if current else 1)
    free_at = (used[0].at if used else snapshot.now) + step.period
    return _at_most(outcome, current + left, LimitedBy.STEP_LIMITED, free_at)


def _in(
    policy: Policy, snapshot: Snapshot, history: History, outcome: Outcome, since: float | None
) -> Outcome:
    current = snapshot.target
    if policy.pause.stops_in:
        return Outcome(current, LimitedBy.PAUSED)
    if snapshot.rollout:
        return Outcome(current, LimitedBy.ROLLOUT_IN_PROGRESS)
    outcome = _stabilized(policy, snapshot, history, outcome, since)
    step = policy.step
    if step is None or step.max_down is None or outcome.size >= current:
        return outcome
    used = history.moved(snapshot.now - step.period, up=False)
    left = max(step.max_down + sum(mark.workers for mark in used), 0)
    free_at = (used[0].at if used else snapshot.now) + step.period
    return _at_least(outcome, current - left, LimitedBy.STEP_LIMITED, free_at)


def _stabilized(
    policy: Policy, snapshot: Snapshot, history: History, outcome: Outcome, since: float | None
) -> Outcome:
    """Fewer workers only after a window of complete data in which nothing asked for more."""
    # What is above the maximum goes without a window: lowering the maximum was the owner's word.
    # It is no word on what is below the maximum, so from there on the window counts.
    start = min(snapshot.target, policy.max_workers)
    begun = snapshot.now if since is None else since
    floor = start
    if snapshot.now - begun >= policy.window:
        floor = min(start, history.highest_wish(snapshot.now - policy.window))
    if floor <= outcome.size:
        return outcome
    last = history.last_wish_of(floor)
    quiet_since = begun if last is None else max(begun, last)
    return Outcome(floor, LimitedBy.STABILIZING, quiet_since + policy.window)


def _at_most(
    outcome: Outcome, size: int, limit: LimitedBy, not_before: float | None = None
) -> Outcome:
    if outcome.size <= size:
        return outcome
    return replace(outcome, size=size, limit=limit, not_before=not_before)


def _at_least(outcome: Outcome, size: int, limit: LimitedBy, not_before: float) -> Outcome:
    if outcome.size >= size:
        return outcome
    return replace(outcome, size=size, limit=limit, not_before=not_before)
