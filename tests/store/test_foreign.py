"""Connections that cannot take a job say so, and those that can are taken with whatever their owner did to them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import psycopg
import psycopg.rows
import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from asyncjobs import DatabaseUnavailable, Jobs, SchemaMissing, WrongConnection, job
from tests.connections import KINDS, SESSIONS, Theirs, engine_on, sqlalchemy_url

DRIVERS = ["asyncpg", "psycopg"]


@job(kind="test_foreign:greet")
async def greet(name: str) -> str:
    return f"hello {name}"


@pytest.fixture
async def jobs(dsn: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def refused(on: Any, saying: str) -> None:
    """Enqueuing on *on* raises WrongConnection in these words."""
    with pytest.raises(WrongConnection, match=saying):
        await greet.set(on=on).later("nobody")


async def names(jobs: Jobs) -> list[str]:
    return [job.args["name"] for job in reversed(await jobs.list_jobs())]


# What no transaction protects.


@pytest.mark.failure_mode("F82")
@pytest.mark.parametrize("driver", DRIVERS)
async def test_autocommit_of_the_engine_is_refused(jobs: Jobs, dsn: str, driver: str) -> None:
    """Of an engine in AUTOCOMMIT neither a session nor a connection can take a job back."""
    async with engine_on(dsn, driver, isolation_level="AUTOCOMMIT") as engine:
        async with AsyncSession(engine) as session:
            await refused(session, "AUTOCOMMIT")
        async with engine.connect() as connection:
            await refused(connection, "AUTOCOMMIT")
    assert await names(jobs) == []


@pytest.mark.failure_mode("F82")
@pytest.mark.parametrize("driver", DRIVERS)
async def test_autocommit_of_one_connection_is_refused(jobs: Jobs, dsn: str, driver: str) -> None:
    """AUTOCOMMIT may also be an execution option, of an engine, of a connection, or of a session's transaction."""
    async with engine_on(dsn, driver) as engine:
        async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            await refused(session, "AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await refused(connection, "AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            await refused(session, "AUTOCOMMIT")
        async with AsyncSession(engine) as session:  # the pool has put it back
            await greet.set(on=session).later("somebody")
            await session.commit()
    assert await names(jobs) == ["somebody"]


# What is no connection of ours.


async def test_a_connection_that_is_not_asynchronous_is_refused(jobs: Jobs, dsn: str) -> None:
    """Sync sessions and connections are named for what they are, also when the application derives its own."""

    class OwnSession(Session):
        pass

    engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"))
    try:
        with Session(engine) as session:
            await refused(session, "not asynchronous")
        with OwnSession(engine) as session:
            await refused(session, "OwnSession, which is not asynchronous")
        with engine.connect() as connection:
            await refused(connection, "not asynchronous")
        await refused(engine, "not asynchronous")
    finally:
        engine.dispose()
    with psycopg.connect(dsn) as sync:
        await refused(sync, "not asynchronous")


async def test_what_makes_connections_is_not_one(jobs: Jobs, dsn: str) -> None:
    """A pool, an engine and a session maker are told from the connections they make."""
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        await refused(pool, "whole asyncpg pool")
    async with engine_on(dsn) as engine:
        await refused(engine, "AsyncEngine")
        await refused(async_sessionmaker(engine), "async_sessionmaker")
        await refused(AsyncSession, "AsyncSession")
        await refused(engine.connect(), "not been opened")  # neither awaited nor entered
    await refused(dsn, "str")
    await refused(jobs, "Jobs")


async def test_another_database_is_refused(jobs: Jobs) -> None:
    """A session on a database that is no Postgres is refused by name."""
    async with engine_on("postgresql://nobody@127.0.0.1:1/none") as engine:
        connection = engine.connect()
        connection.sync_connection = sqlalchemy.create_engine("sqlite://").connect()
        try:
            await refused(connection, r"sqlite\+pysqlite")
        finally:
            connection.sync_connection.close()
            connection.sync_connection.engine.dispose()
            connection.sync_connection = None


# What was one.


async def test_a_closed_connection_is_refused(jobs: Jobs, dsn: str) -> None:
    """Closed, of whichever library."""
    plain = await asyncpg.connect(dsn)
    await plain.close()
    await refused(plain, "closed")
    other = await psycopg.AsyncConnection.connect(dsn)
    await other.close()
    await refused(other, "closed")
    async with engine_on(dsn) as engine:
        async with engine.connect() as connection:
            pass
        await refused(connection, "closed")
        session = AsyncSession(engine, close_resets_only=False)
        await session.close()
        await refused(session, "closed")


async def test_a_pools_connection_is_refused_after_its_release(jobs: Jobs, dsn: str) -> None:
    """A proxy that was released may stand for somebody else's connection by now."""
    async with asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool:
        connection = await pool.acquire()
        await pool.release(connection)
        await refused(connection, "released")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_invalidated_connection_is_refused(jobs: Jobs, dsn: str, driver: str) -> None:
    """SQLAlchemy would open another one unasked, outside the transaction the caller believes in."""
    async with engine_on(dsn, driver) as engine, engine.connect() as connection:
        await connection.execute(sqlalchemy.text("select 1"))
        await connection.invalidate()
        await refused(connection, "closed|rolled back")


@pytest.mark.failure_mode("F27")
async def test_a_connection_of_another_loop_is_refused(jobs: Jobs, dsn: str) -> None:
    """asyncpg connections belong to a loop; enqueuing on one from another would hang or break it."""
    others = Elsewhere()
    try:
        plain = others.run(asyncpg.connect(dsn))
        await refused(plain, "another event loop")
        pool = others.run(_pool(dsn))
        proxy = others.run(pool.acquire())
        await refused(proxy, "another event loop")
        others.run(pool.release(proxy))
        assert others.run(plain.fetchval("select 1")) == 1  # unharmed
        others.run(plain.close())
        others.run(pool.close())
        engine = create_async_engine(sqlalchemy_url(dsn))
        session = AsyncSession(engine)
        others.run(session.execute(sqlalchemy.text("select 1")))
        await refused(session, "another event loop")
        others.run(session.close())
        # A session of this loop, whose engine has a connection of the other loop in its pool.
        session = AsyncSession(engine)
        await refused(session, "another event loop")
        await session.close()
        others.run(engine.dispose())
    finally:
        others.stop()


async def test_a_psycopg_connection_serves_every_loop(jobs: Jobs, dsn: str) -> None:
    """It belongs to none; opened on one and used on another, it is what it is everywhere."""
    others = Elsewhere()
    try:
        connection = others.run(psycopg.AsyncConnection.connect(dsn))
        await greet.set(on=connection).later("elsewhere")
        others.run(connection.commit())
        others.run(connection.close())
    finally:
        others.stop()
    assert await names(jobs) == ["elsewhere"]


async def _pool(dsn: str) -> asyncpg.Pool:
    return await asyncpg.create_pool(dsn, min_size=0)


class Elsewhere:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        async def awaited() -> Any:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


# What is in no state for it.


@pytest.mark.failure_mode("F82")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_transaction_is_refused_and_can_go_on_after_its_rollback(
    jobs: Jobs, dsn: str, kind: str
) -> None:
    """After an error nothing more can be stored; after the rollback everything can."""
    async with KINDS[kind](dsn) as theirs:
        with suppress(_Over):
            async with theirs.begin():
                with pytest.raises((asyncpg.PostgresError, psycopg.Error, SQLAlchemyError)):
                    await theirs.run("select 1 / 0")
                await refused(theirs.on, "failed")
                raise _Over
        async with theirs.begin():
            await greet.set(on=theirs.on).later("later")
    assert await names(jobs) == ["later"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_savepoint_rolled_back_does_not_matter(jobs: Jobs, dsn: str, kind: str) -> None:
    """What failed inside a savepoint is forgotten with it."""
    async with KINDS[kind](dsn) as theirs, theirs.begin():
        await greet.set(on=theirs.on).later("before")
        with pytest.raises((asyncpg.PostgresError, psycopg.Error, SQLAlchemyError)):
            async with theirs.nest():
                await greet.set(on=theirs.on).later("inside")
                await theirs.run("select 1 / 0")
        await greet.set(on=theirs.on).later("after")
    assert await names(jobs) == ["before", "after"]


class _Over(Exception):
    pass


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Any = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)


async def test_a_session_whose_flush_failed_is_refused(jobs: Jobs, dsn: str) -> None:
    """SQLAlchemy wants a rollback() then, and so do we say."""
    async with engine_on(dsn) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Order(number=1))
            await session.commit()
        async with AsyncSession(engine) as session:
            session.add(Order(number=1))
            with pytest.raises(sqlalchemy.exc.IntegrityError):
                await session.flush()
            await refused(session, "rollback")
            await session.rollback()
            session.add(Order(number=2))
            await greet.set(on=session).later("two")
            await session.commit()
    assert await names(jobs) == ["two"]


