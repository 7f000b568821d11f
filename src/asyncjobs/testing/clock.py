"""A clock that stands still until the test moves it: the database's, for the connection of the test.

asyncjobs asks nobody but Postgres for the time. So it is Postgres that is told another one: a schema before `pg_catalog` in the
connection's `search_path`, whose `now()` says what the test says (docs/decisions, ADR 23).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from asyncjobs._app import Jobs
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._enqueue.ambient import which
from asyncjobs._model.durations import Duration, moment, seconds
from asyncjobs._store.faults import is_failed_transaction
from asyncjobs._store.schedules import declare_schedules
from asyncjobs._store.testing import drop_clock, make_clock, read_clock, set_clock
from asyncjobs.errors import MisusedJobs
from asyncjobs.testing.stage import stage_of


class Clock:
    """A clock that stands still."""

    def __init__(self, jobs: Jobs, now: datetime) -> None:
        self._jobs = jobs
        self._now = now

    @property
    def now(self) -> datetime:
        """What it says. Aware."""
        return self._now

    async def advance(self, by: Duration | None = None, /, **units: float) -> datetime:
        """Move it on: `await clock.advance(hours=24)`, or by a timedelta, or seconds. What it says then."""
        passed = timedelta(**units)
        if by is not None:
            passed += timedelta(seconds=seconds(by, "by"))
        return await self.travel_to(self._now + passed)

    async def travel_to(self, when: datetime) -> datetime:
        """Set it, to an aware datetime. Raises InvalidOption."""
        when = moment(when, "when")
        await self._jobs.ask(set_clock, when)
        self._now = when
        return when


@asynccontextmanager
async def frozen_clock(jobs: Jobs | None = None, *, at: datetime | None = None) -> AsyncIterator[Clock]:
    """Within it time stands still for the *jobs* (the ambient ones), which are `inside` a test's connection; from *at*, or now.

    What is due, how long a backoff or a window lasts, and which ticks have come goes by it; so does `now()` in the test's own SQL
    on this connection. The schedules the Jobs declares begin here, and `drain` deals with their ticks. Python's clock goes on, and so
    do the rates of limited queues.
    """
    found: Any = jobs if jobs is not None else which()[0]
    stage = stage_of(found)
    if stage is None:
        raise MisusedJobs(
            "a clock stands still on the one connection of a test; enter `async with inside(jobs, connection):` first"
        )
    if stage.has_clock:
        raise MisusedJobs("this connection has a clock already; move that one")
    await found.ask(make_clock)
    stage.has_clock = True
    try:
        clock = Clock(found, await found.ask(read_clock))
        await clock.travel_to(clock.now if at is None else at)
        await _declare_schedules(found)
        yield clock
    finally:
        stage.has_clock = False
        try:
            await found.ask(drop_clock)
        except Exception as error:
            if not is_failed_transaction(error):  # then it goes with the transaction
                raise


async def _declare_schedules(jobs: Jobs) -> None:
    declared = jobs._settings.schedules
    if declared.schedules is not None:
        new = [each.new_schedule(codec_of(jobs), jobs.registry) for each in declared.schedules]
        await jobs.ask(declare_schedules, new, declared.application)
