"""When a schedule ticks: cron on the clock of a time zone, or every so often. Pure: from one moment to the next.

A cron parser says which readings of a wall clock match (cronsim, without its time zones); which moments those are is said
here, by the rule of Debian's cron:

* A fixed time (neither the minute nor the hour begins with `*`) ticks once for each reading. One that the clock skips in spring
  ticks when the clock has just been put forward; one that it shows twice in autumn ticks the first time.
* Anything else ticks at every moment whose reading matches: none in an hour that is skipped, both in one that comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
from cronsim import CronSim, CronSimError

from asyncjobs._model.durations import Duration, seconds
from asyncjobs.errors import InvalidOption

SHORTEST = timedelta(milliseconds=100)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

PUT_BACK_AT_MOST = timedelta(hours=4)
"""How far a clock is put back at once: by one hour as a rule, by three in the Antarctic."""

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Timing(Protocol):
    """When something ticks."""

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than *moment*, in UTC; None when there is none within fifty years."""


@attrs.frozen
class EveryTiming:
    """Every so often, counted from 1970-01-01 in UTC, so that everybody knows the same ticks."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime | None:
        passed = (moment - EPOCH) // self.interval
        return EPOCH + (passed + 1) * self.interval


@attrs.frozen
class CronTiming:
    """A cron expression, on the clock of a time zone."""

    expression: str
    timezone: str = "UTC"

    def after(self, moment: datetime) -> datetime | None:
        if self._is_fixed:
            return next(self._fixed(moment), None)
        ticks = [tick for tick in (self._shown_again(moment), self._shown(moment)) if tick is not None]
        return min(ticks, default=None)

    @property
    def _is_fixed(self) -> bool:
        minute, hour = plain_cron(self.expression).split()[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")

    @property
    def _zone(self) -> ZoneInfo:
        return zone(self.timezone)

    def _readings(self, after: datetime) -> Iterator[datetime]:
        """The matching readings of the wall clock that are later than *after*, which is one."""
        return CronSim(plain_cron(self.expression), after)

    def _reading(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(microsecond=0, tzinfo=None, fold=0)

    def _fixed(self, moment: datetime) -> Iterator[datetime]:
        for reading in self._readings(self._reading(moment)):
            shown = _moments(reading, self._zone)
            tick = shown[0] if shown else _put_forward(reading, self._zone)
            if tick > moment:
                yield tick

    def _shown(self, moment: datetime) -> datetime | None:
        """The first match of a reading that is later than the one of *moment*."""
        for reading in self._readings(self._reading(moment)):
            for tick in _moments(reading, self._zone):
                if tick > moment:
                    return tick
        return None

    def _shown_again(self, moment: datetime) -> datetime | None:
        """The first match of a reading that has been, where the clock is about to be put back."""
        soon = moment + PUT_BACK_AT_MOST
        back = _offset(moment, self._zone) - _offset(soon, self._zone)
        if back <= timedelta():
            return None
        now = self._reading(moment)
        for reading in takewhile(lambda each: each <= now, self._readings(now - back - timedelta(seconds=1))):
            for tick in _moments(reading, self._zone):
                if tick > moment:
                    return tick
        return None


def _offset(moment: datetime, where: ZoneInfo) -> timedelta:
    offset = moment.astimezone(where).utcoffset()
    assert offset is not None
    return offset


def _moments(reading: datetime, where: ZoneInfo) -> list[datetime]:
    """When the clock shows *reading*: once, twice, or never."""
    first, second = (reading.replace(tzinfo=where, fold=fold).astimezone(UTC) for fold in (0, 1))
    shown = [
        each for each in (first, second) if each.astimezone(where).replace(tzinfo=None, fold=0) == reading
    ]
    return shown[:1] if first == second else shown


def _put_forward(reading: datetime, where: ZoneInfo) -> datetime:
    """When the clock is put forward over *reading*, which it never shows."""
    late, early = (reading.replace(tzinfo=where, fold=fold).astimezone(UTC) for fold in (0, 1))
    new = _offset(late, where)
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) // 2
        middle = middle.replace(microsecond=0)
        if _offset(middle, where) == new:
            late = middle
        else:
            early = middle
    return late


def zone(name: str) -> ZoneInfo:
    """The time zone called *name*. Raises InvalidOption."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise InvalidOption(
            f"timezone={name!r} is not known here; write a name like 'Europe/Berlin'. "
            "Where the system has no time zones, as some images, the package tzdata brings them"
        ) from None


