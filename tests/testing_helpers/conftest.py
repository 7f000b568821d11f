"""A Jobs inside a transaction that is rolled back, on each kind of connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from asyncjobs import Jobs
from asyncjobs.testing import inside
from tests.postgres import Databases
from tests.testing_helpers.kinds import DID


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    DID.clear()


@pytest.fixture(scope="session")
async def shared(databases: Databases, migrated: str, anyio_backend: str) -> AsyncIterator[str]:
    """One database for all tests that roll back."""
    async with databases.clone(migrated) as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute("create table notes (id serial primary key, text text unique)")
        await connection.close()
        yield dsn


@pytest.fixture
def dsn(shared: str) -> str:
    return shared


@pytest.fixture
async def alone(databases: Databases, migrated: str) -> AsyncIterator[str]:
    """A database for a test that commits."""
    async with databases.clone(migrated) as dsn:
        yield dsn


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the test, rolled back at its end."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
async def jobs(dsn: str, connection: asyncpg.Connection) -> AsyncIterator[Jobs]:
    """A Jobs inside it."""
    async with inside(Jobs(dsn), connection) as jobs:
        yield jobs
