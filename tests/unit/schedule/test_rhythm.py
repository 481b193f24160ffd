"""Cron expressions in zones whose clocks change (C09), by the ticks that a server would send."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from headrace import InvalidSchedule
from headrace.rhythm import Rhythm, next_tick

PARIS = ZoneInfo("Europe/Paris")
SPRING, AUTUMN = datetime(2027, 3, 28, tzinfo=PARIS), datetime(2027, 10, 31, tzinfo=PARIS)
ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "Pacific/Kiritimati",
)


def runs_by_ticks(rhythm: Rhythm, start: float, end: float, outage: float = 0.0) -> list[float]:
    """The runs that workers make of the ticks from `start` to `end`; within `outage` seconds from
    the start on, all ticks become one, as in a server that is away or a queue that is full."""
    ticks, at, last = rhythm.ticks(), start, start
    found: list[float] = []
    if outage:
        at = start + outage
        while next_tick(ticks, at) <= start + outage:
            at = next_tick(ticks, at)
    else:
        at = next_tick(ticks, at)
    while at < end:
        run = rhythm.run_before(next_tick(ticks, at))
        if run is not None and run > last:
            found.append(run)
            last = run
        at = next_tick(ticks, at)
    return found


def runs_of_day(cron: str, day: datetime) -> list[str]:
    rhythm = Rhythm.of(cron, str(day.tzinfo))
    start, end = day.timestamp(), (day + timedelta(days=1)).timestamp()
    found = runs_by_ticks(rhythm, start - 1, end)
    said = [at for at in rhythm.next_after(start - 1, 100) if at < end]
    assert said == found  # what is announced is what happens
    return [datetime.fromtimestamp(at, day.tzinfo).strftime("%H:%M%z") for at in found]


def test_a_daily_run_comes_once_on_the_days_the_clocks_change() -> None:
    assert runs_of_day("30 2 * * *", SPRING) == ["03:30+0200"]  # there is no 02:30
    assert runs_of_day("30 2 * * *", AUTUMN) == ["02:30+0200"]  # the first of two
    assert runs_of_day("30 2 * * *", SPRING + timedelta(days=1)) == ["02:30+0200"]
    assert runs_of_day("30 2 * * *", AUTUMN + timedelta(days=1)) == ["02:30+0100"]
    assert runs_of_day("30 2 * * *", AUTUMN - timedelta(days=1)) == ["02:30+0200"]


def test_an_hourly_run_comes_23_and_25_times() -> None:
    assert len(runs_of_day("0 * * * *", SPRING)) == 23
    autumn = runs_of_day("0 * * * *", AUTUMN)
    assert len(autumn) == 25
    assert autumn[2:4] == ["02:00+0200", "02:00+0100"]


def test_several_fixed_times_within_the_gap_are_one_moment_each_or_less() -> None:
    assert runs_of_day("0,30 2 * * *", SPRING) == ["03:00+0200"]
    assert runs_of_day("0,30 2 * * *", AUTUMN) == ["02:00+0200", "02:30+0200"]
    assert runs_of_day("0 3 * * *", SPRING) == ["03:00+0200"]
    assert runs_of_day("0 3 * * *", AUTUMN) == ["03:00+0100"]
    assert runs_of_day("30 1,2,3 * * *", AUTUMN) == ["01:30+0200", "02:30+0200", "03:30+0100"]


def test_minutes_with_a_star_follow_the_clock_on_the_wall() -> None:
    assert runs_of_day("*/30 2 * * *", SPRING) == []
    assert len(runs_of_day("*/30 2 * * *", AUTUMN)) == 4


def test_days_are_those_of_the_zone() -> None:
    kiritimati = "Pacific/Kiritimati"  # UTC+14
    first = Rhythm.of("0 6 1 * *", kiritimati).next_after(
        datetime(2027, 1, 15, tzinfo=UTC).timestamp(), 1
    )
    assert datetime.fromtimestamp(first[0], UTC) == datetime(2027, 1, 31, 16, tzinfo=UTC)
    monday = Rhythm.of("0 6 * * MON", kiritimati)
    ticks = monday.ticks()
    assert ticks == "0 0 16 * * 0"  # Sunday in UTC


@pytest.mark.parametrize(
    ("cron", "zone", "ticks"),
    [
        ("30 2 * * *", "UTC", "0 30 2 * * *"),
        ("30 2 * * *", "Europe/Paris", "0 30 0,1 * * *"),
        ("* * * * *", "Europe/Paris", "0 * * * * *"),
        ("*/5 * * * * *", "UTC", "0,5,10,15,20,25,30,35,40,45,50,55 * * * * *"),
        ("0 9 * * 1-5", "Asia/Kolkata", "0 30 3 * * 1,2,3,4,5"),
        ("0 0 1 1 *", "Europe/Paris", "0 0 22,23 28,29,30,31 1,12 *"),
        ("0 22 28 2 *", "America/New_York", "0 0 2,3 1,29 2,3 *"),
        ("0 0 * * 7", "UTC", "0 0 0 * * 0"),
        ("0 0 1-31 * MON", "UTC", "0 0 0 * * *"),  # one of the two says: every day
    ],
)
def test_what_the_server_is_told(cron: str, zone: str, ticks: str) -> None:
    assert Rhythm.of(cron, zone).ticks() == ticks


def test_an_outage_is_made_up_for_by_the_newest_run_alone() -> None:
    start = datetime(2027, 7, 1, tzinfo=UTC).timestamp()
    rhythm = Rhythm.of("30 2 * * *", "Europe/Paris")  # in summer 00:30 UTC; 01:30 ticks too
    found = runs_by_ticks(rhythm, start, start + 3 * 86_400, outage=86_400 + 7_200)
    days = [datetime.fromtimestamp(at, PARIS).strftime("%d %H:%M") for at in found]
    assert days == ["02 02:30", "03 02:30"]


_field = st.one_of(st.just("*"), st.just("*/2"), st.just("*/7"))


@st.composite
def _crons(draw: st.DrawFn) -> str:
    def some(low: int, high: int) -> str:
        values = draw(st.sets(st.integers(low, high), min_size=1, max_size=3))
        return draw(st.one_of(_field, st.just(",".join(map(str, sorted(values))))))

    day = draw(st.one_of(st.just("*"), st.just("L"), st.just("LW"), st.just(some(1, 28))))
    weekday = draw(st.one_of(st.just("*"), st.just("5L"), st.just("MON#2"), st.just(some(0, 7))))
    return f"{some(0, 59)} {some(0, 23)} {day} {some(1, 12)} {weekday}"


@settings(deadline=None, max_examples=60)
@given(cron=_crons(), zone=st.sampled_from(ZONES), day=st.integers(0, 1000))
def test_every_run_is_a_tick_and_every_tick_tells_its_run(cron: str, zone: str, day: int) -> None:
    try:
        rhythm = Rhythm.of(cron, zone)
    except InvalidSchedule:  # it never comes: such as the last weekday of a month, if a Sunday
        reject()
    here = ZoneInfo(zone)
    start = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=day)
    said = []
    for local, _ in zip(CronSim(cron, start.astimezone(here)), range(60), strict=False):
        if (run := local.timestamp()) > start.timestamp():
            said.append(run)
    ticks = rhythm.ticks()
    for run in said:
        assert 0 <= next_tick(ticks, run - 1) - run <= 3600  # 0 but where the clocks skip it
    announced = rhythm.next_after(start.timestamp(), 12)
    assert set(announced) == {
        tick for run in said if (tick := next_tick(ticks, run - 1)) <= announced[-1]
    }
    for at in announced[:4]:
        assert rhythm.run_before(next_tick(ticks, at)) == at


def test_an_interval_goes_by_the_servers_ticks() -> None:
    rhythm = Rhythm.of(every=timedelta(minutes=5))
    assert rhythm == Rhythm.of(every=300)
    assert rhythm.ticks() == "@every 300s"
    assert next_tick(rhythm.ticks(), 1000.4) == 1300.0
    assert rhythm.run_before(1600.0) == 1300.0
    assert rhythm.next_after(1000.0, 2) == [1300.0, 1600.0]


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({}, "cron", "either"),
        ({"cron": "* * * * *", "every": 1}, "cron", "either"),
        ({"cron": "61 * * * *"}, "cron", "minute"),
        ({"cron": "* 24 * * *"}, "cron", "hour"),
        ({"cron": "* * 0 * *"}, "cron", "day of month"),
        ({"cron": "* * * FOO *"}, "cron", "month"),
        ({"cron": "* * * * 8"}, "cron", "day of week"),
        ({"cron": "@daily"}, "cron", "1 fields"),
        ({"cron": "0 0 31 2 *"}, "cron", "day of month"),
        ({"cron": "* " * 200}, "cron", "no cron expression"),
        ({"cron": 5}, "cron", "no cron expression"),
        ({"cron": "* * * * *", "zone": "Europe/Pariss"}, "zone", "Pariss"),
        ({"cron": "* * * * *", "zone": "../etc/passwd"}, "zone", "no time zone"),
        ({"cron": "* * * * *", "zone": "Europe"}, "zone", "no time zone"),
        ({"cron": "* * * * *", "zone": ""}, "zone", "no time zone"),
        ({"every": 60, "zone": "UTC"}, "zone", "goes with cron"),
        ({"every": 0}, "every", "whole number"),
        ({"every": 1.5}, "every", "whole number"),
        ({"every": float("nan")}, "every", "whole number"),
        ({"every": True}, "every", "whole number"),
        ({"every": timedelta(days=367)}, "every", "whole number"),
    ],
)
def test_what_cannot_be_says_which_field(options: dict[str, object], field: str, says: str) -> None:
    with pytest.raises(InvalidSchedule, match=says) as caught:
        Rhythm.of(**options)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
