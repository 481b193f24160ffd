"""Numbers and times in words, for messages."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """`0.5s`, `10s`, `1m30s`, `2h`: the two largest units."""
    if seconds < 10:
        return f"{seconds:.3g}s"
    total = round(seconds)
    hours, rest = divmod(total, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m{left}s" if left else f"{minutes}m"
    return f"{left}s"


def time_of_day(epoch: float) -> str:
    """`03:01:10`, in UTC; rounded up, because it says from when on something may happen."""
    # Rounded to a millisecond first: the same instant reckoned from two snapshots must read alike.
    whole = -int(-round(epoch, 3) // 1)
    hours, rest = divmod(whole % 86400, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"
