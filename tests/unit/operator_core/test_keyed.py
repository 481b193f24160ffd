"""The work queue of keys, on a loop whose time is made up."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from headrace_operator.app import keyed as keyed_module
from headrace_operator.app.keyed import Keyed
from headrace_operator.errors import Conflict, Unreachable

pytestmark = pytest.mark.looptime


class Runs:
    """Records when which key ran; what a run does is given per key."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self.running: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.together = 0
        self.does: Callable[[str], Awaitable[float | None]] = self.nothing

    async def nothing(self, key: str) -> float | None:
        return None

    async def __call__(self, key: str) -> float | None:
        self.times.setdefault(key, []).append(asyncio.get_running_loop().time())
        self.running[key] = self.running.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.running[key])
        self.together = max(self.together, sum(self.running.values()))
        try:
            return await self.does(key)
        finally:
            self.running[key] -= 1

    def count(self, key: str = "a") -> int:
        return len(self.times.get(key, []))


@asynccontextmanager
async def started(runs: Runs, **options: object) -> AsyncIterator[Keyed[str]]:
    keyed: Keyed[str] = Keyed(runs, **options)  # type: ignore[arg-type]
    keyed.start()
    try:
        yield keyed
    finally:
        await keyed.stop()


def takes(seconds: float, again: float | None = None) -> Callable[[str], Awaitable[float | None]]:
    async def does(key: str) -> float | None:
        await asyncio.sleep(seconds)
        return again

    return does


def fails(error: Exception, times: int = 10**9) -> Callable[[str], Awaitable[float | None]]:
    left = [times]

    async def does(key: str) -> float | None:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return None

    return does


def pauses(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


# --- once at a time ---


async def test_a_key_that_is_added_runs_once() -> None:
    runs = Runs()
    async with started(runs) as keyed:
        for _ in range(5):
            keyed.add("a")
        await asyncio.sleep(10)
    assert runs.count() == 1


async def test_adds_during_a_run_cause_exactly_one_more_after_it() -> None:
    runs = Runs()
    runs.does = takes(1.0)
    async with started(runs) as keyed:
        keyed.add("a")
        for _ in range(3):
            await asyncio.sleep(0.25)
            keyed.add("a")
        await asyncio.sleep(10)
    assert runs.times["a"][1] - runs.times["a"][0] == pytest.approx(1.0)
    assert (runs.count(), runs.most["a"]) == (2, 1)


async def test_a_key_never_runs_twice_at_once_however_many_wait() -> None:
    runs = Runs()
    runs.does = takes(0.3, again=0.1)
    async with started(runs, parallel=4) as keyed:
        for _ in range(40):
            keyed.add("a")
            keyed.later("a", 0.05)
            await asyncio.sleep(0.1)
    assert runs.most["a"] == 1
    assert runs.count() > 5


async def test_different_keys_run_at_once_up_to_a_number() -> None:
    runs = Runs()
    runs.does = takes(1.0)
    async with started(runs, parallel=3) as keyed:
        for number in range(7):
            keyed.add(f"k{number}")
        await asyncio.sleep(2.5)
        assert len(runs.times) == 7
    assert runs.together == 3


async def test_a_slow_key_holds_up_no_other() -> None:
    runs = Runs()
    slow = takes(20.0)
    quick = takes(0.0)
    runs.does = lambda key: slow(key) if key == "slow" else quick(key)
    async with started(runs, parallel=2) as keyed:
        keyed.add("slow")
        await asyncio.sleep(1)
        keyed.add("a")
        await asyncio.sleep(1)
        assert runs.count("a") == 1


# --- later ---


async def test_a_run_says_when_the_next_one_is() -> None:
    runs = Runs()
    runs.does = takes(0.0, again=2.0)
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(5)
    assert pauses(runs.times["a"]) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("wishes", [(5.0, 2.0), (2.0, 5.0), (2.0, 2.0)])
async def test_of_two_wishes_the_earlier_one_holds(wishes: tuple[float, float]) -> None:
    runs = Runs()
    async with started(runs) as keyed:
        begin = asyncio.get_running_loop().time()
        for seconds in wishes:
            keyed.later("a", seconds)
        await asyncio.sleep(10)
    assert [time - begin for time in runs.times["a"]] == pytest.approx([2.0])


async def test_an_add_takes_the_place_of_a_later_run() -> None:
    runs = Runs()
    async with started(runs) as keyed:
        keyed.later("a", 1.0)
        keyed.add("a")
        await asyncio.sleep(5)
    assert runs.count() == 1


async def test_a_wish_for_later_does_not_delay_a_key_that_waits() -> None:
    runs = Runs()
    runs.does = takes(1.0)
    async with started(runs, parallel=1) as keyed:
        keyed.add("b")
        keyed.add("a")
        keyed.later("a", 50.0)
        await asyncio.sleep(100)
    assert runs.count() == 1


async def test_an_add_during_a_run_is_sooner_than_what_the_run_asks_for() -> None:
    runs = Runs()
    runs.does = takes(1.0, again=30.0)
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(0.5)
        keyed.add("a")
        await asyncio.sleep(9.5)
    assert pauses(runs.times["a"]) == pytest.approx([1.0])


# --- failures ---


async def test_a_failure_is_tried_again_later_each_time_up_to_a_minute() -> None:
    runs = Runs()
    runs.does = fails(Unreachable("no answer"))
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(600)
    found = pauses(runs.times["a"])
    for number, pause in enumerate(found):
        most = min(60.0, 0.2 * 2 ** (number + 1))
        assert most / 2 - 0.001 <= pause <= most + 0.001
    assert max(found) > 30 > found[0]


async def test_a_success_ends_the_backing_off() -> None:
    runs = Runs()
    runs.does = fails(Unreachable("no answer"), times=6)
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(60)
        assert runs.count() == 7
        runs.does = fails(Unreachable("no answer"), times=1)
        keyed.add("a")
        await asyncio.sleep(0.5)
    assert runs.count() == 9


async def test_a_key_that_is_forgotten_begins_anew() -> None:
    runs = Runs()
    runs.does = fails(Unreachable("no answer"))
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(100)
        keyed.forget("a")
        before = runs.count()
        keyed.add("a")
        await asyncio.sleep(0.5)
    assert runs.count() >= before + 2


async def test_what_is_new_is_tried_at_once_whatever_failed_before() -> None:
    runs = Runs()
    runs.does = fails(Unreachable("no answer"))
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(200)
        before = runs.count()
        keyed.add("a")
        await asyncio.sleep(0.01)
        assert runs.count() == before + 1


async def test_a_conflict_is_looked_at_again_at_once_and_is_no_failure() -> None:
    runs, told = Runs(), []
    runs.does = fails(Conflict("changed"), times=5)
    async with started(runs, failed=lambda key, error: told.append(error)) as keyed:
        keyed.add("a")
        await asyncio.sleep(1)
    assert pauses(runs.times["a"]) == pytest.approx([0.05] * 5)
    assert told == []


async def test_one_key_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs()
    told: list[tuple[str, type[BaseException]]] = []
    bad, good = fails(ValueError("a bug")), takes(0.0, again=1.0)
    runs.does = lambda key: bad(key) if key == "bad" else good(key)
    options = {"parallel": 1, "failed": lambda key, error: told.append((key, type(error)))}
    async with started(runs, **options) as keyed:
        keyed.add("bad")
        keyed.add("a")
        await asyncio.sleep(10.5)
        assert keyed.alive
    assert runs.count() == 11
    assert set(told) == {("bad", ValueError)}
    assert len(told) == runs.count("bad")
    traces = [each for each in caplog.records if each.exc_info]
    assert traces
    assert all(each.levelno == logging.ERROR for each in traces)


async def test_an_outage_is_one_line_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs()
    runs.does = fails(Unreachable("no answer"), times=1)
    async with started(runs) as keyed:
        keyed.add("a")
        await asyncio.sleep(1)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage(), record.exc_info) == (
        logging.WARNING,
        "a: no answer",
        None,
    )


