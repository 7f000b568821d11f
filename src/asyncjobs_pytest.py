"""pytest's fixtures for an application that has jobs (docs/guides/testing.md).

pytest loads this in every run, whatever is tested: nothing of asyncjobs is imported before a test asks for a fixture. That is why
it stands beside the package, and not in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncSession

    from asyncjobs import Jobs
    from asyncjobs.testing import Clock


@pytest.fixture(scope="session")
def asyncjobs_dsn() -> Iterator[str]:
    """A database with the schema of asyncjobs: ASYNCJOBS_TEST_DSN names it, else it is one of an embedded Postgres, for this run."""
    from asyncjobs import Jobs

    with ExitStack() as stack:
        dsn = os.environ.get("ASYNCJOBS_TEST_DSN")
        if not dsn:
            from asyncjobs.embedded import TEST_SETTINGS, Embedded

            dsn = stack.enter_context(Embedded(settings=TEST_SETTINGS, keep=False).running())
        # In a thread, for a loop of the tests' may be this thread's.
        with ThreadPoolExecutor(1) as threads:
            threads.submit(lambda: asyncio.run(Jobs(dsn).migrate())).result()
        yield dsn


@pytest.fixture
def asyncjobs_application(asyncjobs_dsn: str) -> Jobs:
    """The Jobs of the application under test; override it to say which that is."""
    from asyncjobs import Jobs

    return Jobs(asyncjobs_dsn)


@pytest.fixture
async def asyncjobs_connection(asyncjobs_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """An asyncpg connection, in a transaction that is rolled back after the test."""
    import asyncpg

    connection = await asyncpg.connect(asyncjobs_dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
        finally:
            await transaction.rollback()
    finally:
        await connection.close()


@pytest.fixture
async def asyncjobs_session(asyncjobs_dsn: str) -> AsyncIterator[AsyncSession]:
    """A SQLAlchemy session, whose commits are savepoints of a transaction that is rolled back after the test."""
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import NullPool

    url = "postgresql+asyncpg://" + asyncjobs_dsn.partition("://")[2]
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        transaction = await connection.begin()
        try:
            async with AsyncSession(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            ) as session:
                yield session
        finally:
            await transaction.rollback()
    await engine.dispose()


@pytest.fixture
def asyncjobs_on(request: pytest.FixtureRequest) -> Any:
    """What `jobs` do everything on: `asyncjobs_session` where the test has it, else `asyncjobs_connection`. Override it with a
    connection or session of your own, in whose transaction your tests run.
    """
    name = "asyncjobs_session" if "asyncjobs_session" in request.fixturenames else "asyncjobs_connection"
    return request.getfixturevalue(name)


@pytest.fixture
async def jobs(asyncjobs_application: Jobs, asyncjobs_on: Any) -> AsyncIterator[Jobs]:
    """The application's Jobs, open, inside the transaction of the test."""
    from asyncjobs.testing import inside

    async with inside(asyncjobs_application, asyncjobs_on) as staged:
        yield staged


@pytest.fixture
async def asyncjobs_clock(jobs: Jobs) -> AsyncIterator[Clock]:
    """The database's clock, for these `jobs`: it stands still until the test moves it."""
    from asyncjobs.testing import frozen_clock

    async with frozen_clock(jobs) as clock:
        yield clock
