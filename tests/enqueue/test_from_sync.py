"""`later_sync`: sync code enqueues on its own connection, or hands the call to the loop and waits for the commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import asyncpg
import attrs
import psycopg
import psycopg2
import pytest
import sqlalchemy
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from asyncjobs import (
    DatabaseUnavailable,
    Handle,
    InvalidInput,
    Jobs,
    Later,
    MisusedJobs,
    WhichJobs,
    WrongConnection,
    job,
)
from asyncjobs._define import from_sync
from asyncjobs._store.statements import statements
from asyncjobs._store.synchronous import _named, at_once
from tests.connections import engine_on, sqlalchemy_url
from tests.engine.running import runner_of
from tests.running import running


@job(kind="test_from_sync:greet")
async def greet(name: str) -> str:
    return f"hello {name}"


@attrs.frozen
class Letter(Later, kind="test_from_sync:Letter"):
    to: str

    async def call(self) -> str:
        return f"dear {self.to}"

    @job
    async def sign(self, name: str) -> str:
        return f"dear {self.to}, {name}"


@job(kind="test_from_sync:chain")
def chain(name: str) -> int:
    """A sync job, in a thread of its own, that enqueues another."""
    return greet.later_sync(name).id


# A sync connection: what is passed as `on=`, and how its owner works with it.


class Theirs(Protocol):
    @property
    def on(self) -> Any: ...

    def run(self, sql: str) -> None: ...
    def begin(self) -> AbstractContextManager[Any]: ...


@attrs.frozen
class OnSQLAlchemy:
    on: Any

    def run(self, sql: str) -> None:
        self.on.execute(sqlalchemy.text(sql))

    def begin(self) -> AbstractContextManager[Any]:
        return self.on.begin()  # type: ignore[no-any-return]


@attrs.frozen
class OnDriver:
    """psycopg or psycopg2: a transaction begins by itself, and ends with commit() or rollback()."""

    on: Any

    def run(self, sql: str) -> None:
        with self.on.cursor() as cursor:
            cursor.execute(sql)

    @contextmanager
    def begin(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.on.rollback()
            raise
        self.on.commit()


@contextmanager
def sync_engine(dsn: str, driver: str, **given: Any) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, driver), **given)
    try:
        yield engine
    finally:
        engine.dispose()


def _session(driver: str) -> Callable[[str], AbstractContextManager[Theirs]]:
    @contextmanager
    def open_one(dsn: str) -> Iterator[Theirs]:
        with sync_engine(dsn, driver) as engine, Session(engine) as session:
            yield OnSQLAlchemy(session)

    return open_one


@contextmanager
def _scoped(dsn: str) -> Iterator[Theirs]:
    with sync_engine(dsn, "psycopg") as engine:
        scoped = scoped_session(sessionmaker(engine))
        try:
            yield OnSQLAlchemy(scoped)
        finally:
            scoped.remove()


@contextmanager
def _connection(dsn: str) -> Iterator[Theirs]:
    with sync_engine(dsn, "psycopg2") as engine, engine.connect() as connection:
        yield OnSQLAlchemy(connection)


@contextmanager
def _psycopg(dsn: str) -> Iterator[Theirs]:
    with psycopg.connect(dsn) as connection:
        yield OnDriver(connection)


@contextmanager
def _psycopg2(dsn: str) -> Iterator[Theirs]:
    connection = psycopg2.connect(dsn)
    try:
        yield OnDriver(connection)
    finally:
        connection.close()


SYNC: dict[str, Callable[[str], AbstractContextManager[Theirs]]] = {
    "session on psycopg": _session("psycopg"),
    "session on psycopg2": _session("psycopg2"),
    "scoped session": _scoped,
    "connection on psycopg2": _connection,
    "psycopg": _psycopg,
    "psycopg2": _psycopg2,
}

ODD = "O'Brien \\ %s %(x)s :x -- $1 {} \n\t\"é🙂"
"""What a driver that writes values into the text of a statement could trip over."""


@pytest.fixture(params=SYNC)
def opens(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[Theirs]]:
    return SYNC[request.param]


async def names(dsn: str) -> list[str]:
    async with Jobs(dsn) as jobs:
        return [job.args["name"] for job in reversed(await jobs.list_jobs())]


@pytest.mark.seed("Q1", "P5")
async def test_a_job_commits_and_rolls_back_with_a_sync_transaction(
    dsn: str, opens: Callable[[str], AbstractContextManager[Theirs]]
) -> None:
    """Q1 "transactional enqueue on the caller's connection": the Jobs is named, and need not be open."""
    jobs = Jobs(dsn)

    def work() -> None:
        with opens(dsn) as theirs:
            with theirs.begin():
                theirs.run("create table mine (n int)")
                handle = greet.set(on=theirs.on, jobs=jobs, tags=["a'b", "%s"], meta={"k": ODD}).later_sync(
                    ODD
                )
                assert isinstance(handle, Handle)
                greet.set(on=theirs.on, jobs=jobs, delay=60).later_sync("later")
            with pytest.raises(ZeroDivisionError), theirs.begin():
                theirs.run("insert into mine values (1)")
                greet.set(on=theirs.on, jobs=jobs).later_sync("never")
                raise ZeroDivisionError

    await asyncio.to_thread(work)
    async with jobs:
        later, odd = await jobs.list_jobs()
    assert (odd.args, odd.tags, odd.meta, odd.state) == (
        {"name": ODD},
        ("a'b", "%s"),
        {"k": ODD},
        "available",
    )
    assert (later.args, later.state) == ({"name": "later"}, "scheduled")


async def test_the_commit_of_a_sync_connection_wakes_the_runner(
    dsn: str, opens: Callable[[str], AbstractContextManager[Theirs]]
) -> None:
    """One that never polls. The handle's awaits are for async code."""

    def work() -> list[Handle[str]]:
        with opens(dsn) as theirs, theirs.begin():
            return [
                greet.set(on=theirs.on).later_sync("Ada"),
                Letter("Bob").later_sync("call", on=theirs.on),
                Letter("Bob").sign.set(on=theirs.on).later_sync("Eve"),
            ]

    async with running(dsn):
        handles = await asyncio.to_thread(work)
        texts = [await handle.result(timeout=20) for handle in handles]
    assert texts == ["hello Ada", "dear Bob", "dear Bob, Eve"]


