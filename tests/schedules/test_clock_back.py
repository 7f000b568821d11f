"""The database's clock goes back over a tick that is dealt with."""

from __future__ import annotations

from datetime import timedelta

import pytest

from asyncjobs import Every, Jobs, job
from asyncjobs._schedule.firing import fire
from tests.store.jobs import session_of

MINUTE = timedelta(minutes=1)


@job(kind="test_clock_back:sweep")
async def sweep() -> None: ...


@pytest.mark.failure_mode("F107")
async def test_a_tick_is_not_due_again_when_the_clock_goes_back(dsn: str) -> None:
    """To the row it is the same as having dealt with ticks that are still to come: nothing is due until they are over."""
    jobs = Jobs(dsn)
    async with jobs:
        await jobs.schedules.create(Every(MINUTE, sweep, missed="all", window=timedelta(hours=1)))
    async with session_of(dsn) as session:
        count = "select count(*) from asyncjobs.jobs"
        for ahead, due in ((-3, True), (2, False)):
            await session.connection.execute(
                "update asyncjobs.schedules set passed_until = clock_timestamp() + $1::interval",
                ahead * MINUTE,
            )
            before = await session.connection.fetchval(count)
            await fire(session, "sweep", jobs)
            assert (await session.connection.fetchval(count) > before) is due
        passed = "select passed_until > clock_timestamp() + interval '1 minute' from asyncjobs.schedules"
        assert await session.connection.fetchval(passed)
