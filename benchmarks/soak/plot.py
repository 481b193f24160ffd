"""A chart of small multiples as SVG: text, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.soak.flat import Series

_WIDTH, _HEIGHT = 380, 150  # of one panel, with its margins
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 24
_COLUMNS = 2
_HEAD = 46
_STYLE = """
  text { font: 11px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600; fill: #1f2328 }
  .name { font-size: 12px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .line { fill: none; stroke: #0969da; stroke-width: 1.5; stroke-linejoin: round }
  .first { fill: #818b98; fill-opacity: .12 }
  .end { text-anchor: end }
  .mid { text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .title, .name { fill: #f0f6fc }
    .grid { stroke: #3d444d }
    .line { stroke: #4493f8 }
  }
"""


def ticks(top: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to the first one that is not below `top`."""
    if top <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(top / most))
    while top / step > most:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    return [step * number for number in range(math.ceil(top / step) + 1)]


def chart(title: str, note: str, panels: Mapping[str, tuple[str, Series]]) -> str:
    """The SVG of these panels: name → (unit, series over seconds). The first third of each is
    shaded: it is not judged."""
    rows = math.ceil(len(panels) / _COLUMNS)
    width, height = _WIDTH * _COLUMNS, _HEAD + _HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="37">{escape(note)}</text>',
    ]
    for number, (name, (unit, series)) in enumerate(panels.items()):
        x = _WIDTH * (number % _COLUMNS)
        y = _HEAD + _HEIGHT * (number // _COLUMNS)
        parts.append(f'<g transform="translate({x} {y})">')
        parts += _panel(f"{name}, {unit}", series)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(name: str, series: Series) -> list[str]:
    begin, end = series[0][0], max(series[-1][0], series[0][0] + 1)
    marks = ticks(max(value for _, value in series))
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(time: float, value: float) -> tuple[float, float]:
        return (
            _LEFT + (time - begin) / (end - begin) * inner_width,
            _TOP + (1 - value / marks[-1]) * inner_height,
        )

    floor = _TOP + inner_height
    parts = [
        f'<text class="name" x="{_LEFT}" y="18">{escape(name)}</text>',
        f'<rect class="first" x="{_LEFT}" y="{_TOP}" width="{inner_width / 3:.1f}" '
        f'height="{inner_height}"/>',
    ]
    for mark in marks:
        y = at(begin, mark)[1]
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}h{inner_width}"/>'
            f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{mark:,g}</text>'
        )
    for part in (0.0, 0.5, 1.0):
        x = _LEFT + part * inner_width
        minutes = (begin + part * (end - begin)) / 60
        kind = "end" if part == 1 else "mid" if part else ""
        label = f"{minutes:.3g} min"
        parts.append(f'<text class="{kind}" x="{x:.1f}" y="{floor + 16}">{label}</text>')
    parts.append(f'<path class="line" d="{_path([at(*point) for point in series])}"/>')
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
