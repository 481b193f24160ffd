"""Pools that serve the same tasks split them."""

from __future__ import annotations

import pytest
from tests.unit.scaling.builders import depth

from headrace_operator.core.sharing import Share, split

LANES = (depth(10), depth(4, tag="gpu"), depth(2, tag="big"))


def share(name: str, *tags: str, untagged: bool = True, capacity: int = 100) -> Share:
    return Share(name, frozenset(tags), untagged, capacity)


def test_alone_a_pool_has_all_of_it() -> None:
    assert split(LANES, share("a"), ()) == (LANES, ())


def test_two_that_serve_the_same_split_it_by_what_they_can_carry() -> None:
    mine, other = share("a", capacity=100), share("b", capacity=300)
    lanes, names = split(LANES, mine, [other])
    assert [each.share for each in lanes] == [0.25, 1.0, 1.0]
    assert names == ("b",)
    theirs, _ = split(LANES, other, [mine])
    assert theirs[0].share == 0.75


def test_only_lanes_that_both_serve_are_split() -> None:
    mine = share("a", "gpu", "big")
    lanes, names = split(LANES, mine, [share("b", "gpu", untagged=False), share("c", "else")])
    assert [each.share for each in lanes] == [0.5, 0.5, 1.0]
    assert names == ("b", "c")


def test_a_pool_that_cannot_be_read_shares_nothing() -> None:
    lanes, names = split(LANES, share("a"), [share("b", untagged=False, capacity=0)])
    assert (lanes, names) == (LANES, ())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_parts_of_all_make_one(count: int) -> None:
    pools = [share(f"p{number}", capacity=number + 1) for number in range(count)]
    parts = [split(LANES, each, [o for o in pools if o is not each])[0][0].share for each in pools]
    assert sum(parts) == pytest.approx(1.0)


def test_a_pool_that_is_pinned_to_zero_takes_nothing() -> None:
    mine, pinned = share("v2", capacity=50), share("v1", capacity=0)
    assert split(LANES, mine, [pinned]) == (LANES, ())
    assert split(LANES, pinned, [mine]) == (LANES, ("v2",))  # it has a size without a law