async def test_a_session_that_must_be_begun_says_so(jobs: Jobs, dsn: str) -> None:
    """Without autobegin there is no transaction to join until begin()."""
    async with engine_on(dsn) as engine, AsyncSession(engine, autobegin=False) as session:
        await refused(session, "begin")
        async with session.begin():
            await greet.set(on=session).later("begun")
    assert await names(jobs) == ["begun"]


async def test_a_session_of_several_engines_says_what_to_pass(jobs: Jobs, dsn: str) -> None:
    """Which of its connections is meant, only the caller knows."""
    async with engine_on(dsn) as engine, AsyncSession(binds={Order: engine}) as session:
        await refused(session, "session.connection")
        connection = await session.connection(bind_arguments={"mapper": Order})
        await greet.set(on=connection).later("told")
        await session.commit()
        await refused(AsyncSession(), "session.connection")
    assert await names(jobs) == ["told"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_read_only_transaction_is_refused(jobs: Jobs, dsn: str, kind: str) -> None:
    """Nothing can be stored there, and nothing was there to be lost."""
    async with KINDS[kind](dsn) as theirs:
        with suppress(_Over):
            async with theirs.begin():
                await theirs.run("set transaction read only")
                await refused(theirs.on, "read-only")
                raise _Over
        async with theirs.begin():
            await greet.set(on=theirs.on).later("writing")
    assert await names(jobs) == ["writing"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_the_server_closed_is_an_outage(jobs: Jobs, dsn: str, kind: str) -> None:
    """Terminated in the middle of its transaction, which is gone with the job: the error says so, or that it is closed."""
    said: list[str] = []
    async with KINDS[kind](dsn) as theirs:
        with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, psycopg.Error, SQLAlchemyError):
            async with theirs.begin():
                await theirs.run("set application_name to 'doomed'")
                await greet.set(on=theirs.on).later("nobody")
                await _terminate(dsn, "doomed")
                try:
                    await greet.set(on=theirs.on).later("nobody else")
                except (DatabaseUnavailable, WrongConnection) as error:
                    said.append(str(error))
    assert any(
        "everything in it" in each or "server closed it" in each or "by the server" in each for each in said
    ), said
    assert await names(jobs) == []


@pytest.mark.failure_mode("F46")
@pytest.mark.parametrize("kind", ["asyncpg", "psycopg autocommit"])
async def test_a_connection_the_server_closed_may_have_stored_the_job(
    jobs: Jobs, dsn: str, kind: str
) -> None:
    """Outside a transaction the statement may have been done before its reply was lost, and that is said."""
    async with KINDS[kind](dsn) as theirs:
        await theirs.run("set application_name to 'doomed'")
        await theirs.run(
            "create table slow (); create function slow() returns trigger language plpgsql as "
            "'begin perform pg_sleep(10); return new; end'"
        )
        await theirs.run("create trigger slow after insert on asyncjobs.live_jobs execute function slow()")
        storing = asyncio.create_task(greet.set(on=theirs.on).later("nobody"))
        await asyncio.sleep(0.2)
        await _terminate(dsn, "doomed")
        with pytest.raises(DatabaseUnavailable, match="whether it was is not known"):
            await storing


async def _terminate(dsn: str, name: str) -> None:
    admin = await asyncpg.connect(dsn)
    try:
        assert await admin.fetchval(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name
        )
    finally:
        await admin.close()


async def test_a_database_without_our_schema_is_named(jobs: Jobs, database: str) -> None:
    """SchemaMissing says what to run."""
    connection = await asyncpg.connect(database)
    try:
        with pytest.raises(SchemaMissing, match="migrate"):
            await greet.set(on=connection).later("nobody")
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["asyncpg", "asyncpg pool"])
async def test_a_connection_in_use_is_refused(jobs: Jobs, dsn: str, kind: str) -> None:
    """Two tasks on one asyncpg connection: a mistake that is named, and the one who was there is not harmed."""
    async with KINDS[kind](dsn) as theirs, theirs.begin():
        busy = await _busy(theirs)
        await refused(theirs.on, "another task")
        await busy
        await greet.set(on=theirs.on).later("afterwards")
    assert await names(jobs) == ["afterwards"]


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"asyncpg", "asyncpg pool"}))
async def test_a_connection_in_use_is_waited_for(jobs: Jobs, dsn: str, kind: str) -> None:
    """SQLAlchemy and psycopg take turns by themselves."""
    async with KINDS[kind](dsn) as theirs, theirs.begin():
        busy = await _busy(theirs)
        await greet.set(on=theirs.on).later("afterwards")
        await busy
    assert await names(jobs) == ["afterwards"]


