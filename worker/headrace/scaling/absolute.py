"""The original's law: the queue's size against two fixed sizes, one worker more or less a tick.

Kept for code that counts on it, and for the simulator. It looks at waiting tasks only, so it may
drain a busy worker (which finishes first). A tick is a call: ask it once every `period`.
"""

from __future__ import annotations

from headrace.scaling.load import Load
from headrace.scaling.policy import Policy
from headrace.scaling.values import Reason, Wish


def absolute_wish(policy: Policy, load: Load, current: int) -> Wish:
    """One more above `scale_up_threshold` waiting tasks, one fewer below `scale_down_threshold`."""
    up, down = policy.scale_up_threshold, policy.scale_down_threshold
    if load.waiting > up:
        return Wish(current + 1, Reason.BACKLOG_HIGH, f"one more above {up:g} waiting")
    if load.waiting < down:
        return Wish(max(current - 1, 0), Reason.BACKLOG_LOW, f"one fewer below {down:g} waiting")
    return Wish(current, Reason.WITHIN_BAND, f"{down:g} to {up:g} waiting")
