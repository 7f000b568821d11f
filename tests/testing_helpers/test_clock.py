"""The frozen clock: the database's idea of now, for the test's connection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from asyncjobs import InvalidOption, Jobs, MisusedJobs, Unique
from asyncjobs.testing import assert_enqueued, drain, frozen_clock, inside
from tests.connections import engine_on
from tests.testing_helpers.kinds import DID, EVERY_MORNING, Charge, flaky, second

START = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)


async def test_an_invoice_is_charged_24_hours_later(jobs: Jobs) -> None:
    """Not a second before."""
    async with frozen_clock() as clock:
        await Charge(1).later("call", delay=timedelta(hours=24))
        await clock.advance(hours=23, minutes=59, seconds=59)
        assert await drain() == {}
        await clock.advance(1)
        assert await drain() == {"completed": 1}
    assert DID == [("charged", 1)]


async def test_time_stands_still(jobs: Jobs, connection: asyncpg.Connection) -> None:
    """What is enqueued has exactly the time the clock shows, and so has the test's own SQL."""
    async with frozen_clock(at=START) as clock:
        await second.set(delay=90).later(1)
        [job] = await assert_enqueued(second)
        assert (job.created_at, job.scheduled_at) == (START, START + timedelta(seconds=90))
        assert await connection.fetchval("select now()") == clock.now == START
        assert await clock.travel_to(START - timedelta(days=1)) == START - timedelta(days=1)
        assert await connection.fetchval("select clock_timestamp() = statement_timestamp()")
        assert await drain() == {}
        await clock.travel_to(job.scheduled_at)
        assert await drain() == {"completed": 1}


async def test_a_retry_waits_for_its_backoff(jobs: Jobs) -> None:
    """An hour, by this clock."""
    await flaky.later(1)
    async with frozen_clock() as clock:
        assert await drain(raises=False) == {"retryable": 1}
        await clock.advance(minutes=59)
        assert await drain(raises=False) == {}
        await clock.advance(timedelta(minutes=1))
        assert await drain() == {"completed": 1}


async def test_a_window_of_a_unique_key_ends(jobs: Jobs) -> None:
    """By this clock, too."""
    once = Unique(window=timedelta(hours=1))
    async with frozen_clock() as clock:
        assert (await second.set(unique=once).later(1)).created
        await drain()
        await clock.advance(minutes=30)
        assert not (await second.set(unique=once).later(1)).created
        await clock.advance(minutes=31)
        assert (await second.set(unique=once).later(1)).created


async def test_schedules_tick(dsn: str, connection: asyncpg.Connection) -> None:
    """Those the application declares, from when the clock was frozen."""
    async with inside(Jobs(dsn, schedules=[EVERY_MORNING]), connection), frozen_clock(at=START) as clock:
        assert await drain() == {}
        await clock.travel_to(START.replace(day=2, hour=8, minute=59))
        assert await drain() == {}
        await clock.advance(minutes=1)
        assert await drain() == {"completed": 1}
        assert await drain() == {}
        await clock.advance(hours=24)
        assert await drain() == {"completed": 1}
    assert [("reported", START.replace(day=day, hour=9)) for day in (2, 3)] == DID


async def test_without_a_clock_no_schedule_ticks(dsn: str, connection: asyncpg.Connection) -> None:
    """Whatever minute it is while the test runs."""
    async with inside(Jobs(dsn, schedules=[EVERY_MORNING]), connection) as jobs:
        assert await jobs.schedules.list() == []
        async with frozen_clock(at=START.replace(year=2020)):
            [schedule] = await jobs.schedules.list()
        assert schedule.next_tick is not None
        assert schedule.next_tick < datetime.now(UTC)
        assert await drain() == {}


async def test_it_goes_on_afterwards(jobs: Jobs, connection: asyncpg.Connection) -> None:
    """With the path the session had, and nothing left in the database."""
    path = await connection.fetchval("show search_path")
    async with frozen_clock(at=START):
        pass
    assert await connection.fetchval("show search_path") == path
    assert await connection.fetchval("select now() < $1", START)
    assert (
        await connection.fetchval("select count(*) from pg_namespace where nspname like 'asyncjobs_clock%'")
        == 0
    )
    async with frozen_clock(at=START) as clock:
        assert clock.now == START


async def test_a_transaction_that_failed_takes_its_clock_along(dsn: str) -> None:
    """The error of the test is what is raised."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with inside(Jobs(dsn), connection) as jobs, frozen_clock(jobs):
            await connection.execute("select 1 / 0")
    await transaction.rollback()
    assert await connection.fetchval("select now() > '2020-01-01'")
    await connection.close()


async def test_it_is_for_a_connection_of_the_test(dsn: str, jobs: Jobs) -> None:
    """One of its own, and one clock only."""
    async with Jobs(dsn) as others:
        with pytest.raises(MisusedJobs, match="inside\\(jobs, connection\\)"):
            async with frozen_clock(others):
                pass
    async with frozen_clock(jobs) as clock:
        with pytest.raises(MisusedJobs, match="has a clock already"):
            async with frozen_clock(jobs):
                pass
        with pytest.raises(InvalidOption):
            await clock.travel_to(START.replace(tzinfo=None))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_it_works_on_a_session(dsn: str, driver: str) -> None:
    """Through SQLAlchemy, on either driver."""
    async with engine_on(dsn, driver) as engine, engine.connect() as connection:
        outer = await connection.begin()
        session = AsyncSession(connection, join_transaction_mode="create_savepoint")
        async with session, inside(Jobs(dsn), session), frozen_clock(at=START) as clock:
            await Charge(1).later("call", delay=timedelta(hours=24))
            await session.commit()
            await clock.advance(hours=24)
            assert await drain() == {"completed": 1}
            assert (await session.execute(text("select now()"))).scalar() == START + timedelta(hours=24)
            await session.commit()
        await outer.rollback()
