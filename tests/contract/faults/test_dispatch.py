"""Turns of the dispatcher that come too rarely on a server: here they are scripted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from headrace.broker.port import (
    GONE,
    NO_MESSAGES,
    RECONNECTED,
    Delivery,
    DeliveryCallback,
    QueueSettings,
    StatusCallback,
)
from headrace.runtime.dispatch import PARK_AFTER_OUTAGE, PARK_EXPIRES, SHARE, Dispatcher
from headrace.wire import Lane, lanes

LANES = lanes()
CRITICAL, HIGH, NORMAL, LOW = range(4)
LIMIT = 60.0


class Script:
    """A queue and its consumer: every pull is answered by `answer(lane, batch)`."""

    settings = QueueSettings()

    def __init__(self) -> None:
        self.answer: Callable[[int, int], None] = lambda lane, _: self.none(lane)
        self.naks: list[str] = []
        self.parked: list[int] = []
        self.open_for: list[float] = []
        self.started: list[Delivery] = []
        self._moved = asyncio.Event()

    def start(self, delivery: Delivery) -> None:
        self.started.append(delivery)
        self._moved.set()

    def none(self, lane: int) -> None:
        self._status(lane, False, NO_MESSAGES)

    def give(
        self, lane: int, name: str, *, parked: bool = False, age: float = 0.0, deliveries: int = 1
    ) -> None:
        stored_at, now = time.time() - age, time.monotonic()
        delivery = Delivery(LANES[lane], name, "", b"", 1, stored_at, deliveries, 9, False, "", now)
        self._deliver(lane, delivery, parked)

    def reconnected(self) -> None:
        self._status(-1, True, RECONNECTED)

    def expire(self, lane: int) -> None:
        self._status(lane, True, NO_MESSAGES)

    def refuse(self, lane: int, *, parked: bool = False) -> None:
        self._status(lane, parked, GONE)

    async def consumer(
        self, _: Sequence[Lane], deliver: DeliveryCallback, status: StatusCallback
    ) -> Script:
        self._deliver, self._status = deliver, status
        return self

    async def pull(self, lane: int, batch: int) -> None:
        self.answer(lane, batch)
        asyncio.get_running_loop().call_soon(self._moved.set)

    async def park(self, lane: int, expires: float) -> None:
        self.parked.append(lane)
        self.open_for.append(expires)
        self._moved.set()

    async def nak(self, delivery: Delivery, delay: float = 0.0) -> None:
        self.naks.append(delivery.task_id)
        self._moved.set()

    async def close(self) -> None:
        pass

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the dispatcher work until this holds."""
        async with asyncio.timeout(5):
            while not condition():
                self._moved.clear()
                await self._moved.wait()


def dispatcher(script: Script, slots: int) -> tuple[Dispatcher, list[str]]:
    """One in which every level below the top is due to be looked at, and what it started."""
    started: list[str] = []
    made = Dispatcher(
        script, LANES, slots, lambda delivery: started.append(delivery.task_id), LIMIT
    )  # type: ignore[arg-type]
    made._since = [SHARE] * len(LANES)
    return made, started


async def test_a_parked_pull_that_is_answered_while_a_low_level_is_asked() -> None:
    """The loop went round for ever without a turn for anybody else."""
    script = Script()
    made, started = dispatcher(script, slots=2)
    made._parked[CRITICAL] = time.monotonic() + 30

    def answer(lane: int, _: int) -> None:
        if lane == LOW and not started:
            script.give(CRITICAL, "critical", parked=True)
        script.none(lane)

    script.answer = answer
    await made.open()
    await script.until(lambda: set(script.parked) == {CRITICAL, HIGH, NORMAL, LOW})
    await made.close()
    assert started == ["critical"]


async def test_what_comes_while_the_last_slot_goes_to_a_starving_level_is_handed_back() -> None:
    """It was kept until the slot came free, and nobody else could run it."""
    script = Script()
    made, started = dispatcher(script, slots=1)
    made._parked[CRITICAL] = time.monotonic() + 30

    def answer(lane: int, _: int) -> None:
        if lane == NORMAL:
            script.give(CRITICAL, "critical", parked=True)
            script.give(NORMAL, "starving", age=LIMIT + 1)
        else:
            script.none(lane)

    script.answer = answer
    await made.open()
    await script.until(lambda: started and script.naks)
    await made.close()
    assert started == ["starving"]
    assert script.naks == ["critical"]