async def test_a_run_that_hangs_is_ended_and_counts_as_a_failure() -> None:
    runs = Runs()
    told: list[BaseException] = []
    runs.does = takes(10_000.0)
    async with started(runs, failed=lambda key, error: told.append(error)) as keyed:
        keyed.add("a")
        await asyncio.sleep(30.01)
        assert runs.running["a"] == 0
        await asyncio.sleep(1)
        assert runs.count() == 2
    assert isinstance(told[0], TimeoutError)


# --- end ---


async def test_stop_ends_what_runs_and_nothing_runs_after_it() -> None:
    runs = Runs()
    runs.does = takes(1000.0)
    keyed: Keyed[str] = Keyed(runs)
    keyed.start()
    keyed.add("a")
    keyed.later("b", 5.0)
    await asyncio.sleep(1)
    begin = asyncio.get_running_loop().time()
    await keyed.stop()
    assert asyncio.get_running_loop().time() == begin
    assert runs.running["a"] == 0
    assert not keyed.alive
    keyed.add("c")
    await asyncio.sleep(100)
    assert set(runs.times) == {"a"}


async def test_stop_without_a_start_is_nothing() -> None:
    await Keyed(Runs()).stop()


# --- how it is ---


async def test_it_is_alive_between_start_and_stop() -> None:
    keyed: Keyed[str] = Keyed(Runs())
    assert not keyed.alive
    keyed.start()
    await asyncio.sleep(0)
    assert keyed.alive
    await keyed.stop()
    assert not keyed.alive


async def test_the_oldest_wait_is_of_a_key_that_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    # Not time.monotonic itself, which the loop asks too.
    monkeypatch.setattr(keyed_module, "time", SimpleNamespace(monotonic=loop.time))
    runs = Runs()
    runs.does = takes(10.0)
    async with started(runs, parallel=1) as keyed:
        assert keyed.oldest_wait == 0
        keyed.add("a")
        await asyncio.sleep(1)
        assert keyed.oldest_wait == 0
        keyed.add("b")
        await asyncio.sleep(2)
        keyed.add("c")
        await asyncio.sleep(1)
        assert keyed.oldest_wait == pytest.approx(3.0)
        await asyncio.sleep(50)
        assert keyed.oldest_wait == 0
