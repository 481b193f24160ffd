"""The soak's verdict and its chart."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from benchmarks.soak.flat import Bound, judge
from benchmarks.soak.plot import chart, ticks

LEAK = [(float(t), 100 + t / 60) for t in range(0, 1800, 5)]  # a MiB a minute
FILLING = [(float(t), 100 + min(t, 500) / 10) for t in range(0, 1800, 5)]
SAW = [(float(t), 100 + (t % 300) / 30) for t in range(0, 1800, 5)]


@pytest.mark.parametrize(("series", "flat"), [(LEAK, False), (FILLING, True), (SAW, True)])
def test_a_leak_is_told_from_a_cache_that_fills(
    series: list[tuple[float, float]], flat: bool
) -> None:
    verdict = judge(series, Bound(0.05, 5.0))
    assert verdict.flat is flat


def test_the_rise_of_a_leak() -> None:
    verdict = judge(LEAK, Bound(0.05, 5.0))
    assert verdict.rise == pytest.approx(1195 / 60, rel=0.01)
    assert verdict.per_hour == pytest.approx(60)


def test_a_series_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="too short"):
        judge([(0.0, 1.0), (5.0, 1.0)], Bound(0.05, 5.0))


@pytest.mark.parametrize("top", [0.004, 0.7, 3, 16, 99, 147, 2_048])
def test_axes_end_at_or_above_the_highest_value(top: float) -> None:
    marks = ticks(top)
    assert marks[-1] >= top > marks[-2]
    assert len(marks) <= 6


def test_the_chart_is_well_formed_and_names_its_panels() -> None:
    root = ET.fromstring(chart("A & B", "note", {"memory <x>": ("MiB", LEAK), "c": ("", SAW)}))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B", "memory <x>, MiB"} <= set(texts)
    assert len([n for n in root.iter() if n.get("class") == "line"]) == 2