async def test_a_level_whose_head_is_young_is_only_looked_at() -> None:
    script = Script()
    made, started = dispatcher(script, slots=1)

    def answer(lane: int, _: int) -> None:
        if lane == NORMAL:
            script.give(NORMAL, "young", age=LIMIT - 5)
        elif lane == CRITICAL:
            script.give(CRITICAL, "critical")
        else:
            script.none(lane)

    script.answer = answer
    await made.open()
    await script.until(lambda: started)
    await made.close()
    assert started == ["critical"]
    assert script.naks == ["young"]


OUTAGES: dict[str, Callable[[Script], None]] = {
    "a reconnect": lambda script: script.reconnected(),
    "no leader": lambda script: script.refuse(LOW),
    "a consumer that is gone": lambda script: script.refuse(LOW, parked=True),
}


async def _come_and_go(script: Script, made: Dispatcher, number: int) -> None:
    """Let a task come for this time while there is no slot for it."""
    count = len(script.naks)
    made.hold()
    script.give(LOW, "low", deliveries=number)
    await script.until(lambda: len(script.naks) > count)
    made.unhold()


@pytest.mark.parametrize("last", [3, 4])
async def test_what_this_worker_handed_back_was_not_started(last: int) -> None:
    """It is started at once, without a look at its record; not so what another worker had too."""
    script = Script()
    made = Dispatcher(script, LANES, 1, script.start, LIMIT)
    await made.open()
    for number in (1, 2):
        await _come_and_go(script, made, number)
    script.give(LOW, "low", parked=True, deliveries=last)
    await script.until(lambda: script.started)
    await made.close()
    assert [delivery.may_have_been_started for delivery in script.started] == [last != 3]


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("back", ["before it", "after it"])
async def test_counts_are_not_believed_after_an_outage(outage: str, back: str) -> None:
    """A server that was killed delivers what it has forgotten as if for the first time."""
    script = Script()
    made = Dispatcher(script, LANES, 1, script.start, LIMIT)
    await made.open()
    await script.until(lambda: LOW in script.parked)
    assert made.history.sure
    if back == "before it":
        await _come_and_go(script, made, 1)
    OUTAGES[outage](script)
    assert not made.history.sure
    if back == "after it":
        await _come_and_go(script, made, 1)
    assert made.history.doubts(age=1.0)
    assert not made.history.doubts(age=0.0)  # came after it
    script.give(LOW, "low", parked=True, deliveries=2)
    await script.until(lambda: script.started)
    await made.close()
    assert [delivery.may_have_been_started for delivery in script.started] == [True]


async def test_a_pull_that_nobody_answers_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.runtime.dispatch._ANSWER_WITHIN", 0.05)
    script = Script()
    made = Dispatcher(script, LANES, 1, script.start, LIMIT)
    script.answer = lambda lane, _: None
    await made.open()
    await script.until(lambda: not made.history.sure)
    await made.close()


async def test_an_empty_lane_is_believed_for_less_time_after_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What leads it now may not have caught up, and answers no open pull when it has."""
    script = Script()
    made = Dispatcher(script, LANES, 1, script.start, LIMIT)
    await made.open()
    await script.until(lambda: len(script.open_for) == 4)
    script.reconnected()
    await script.until(lambda: len(script.open_for) == 8)
    monkeypatch.setattr("headrace.runtime.history.RECENT", 0.0)
    for lane in range(4):
        script.expire(lane)
    await script.until(lambda: len(script.open_for) == 12)
    await made.close()
    assert script.open_for == [PARK_EXPIRES] * 4 + [PARK_AFTER_OUTAGE] * 4 + [PARK_EXPIRES] * 4


async def test_a_parked_pull_whose_end_is_not_told_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A route that broke has swallowed it."""
    monkeypatch.setattr("headrace.runtime.dispatch.PARK_EXPIRES", 0.1)
    monkeypatch.setattr("headrace.runtime.dispatch.PARK_AFTER_OUTAGE", 0.1)
    script = Script()
    made = Dispatcher(script, LANES, 1, script.start, LIMIT)
    await made.open()
    await script.until(lambda: len(script.parked) == 8)
    sure = made.history.sure
    await made.close()
    assert not sure
