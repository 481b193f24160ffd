"""What a run prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.figures import Figures


def summary(figures: Figures) -> Iterator[str]:
    """The table at the end, line by line."""
    ended = ", ".join(f"{count} {name}" for name, count in sorted(figures.ended.items()))
    rows: list[tuple[str, object]] = [
        ("tasks", f"{figures.tasks} ({ended})"),
        ("lost", figures.lost),
        ("handler runs", figures.runs),
        ("  beyond the first of an attempt", figures.second_runs),
        ("  whose outcome was refused", figures.refused),
        ("worker processes that ended", figures.worker_deaths),
        *figures.told.items(),
    ]
    for name, value in rows:
        yield f"  {name:34} {value}"
    longest = figures.longest_stall
    where = f"during {longest.during}" if longest.during else "with no fault near"
    yield f"  {'longest stall':34} {longest.seconds:.2f} s, {where}"
    yield f"  {'fault':34} {'times':>5}  longest stall near it, s"
    for kind in sorted({*figures.faults, *figures.stalls}):
        stall = figures.stalls.get(kind, 0.0)
        yield f"    {kind:32} {figures.faults.get(kind, 0):5}  {stall:.2f}"


def problems(found: Sequence[str], again: str) -> Iterator[str]:
    """What does not hold, and how to see it again."""
    for line in found[:50]:
        yield f"VIOLATED: {line}"
    if len(found) > 50:
        yield f"… and {len(found) - 50} more"
    if found:
        yield f"again: {again}"
