"""When a schedule runs: cron expressions in a zone, and plain intervals. No clock but the year.

A server ticks; a worker that takes a tick asks here which run it stands for. The server does not
know our rules for zones: it is given times in UTC, at every offset that the zone has in these
years, so that some ticks stand for no run (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, product
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from headrace.errors import InvalidSchedule

MAX_EVERY = 366 * 86_400
_EVERY = "@every "
_MAX_CRON = 200  # characters of an expression
_YEARS = range(-1, 5)  # in which a zone's offsets are looked up, from this year
_FIELDS = {"day-of-month": "day of month", "day-of-week": "day of week"}
_LAST_DAYS = {CronSim.LAST: range(28, 32), CronSim.LAST_WEEKDAY: range(26, 32)}
# How far back the newest run is looked for; the first span that has one ends it.
_BACK = tuple(map(timedelta, (2 / 86_400, 1 / 1_440, 1 / 12, 2.0, 63.0, 367.0, 9 * 366.0)))
# A run that the clocks skip comes later than its expression says, by less than this.
_SKIPPED = timedelta(days=1, hours=1)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Either `cron`, read in `zone`, or `every` so many whole seconds."""

    cron: str | None = None
    zone: str = "UTC"
    every: int | None = None

    @classmethod
    def of(
        cls,
        cron: str | None = None,
        zone: str | None = None,
        every: timedelta | float | None = None,
    ) -> Rhythm:
        """A rhythm that can be run. Raises `InvalidSchedule`, which names the field."""
        if (cron is None) == (every is None):
            raise InvalidSchedule("cron", "give either cron= or every=")
        if cron is None:
            if zone is not None:
                raise InvalidSchedule("zone", "goes with cron=: an interval has no zone")
            return cls(every=_whole_seconds(every))
        rhythm = cls(_checked(cron), _known(zone))
        if next(rhythm.runs_after(datetime.now(UTC).timestamp()), None) is None:
            raise InvalidSchedule("cron", f"{cron!r} never comes")
        return rhythm

    def ticks(self) -> str:
        """What the server is to tick by: `@every 5s`, or a cron expression of six fields in UTC
        that has every run, and where the zone changes its clocks some more."""
        if self.cron is None:
            return f"{_EVERY}{self.every}s"
        return _utc_ticks(self.cron, self.zone, datetime.now(UTC).year)

    def run_before(self, next_tick: float) -> float | None:
        """The newest run before `next_tick`, in seconds since the epoch.

        What a tick stands for, given the tick that follows it: ticks that were missed, or that
        took the place of others, stand for the newest run among all of them.
        """
        if self.every is not None:
            return next_tick - self.every
        ticks, end = self.ticks(), _at(next_tick)
        for back in _BACK:
            for run in reversed([*self._said(end - back, end)]):
                if (at := _tick_from(ticks, run)) < next_tick:
                    return at
        return None

    def runs_after(self, after: float) -> Iterator[float]:
        """The runs later than `after`, in seconds since the epoch; without end for most.

        For an interval `after` is a run, or when it was registered.
        """
        if self.every is not None:
            while True:
                after += self.every
                yield after
        ticks, last = self.ticks(), after
        for run in self._said(_at(after) - self._late(), None):
            at = _tick_from(ticks, run)
            if at > last:
                last = at
                yield at

    def next_after(self, after: float, count: int) -> list[float]:
        """The first runs later than `after`; fewer, if it does not come so often."""
        return list(islice(self.runs_after(after), count))

    def _late(self) -> timedelta:
        zone = ZoneInfo(self.zone)
        fixed = CronSim(self.cron or "", datetime.now(zone)).fixup_tz is not None
        return _SKIPPED if fixed else timedelta()

    def _said(self, start: datetime, end: datetime | None) -> Iterator[datetime]:
        """What the expression says, in UTC."""
        for local in CronSim(self.cron or "", start.astimezone(ZoneInfo(self.zone))):
            run = local.astimezone(UTC)
            if end is not None and run >= end:
                return
            yield run


def next_tick(ticks: str, after: float) -> float:
    """The first tick after this time, as a NATS server has it."""
    if ticks.startswith(_EVERY):
        return float(round(after) + int(ticks.removeprefix(_EVERY).removesuffix("s")))
    return next(CronSim(ticks, _at(after))).timestamp()


