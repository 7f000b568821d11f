"""The schema: made once, whoever asks and however many at once; printed as it is made; refused when it does not fit."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import asyncpg
import pytest

from asyncjobs import Jobs, SchemaMissing, SchemaTooNew, SchemaTooOld
from asyncjobs._store import migrate as migrating
from asyncjobs._store.chores import restore_ballast
from asyncjobs._store.connection import Connection
from asyncjobs._store.migrate import (
    Migration,
    check_schema_version,
    migrate,
    migration_sql,
    needed_version,
)
from asyncjobs.embedded.binaries import find_binaries
from asyncjobs.errors import InvalidOption, SchemaMismatch
from tests.store.jobs import session_of, store
from tests.waiting import eventually_async

NAMES = ["asyncjobs", "my jobs", "MixedCase", "with-dash", "select", "_x" * 20]

CATALOGS = {
    "columns": """
        select table_name, column_name, data_type, column_default, is_nullable, collation_name, is_identity
          from information_schema.columns where table_schema = $1""",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = $1",
    "constraints": """
        select conname, conrelid::regclass::text, pg_get_constraintdef(oid)
          from pg_constraint where connamespace = (select oid from pg_namespace where nspname = $1)""",
    "relations": """
        select relname, relkind::text, reloptions, relpersistence::text
          from pg_class where relnamespace = (select oid from pg_namespace where nspname = $1)""",
    "views": "select viewname, definition from pg_views where schemaname = $1",
    "functions": """
        select proname, pg_get_functiondef(oid), proargtypes::regtype[]::text
          from pg_proc where pronamespace = (select oid from pg_namespace where nspname = $1)""",
}

ALL = [migration.name for migration in migrating.migrations()]


async def catalog(connection: Connection, schema: str) -> dict[str, Any]:
    """Everything there is in *schema*, and the rows it is born with."""
    found: dict[str, Any] = {
        name: sorted(str(tuple(row)) for row in await connection.fetch(query, schema))
        for name, query in CATALOGS.items()
    }
    for table, columns in {
        "migrations": "version, name, oldest_code",
        "live_jobs": "*",
        "queues": "*",
    }.items():
        rows = await connection.fetch(f'select {columns} from "{schema}".{table}')
        found[table] = sorted(
            str([value for key, value in row.items() if key != "created_at"]) for row in rows
        )
    return found


async def test_migrating_again_changes_nothing(database: str) -> None:
    """The first call says what it applied; the second finds nothing to do."""
    assert await Jobs(database).migrate() == ALL
    async with session_of(database) as session:
        before = await catalog(session.connection, "asyncjobs")
        assert await Jobs(database).migrate() == []
        assert await catalog(session.connection, "asyncjobs") == before


async def test_a_failed_migration_leaves_nothing(database: str) -> None:
    """All of it is one transaction: interrupted at its very end, the database is as it was."""
    async with session_of(database) as session:
        await session.connection.execute("create schema asyncjobs")
        await session.connection.execute("create table asyncjobs.live_jobs ()")  # in the way
        with pytest.raises(asyncpg.DuplicateTableError):
            await Jobs(database).migrate()
        tables = await session.connection.fetch(
            "select relname from pg_class where relnamespace = 'asyncjobs'::regnamespace"
        )
        assert [row[0] for row in tables] == ["live_jobs"]
        await session.connection.execute("drop schema asyncjobs cascade")
        assert await Jobs(database).migrate() == ALL


@pytest.mark.failure_mode("F95")
async def test_ten_connections_migrate_at_once(database: str) -> None:
    """One applies, the others wait and find nothing to do."""
    applied = await asyncio.gather(*(Jobs(database).migrate() for _ in range(10)))
    assert sorted(map(len, applied)) == [0] * 9 + [len(ALL)]
    async with session_of(database) as session:
        await check_schema_version(session)


@pytest.mark.failure_mode("F95")
def test_ten_processes_migrate_at_once(database: str) -> None:
    """As when ten servers of a deployment start together."""
    program = (
        "import asyncio, sys; from asyncjobs import Jobs\n"
        "sys.stdin.readline()\n"
        "print(len(asyncio.run(Jobs(sys.argv[1]).migrate())))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in started]
    assert sorted(out.strip() for out, _ in answers) == ["0"] * 9 + [str(len(ALL))], answers


@pytest.mark.failure_mode("F96")
async def test_a_migration_behind_a_long_transaction_stops_nobody(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the table a moment at a time; in between everybody is let through; in the end it is applied."""
    monkeypatch.setattr(migrating, "LOCK_WAIT", 0.2)
    monkeypatch.setattr(migrating, "LET_THROUGH", 0.2)
    text = "alter table asyncjobs.live_jobs add column more integer"
    later = (*migrating.migrations(), Migration(needed_version() + 1, "more", 1, text))
    monkeypatch.setattr(migrating, "migrations", lambda: later)
    async with session_of(dsn) as report, session_of(dsn) as migrator, session_of(dsn) as application:
        async with report.connection.transaction():
            await report.connection.fetch("select count(*) from asyncjobs.live_jobs")
            applying = asyncio.create_task(migrate(migrator.connection, "asyncjobs"))
            for _ in range(3):

                async def waits() -> bool:
                    asked = "select true from pg_locks where mode = 'AccessExclusiveLock' and not granted"
                    return bool(await application.connection.fetchval(asked))

                await eventually_async(waits)
                await store(application)  # behind it in the queue of the lock
            assert not applying.done()
        assert [migration.name for migration in await applying] == ["more"]
    async with session_of(dsn) as session:
        assert await session.connection.fetchval("select count(more) from asyncjobs.live_jobs") == 0


