"""What kind of tables, indexes and times these are, as the server's own catalog says it."""

from __future__ import annotations

from datetime import timedelta

import anyio
import asyncpg
import pytest

from asyncjobs import Jobs, job
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.states import JobState
from asyncjobs.embedded.binaries import find_binaries
from tests.store.jobs import claim, enter, session_of


@job(kind="test_catalog:echo")
async def echo(word: str) -> str:
    return word


@pytest.mark.failure_mode("F68")
async def test_every_table_is_logged(dsn: str) -> None:
    """One that is not would be empty after a crash of the server."""
    async with session_of(dsn) as session:
        rows = await session.connection.fetch(
            "select relname, relpersistence::text from pg_class where relnamespace = 'asyncjobs'::regnamespace"
        )
    assert {row[1] for row in rows} == {"p"}
    assert {"live_jobs", "finished_jobs", "runners", "queues"} <= {row[0] for row in rows}


@pytest.mark.failure_mode("F71")
async def test_no_index_sorts_by_the_rules_of_a_language(dsn: str) -> None:
    """A new libc sorts otherwise, and an index sorted by the old one finds nothing any more."""
    async with session_of(dsn) as session:
        sorted_by = await session.connection.fetch("""
            select indexes.relname, columns.attname, collations.collname
              from pg_index, pg_class indexes, pg_attribute columns, pg_collation collations
             where indexes.oid = indexrelid and indexes.relnamespace = 'asyncjobs'::regnamespace
               and columns.attrelid = indexrelid and collations.oid = columns.attcollation""")
    assert sorted_by, "no index has text, so nothing was shown"
    assert {row["collname"] for row in sorted_by} == {"C"}


@pytest.mark.failure_mode("F104")
async def test_a_delay_begins_when_the_job_is_enqueued(dsn: str) -> None:
    """Not when its transaction began, which `now()` would say: that may be long ago."""
    async with Jobs(dsn):
        application = await asyncpg.connect(dsn)
        async with application.transaction():
            began = await application.fetchval("select now()")
            await application.execute("select pg_sleep(0.3)")
            handle = await echo.set(on=application, delay=60).later("after a pause")
        stored = await application.fetchval(
            "select scheduled_at from asyncjobs.live_jobs where id = $1", handle.id
        )
        assert stored - began >= timedelta(seconds=60.3)
        await application.close()


@pytest.mark.failure_mode("F88")
async def test_a_table_that_changes_under_everybody(dsn: str) -> None:
    """Whoever has our statements prepared goes on: in the middle of a transaction, enqueuing, running, looking."""
    async with Jobs(dsn).running() as jobs:
        application = await asyncpg.connect(dsn)
        for round_ in range(3):
            async with application.transaction():
                before = await echo.set(on=application).later(f"before {round_}")
            migrator = await asyncpg.connect(dsn)
            await migrator.execute(
                f"alter table asyncjobs.live_jobs add column more_{round_} integer;"
                f"alter table asyncjobs.finished_jobs add column more_{round_} integer"
            )
            await migrator.close()
            async with application.transaction():
                after = await echo.set(on=application).later(f"after {round_}")
            assert await before.result(timeout=20) == f"before {round_}"
            assert await after.result(timeout=20) == f"after {round_}"
            assert len(await jobs.list_jobs()) == 2 * (round_ + 1)
            assert await echo.set(delay=60).later("waits") is not None
            assert (await jobs.count_jobs())["default"][JobState.SCHEDULED] == 1
            (waiting,) = await jobs.list_jobs(states=["scheduled"])
            assert await jobs.cancel(waiting.id) == "cancelled"
            await application.execute("delete from asyncjobs.finished_jobs where id = $1", waiting.id)
        await application.close()


@pytest.mark.failure_mode("F67")
async def test_a_dump_restored_elsewhere_goes_on(dsn: str, database: str) -> None:
    """Schema, version and jobs come along; what was held by a runner of the old place is taken back."""
    dump, restore = (str(find_binaries(18) / name) for name in ("pg_dump", "psql"))
    async with Jobs(dsn), session_of(dsn) as session:
        waiting = await echo.later("waiting")
        held = await echo.set(queue="held").later("held")
        await enter(session, lease=1)
        (taken,) = await claim(session, lanes=[("held", "test_catalog:echo")])
        assert taken.id == held.id
    script = await anyio.run_process([dump, "--no-comments", dsn])
    await anyio.run_process([restore, "--quiet", "--set", "ON_ERROR_STOP=1", database], input=script.stdout)
    assert await Jobs(database).migrate() == []
    vigilance = Vigilance(look_every=0.1, settle=0.3)
    async with Jobs(database, vigilance=vigilance).running() as jobs:
        assert await jobs.handle(waiting.id).result(timeout=20) == "waiting"
        assert await jobs.handle(held.id).result(timeout=20) == "held"
        assert await (await echo.later("new")).result(timeout=20) == "new"
