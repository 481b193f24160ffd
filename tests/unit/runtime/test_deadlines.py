"""One timer for many timeouts, on a loop whose time is made up."""

import asyncio

import pytest

from headrace.runtime.deadlines import Deadlines

pytestmark = pytest.mark.looptime


async def test_each_is_called_at_its_time_and_once() -> None:
    loop = asyncio.get_running_loop()
    start, called = loop.time(), []
    deadlines = Deadlines[str](loop, lambda key: called.append((key, round(loop.time() - start))))
    deadlines.add("late", 30)
    deadlines.add("early", 10)
    deadlines.add("gone", 5)
    deadlines.add("middle", 20)
    deadlines.remove("gone")
    deadlines.remove("gone")
    await asyncio.sleep(60)
    assert called == [("early", 10), ("middle", 20), ("late", 30)]


async def test_one_that_comes_later_may_be_due_first() -> None:
    loop = asyncio.get_running_loop()
    start, called = loop.time(), []
    deadlines = Deadlines[str](loop, lambda key: called.append((key, round(loop.time() - start))))
    deadlines.add("long", 300)
    await asyncio.sleep(100)
    deadlines.add("short", 1)
    await asyncio.sleep(300)
    assert called == [("short", 101), ("long", 300)]


async def test_a_callback_may_add_and_remove() -> None:
    loop = asyncio.get_running_loop()
    called: list[str] = []

    def expired(key: str) -> None:
        called.append(key)
        if key == "one":
            deadlines.remove("two")
            deadlines.add("three", 5)

    deadlines = Deadlines[str](loop, expired)
    deadlines.add("one", 1)
    deadlines.add("two", 1)
    await asyncio.sleep(20)
    assert called == ["one", "three"]


async def test_none_is_called_after_the_end() -> None:
    called: list[str] = []
    deadlines = Deadlines[str](asyncio.get_running_loop(), called.append)
    deadlines.add("one", 1)
    deadlines.close()
    await asyncio.sleep(5)
    assert called == []