async def test_a_session_another_task_is_connecting_is_refused(jobs: Jobs, dsn: str) -> None:
    """SQLAlchemy lets one task at a time open a session's connection."""
    async with engine_on(dsn) as engine, AsyncSession(engine) as session:
        first = asyncio.create_task(session.connection())
        await asyncio.sleep(0)
        await refused(session, "concurrent operations")
        await first
        await greet.set(on=session).later("afterwards")
        await session.commit()
    assert await names(jobs) == ["afterwards"]


async def _busy(theirs: Theirs) -> asyncio.Task[None]:
    """A task that uses the connection now, for a moment."""
    await theirs.run("select 1")
    task = asyncio.create_task(theirs.run("select pg_sleep(0.3)"))
    await asyncio.sleep(0.1)
    return task


# What its owner did to it.


async def test_codecs_of_the_connection_do_not_disturb(jobs: Jobs, dsn: str) -> None:
    """An asyncpg connection with json codecs of its own stores the inputs once encoded, not twice."""
    connection = await asyncpg.connect(dsn)
    try:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        await connection.set_type_codec(
            "text", encoder=lambda text: text, decoder=str.upper, schema="pg_catalog"
        )
        await greet.set(on=connection, meta={"by": "us"}).later("Ada")
    finally:
        await connection.close()
    (stored,) = await jobs.list_jobs()
    assert stored.args == {"name": "Ada"}
    assert stored.meta == {"by": "us"}


