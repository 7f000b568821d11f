"""Durations are timedeltas or seconds, and moments are aware, everywhere."""

import math
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import InvalidOption
from asyncjobs._model.durations import A_CENTURY, moment, seconds

A_SECOND = timedelta(seconds=1)


@given(st.timedeltas(timedelta(), timedelta(seconds=A_CENTURY)))
def test_a_timedelta_is_its_seconds(duration: timedelta) -> None:
    """Both spellings of a duration mean the same, to the microsecond."""
    amount = seconds(duration, "delay")
    assert amount == seconds(duration / A_SECOND, "delay")
    assert timedelta(seconds=amount) == duration


@given(st.timedeltas() | st.floats() | st.integers())
def test_seconds_are_never_negative_never_endless(value: timedelta | float) -> None:
    """Whatever number is passed: a length of time up to a century, or a refusal."""
    try:
        amount = seconds(value, "delay")
    except InvalidOption as refusal:
        assert str(refusal).startswith("delay=")
        assert len(str(refusal)) < 200
    else:
        assert 0 <= amount <= A_CENTURY


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "negative"),
        (-timedelta(microseconds=1), "negative"),
        (math.nan, "at most a century"),
        (math.inf, "at most a century"),
        (-math.inf, "at most a century"),
        (10**400, "at most a century"),
        (timedelta.max, "at most a century"),
        (True, "pass a timedelta or a number of seconds"),
        ("5", "pass a timedelta or a number of seconds"),
        (None, "pass a timedelta or a number of seconds"),
    ],
)
def test_what_is_no_duration_is_refused(value: object, words: str) -> None:
    """The refusal names the option and says what to pass."""
    with pytest.raises(InvalidOption, match=words) as refusal:
        seconds(value, "timeout")
    assert str(refusal.value).startswith("timeout=")


@given(st.datetimes(timezones=st.timezones()))
def test_a_moment_is_the_same_moment_in_utc(value: datetime) -> None:
    """Wherever it was written, it names one moment; what has no place in Python's years is refused."""
    try:
        found = moment(value, "at")
    except InvalidOption:
        assert value.year in (1, 9999)
    else:
        assert found.tzinfo is UTC
        assert found == value.astimezone(UTC)


def test_a_naive_datetime_is_refused() -> None:
    """Which moment it means depends on who reads it; the refusal says what to write."""
    with pytest.raises(InvalidOption, match=r"at=.* has no time zone.*datetime\.now\(timezone\.utc\)"):
        moment(datetime.fromisoformat("2030-01-01"), "at")


@pytest.mark.parametrize("value", ["2030-01-01", 3.0, None])
def test_what_is_no_datetime_is_refused(value: object) -> None:
    """`at` takes a datetime."""
    with pytest.raises(InvalidOption, match="is not a datetime"):
        moment(value, "at")


@pytest.mark.parametrize(
    "value",
    [
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
    ],
)
def test_a_moment_outside_of_the_calendar_is_refused(value: datetime) -> None:
    """Postgres would keep the year 10000, and then no Python could read the row."""
    with pytest.raises(InvalidOption, match="years 1 to 9999"):
        moment(value, "at")
