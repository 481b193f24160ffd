"""The threshold law: a band on tasks per worker.

With D tasks waiting and running, U = max(up threshold, slots) and L = down threshold, the size
stays where it is from ⌈D/U⌉ to ⌈D/L⌉ workers, and otherwise goes straight to the nearer end: that
is the size at which nothing more would change. Running tasks are a floor, ⌈A/slots⌉ workers: with
one slot and five running tasks the band alone would say three workers, and take two busy slots
away. (The original's thresholds are queue sizes; that law is `absolute.py`.)
"""

from __future__ import annotations

import math

from headrace.scaling.load import Load, ceil_div
from headrace.scaling.policy import Policy
from headrace.scaling.values import Reason, Wish


def threshold_wish(policy: Policy, load: Load, current: int) -> Wish:
    """The size that the band asks for when `current` workers are wanted now."""
    up, down = policy.full_worker, policy.scale_down_threshold
    lowest = ceil_div(load.tasks, up)
    # A down threshold of 0 is never undercut; an empty queue still needs nobody.
    highest = ceil_div(load.tasks, down) if down > 0 else math.inf if load.tasks else 0
    banded = int(max(lowest, min(current, highest)))
    busy = ceil_div(load.running, policy.slots)
    if busy > banded:
        return Wish(busy, Reason.ALL_BUSY, f"running tasks fill {busy} × {policy.slots} slots")
    if banded > current:
        return Wish(banded, Reason.BACKLOG_HIGH, f"at most {up:g} tasks a worker")
    if not load.tasks:
        reason = Reason.BACKLOG_LOW if current else Reason.WITHIN_BAND
        return Wish(0, reason, "nothing to do")
    if banded < current:
        return Wish(banded, Reason.BACKLOG_LOW, f"at least {down:g} tasks a worker")
    return Wish(banded, Reason.WITHIN_BAND, f"{down:g} to {up:g} tasks a worker")
