"""Where connections come from: whatever the application connects with, asyncjobs connects with too."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from asyncjobs import DatabaseUnavailable, InvalidOption, Jobs, current_job, job
from asyncjobs._store import opening
from asyncjobs._store.dsn import plain_dsn
from asyncjobs._store.source import DsnSource, EngineSource, PoolSource
from tests.connections import engine_on, sqlalchemy_url

DRIVERS = ["asyncpg", "psycopg"]


@job(kind="test_source:double")
async def double(number: int) -> int:
    return 2 * number


@asynccontextmanager
async def jobs_on(what: str, dsn: str, **given: Any) -> AsyncIterator[Jobs]:
    """A Jobs made from a DSN, a pool, or an engine on a driver."""
    if what == "dsn":
        yield Jobs(dsn, **given)
    elif what == "pool":
        async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool:
            yield Jobs(pool=pool, **given)
    else:
        async with engine_on(dsn, what) as engine:
            yield Jobs(engine=engine, **given)


SOURCES = ["dsn", "pool", *DRIVERS]


@pytest.mark.parametrize("what", SOURCES)
async def test_jobs_are_enqueued_and_run_from_every_source(dsn: str, what: str) -> None:
    """The runner opens its own connections from the same parameters; enqueuing borrows."""
    async with jobs_on(what, dsn) as jobs, jobs.running():
        assert await (await double.later(21)).result(timeout=10) == 42


# An outage.


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("what", SOURCES)
async def test_a_database_that_is_down_is_said_at_once(what: str) -> None:
    """Nobody listens on the port: DatabaseUnavailable, for enqueuing and for looking."""
    down = f"postgresql://nobody@127.0.0.1:{_free_port()}/none"
    async with jobs_on(what, down) as jobs, jobs:
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await double.later(1)
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await jobs.list_jobs()


@pytest.mark.parametrize("what", SOURCES)
async def test_a_network_that_swallows_everything_is_given_up_on(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody accepts and never answers: DatabaseUnavailable in good time, once for all who wait."""
    assert opening.CONNECT_TIMEOUT <= 5
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.5)
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    silent = f"postgresql://nobody@127.0.0.1:{port}/none"
    try:
        async with jobs_on(what, silent) as jobs, jobs:
            started = time.monotonic()
            answers = await asyncio.gather(*(double.later(n) for n in range(20)), return_exceptions=True)
            assert [
                type(answer).__mro__[-6:] for answer in answers if not isinstance(answer, DatabaseUnavailable)
            ] == []
            assert time.monotonic() - started < 8
    finally:
        server.close()
        for writer in accepted:
            writer.transport.abort()


@pytest.mark.parametrize("what", SOURCES)
async def test_a_wrong_name_or_password_is_said(dsn: str, what: str) -> None:
    """Not to be retried for ever in silence: the DSN is wrong."""
    wrong = dsn.replace("/asyncjobs_test", "/no_such_database_asyncjobs_test")
    async with jobs_on(what, wrong) as jobs, jobs:
        with pytest.raises(DatabaseUnavailable, match="does not exist"):
            await double.later(1)


@pytest.mark.parametrize("linger", [0.0, 60.0])
@pytest.mark.parametrize("what", SOURCES)
async def test_a_restarted_server_costs_no_job(
    dsn: str, what: str, linger: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that broke while nobody used them are replaced unseen: in their pool, or kept for the next statement."""
    for kind in (DsnSource, PoolSource, EngineSource):
        monkeypatch.setattr(kind, "linger", linger)
    async with jobs_on(what, dsn) as jobs, jobs:
        for number in range(3):
            await double.later(number)
            admin = await asyncpg.connect(dsn)
            await admin.fetch(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
            await admin.close()
            await asyncio.sleep(0.01)  # the sockets' ends are seen by the loop
        assert len(await jobs.list_jobs()) == 3


@pytest.mark.failure_mode("F47")
async def test_a_pool_without_a_free_connection_is_told_from_an_outage(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that holds the pool's last connection and enqueues without `on=` learns what to do."""
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.2)
    async with (
        asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool,
        Jobs(pool=pool),
        pool.acquire() as held,
    ):
        with pytest.raises(DatabaseUnavailable, match="in use.*on="):
            await double.later(1)
        await double.set(on=held).later(1)
    async with engine_on(dsn, pool_size=1, max_overflow=0) as engine, Jobs(engine=engine), engine.connect():
        with pytest.raises(DatabaseUnavailable, match="Pool size: 1"):
            await double.later(1)


# Parameters.


