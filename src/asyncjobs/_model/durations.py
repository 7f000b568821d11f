"""Durations and moments as users write them: a timedelta or seconds, an aware datetime."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from asyncjobs.errors import InvalidOption

Duration = timedelta | float
"""A timedelta, or a number of seconds."""

A_CENTURY = 100 * 365.25 * 24 * 3600.0


def seconds(value: object, name: str) -> float:
    """*value*, a `Duration`, in seconds. Raises InvalidOption when it is negative, not finite, or longer than a century."""
    if isinstance(value, timedelta):
        amount = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        amount = _finite(value)
    else:
        raise InvalidOption(f"{name}={value!r} is not a duration; pass a timedelta or a number of seconds")
    if not -A_CENTURY <= amount <= A_CENTURY:
        raise InvalidOption(f"{name}={value!r:.40} is no length of time; pass at most a century")
    if amount < 0:
        raise InvalidOption(f"{name}={value!r} is negative; a duration is zero or longer")
    return amount


def _finite(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def moment(value: object, name: str) -> datetime:
    """*value* in UTC, when it is a datetime that names one moment everywhere. Raises InvalidOption for a naive one."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{name}={value!r} is not a datetime")
    if value.utcoffset() is None:
        raise InvalidOption(
            f"{name}={value!r} has no time zone, so it names no moment; write datetime.now(timezone.utc) "
            "or value.replace(tzinfo=ZoneInfo(...))"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidOption(f"{name}={value!r} is outside of the years 1 to 9999 in UTC") from None
