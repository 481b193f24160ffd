"""Pools that serve the same tasks: each would size itself for all of them, so they are split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.scaling import Depth


@dataclass(frozen=True, slots=True)
class Share:
    """What a pool takes of a queue, and how much it can carry."""

    name: str
    tags: frozenset[str]
    untagged: bool
    capacity: int
    """Slots at its maximum size, or at the size that it is pinned to."""

    def serves(self, tag: str | None) -> bool:
        """Whether it takes tasks with this tag; None: without one."""
        return self.untagged if tag is None else tag in self.tags


def split(
    lanes: Iterable[Depth], mine: Share, others: Iterable[Share]
) -> tuple[tuple[Depth, ...], tuple[str, ...]]:
    """The lanes with this pool's part of them, by capacity, and the pools that it shares with."""
    rest = tuple(each for each in others if each.capacity)  # at zero it takes nothing
    found, names = [], set()
    for lane in lanes:
        also = [each for each in rest if each.serves(lane.tag)] if mine.serves(lane.tag) else []
        names |= {each.name for each in also}
        total = mine.capacity + sum(each.capacity for each in also)
        found.append(replace(lane, share=mine.capacity / total) if also and mine.capacity else lane)
    return tuple(found), tuple(sorted(names))