async def test_a_savepoint_of_a_sync_session_takes_its_job_along(dsn: str) -> None:
    """What was enqueued inside of it, and nothing else."""
    jobs = Jobs(dsn)

    def work() -> None:
        with sync_engine(dsn, "psycopg") as engine, Session(engine) as session, session.begin():
            greet.set(on=session, jobs=jobs).later_sync("stays")
            nested = session.begin_nested()
            greet.set(on=session, jobs=jobs).later_sync("goes")
            nested.rollback()

    await asyncio.to_thread(work)
    assert await names(dsn) == ["stays"]


async def test_inside_of_run_sync_the_sync_session_is_joined(dsn: str) -> None:
    """There SQLAlchemy waits for asyncpg by itself, on the loop's own thread."""
    async with running(dsn) as jobs, engine_on(dsn) as engine:
        async with AsyncSession(engine) as session, session.begin():
            handle = await session.run_sync(lambda sync: greet.set(on=sync).later_sync("from a listener"))
        assert await handle.result(timeout=20) == "hello from a listener"
        async with AsyncSession(engine) as session:
            await session.run_sync(lambda sync: greet.set(on=sync, jobs=jobs).later_sync("never"))
        assert len(await jobs.list_jobs()) == 1


async def test_a_bound_sync_session_is_joined_by_all_code_below(dsn: str) -> None:
    """`with jobs.on(session)`, as `async with` does it for async code."""
    jobs = Jobs(dsn)

    def work() -> None:
        with sync_engine(dsn, "psycopg") as engine, Session(engine) as session:
            with jobs.on(session):
                greet.later_sync("never")
            session.rollback()
            with jobs.on(session):
                greet.later_sync("bound")
            session.commit()

    await asyncio.to_thread(work)
    assert await names(dsn) == ["bound"]


async def test_a_sync_connection_in_autocommit_commits_by_itself(dsn: str) -> None:
    """psycopg's and psycopg2's own: with no transaction open, the job is there at once, and wakes the runner."""

    def work() -> list[Handle[str]]:
        old = psycopg2.connect(dsn)
        old.autocommit = True
        with psycopg.connect(dsn, autocommit=True) as new:
            handles = [greet.set(on=each).later_sync(f"{each.autocommit}") for each in (old, new)]
        old.close()
        return handles

    async with running(dsn) as jobs:
        runner, told_in = runner_of(jobs), set[int]()
        wake = runner.wake

        def heard(lanes: Any) -> None:
            told_in.add(threading.get_ident())
            wake(lanes)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "wake", heard)
            for handle in await asyncio.to_thread(work):
                assert await handle.result(timeout=20) == "hello True"
    assert told_in <= {threading.get_ident()}  # a runner belongs to its loop's thread


