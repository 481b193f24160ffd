"""Whether a series is flat: a straight line through its last two thirds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Series = Sequence[tuple[float, float]]
"""Seconds since the start, and a value."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a series may rise over its last two thirds: a share of its median there, or so much
    in its own unit, whichever is more."""

    share: float
    least: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the line says."""

    median: float
    rise: float
    """Of the line over the last two thirds."""
    per_hour: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it rises no more than allowed."""
        return self.rise <= self.allowed


def last_two_thirds(series: Series) -> Series:
    """Without the first third of the time, in which caches fill."""
    begin = series[0][0] + (series[-1][0] - series[0][0]) / 3
    return [point for point in series if point[0] >= begin]


def judge(series: Series, bound: Bound) -> Verdict:
    """The verdict on one series, by least squares. Raises `ValueError` for fewer than 3 points."""
    points = last_two_thirds(series)
    if len(points) < 3:
        raise ValueError("too short a series to judge")
    times, values = zip(*points, strict=True)
    slope = statistics.linear_regression(times, values).slope
    median = statistics.median(values)
    rise = slope * (times[-1] - times[0])
    return Verdict(median, rise, slope * 3600, max(bound.share * abs(median), bound.least))
