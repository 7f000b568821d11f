"""A Jobs inside a transaction that is rolled back, on each kind of connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from asyncjobs import Jobs
from asyncjobs.testing import inside
from tests.testing_helpers.kinds import DID


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    DID.clear()


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the test, rolled back at its end."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table notes (id serial primary key, text text unique)")
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
