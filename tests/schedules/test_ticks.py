"""When schedules tick: in every time zone, whatever its clock does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from zoneinfo import ZoneInfo, available_timezones

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncjobs import InvalidOption
from asyncjobs._model.ticks import (
    EPOCH,
    PUT_BACK_AT_MOST,
    CronTiming,
    EveryTiming,
    cron_timing,
    every_timing,
    jitter,
    latest_tick,
    next_ticks,
    ticks_between,
)

ZONES = sorted(available_timezones() - {"localtime"})
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# What cron means, said a second time and without a parser: by looking at the clock every minute.


@attrs.frozen
class Field:
    """One field of a cron expression: its text, and what matches."""

    text: str
    matching: frozenset[int]

    @property
    def is_star(self) -> bool:
        return self.text.startswith("*")


def fields(lowest: int, highest: int) -> st.SearchStrategy[Field]:
    every = frozenset(range(lowest, highest + 1))
    numbers = st.integers(lowest, highest)
    return st.one_of(
        st.just(Field("*", every)),
        st.integers(2, highest).map(lambda n: Field(f"*/{n}", frozenset(sorted(every)[::n]))),
        numbers.map(lambda n: Field(str(n), frozenset({n}))),
        st.sets(numbers, min_size=2, max_size=5).map(
            lambda some: Field(",".join(map(str, sorted(some))), frozenset(some))
        ),
        st.tuples(numbers, numbers).map(
            lambda ends: Field(f"{min(ends)}-{max(ends)}", frozenset(range(min(ends), max(ends) + 1)))
        ),
    )


@attrs.frozen
class Expression:
    """A cron expression whose days are all days, or some days of the week."""

    minute: Field
    hour: Field
    weekday: Field

    @property
    def text(self) -> str:
        return f"{self.minute.text} {self.hour.text} * * {self.weekday.text}"

    def matches(self, reading: datetime) -> bool:
        return (
            reading.minute in self.minute.matching
            and reading.hour in self.hour.matching
            and reading.isoweekday() % 7 in self.weekday.matching
        )

    @property
    def is_fixed(self) -> bool:
        return not self.minute.is_star and not self.hour.is_star


EXPRESSIONS = st.builds(Expression, fields(0, 59), fields(0, 23), fields(0, 6))


def reading(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def minutes(start: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Every moment at which the clock begins a minute, and every change of it: some were at an odd second."""
    moment = start.replace(second=0, microsecond=0)
    odd = {reading(each, zone).second for each in (moment, end.replace(second=0))}
    while moment < end:
        for second in sorted(-each % 60 for each in odd):
            yield moment + timedelta(seconds=second)
        moment += MINUTE