# In a thread of the process.


@pytest.mark.seed("P5")
async def test_a_thread_hands_its_call_to_the_loop(dsn: str) -> None:
    """P5 "joins ambient transaction; without one opens its own": it returns when the job is committed."""
    async with running(dsn):

        def work() -> tuple[Handle[str], int]:
            handle = greet.later_sync("Ada")
            with psycopg.connect(dsn) as connection:
                found = connection.execute("select count(*) from asyncjobs.jobs where id = %s", [handle.id])
                return handle, found.fetchone()[0]  # type: ignore[index]

        handle, seen = await asyncio.to_thread(work)
        assert seen == 1
        assert await handle.result(timeout=20) == "hello Ada"


async def test_a_sync_job_enqueues_another(dsn: str) -> None:
    """In its own Jobs, though two are open."""
    async with Jobs(dsn, slots=1), running(dsn) as jobs:
        first = await chain.later("Ada")
        assert await jobs.handle(await first.result(timeout=20)).result(timeout=20) == "hello Ada"


async def test_def_routes_enqueue(dsn: str) -> None:
    """FastAPI's run in threads; with a sync session as a dependency, the job is part of its transaction."""
    with sync_engine(dsn, "psycopg") as engine:
        app = FastAPI()

        def session() -> Iterator[Session]:
            with Session(engine) as session, session.begin():
                yield session

        @app.get("/alone/{name}")
        def alone(name: str) -> int:
            return greet.later_sync(name).id

        @app.get("/joined/{name}")
        def joined(name: str, session: Session = Depends(session, scope="function")) -> int:  # noqa: B008, FAST002
            handle = greet.set(on=session).later_sync(name)
            if name == "Eve":
                raise ZeroDivisionError
            return handle.id

        transport = ASGITransport(app, raise_app_exceptions=False)
        async with running(dsn) as jobs, AsyncClient(transport=transport, base_url="http://test") as client:
            for path in ("/alone/Ada", "/joined/Bob"):
                answer = await client.get(path)
                text = await jobs.handle(answer.json()).result(timeout=20)
                assert text == f"hello {path[-3:]}"
            assert (await client.get("/joined/Eve")).status_code == 500
    assert sorted(await names(dsn)) == ["Ada", "Bob"]


async def test_which_jobs_a_thread_means(dsn: str, database: str) -> None:
    """The one whose block its context is in, or jobs=; a thread with no context of ours has to say which of two."""
    await Jobs(database).migrate()
    async with Jobs(dsn) as one, Jobs(database) as other:
        assert (await asyncio.to_thread(greet.later_sync, "inner")).id
        assert [len(await each.list_jobs()) for each in (one, other)] == [0, 1]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: greet.set(jobs=one).later_sync("named"))
        assert [len(await each.list_jobs()) for each in (one, other)] == [1, 1]
        with pytest.raises(WhichJobs, match="2 Jobs are open in this process"):
            await loop.run_in_executor(None, greet.later_sync, "whose?")
    with pytest.raises(WhichJobs, match="no Jobs is open in this process"):
        await asyncio.to_thread(greet.later_sync, "nobody's")
    with pytest.raises(WhichJobs, match="is not open"):
        await asyncio.to_thread(greet.set(jobs=one).later_sync, "closed")


async def test_contextvars_travel_to_the_loop(dsn: str) -> None:
    """What a thread's context says is said on the loop, too: the object's method reads it when its input is written."""
    said: ContextVar[str] = ContextVar("test_from_sync", default="nothing")
    heard: list[str] = []

    def listen(name: str) -> str:
        heard.append(said.get())
        return name

    @attrs.frozen
    class Listening(Later, kind="test_from_sync:Listening"):
        name: str = attrs.field(converter=listen)

        async def call(self) -> None: ...

    def work() -> None:
        said.set("in the thread")
        listening = Listening("x")
        heard.clear()
        listening.later_sync("call")  # made again on the loop, to see that it comes back equal

    async with Jobs(dsn):
        await asyncio.to_thread(work)
    assert set(heard) == {"in the thread"}


# What cannot be is said at once.