async def test_the_runners_connections_have_the_pools_settings(dsn: str) -> None:
    """server_settings, and whatever else the pool connects with, odd as it may be."""
    settings = {
        "application_name": "ours",
        "search_path": "nowhere",
        "datestyle": "German",
        "timezone": "Asia/Kathmandu",
    }
    async with asyncpg.create_pool(dsn, min_size=0, server_settings=settings, statement_cache_size=0) as pool:
        connection = await PoolSource(pool).connect()
        try:
            assert await connection.fetchval("show application_name") == "ours"
            assert await connection.fetchval("show search_path") == "nowhere"
        finally:
            await connection.close()
        async with Jobs(pool=pool).running():
            handle = await double.set(delay=0.01, tags=["a"], meta={"b": 1}).later(4)
            assert await handle.result(timeout=10) == 8


async def test_a_pool_with_a_connect_of_its_own_is_connected_by_it(dsn: str) -> None:
    """Where the pool's connections come from a function, ours come from it, too."""
    made = []

    async def connect(*args: Any, **given: Any) -> Any:
        connection = await asyncpg.connect(*args, **given)
        made.append(connection)
        return connection

    async with asyncpg.create_pool(dsn, min_size=0, connect=connect) as pool:
        connection = await PoolSource(pool).connect()
        assert connection in made
        await connection.close()


async def test_codecs_of_a_pool_do_not_disturb(dsn: str) -> None:
    """The application's json codecs, set in `init=`, neither spoil what is enqueued nor what comes back."""

    async def init(connection: Any) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    async with asyncpg.create_pool(dsn, min_size=0, init=init) as pool, Jobs(pool=pool).running() as jobs:
        handle = await double.set(meta={"a": {"b": [1]}}, delay=0.01, tags=["t"]).later(5)
        assert await handle.result(timeout=10) == 10
        found = await handle.job()
        assert (found.args, found.meta, found.result) == ({"number": 5}, {"a": {"b": [1]}}, 10)
        assert found.created_at.tzinfo is not None
        del jobs


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_runners_connections_have_the_engines_arguments(dsn: str, driver: str) -> None:
    """connect_args and events, which no URL tells."""
    arguments: dict[str, Any] = (
        {"server_settings": {"application_name": "ours", "search_path": "nowhere"}}
        if driver == "asyncpg"
        else {"application_name": "ours", "options": "-c search_path=nowhere"}
    )
    database = dsn.rpartition("/asyncjobs_test")[2].partition("?")[0]
    wrong = sqlalchemy_url(dsn, driver).replace("/asyncjobs_test" + database, "/none")
    engine = create_async_engine(wrong, connect_args=arguments)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _args: Any, given: dict[str, Any]) -> None:
        given["database" if driver == "asyncpg" else "dbname"] = "asyncjobs_test" + database

    try:
        connection = await EngineSource(engine).connect()
        try:
            assert await connection.fetchval("show application_name") == "ours"
            assert await connection.fetchval("show search_path") == "nowhere"
            assert await connection.fetchval("select current_database()") == "asyncjobs_test" + database
        finally:
            await connection.close()
        async with Jobs(engine=engine).running():
            assert await (await double.later(3)).result(timeout=10) == 6
    finally:
        await engine.dispose()


async def test_the_urls_words_for_sqlalchemy_alone_are_not_passed_on(dsn: str) -> None:
    """What only SQLAlchemy's dialect understands is not taken for a setting of the server."""
    mark = "&" if "?" in dsn else "?"
    engine = create_async_engine(sqlalchemy_url(dsn) + f"{mark}prepared_statement_cache_size=7")
    try:
        connection = await EngineSource(engine).connect()
        await connection.close()
    finally:
        await engine.dispose()
    async with Jobs(sqlalchemy_url(dsn) + f"{mark}prepared_statement_cache_size=7&ssl=disable") as jobs:
        assert await jobs.list_jobs() == []


async def test_an_engine_with_a_creator_is_connected_by_it(dsn: str) -> None:
    """async_creator= makes the runner's connections as it makes the application's."""
    made = []

    async def create() -> Any:
        connection = await asyncpg.connect(dsn)
        made.append(connection)
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=create)
    try:
        async with Jobs(engine=engine).running():
            assert await (await double.later(3)).result(timeout=10) == 6
        assert len(made) >= 3
    finally:
        await engine.dispose()


@pytest.mark.failure_mode("F47", "F49")
async def test_the_runner_takes_nothing_from_the_engines_pool(dsn: str) -> None:
    """An engine all of whose connections are in use still gets a runner."""
    async with engine_on(dsn, pool_size=1, max_overflow=0) as engine:
        async with engine.connect():
            connection = await EngineSource(engine).connect()
            assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]
        await connection.close()


