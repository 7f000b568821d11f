"""Schedules as values: before they are stored, as people see them, and which of their ticks get a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal

import attrs

from asyncjobs._model.job import NewJob
from asyncjobs._model.ticks import Timing, latest_tick, ticks_between, timing_of

Missed = Literal["skip", "one", "all"]
Overlap = Literal["allow", "skip", "queue"]

ON_TIME = timedelta(seconds=60)
"""A tick without a successor is not missed before it is so late."""

AT_ONCE = 100  #: jobs for missed ticks in one transaction

TICK = datetime.max.replace(tzinfo=UTC)
"""Stands for the time of the tick in the inputs of a job on a schedule: `report.prepare(until=TICK)`."""


@attrs.frozen(kw_only=True)
class NewSchedule:
    """A schedule that is about to be stored."""

    name: str
    cron: str | None
    timezone: str
    every: float | None  #: seconds
    job: NewJob
    missed: Missed
    missed_within: float | None  #: seconds
    overlap: Overlap
    jitter: float  #: seconds


@attrs.frozen(kw_only=True)
class Schedule:
    """A schedule as people see it. Times are aware."""

    name: str
    owner: str | None  #: the application that declares it in code; None when it was created at run time
    cron: str | None
    timezone: str
    every: timedelta | None
    kind: str
    method: str | None
    queue: str
    args: dict[str, Any]
    missed: Missed
    missed_within: timedelta | None
    overlap: Overlap
    jitter: timedelta
    created_at: datetime
    paused_at: datetime | None
    last_tick: datetime | None  #: the last tick that has a job
    last_job: int | None  #: its last job, by a tick or by hand
    next_tick: datetime | None  #: None when it is paused, or this process cannot tell


@attrs.frozen(kw_only=True)
class StoredSchedule:
    """A row of `schedules`, as it was at *now*, by the database's clock."""

    name: str
    owner: str | None
    cron: str | None
    timezone: str
    every: float | None
    job: str  #: JSON; see `stored_job`
    missed: Missed
    missed_within: float | None
    overlap: Overlap
    jitter: float
    passed_until: datetime
    last_tick: datetime | None
    last_job: int | None
    created_at: datetime
    paused_at: datetime | None
    now: datetime

    @property
    def timing(self) -> Timing:
        """When it ticks. Raises InvalidOption where this process cannot tell."""
        return timing_of(self.cron, self.every, self.timezone)

    @property
    def next_tick(self) -> datetime | None:
        """The first tick nobody has dealt with. Raises InvalidOption."""
        return None if self.paused_at is not None else self.timing.after(self.passed_until)


@attrs.frozen
class Due:
    """What is to be done about a schedule now."""

    ticks: Sequence[datetime]  #: those that get a job
    until: datetime  #: the last tick that is dealt with


def due(schedule: StoredSchedule, unfinished: Sequence[int]) -> Due | None:
    """What is due of *schedule*; None when nothing is, or while it waits for its *unfinished* jobs."""
    held = bool(unfinished)
    if held and schedule.overlap == "queue":
        return None
    found = _due(schedule)
    if found is not None and held and schedule.overlap == "skip":
        return Due((), found.until)
    return found


def _due(schedule: StoredSchedule) -> Due | None:
    timing, now, passed = schedule.timing, schedule.now, schedule.passed_until
    forgotten = None
    if schedule.missed_within is not None:
        forgotten = now - timedelta(seconds=schedule.missed_within)
    if schedule.missed == "all":
        at_once = 1 if schedule.overlap == "queue" else AT_ONCE
        start = passed if forgotten is None else max(passed, forgotten)
        ticks = list(islice(ticks_between(timing, start, now), at_once))
        last = ticks[-1] if ticks else latest_tick(timing, passed, start)
        return None if last is None else Due(ticks, last)
    latest = latest_tick(timing, passed, now)
    if latest is None:
        return None
    if schedule.missed == "skip":
        forgotten = now - ON_TIME
    is_forgotten = forgotten is not None and latest < forgotten
    return Due(() if is_forgotten else (latest,), latest)


def tick_of(meta: Mapping[str, Any]) -> datetime | None:
    """Which tick a job with this meta was enqueued for."""
    try:
        return datetime.fromisoformat(meta["tick"]) if "schedule" in meta else None
    except (KeyError, TypeError, ValueError):  # somebody else may have written it
        return None
