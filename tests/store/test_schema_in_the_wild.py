"""What others do to our tables, and what our statements do under plans and settings nobody foresaw."""

from __future__ import annotations

import itertools

import asyncpg
import pytest

from asyncjobs import Jobs, job
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.claims import finish_jobs
from tests.engine.running import running, watching
from tests.store.jobs import RUNNER, claim, enter, new_job, session_of, store


@job(kind="wild:count")
async def count(number: int) -> int:
    return number


@pytest.mark.failure_mode("F68")
async def test_every_table_outlives_a_crash(dsn: str) -> None:
    """None is unlogged: those are empty after a crash of the server."""
    async with session_of(dsn) as session:
        kinds = await session.connection.fetch(
            "select relpersistence::text, count(*) from pg_class"
            " where relnamespace = 'asyncjobs'::regnamespace and relkind in ('r', 'i', 'S') group by 1"
        )
        assert [row[0] for row in kinds] == ["p"]
        assert kinds[0][1] > 8


@pytest.mark.failure_mode("F71")
async def test_no_index_depends_on_how_a_language_sorts(dsn: str) -> None:
    """Text in an index is compared byte by byte, which no new libc or ICU changes."""
    async with session_of(dsn) as session:
        columns = await session.connection.fetch(
            "select indexrelid::regclass::text, coll.collname::text, coll.collprovider::text from pg_index"
            " cross join unnest(indcollation) as one (oid) join pg_collation coll on coll.oid = one.oid"
            " join pg_class on pg_class.oid = indexrelid"
            " where pg_class.relnamespace = 'asyncjobs'::regnamespace"
        )
        assert columns
        assert {row[1] for row in columns} == {"C"}


@pytest.mark.failure_mode("F70")
async def test_tables_that_are_published_can_be_written(dsn: str) -> None:
    """FOR ALL TABLES takes ours too: without a primary key on each, updates and deletes would be refused."""
    async with running(dsn) as jobs, watching(dsn) as other:
        await other.connection.execute("create publication everything for all tables")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await other.connection.execute("create table theirs as select 1 as a; update theirs set a = 2")
        assert await (await count.later(1)).result(timeout=10) == 1
        await jobs.pause("default")
        await jobs.resume("default")
        assert await (await count.later(2)).result(timeout=10) == 2
    async with watching(dsn) as other:
        assert await other.connection.fetchval("select count(*) from asyncjobs.runners") == 0


NODES = (
    "hashjoin",
    "nestloop",
    "mergejoin",
    "indexscan",
    "bitmapscan",
    "seqscan",
    "material",
    "memoize",
    "sort",
)


@pytest.mark.failure_mode("F73")
async def test_no_plan_claims_more_than_there_is_room_for(dsn: str) -> None:
    """Whatever two ways of joining and scanning the planner is denied, with lanes that share a pool and without."""
    async with session_of(dsn) as session, session_of(dsn) as rival:
        await enter(session)
        await enter(rival, 8)
        lanes = [("q", "k"), ("q", "l"), ("r", "k")]
        await store(session, *(new_job(kind, queue) for queue, kind in lanes for _ in range(250)))
        for number, denied in enumerate(itertools.combinations(NODES, 2)):
            for each in (session, rival):
                await each.connection.execute("reset all")
                for node in denied:
                    await each.connection.execute(f"set enable_{node} = off")
                await each.connection.execute("set plan_cache_mode = 'force_generic_plan'")
            shared = number % 2 == 0
            async with rival.connection.transaction():
                theirs = await claim(rival, 8, lanes=lanes, room=3, shared=shared)
                ours = await claim(session, RUNNER, lanes=lanes, room=3, shared=shared)
                most = 3 if shared else 9
                assert len(theirs) == most, denied
                assert 0 < len(ours) <= most, denied
                assert not {each.id for each in ours} & {each.id for each in theirs}
            held = await session.connection.fetchval(
                "select count(*) from asyncjobs.live_jobs where runner is not null and id > 0"
            )
            assert held == len(ours) + len(theirs)
            for runner, claimed in ((RUNNER, ours), (8, theirs)):
                await finish_jobs(
                    session, runner, [Finished(each, FinalState.COMPLETED, 0.0) for each in claimed]
                )


@pytest.mark.failure_mode("F88")
async def test_statements_prepared_before_a_migration_work_after_it(dsn: str) -> None:
    """A runner's, and those on the application's connection, there also in the middle of a transaction."""
    async with running(dsn) as jobs, watching(dsn) as theirs, watching(dsn) as other:
        for number in range(3):
            assert await (await count.set(on=theirs.connection).later(number)).result(timeout=10) == number
        async with theirs.connection.transaction():
            await theirs.connection.execute("select 1")
            for table in ("live_jobs", "finished_jobs", "runners"):
                await other.connection.execute(
                    f"alter table asyncjobs.{table} add column newer text default 'x'"
                )
            handle = await count.set(on=theirs.connection).later(10)
        assert await handle.result(timeout=10) == 10
        assert (await jobs.handle(handle.id).job()).errors == ()
        await jobs.pause("default")
        await jobs.resume("default")
        assert await (await count.later(11)).result(timeout=10) == 11
        assert len(await jobs.list_jobs()) == 5


@pytest.mark.failure_mode("F104")
async def test_a_delay_counts_from_its_statement(dsn: str) -> None:
    """Not from the beginning of the transaction, where now() stands still; nor does a lease renewed in one begin old."""
    async with Jobs(dsn), watching(dsn) as other:
        async with other.connection.transaction():
            began = await other.connection.fetchval("select now()")
            await other.connection.execute("select pg_sleep(0.3)")
            handle = await count.set(delay=10, on=other.connection).later(1)
        waits = (await handle.job()).scheduled_at - began
        assert 10.3 <= waits.total_seconds() < 15
        assert ((await handle.job()).created_at - began).total_seconds() >= 0.3
