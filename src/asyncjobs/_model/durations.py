"""Durations and moments as users write them: a timedelta or seconds, an aware datetime."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from asyncjobs.errors import InvalidOption

Duration = timedelta | float
"""A timedelta, or a number of seconds."""

A_CENTURY = 100 * 365.25 * 24 * 3600.0


def seconds(value: Duration, name: str) -> float:
    """*value* in seconds. Raises InvalidOption when it is negative, not finite, or longer than a century."""
    if isinstance(value, timedelta):
        amount = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        amount = float(value)
    else:
        raise InvalidOption(f"{name}={value!r} is not a duration; pass a timedelta or a number of seconds")
    if not math.isfinite(amount) or amount > A_CENTURY:
        raise InvalidOption(f"{name}={value!r} is not a duration a job can wait; pass at most a century")
    if amount < 0:
        raise InvalidOption(f"{name}={value!r} is negative; a job cannot be due before now, leave {name} out to run at once")
    return amount


def moment(value: datetime, name: str) -> datetime:
    """*value*, when it names one moment everywhere. Raises InvalidOption for a naive datetime."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{name}={value!r} is not a datetime")
    if value.utcoffset() is None:
        raise InvalidOption(
            f"{name}={value!r} has no time zone, so it names no moment; write datetime.now(timezone.utc) "
            "or value.replace(tzinfo=ZoneInfo(...))"
        )
    return value