async def test_an_engine_without_a_pool_serves(dsn: str) -> None:
    """NullPool opens a connection for each use, behind a pooler or in tests."""
    async with engine_on(dsn, poolclass=NullPool) as engine, Jobs(engine=engine).running():
        assert await (await double.later(3)).result(timeout=10) == 6


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_engine_in_autocommit_still_has_transactions_for_jobs(dsn: str, driver: str) -> None:
    """The application works in AUTOCOMMIT; a job's own transaction is one all the same, and the pool is left as it was."""
    async with engine_on(dsn, driver, isolation_level="AUTOCOMMIT", pool_size=1) as engine:
        async with Jobs(engine=engine) as jobs:
            await double.later(1)
            with suppress(ZeroDivisionError):
                async with current_job().transaction() as connection:
                    await connection.execute("create table orders (number int)")
                    await double.later(2)
                    raise ZeroDivisionError
            assert [found.args for found in await jobs.list_jobs()] == [{"number": 1}]
        async with engine.connect() as theirs:
            assert await _autocommits(theirs)
            assert await theirs.scalar(sqlalchemy.text("select to_regclass('orders')")) is None


async def _autocommits(connection: AsyncConnection) -> bool:
    return (await connection.get_raw_connection()).dbapi_connection.autocommit  # type: ignore[no-any-return, union-attr]


@pytest.mark.failure_mode("F51")
async def test_passwords_may_rotate(dsn: str) -> None:
    """connect= is called for every connection."""
    calls = []

    async def connect() -> Any:
        calls.append(1)
        return await asyncpg.connect(dsn)

    async with Jobs("postgresql://stale:password@127.0.0.1:1/none", connect=connect).running():
        assert await (await double.later(2)).result(timeout=10) == 4
    assert len(calls) >= 4  # three of the runner's, and one to enqueue


# Mistakes.


def test_a_dsn_is_checked_where_it_is_given() -> None:
    """Text, of Postgres; the password is not shown."""
    assert (
        plain_dsn("postgresql+asyncpg://a:b@c/d?ssl=require&async_fallback=1")
        == "postgresql://a:b@c/d?sslmode=require"
    )
    assert plain_dsn("postgres://c/d?sslmode=require") == "postgres://c/d?sslmode=require"
    for wrong in ("mysql://u:secret@h/d", "h:5432/secret@d", "u:secret@h", ""):
        with pytest.raises(InvalidOption, match="postgresql://user") as caught:
            Jobs(wrong)
        assert "secret" not in str(caught.value).replace("h:5432/secret", "")
    with pytest.raises(InvalidOption, match="URL"):
        Jobs(sqlalchemy.make_url("postgresql://h/d"))  # type: ignore[arg-type]
    assert "secret" not in repr(Jobs("postgresql://u:secret@h/d?password=secret"))


async def test_what_is_no_pool_and_no_engine_is_refused() -> None:
    """The most likely mixtures, each with what it takes instead."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://h/d")
    for given in ({"pool": engine}, {"pool": "postgresql://h/d"}):
        with pytest.raises(InvalidOption, match="asyncpg pool"):
            Jobs(**given)
    with pytest.raises(InvalidOption, match="AsyncEngine"):
        Jobs(engine=engine)
    with pytest.raises(InvalidOption, match="one of"):
        Jobs("postgresql://h/d", engine=engine)
    with pytest.raises(InvalidOption, match="one of"):
        Jobs()


async def test_a_dsn_is_closed_although_somebody_holds_a_connection(dsn: str) -> None:
    """At the end nobody is waited for."""
    ours = DsnSource(dsn)
    async with ours.connection() as connection:
        await ours.close()
        with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
            await connection.fetchval("select 1")


async def test_the_first_uses_at_once_share_one_pool(dsn: str) -> None:
    """However many ask first, one pool is made, and it is closed."""
    async with Jobs(dsn) as jobs:
        await asyncio.gather(*(jobs.list_jobs() for _ in range(30)))
    admin = await asyncpg.connect(dsn)
    try:
        left = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        async with asyncio.timeout(10):
            while await admin.fetchval(left + " and backend_type = 'client backend'"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await admin.close()


async def test_behind_a_pooler_nothing_is_prepared(dsn: str) -> None:
    """`listen=False` is for transaction poolers, where the next statement may meet another server."""
    async with Jobs(dsn, listen=False) as jobs:
        await jobs.count_jobs()
        async with jobs.connection() as connection:
            await connection.fetch("select 1 where $1::int = 1", 1)
            assert not await connection.fetch(
                "select from pg_prepared_statements where statement like '%where $1::int%'"
            )