def _tick_from(ticks: str, run: datetime) -> float:
    """The first tick at this time or later: a time that the clocks skip is none itself."""
    return next(CronSim(ticks, run - timedelta(seconds=1))).timestamp()


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- checks --------------------------------------------------------------------------------------


def _whole_seconds(every: object) -> int:
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 1 <= seconds <= MAX_EVERY
        or seconds != int(seconds)
    ):
        raise InvalidSchedule(
            "every", f"{every!r} is not a whole number of seconds from 1 to {MAX_EVERY:,}"
        )
    return int(seconds)


def _checked(cron: object) -> str:
    if not isinstance(cron, str) or len(cron) > _MAX_CRON:
        raise InvalidSchedule("cron", f"{cron!r:.80} is no cron expression")
    text = " ".join(cron.split())
    try:
        CronSim(text, _at(0.0))
    except CronSimError as error:
        said = str(error)
        field = said.removeprefix("Bad ")
        problem = (
            f"its {_FIELDS.get(field, field)} cannot be"
            if field != said
            else f"it has {len(text.split())} fields, not 5"
        )
        raise InvalidSchedule(
            "cron",
            f"{cron!r}: {problem}",
            hint="minute hour day-of-month month day-of-week, such as '30 2 * * *'",
        ) from None
    return text


def _known(zone: object) -> str:
    name = "UTC" if zone is None else zone
    try:
        if not isinstance(name, str) or not name:
            raise ValueError(name)
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise InvalidSchedule(
            "zone", f"{name!r:.80} is no time zone", hint="Use a name such as Europe/Paris or UTC"
        ) from None
    return name


# --- the server's expression ---------------------------------------------------------------------


@lru_cache(maxsize=1_000)
def _utc_ticks(cron: str, zone: str, year: int) -> str:
    return _utc_pattern(CronSim(cron, _at(0.0)), _offsets(ZoneInfo(zone), year))


def _offsets(zone: ZoneInfo, year: int) -> frozenset[int]:
    """Minutes that the zone is ahead of UTC, in these years; a week is shorter than any season."""
    days = (
        datetime(year + _YEARS.start, 1, 1, tzinfo=UTC) + timedelta(days=7 * week)
        for week in range(53 * len(_YEARS))
    )
    found = (day.astimezone(zone).utcoffset() or timedelta() for day in days)
    return frozenset(int(offset.total_seconds() // 60) for offset in found)


def _utc_pattern(said: CronSim, offsets: frozenset[int]) -> str:
    hours: set[int] = set()
    minutes: set[int] = set()
    shifts: set[int] = set()
    for hour, minute, offset in product(said.hours, said.minutes, offsets):
        shift, of_day = divmod(hour * 60 + minute - offset, 1440)
        shifts.add(shift)
        hours.add(of_day // 60)
        minutes.add(of_day % 60)
    days, months, weekdays = _days(said, shifts)
    return " ".join(
        (
            _field(said.seconds, range(60)),
            _field(minutes, range(60)),
            _field(hours, range(24)),
            _field(days, range(1, 32)),
            _field(months, range(1, 13)),
            _field(weekdays, range(7)),
        )
    )


def _days(said: CronSim, shifts: set[int]) -> tuple[set[int], set[int], set[int]]:
    """Days of the month, months and weekdays in UTC, where the local day is up to one off."""
    local: set[int] = set()
    for day in said.days:
        local.update(_LAST_DAYS.get(day, (day,)))
    named = {(day if isinstance(day, int) else day[0]) % 7 for day in said.weekdays}
    if not said.day_and and (len(local) == 31 or len(named) == 7):
        local, named = set(range(1, 32)), set(range(7))  # one of them says: every day
    days: set[int] = set()
    months: set[int] = set()
    for shift, day in product(shifts, local):
        if 1 <= day + shift <= 31:
            days.add(day + shift)
        if shift == -1 and day == 1:
            days |= {28, 29, 30, 31}
        if shift == 1 and day >= 28:
            days.add(1)
    for shift, month in product(shifts | {0}, said.months):
        months.add((month + shift - 1) % 12 + 1)
    return days, months, {(day + shift) % 7 for shift, day in product(shifts, named)}


def _field(values: set[int], all_of: range) -> str:
    return "*" if values >= set(all_of) else ",".join(map(str, sorted(values)))
