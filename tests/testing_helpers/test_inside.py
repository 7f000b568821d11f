"""`inside`: a Jobs does everything in the transaction of the test, on whichever connection that is."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asyncjobs import Every, Jobs, JobState, MisusedJobs, current_job, job, subscribe
from asyncjobs.testing import all_enqueued, assert_enqueued, drain, frozen_clock, inside
from tests.connections import engine_on
from tests.kinds import forgotten
from tests.subscriptions import only
from tests.testing_helpers.kinds import DID, Charge, Write, first, index_user, second

SESSIONS: list[async_sessionmaker[AsyncSession]] = []


@job(kind="th.noted")
async def noted(what: str) -> None:
    """As an application's job does it: with a session of its own."""
    async with SESSIONS[-1]() as session, session.begin():
        await session.execute(text("insert into notes (text) values (:what)"), {"what": what})
        await current_job().complete(on=session)


@job(kind="th.careless")
async def careless(what: str) -> None:
    async with SESSIONS[-1]() as session, session.begin():
        await session.execute(text("insert into notes (text) values (:what)"), {"what": what})
        await session.execute(text("select 1 / 0"))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sessions_in_savepoints(dsn: str, driver: str, connection: asyncpg.Connection) -> None:
    """The recipe of SQLAlchemy's documentation: the application's sessions are bound to the test's connection, whose
    transaction is rolled back. Jobs that fail take nothing along but their own writes.
    """
    async with engine_on(dsn, driver) as engine, engine.connect() as theirs:
        outer = await theirs.begin()
        SESSIONS.append(async_sessionmaker(theirs, join_transaction_mode="create_savepoint"))
        async with SESSIONS[-1]() as session, inside(Jobs(dsn), theirs):
            handle = await noted.set(on=session).later("a")
            await session.commit()
            await noted.set(on=session).later("never")
            await session.rollback()
            await assert_enqueued(noted, count=1)
            assert await drain() == {"completed": 1}
            assert await handle.status() is JobState.COMPLETED
            await careless.later("b")
            await noted.later("c")
            assert await drain(raises=False) == {"retryable": 1, "completed": 1}
            found = await session.scalars(text("select text from notes order by text"))
            assert list(found) == ["a", "c"]
        await outer.rollback()
        SESSIONS.pop()
    assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_one_session_for_everything(dsn: str, driver: str, connection: asyncpg.Connection) -> None:
    """A session the test shares with the application and its jobs, which commit it as they please."""
    async with engine_on(dsn, driver) as engine, engine.connect() as theirs:
        outer = await theirs.begin()
        async with AsyncSession(theirs, join_transaction_mode="create_savepoint") as session:

            class Shared:
                """Gives out the one session there is."""

                def __call__(self) -> Shared:
                    return self

                async def __aenter__(self) -> AsyncSession:
                    return session

                async def __aexit__(self, *error: object) -> None:
                    if error[0] is not None:
                        await session.rollback()

            async def note(what: str) -> None:
                await session.execute(text("insert into notes (text) values (:what)"), {"what": what})
                await session.commit()

            NOTES.append(note)
            async with inside(Jobs(dsn), session):
                await session.execute(text("insert into notes (text) values ('open')"))
                await shared.later("a")
                assert await drain() == {"completed": 1}
                await shared.later("b")
                assert await drain() == {"completed": 1}
                found = await session.scalars(text("select text from notes order by text"))
                assert list(found) == ["a", "b", "open"]
            NOTES.pop()
        await outer.rollback()
    assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0


NOTES: list[Any] = []


@job(kind="th.shared")
async def shared(what: str) -> None:
    await NOTES[-1](what)


async def test_everything_a_jobs_does_it_does_there(jobs: Jobs, connection: asyncpg.Connection) -> None:
    """Many at once, unique ones, lists, counts, cancelling, retrying, schedules, events."""
    handles = await asyncio.gather(*(first.later(number) for number in range(20)))
    one, same = [await second.set(unique="number").later(1) for _ in range(2)]
    assert (one.created, same.created, same.id) == (True, False, one.id)
    await jobs.enqueue_many([second.prepare(2), Charge(1).prepare("call")])
    assert (await jobs.count_jobs())["billing"] == {"available": 1}
    assert await handles[0].cancel() == "cancelled"
    assert await jobs.retry(handles[0].id)
    assert len(await jobs.list_jobs()) == len(await all_enqueued()) == 23
    await jobs.schedules.create(Every(3600, second.prepare(1), name="th-nightly"))
    assert [each.name for each in await jobs.schedules.list()] == ["th-nightly"]
    assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 23
    with pytest.raises(MisusedJobs, match="inside a test's transaction already"):
        async with inside(jobs, connection):
            pass