@pytest.mark.parametrize("schema", NAMES)
async def test_the_printed_script_makes_the_same_schema(databases: Any, database: str, schema: str) -> None:
    """What `--sql` prints, run by psql, leaves what `migrate` leaves, under any name."""
    async with databases.clone() as printed:
        psql = find_binaries(18) / "psql"
        subprocess.run(  # noqa: ASYNC221
            [psql, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-d", printed, "-f", "-"],
            input=migration_sql(schema),
            text=True,
            check=True,
            capture_output=True,
        )
        await Jobs(database, schema=schema).migrate()
        async with session_of(printed, schema) as by_hand, session_of(database, schema) as by_us:
            assert await catalog(by_hand.connection, schema) == await catalog(by_us.connection, schema)
            await check_schema_version(by_hand)
        assert await Jobs(printed, schema=schema).migrate() == []


@pytest.mark.parametrize("schema", NAMES)
async def test_a_schema_of_another_name_mentions_ours_nowhere(database: str, schema: str) -> None:
    """Neither objects nor the code of functions reach into a schema `asyncjobs` that is not there."""
    await Jobs(database, schema=schema).migrate()
    async with session_of(database, schema) as session:
        everything = json.dumps(await catalog(session.connection, schema))
        if "asyncjobs" not in schema:
            assert "asyncjobs." not in everything
            assert "'asyncjobs:" not in everything
        namespaces = await session.connection.fetch(
            "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
        )
        assert {row[0] for row in namespaces} == {"public", schema}


@pytest.mark.parametrize("schema", ["", "a" * 41, 'a"b', "a;b", "1a", "a.b", "a\nb", "ä", "a'b", "a:b"])
def test_a_name_that_would_need_quoting_twice_is_refused(schema: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidOption):
        Jobs("postgresql:///x", schema=schema)


async def test_two_schemas_in_one_database_do_not_meet(database: str) -> None:
    """Each has its jobs, its pauses and its ballast."""
    for schema in ("asyncjobs", "Other"):
        await Jobs(database, schema=schema).migrate()
    async with Jobs(database) as one, Jobs(database, schema="Other") as other:
        await one.pause("q")
        async with one.connection() as connection:
            await connection.execute("""
                insert into asyncjobs.live_jobs (queue, kind, args) values ('q', 'k', '{}')
            """)
        assert await one.count_jobs() == {"q": {"available": 1}}
        assert await other.count_jobs() == {}
        async with other.connection() as connection:
            assert await connection.fetchval('select count(*) from "Other".queues') == 0


async def test_a_database_without_our_schema_is_refused(database: str) -> None:
    """With what to do, both for enqueuing and for running."""
    jobs = Jobs(database)
    with pytest.raises(SchemaMissing, match="migrate"):
        async with jobs.running():
            raise AssertionError
    async with session_of(database) as session:
        with pytest.raises(SchemaMissing, match="migrate"):
            await check_schema_version(session)
        await session.connection.execute(
            "create schema asyncjobs; create table asyncjobs.migrations (version int, oldest_code int)"
        )
        with pytest.raises(SchemaMissing):  # somebody began by hand
            await check_schema_version(session)


@pytest.mark.failure_mode("F97")
@pytest.mark.parametrize(
    ("version", "oldest_code", "error"),
    [
        (needed_version() - 1, 1, SchemaTooOld),
        (needed_version() + 1, needed_version() + 1, SchemaTooNew),
        (needed_version() + 3, needed_version(), None),
    ],
)
async def test_code_and_schema_must_fit(
    dsn: str, version: int, oldest_code: int, error: type[SchemaMismatch] | None
) -> None:
    """Older than the code needs, or newer than it can work with, is refused; newer and compatible is not."""
    async with session_of(dsn) as session:
        await session.connection.execute("delete from asyncjobs.migrations")
        await session.connection.execute(
            "insert into asyncjobs.migrations (version, name, oldest_code) values ($1, 'x', $2)",
            version,
            oldest_code,
        )
    if error is None:
        async with Jobs(dsn).running():
            pass
    else:
        with pytest.raises(error) as caught:
            async with Jobs(dsn).running():
                raise AssertionError
        assert "asyncjobs" in str(caught.value)
        assert ("migrate" if error is SchemaTooOld else "upgrade") in str(caught.value).lower()


async def test_a_role_that_may_not_create_schemas_can_migrate_into_one_it_was_given(database: str) -> None:
    """Where a database administrator makes the schema, the application's role need not be one; up to date, it may do less."""
    async with session_of(database) as session:
        role = f"asyncjobs_plain_{await session.connection.fetchval('select pg_backend_pid()')}"
        await session.connection.execute(f"create role {role}; create schema asyncjobs authorization {role}")
        try:
            await session.connection.execute(f"set role {role}")
            assert [each.name for each in await migrate(session.connection, "asyncjobs")] == ALL
            await session.connection.execute(
                f"reset role; revoke create on schema asyncjobs from {role}; set role {role}"
            )
            assert await migrate(session.connection, "asyncjobs") == []
            await check_schema_version(session)
        finally:
            await session.connection.execute(f"reset role; drop owned by {role} cascade; drop role {role}")


# The ballast.


async def test_the_ballast_is_never_seen(dsn: str) -> None:
    """1400 rows are in the table, and none in the view, in a count, in a list or before the claimer's eyes."""
    async with session_of(dsn) as session, Jobs(dsn) as jobs:
        assert await session.connection.fetchval("select count(*) from asyncjobs.live_jobs") == 1400
        assert await session.connection.fetchval("select count(*) from asyncjobs.jobs") == 0
        assert await jobs.count_jobs() == {}
        assert await jobs.list_jobs() == []
        for job_id in (-1, -2, -1100, -1300):
            assert await jobs.get_job(job_id) is None
            assert not await jobs.retry(job_id)
            with pytest.raises(LookupError):
                await jobs.cancel(job_id)
        assert (
            await session.connection.fetchval("select count(*) from asyncjobs.live_jobs where awaited") == 0
        )


async def test_missing_ballast_is_put_back(dsn: str) -> None:
    """And what is there is left alone."""
    async with session_of(dsn) as session:
        await session.connection.execute("delete from asyncjobs.live_jobs where id < 0 and id % 3 = 0")
        assert await restore_ballast(session) == 1400 // 3
        assert await restore_ballast(session) == 0
        assert await session.connection.fetchval("select count(*) from asyncjobs.live_jobs") == 1400


async def test_the_planner_knows_the_ballast(dsn: str) -> None:
    """From the first job on: migrating ends with an analyze."""
    async with session_of(dsn) as session:
        known = await session.connection.fetchval(
            "select reltuples from pg_class where oid = 'asyncjobs.live_jobs'::regclass"
        )
        assert known == 1400


async def test_migrating_puts_the_ballast_back(dsn: str) -> None:
    """Also when there is nothing to apply."""
    async with session_of(dsn) as session:
        await session.connection.execute("truncate asyncjobs.live_jobs")
        await Jobs(dsn).migrate()
        assert await session.connection.fetchval("select count(*) from asyncjobs.live_jobs") == 1400


async def test_ballast_does_not_use_up_ids(dsn: str) -> None:
    """The first job of a database is job 1."""
    async with session_of(dsn) as session:
        assert (
            await session.connection.fetchval(
                "insert into asyncjobs.live_jobs (queue, kind, args) values ('q', 'k', '{}') returning id"
            )
            == 1
        )