def by_looking(expression: Expression, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """The ticks later than *start* and before *end*, found by looking at the clock."""
    found = set()
    seen: set[datetime] = set()
    last: datetime | None = None
    for moment in minutes(start - 2 * DAY, end, zone):
        now = reading(moment, zone)
        if now.second:
            continue
        if expression.is_fixed:
            if (
                last is not None and now - last > MINUTE
            ):  # the clock was put forward: to here, or seconds before
                skipped = last + MINUTE
                while skipped < now:
                    if expression.matches(skipped) and skipped not in seen:
                        found.add(put_forward(moment, zone))
                    seen.add(skipped)
                    skipped += MINUTE
            if expression.matches(now) and now not in seen:
                found.add(moment)
            seen.add(now)
        elif expression.matches(now):
            found.add(moment)
        last = now
    return sorted(each for each in found if start < each < end)


def put_forward(moment: datetime, zone: ZoneInfo) -> datetime:
    """The second at which the clock got the offset it has at *moment*."""
    offset = moment.astimezone(zone).utcoffset()
    while (moment - timedelta(seconds=1)).astimezone(zone).utcoffset() == offset:
        moment -= timedelta(seconds=1)
    return moment


@cache
def changes(name: str, year: int) -> list[datetime]:
    """When the clock of a zone was put forward or back in a year, to the second."""
    zone = ZoneInfo(name)
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        early, late = day, day + DAY
        if early.astimezone(zone).utcoffset() != late.astimezone(zone).utcoffset():
            while late - early > timedelta(seconds=1):
                middle = early + (late - early) // 2
                if middle.astimezone(zone).utcoffset() == early.astimezone(zone).utcoffset():
                    early = middle
                else:
                    late = middle
            found.append(late.replace(microsecond=0))
        day += DAY
    return found


def later_by(moment: datetime, seconds: int) -> datetime:
    return moment + timedelta(seconds=seconds)


def moments_of(name: str, year: int) -> st.SearchStrategy[datetime]:
    """Moments worth looking at: around a change of the clock where there is one."""
    start = datetime(year, 1, 1, tzinfo=UTC)
    near = [st.integers(-6 * 3600, 6 * 3600).map(partial(later_by, at)) for at in changes(name, year)]
    return st.one_of(*near, st.integers(0, 360 * 86_400).map(partial(later_by, start)))


PLACES = st.tuples(st.sampled_from(ZONES), st.integers(1971, 2036)).flatmap(
    lambda place: st.tuples(st.just(place[0]), moments_of(*place))
)

STAR = Field("*", frozenset(range(60)))
EVERY_DAY = Field("*", frozenset(range(7)))


def at(minute: str, hour: str) -> Expression:
    every_minute, every_hour = frozenset(range(60)), frozenset(range(24))
    return Expression(
        Field(minute, every_minute if minute == "*" else frozenset(map(int, minute.split(",")))),
        Field(hour, every_hour if hour == "*" else frozenset(map(int, hour.split(",")))),
        EVERY_DAY,
    )


@pytest.mark.failure_mode("F105")
@settings(max_examples=40, deadline=None)
@given(expression=EXPRESSIONS, place=PLACES)
@example(expression=at("30", "2"), place=("Europe/Berlin", utc("2026-03-29T00:00+00:00")))
@example(expression=at("0,30", "2,3"), place=("Europe/Berlin", utc("2026-03-29T00:00+00:00")))
@example(expression=at("30", "2"), place=("Europe/Berlin", utc("2026-10-25T00:45+00:00")))
@example(expression=at("30", "2"), place=("Europe/Berlin", utc("2026-10-25T01:10+00:00")))
@example(expression=at("*", "2"), place=("Europe/Berlin", utc("2026-10-25T00:59:30+00:00")))
@example(expression=at("*", "3"), place=("Australia/Lord_Howe", utc("2026-10-03T14:00+00:00")))
@example(expression=at("*", "2"), place=("Australia/Lord_Howe", utc("2026-04-04T14:30+00:00")))
@example(expression=at("0", "12"), place=("Pacific/Apia", utc("2011-12-30T09:00+00:00")))
@example(expression=at("0", "0"), place=("America/Sao_Paulo", utc("2018-11-03T12:00+00:00")))
def test_a_cron_ticks_by_its_rule(expression: Expression, place: tuple[str, datetime]) -> None:
    """In every zone, around every change of its clock: fixed times once, skipped ones when the clock is put forward, those shown
    twice the first time; anything else whenever the clock says so.
    """
    name, start = place
    end = start + timedelta(hours=30)
    ticks = list(ticks_between(CronTiming(expression.text, name), start, end - timedelta(seconds=1)))
    assert ticks == by_looking(expression, start, end, ZoneInfo(name))


@settings(max_examples=60, deadline=None)
@given(expression=EXPRESSIONS, place=PLACES, split=st.integers(0, 50))
def test_ticks_are_the_same_from_wherever_they_are_counted(
    expression: Expression, place: tuple[str, datetime], split: int
) -> None:
    """Each is later than the one before; from any moment between two the later one is next."""
    name, start = place
    timing = CronTiming(expression.text, name)
    ticks = next_ticks(timing, start, 10)
    assert ticks == sorted(set(ticks))
    for earlier, later in zip([start, *ticks], ticks, strict=False):
        between = earlier + (later - earlier) * split / 51
        assert timing.after(between) == later
        assert timing.after(later - timedelta(microseconds=1)) == later


@settings(max_examples=60, deadline=None)
@given(expression=EXPRESSIONS, place=PLACES)
def test_a_fixed_time_ticks_once_for_each_reading(
    expression: Expression, place: tuple[str, datetime]
) -> None:
    """No reading of the clock has two ticks when minute and hour are fixed."""
    name, start = place
    if expression.is_fixed:
        ticks = next_ticks(CronTiming(expression.text, name), start - DAY, 60)
        readings = [reading(tick, ZoneInfo(name)) for tick in ticks]
        assert len(set(readings)) == len(readings)


def test_no_clock_is_put_back_further_than_is_looked() -> None:
    """Of all zones, since 1971."""
    for name in (
        "Antarctica/Casey",
        "Antarctica/Troll",
        "Pacific/Kwajalein",
        "America/Caracas",
        "Asia/Pyongyang",
    ):
        for year in range(1971, 2037):
            for change in changes(name, year):
                zone = ZoneInfo(name)
                before = (change - timedelta(seconds=1)).astimezone(zone).utcoffset()
                after = change.astimezone(zone).utcoffset()
                assert before is not None
                assert after is not None
                assert before - after < PUT_BACK_AT_MOST


@pytest.mark.failure_mode("F105")
@pytest.mark.parametrize(
    ("expression", "after", "ticks"),
    [
        ("0 3 * * *", "2026-01-01T00:00+01:00", ["2026-01-01T03:00+01:00", "2026-01-02T03:00+01:00"]),
        ("30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("30 * * * *", "2026-10-25T02:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"]),
        ("0 9 1 * *", "2026-01-31T12:00+01:00", ["2026-02-01T09:00+01:00", "2026-03-01T09:00+01:00"]),
        ("0 0 L * *", "2026-02-01T00:00+01:00", ["2026-02-28T00:00+01:00", "2026-03-31T00:00+02:00"]),
        ("0 8 * * MON#1", "2026-01-01T00:00+01:00", ["2026-01-05T08:00+01:00", "2026-02-02T08:00+01:00"]),
        (
            "*/15 * * * * *",
            "2026-01-01T00:00:07+01:00",
            ["2026-01-01T00:00:15+01:00", "2026-01-01T00:00:30+01:00"],
        ),
        ("15 30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30:15+02:00"]),
        ("@weekly", "2026-01-01T00:00+01:00", ["2026-01-04T00:00+01:00", "2026-01-11T00:00+01:00"]),
        (" 0  3 * * 1-5 ", "2026-01-02T12:00+01:00", ["2026-01-05T03:00+01:00", "2026-01-06T03:00+01:00"]),
    ],
)
def test_in_berlin(expression: str, after: str, ticks: list[str]) -> None:
    """A table to read: what cron expressions mean where the clock changes."""
    timing = cron_timing(expression, "Europe/Berlin")
    assert next_ticks(timing, utc(after), 2) == [utc(tick) for tick in ticks]


@settings(max_examples=60, deadline=None)
@given(
    interval=st.integers(1, 10**7).map(lambda n: timedelta(milliseconds=100) * n),
    start=st.datetimes(datetime(1980, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_every_so_often(interval: timedelta, start: datetime) -> None:
    """Ticks are multiples of the interval since 1970, whoever counts from whenever."""
    first, second = next_ticks(EveryTiming(interval), start, 2)
    assert start < first <= start + interval
    assert second - first == interval
    assert (first - EPOCH) % interval == timedelta()


@settings(max_examples=60, deadline=None)
@given(expression=EXPRESSIONS, place=PLACES, hours=st.integers(0, 24 * 40))
def test_the_latest_tick(expression: Expression, place: tuple[str, datetime], hours: int) -> None:
    """It is the last of all, however long ago the first was."""
    name, start = place
    timing = CronTiming(expression.text, name)
    end = start + timedelta(hours=hours if expression.is_fixed else hours % 30)
    found = list(ticks_between(timing, start, end))
    assert latest_tick(timing, start, end) == (found[-1] if found else None)


@settings(max_examples=60, deadline=None)
@given(name=st.text(), seconds=st.floats(0, 10**6), minute=st.integers(0, 10**6))
def test_jitter(name: str, seconds: float, minute: int) -> None:
    """A tick's jitter is within its limit, and the same for everybody."""
    tick = EPOCH + minute * MINUTE
    found = jitter(name, tick, seconds)
    assert timedelta() <= found <= timedelta(seconds=seconds)
    assert found == jitter(name, tick.astimezone(ZoneInfo("Asia/Tokyo")), seconds)


def test_jitter_differs() -> None:
    """From tick to tick, and from schedule to schedule; the whole range is used."""
    ticks = [EPOCH + n * HOUR for n in range(200)]
    found = {jitter(name, tick, 600.0) for tick in ticks for name in ("a", "b")}
    assert len(found) == 400
    assert min(found) < timedelta(seconds=20)
    assert max(found) > timedelta(seconds=580)


@pytest.mark.parametrize(
    ("expression", "timezone", "said"),
    [
        ("0 3 * *", "UTC", "is no cron expression"),
        ("0 25 * * *", "UTC", "Bad hour"),
        ("", "UTC", "is no cron expression"),
        ("@fortnightly", "UTC", "@daily"),
        ("0 0 31 2 *", "UTC", "no cron expression|never comes"),
        ("0 0 * 2 1#5,2#5", "Mars/Olympus", "timezone='Mars/Olympus' is not known"),
        ("0 0 * * *", "../../etc/passwd", "is not known"),
        ("0 0 * * *", "", "is not known"),
        ("0 0 * * *", 1, "is no name of a time zone"),
        (5, "UTC", "which is text"),
        ("* * */20 * 1L", "UTC", "never comes"),
    ],
)
def test_what_is_refused(expression: str, timezone: str, said: str) -> None:
    """Where it is written, with a sentence that says what to write."""
    with pytest.raises(InvalidOption, match=said):
        cron_timing(expression, timezone)


@pytest.mark.parametrize("interval", [0, -1, 0.01, "5 minutes", None, timedelta(0), float("nan")])
def test_no_interval(interval: object) -> None:
    """An interval is a duration of a tenth of a second at least."""
    with pytest.raises(InvalidOption):
        every_timing(interval)