async def test_record_classes_and_query_loggers_do_not_disturb(jobs: Jobs, dsn: str) -> None:
    """asyncpg's record class is the owner's business."""

    class Attributes(asyncpg.Record):
        def __getattr__(self, name: str) -> Any:
            return self[name]

    connection = await asyncpg.connect(dsn, record_class=Attributes, statement_cache_size=0)
    try:
        with connection.query_logger(lambda _: None):
            handle = await greet.set(on=connection).later("Ada")
    finally:
        await connection.close()
    assert (await handle.job()).args == {"name": "Ada"}


@pytest.mark.parametrize("driver", DRIVERS)
async def test_codecs_of_sqlalchemy_do_not_disturb(jobs: Jobs, dsn: str, driver: str) -> None:
    """SQLAlchemy installs json codecs of the application's choice on every connection."""

    def refuse(_: Any) -> Any:
        raise AssertionError("our JSON is ours")

    async with (
        engine_on(dsn, driver, json_serializer=refuse, json_deserializer=refuse, echo=False) as engine,
        AsyncSession(engine) as session,
    ):
        handle = await greet.set(on=session, meta={"50%": "%s %(name)s :name"}).later("100 % :name %s")
        await session.commit()
    found = await handle.job()
    assert found.args == {"name": "100 % :name %s"}
    assert found.meta == {"50%": "%s %(name)s :name"}


