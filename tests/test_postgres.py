"""The databases the tests themselves run on."""

from __future__ import annotations

import asyncpg
import pytest

from tests.postgres import NamedServer


async def migrate(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table job (id bigint generated always as identity primary key)")
    await connection.close()


@pytest.fixture(scope="session")
async def example_template(databases, anyio_backend):
    return await databases.template(migrate)


async def test_a_database_is_empty(database):
    """A test that asks for a database gets one nobody has used."""
    connection = await asyncpg.connect(database)
    try:
        tables = "select count(*) from information_schema.tables where table_schema = 'public'"
        assert await connection.fetchval(tables) == 0
        await connection.execute("create table left_by_a_test ()")
    finally:
        await connection.close()


test_a_second_database_is_empty_too = test_a_database_is_empty


@pytest.mark.parametrize("_", range(2))
async def test_a_clone_holds_what_was_migrated_and_nothing_else(databases, example_template, _):
    """Each test has its own copy of the migrated template, sequences included."""
    async with databases.clone(example_template) as dsn:
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("insert into job default values returning id") == 1
        await connection.close()


async def test_a_clone_is_dropped_even_while_in_use(databases):
    """A connection a test forgot does not keep its database alive."""
    async with databases.clone() as dsn:
        forgotten = await asyncpg.connect(dsn)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(dsn)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await forgotten.fetchval("select 1")
    forgotten.terminate()


def test_a_sync_test_can_have_a_database(database):
    """State machines of hypothesis are synchronous, and need one too."""
    assert database.startswith("postgres")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:5/old", "postgresql://u:p@h:5/new"),
        ("postgresql://u@/old?host=/a%20b&port=1", "postgresql://u@/new?host=/a%20b&port=1"),
        ("postgres://h", "postgres://h/new"),
    ],
)
def test_another_database_of_a_named_server(url, expected):
    """Only the database's name is replaced in ASYNCJOBS_TEST_DSN."""
    assert NamedServer(url).dsn("new") == expected