def plain_cron(expression: str) -> str:
    """*expression*, with nicknames written out."""
    return NICKNAMES.get(expression.strip().lower(), expression)


def cron_timing(expression: object, timezone: object) -> CronTiming:
    """Checked. Raises InvalidOption for what is no cron expression, never ticks, or names no time zone."""
    if not isinstance(expression, str):
        raise InvalidOption(f"{expression!r} is no cron expression, which is text, as in '0 3 * * *'")
    if isinstance(timezone, ZoneInfo):
        timezone = timezone.key
    if not isinstance(timezone, str):
        raise InvalidOption(
            f"timezone={timezone!r} is no name of a time zone; write one, as in 'Europe/Berlin'"
        )
    zone(timezone)
    timing = CronTiming(" ".join(expression.split()), timezone)
    try:
        CronSim(plain_cron(timing.expression), datetime(2020, 1, 1))  # noqa: DTZ001 -- a reading
    except (CronSimError, ValueError) as error:  # the second: of a number as long as a book
        raise InvalidOption(
            f"{expression!r} is no cron expression ({error}); write minute, hour, day of the month, month and day of the week, "
            "as in '0 3 * * *', with seconds before them if need be, or one of " + ", ".join(NICKNAMES)
        ) from None
    if timing.after(EPOCH) is None:
        raise InvalidOption(f"{expression!r} names a day that never comes")
    return timing


def every_timing(interval: object) -> EveryTiming:
    """Checked. Raises InvalidOption."""
    length = timedelta(seconds=seconds(interval, "interval"))
    if length < SHORTEST:
        raise InvalidOption(
            f"every {interval!r} is too often; the shortest is {SHORTEST.total_seconds():g} s"
        )
    return EveryTiming(length)


def ticks_between(timing: Timing, after: datetime, until: datetime) -> Iterator[datetime]:
    """Every tick later than *after* and not later than *until*, in order."""
    tick = timing.after(after)
    while tick is not None and tick <= until:
        yield tick
        tick = timing.after(tick)


def next_ticks(timing: Timing, after: datetime, count: object) -> list[datetime]:
    """The next *count* ticks. Raises InvalidOption."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidOption(f"count={count!r:.40} is not how many ticks are to be shown")
    return list(islice(ticks_between(timing, after, datetime.max.replace(tzinfo=UTC)), count))


def latest_tick(timing: Timing, after: datetime, until: datetime) -> datetime | None:
    """The last tick later than *after* and not later than *until*. Looks back a little, then further: most are recent."""
    span = timedelta(seconds=2)
    while True:
        start = max(after, until - span)
        latest = None
        for latest in ticks_between(timing, start, until):  # noqa: B007 -- the last one is wanted
            pass
        if latest is not None or start == after:
            return latest
        span *= 8


def jitter(name: str, tick: datetime, most: float) -> timedelta:
    """How long after *tick* its job is due: the same for everybody who asks, and as good as random otherwise."""
    if not most:
        return timedelta()
    digest = blake2b(f"{name}\0{tick.astimezone(UTC).isoformat()}".encode(), digest_size=8).digest()
    return timedelta(seconds=most * (int.from_bytes(digest) / 2**64))


@lru_cache(maxsize=1024)
def timing_of(cron: str | None, interval: Duration | None, timezone: str) -> Timing:
    """The timing of a stored schedule. Raises InvalidOption."""
    return every_timing(interval) if cron is None else cron_timing(cron, timezone)