async def test_on_the_loops_own_thread_it_refuses_to_wait(dsn: str) -> None:
    """It would wait for itself for ever."""
    async with Jobs(dsn):
        with pytest.raises(MisusedJobs, match=r"write `await ….later"):
            greet.later_sync("Ada")
    assert await names(dsn) == []


async def test_inputs_that_do_not_fit_are_refused_in_the_thread(dsn: str) -> None:
    """By the errors of `later`."""
    async with Jobs(dsn):
        with pytest.raises(InvalidInput):
            await asyncio.to_thread(greet.later_sync, 3)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await asyncio.to_thread(greet.later_sync, "a\0b")


async def test_a_session_of_a_task_is_not_a_threads(dsn: str) -> None:
    """`jobs.on(…)` binds the task that entered it; a thread it waits for has to pass a connection of its own."""
    async with Jobs(dsn) as jobs, engine_on(dsn) as engine, AsyncSession(engine) as session, jobs.on(session):
        with pytest.raises(WrongConnection, match=r"entered by an async task"):
            await asyncio.to_thread(greet.later_sync, "Ada")


async def test_connections_that_cannot_take_a_job(dsn: str) -> None:
    """Async ones, whole engines, closed, failed, in AUTOCOMMIT, of another database: each is told why."""
    jobs = Jobs(dsn)

    def refused(on: Any, words: str) -> None:
        with pytest.raises(WrongConnection, match=words):
            greet.set(on=on, jobs=jobs).later_sync("nobody")

    async with engine_on(dsn) as engine, AsyncSession(engine) as session:
        refused(session, "AsyncSession .*which is for async code")
        refused(engine, "AsyncEngine .*which is for async code")
    theirs = await asyncpg.connect(dsn)
    refused(theirs, "no connection to enqueue on")
    await theirs.close()
    refused(dsn, "no connection to enqueue on")
    with sync_engine(dsn, "psycopg") as plain, Session(plain) as failed:
        refused(plain, "whole Engine")
        with pytest.raises(DBAPIError):
            failed.execute(sqlalchemy.text("select 1/0"))
        refused(failed, "has already failed")
        closed = plain.connect()
        closed.close()
        refused(closed, "closed SQLAlchemy connection")
        with plain.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            refused(connection, "AUTOCOMMIT")
    lite = sqlalchemy.create_engine("sqlite://")
    with lite.connect() as connection:
        refused(connection, r"sqlite\+pysqlite")
    lite.dispose()
    with psycopg.connect(dsn) as bare:
        with pytest.raises(psycopg.errors.DivisionByZero):
            bare.execute("select 1/0")
        refused(bare, "has failed")
    refused(bare, "closed psycopg connection")
    old = psycopg2.connect(dsn)
    old.close()
    refused(old, "closed psycopg2 connection")


async def test_later_points_at_later_sync(dsn: str) -> None:
    """`later` on a sync session says what to write instead."""
    async with Jobs(dsn):
        with psycopg.connect(dsn) as connection, pytest.raises(WrongConnection, match="later_sync"):
            await greet.set(on=connection).later("Ada")


async def test_a_loop_that_has_ended_is_not_waited_for(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that outlives the application's loop is told that nothing was stored."""
    monkeypatch.setattr(from_sync, "LOOK_EVERY", 0.02)
    jobs, loop = Jobs(dsn), asyncio.new_event_loop()

    def elsewhere(work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    elsewhere(lambda: loop.run_until_complete(jobs.__aenter__()))  # and it stands still now
    with pytest.raises(DatabaseUnavailable, match="has ended, so nothing was stored"):
        await asyncio.to_thread(lambda: greet.set(jobs=jobs).later_sync("Ada"))
    elsewhere(lambda: loop.run_until_complete(jobs.__aexit__()))
    loop.close()
    assert await names(dsn) == []


async def test_what_would_suspend_on_a_sync_connection_is_refused() -> None:
    """There is no loop to come back from; what had begun is closed."""
    closed: list[bool] = []

    async def awaits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(MisusedJobs, match="something awaited"):
        at_once(awaits())
    assert closed == [True]


@pytest.mark.security("SEC-S3")
def test_no_value_is_written_into_a_comment() -> None:
    """psycopg2 writes values into the text, and a line break in one would end the comment it stands in."""
    for name, text in statements().items():
        assert "--" not in _named(text, ["a\nb"])[0], name