@pytest.mark.parametrize(
    "rows",
    [
        psycopg.rows.dict_row,
        psycopg.rows.namedtuple_row,
        psycopg.rows.scalar_row,
        psycopg.rows.kwargs_row(dict),
    ],
)
async def test_row_factories_of_psycopg_do_not_disturb(jobs: Jobs, dsn: str, rows: Any) -> None:
    """Rows are ours to make; so is the cursor."""
    connect = psycopg.AsyncConnection.connect
    async with await connect(dsn, row_factory=rows, cursor_factory=psycopg.AsyncClientCursor) as connection:
        await greet.set(on=connection).later("100 % $1 %s")
    assert await names(jobs) == ["100 % $1 %s"]


async def test_a_pipeline_of_psycopg_does_not_disturb(jobs: Jobs, dsn: str) -> None:
    """Inside `pipeline()` too, the job is stored in the order of the statements around it."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection, connection.pipeline():
        await connection.execute("create table orders (number int)")
        await greet.set(on=connection).later("piped")
        await connection.execute("insert into orders values (1)")
    assert await names(jobs) == ["piped"]


@pytest.mark.failure_mode("F66")
async def test_a_strange_search_path_does_not_disturb(jobs: Jobs, dsn: str) -> None:
    """Everything of ours is written with its schema."""
    settings = {"search_path": "nowhere", "timezone": "Asia/Kathmandu", "datestyle": "German", "jit": "off"}
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        await greet.set(on=connection).later("lost")
    finally:
        await connection.close()
    assert await names(jobs) == ["lost"]


@pytest.mark.failure_mode("F66")
async def test_a_name_that_shadows_ours_does_not_disturb(jobs: Jobs, dsn: str) -> None:
    """Tables and functions of the application's with our names are not taken for ours."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("""
            create schema app;
            create table app.live_jobs (id int);
            create table app.jobs (id int);
            create function app.wake(text) returns void language sql as 'select 1 / 0';
            set search_path to app, pg_catalog;
        """)
        await greet.set(on=connection).later("ours")
    finally:
        await connection.close()
    assert await names(jobs) == ["ours"]


@pytest.mark.parametrize("kind", SESSIONS)
async def test_a_session_goes_on_as_before(jobs: Jobs, dsn: str, kind: str) -> None:
    """Enqueuing flushes nothing, expires nothing and ends nothing."""
    async with KINDS[kind](dsn) as theirs:
        await theirs.run("create table orders (number int primary key)")
        await theirs.on.commit()
        async with theirs.begin():
            session: AsyncSession = theirs.on
            order = Order(number=7)
            session.add(order)
            await greet.set(on=session).later("seven")
            assert order in session.new
        assert (await session.execute(sqlalchemy.select(Order.number))).scalars().all() == [7]
    assert await names(jobs) == ["seven"]


@asynccontextmanager
async def _isolated(dsn: str, level: str) -> AsyncIterator[AsyncSession]:
    async with engine_on(dsn, isolation_level=level) as engine, AsyncSession(engine) as session:
        yield session


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_every_isolation_level_takes_jobs(jobs: Jobs, dsn: str, level: str) -> None:
    """Inserting conflicts with nobody."""
    async with _isolated(dsn, level) as one, _isolated(dsn, level) as other:
        await greet.set(on=one).later("one")
        await greet.set(on=other).later("other")
        await one.commit()
        await other.commit()
    assert await names(jobs) == ["one", "other"]