async def test_a_jobs_that_runs_jobs_is_refused(dsn: str, connection: asyncpg.Connection) -> None:
    """Its runner claims on connections of its own."""
    async with Jobs(dsn).running() as running:
        with pytest.raises(MisusedJobs, match="runs jobs, on connections that see nothing"):
            async with inside(running, connection):
                pass


async def test_transactions_of_two_tasks_take_turns(jobs: Jobs, connection: asyncpg.Connection) -> None:
    """Where each would have a connection of its own; within one, later and asking nest."""

    async def write(text: str, *, fail: bool) -> None:
        async with current_job().transaction() as mine:
            await mine.execute("insert into notes (text) values ($1)", text)
            await second.later(1)
            await jobs.list_jobs()
            if fail:
                raise ValueError(text)

    done = await asyncio.gather(
        *(write(str(number), fail=number % 2 == 1) for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(each, ValueError) for each in done) == 5
    assert await connection.fetchval("select count(*) from notes") == 5
    await assert_enqueued(second, count=5)


async def test_events_reach_who_subscribes(dsn: str, connection: asyncpg.Connection) -> None:
    """Without anything that runs."""
    with only({}):
        subscribe("th_user_*", kind="th.index", name="th-index")(index_user)
        async with inside(Jobs(dsn), connection) as jobs:
            await jobs.publish("th_user_changed", {"id": 7})
            assert await drain() == {"completed": 1}
    assert DID == [("indexed", 7)]


async def test_the_applications_lifespan_runs_nothing(dsn: str, connection: asyncpg.Connection) -> None:
    """A request enqueues in the test's transaction; what it enqueued waits until the test drains it."""
    jobs = Jobs(dsn)

    async def charge(request: Request) -> JSONResponse:
        handle = await Charge(5).later("call")
        return JSONResponse(handle.id)

    app = Starlette(lifespan=jobs.lifespan, routes=[Route("/", charge)])
    async with inside(jobs, connection), app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            assert (await client.get("/")).json() > 0
        await assert_enqueued(Charge(5))
        assert (jobs.modes, jobs.is_degraded) == (None, False)
        assert await drain() == {"completed": 1}
    assert jobs._opened is None
    async with jobs:  # as before
        assert await all_enqueued() == []


async def test_a_jobs_that_is_open_already_is_itself_again_afterwards(alone: str) -> None:
    """With the connections it had."""
    connection = await asyncpg.connect(alone)
    async with Jobs(alone) as jobs:
        await second.later(1)
        transaction = connection.transaction()
        await transaction.start()
        async with inside(jobs, connection):
            await second.later(2)
            await assert_enqueued(second, count=2)
        await transaction.rollback()
        await second.later(3)
        assert [job.args["number"] for job in await all_enqueued(second)] == [1, 3]
    await connection.close()


async def test_on_psycopg(dsn: str, connection: asyncpg.Connection) -> None:
    """A job that breaks the transaction is undone to where it began; the test goes on."""
    async with await psycopg.AsyncConnection.connect(dsn) as theirs:

        async def breaks() -> None:
            await theirs.execute("insert into notes (text) values ('broken')")
            await theirs.execute("select 1 / 0")

        with forgotten():
            async with theirs.transaction(force_rollback=True), inside(Jobs(dsn), theirs):
                await job(kind="th.breaks_psycopg")(breaks).later()
                await Write("a").later("call")
                async with frozen_clock() as clock:
                    await Charge(1).later("call", delay=60)
                    assert await drain(raises=False) == {"retryable": 1, "completed": 1}
                    await clock.advance(60)
                    assert await drain(raises=False, queues=["billing"]) == {"completed": 1}
                found = await (await theirs.execute("select text from notes")).fetchall()
                assert found == [("a",)]
    assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0


async def test_a_connection_without_a_transaction_commits(alone: str) -> None:
    """It may be any connection: then what is stored stays, and a test cleans up itself."""
    connection = await asyncpg.connect(alone)
    await connection.execute("create table notes (text text)")
    async with inside(Jobs(alone), connection) as jobs:
        await Write("a").later("call")
        assert await drain(jobs) == {"completed": 1}
    assert not connection.is_in_transaction()
    assert await connection.fetchval("select count(*) from notes") == 1
    await connection.close()
