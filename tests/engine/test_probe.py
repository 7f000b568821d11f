"""What works with a database is found out by trying, each time a runner reaches one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncjobs import Jobs, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._engine.link import link
from asyncjobs._keeper import probe
from asyncjobs._model.modes import Modes
from asyncjobs._store.source import DsnSource, EngineSource, Source
from tests.engine.running import NEVER, Watcher, runner_of, running, watching
from tests.faults.poolers import pgbouncer
from tests.waiting import eventually_async


@job(kind="probe:echo")
async def echo(number: int) -> int:
    return number


LEFT = """
select count(*) from pg_locks where locktype = 'advisory' and classid <> 1634364777
"""


async def test_with_nobody_between_everything_works(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A lock proves a runner alive and notifications wake it; one line of the log says so, and why."""
    caplog.set_level(logging.INFO, "asyncjobs")
    async with running(dsn) as jobs, watching(dsn) as other:
        assert jobs.modes == Modes("lock", "notify")
        said = [record.getMessage() for record in caplog.records if "liveness" in record.getMessage()]
        (line,) = said
        assert line.startswith("liveness lock, wake notify (nobody is between, locks hold, ")
        assert await (await echo.later(1)).result(timeout=20) == 1
        assert await other.connection.fetchval(LEFT) == 1  # the runner's own; nothing of the probe's
    assert jobs.modes is None


async def test_what_is_said_by_hand_is_not_looked_into(dsn: str) -> None:
    """True relies on a session, False does not."""
    async with running(dsn, listen=False) as jobs:
        assert jobs.modes == Modes("lease", "poll")
    async with running(dsn, listen=True) as jobs:
        assert jobs.modes == Modes("lock", "notify")


@pytest.mark.failure_mode("F48")
@pytest.mark.parametrize("size", [1, 3])
async def test_a_transaction_pooler_is_recognised(dsn: str, size: int) -> None:
    """However few connections it has to the server: each of its clients is told a backend that is none."""
    async with pgbouncer(dsn, size=size) as through, watching(dsn) as other:
        async with running(through, rhythm=Rhythm()) as jobs:
            assert jobs.modes == Modes("lease", "poll")
            handles = [await echo.later(number) for number in range(20)]
            assert [await handle.result(timeout=20) for handle in handles] == list(range(20))
            assert (
                await other.connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'")
                == 0
            )
        prepared = "select count(*) from pg_prepared_statements"
        connection = await asyncpg.connect(through, statement_cache_size=0)
        assert await connection.fetchval(prepared) == 0
        assert await connection.fetchval("select count(*) from pg_listening_channels()") == 0
        await connection.close()


@pytest.mark.failure_mode("F48")
async def test_behind_a_session_pooler_notifications_wake_and_no_lock_is_believed(dsn: str) -> None:
    """A pooler may keep a session, and its locks, that nobody uses any more."""
    async with (
        pgbouncer(dsn, mode="session", size=20) as through,
        watching(dsn) as other,
        running(through, rhythm=NEVER) as jobs,
    ):
        assert jobs.modes == Modes("lease", "notify")
        await other.until_idle()
        async with Jobs(dsn) as elsewhere:
            handle = await echo.set(jobs=elsewhere).later(7)
            assert await handle.result(timeout=20) == 7


@pytest.mark.parametrize(
    ("driver", "between", "expected"),
    [
        ("asyncpg", False, Modes("lock", "notify")),
        ("psycopg", False, Modes("lock", "notify")),
        ("psycopg", True, Modes("lease", "poll")),
    ],
)
async def test_an_engines_way_to_the_server_is_looked_into(
    dsn: str, driver: str, between: bool, expected: Modes
) -> None:
    """The runner's own connections are opened as the engine's are, on whatever loop the keeper has."""
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(pgbouncer(dsn)) if between else dsn
        more = {"connect_args": {"prepare_threshold": None}} if between else {}
        engine = create_async_engine(there.replace("postgresql://", f"postgresql+{driver}://", 1), **more)
        stack.push_async_callback(engine.dispose)
        jobs = await stack.enter_async_context(Jobs(engine=engine).running())
        await runner_of(jobs).connected()
        assert jobs.modes == expected
        handles = [await echo.later(number) for number in range(10)]
        assert [await handle.result(timeout=20) for handle in handles] == list(range(10))


@pytest.mark.parametrize("what", ["dsn", "psycopg"])
async def test_connections_opened_at_once_through_a_pooler_prepare_nothing(dsn: str, what: str) -> None:
    """Whichever of them finds out first: a statement prepared on one server is unknown to the next."""
    async with AsyncExitStack() as stack:
        through = await stack.enter_async_context(pgbouncer(dsn, size=1))
        source: Source = DsnSource(through)
        if what == "psycopg":
            url = through.replace("postgresql://", "postgresql+psycopg://", 1)
            engine = create_async_engine(url, connect_args={"prepare_threshold": None})
            stack.push_async_callback(engine.dispose)
            source = EngineSource(engine)
        connections = await asyncio.gather(*(source.connect() for _ in range(5)))
        for connection in connections:
            stack.push_async_callback(connection.close)
            assert await connection.fetchval("select 7") == 7
        assert await connections[0].fetchval("select count(*) from pg_prepared_statements") == 0


async def test_only_enqueuing_through_a_pooler_needs_no_word_either(dsn: str) -> None:
    """No statement is prepared, and results are polled for."""
    async with pgbouncer(dsn) as through, running(dsn), Jobs(through) as jobs:
        handles = await asyncio.gather(*(echo.set(jobs=jobs).later(number) for number in range(30)))
        assert [await handle.result(timeout=20) for handle in handles] == list(range(30))


@pytest.fixture
async def strange(dsn: str) -> AsyncIterator[Watcher]:
    """Lets the database do functions of its own instead of Postgres'."""
    async with watching(dsn) as other:
        await other.connection.execute("create schema strange")
        name = await other.connection.fetchval("select current_database()")
        await other.connection.execute(
            f'alter database "{name}" set search_path = strange, pg_catalog, public'
        )
        yield other


async def test_locks_that_lock_nothing_are_not_relied_on(dsn: str, strange: Watcher) -> None:
    """Some servers take the function and do nothing: then the lease speaks, and jobs are polled for."""
    for name in ("pg_try_advisory_lock", "pg_try_advisory_xact_lock", "pg_advisory_unlock"):
        await strange.connection.execute(
            f"create function strange.{name}(integer, integer) returns boolean language sql as 'select true'"
        )
    async with running(dsn, rhythm=Rhythm()) as jobs:
        assert jobs.modes == Modes("lease", "poll")
        assert await (await echo.later(1)).result(timeout=20) == 1


async def test_where_nothing_is_heard_jobs_are_polled_for(
    dsn: str, strange: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock proves the runner alive all the same."""
    monkeypatch.setattr(probe, "HEARD_WITHIN", 0.1)
    await strange.connection.execute(
        "create or replace function asyncjobs.notify(channel text, payload text) returns text language sql as "
        "$$ select 'said, and heard by nobody' $$"
    )
    async with running(dsn, rhythm=Rhythm()) as jobs:
        assert jobs.modes == Modes("lock", "poll")
        assert await (await echo.later(1)).result(timeout=20) == 1


async def test_what_the_server_does_not_know_is_no_fault(dsn: str, strange: Watcher) -> None:
    """A function that is refused counts as one that does not work."""
    await strange.connection.execute(
        "create function strange.pg_try_advisory_xact_lock(integer, integer) returns boolean language plpgsql as "
        "$$ begin raise feature_not_supported; end $$"
    )
    async with running(dsn, rhythm=Rhythm()) as jobs:
        assert jobs.modes == Modes("lease", "poll")


async def test_a_server_whose_claims_wait_for_each_other_is_refused(
    dsn: str, strange: Watcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing runs, and the log says why, also when the server was away before."""
    monkeypatch.setattr(probe, "PASSED_WITHIN", 0.1)
    await strange.connection.execute(
        "create function strange.wait() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(1); return null; end $$"
    )
    await strange.connection.execute(
        "create trigger wait before update on asyncjobs.live_jobs for each statement execute function strange.wait()"
    )
    is_away = True

    async def connect() -> Any:
        if is_away:
            raise ConnectionRefusedError("away")
        return await asyncpg.connect(dsn)

    async with running(dsn, connect=connect, wait=False) as jobs:
        await eventually_async(lambda: says(caplog, "the keeper lost Postgres"))
        is_away = False
        await eventually_async(lambda: says(caplog, "does not pass over rows"))
        assert jobs.is_degraded
        assert jobs.modes is None
        await strange.connection.execute("drop trigger wait on asyncjobs.live_jobs")
        await runner_of(jobs).connected()


async def says(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


async def test_another_way_to_the_server_is_looked_into_anew(dsn: str) -> None:
    """After a failover, or a change of network: what worked before proves nothing."""
    async with pgbouncer(dsn) as through, watching(dsn) as other:
        ways = [dsn]

        async def connect() -> Any:
            return await asyncpg.connect(ways[0], statement_cache_size=0)

        async with running(dsn, connect=connect, rhythm=Rhythm()) as jobs:
            assert jobs.modes == Modes("lock", "notify")
            ways[0] = through
            await other.connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            await eventually_async(lambda: is_in(jobs, Modes("lease", "poll")))
            assert await (await echo.later(1)).result(timeout=20) == 1


async def is_in(jobs: Jobs, modes: Modes) -> bool:
    return jobs.modes == modes and runner_of(jobs).is_connected


async def test_a_server_that_was_away_at_the_start_is_looked_into_when_it_comes(dsn: str) -> None:
    """Starting degraded is no reason to believe anything."""
    is_away = True

    async def connect() -> Any:
        if is_away:
            raise ConnectionRefusedError("away")
        return await asyncpg.connect(dsn)

    async with running(dsn, connect=connect, wait=False) as jobs:
        assert jobs.modes is None
        is_away = False
        await runner_of(jobs).connected()
        assert jobs.modes == Modes("lock", "notify")


async def test_a_full_server_is_not_asked_for_more(dsn: str) -> None:
    """The probe's second connection is worth less than the runner's own."""
    async with watching(dsn) as other, AsyncExitStack() as stack:
        name = await other.connection.fetchval("select current_database()")
        await other.connection.execute("create role few login; grant pg_read_all_settings to few")
        await other.connection.execute(
            f"grant all on schema asyncjobs to few; grant all on all tables in schema asyncjobs to few; "
            f'alter role few connection limit 1; grant connect on database "{name}" to few'
        )
        try:
            source = DsnSource(dsn.replace("postgres@", "few@"))
            connection = await source.connect()
            stack.push_async_callback(connection.close)
            from asyncjobs._store.session import Session

            found = await probe.find_modes(Session(connection, "asyncjobs"), source)
            assert found == Modes("lock", "notify")
            assert "full" in found.why
        finally:
            await stack.aclose()
            await other.connection.execute("drop owned by few; drop role few")


async def test_looking_takes_a_moment(dsn: str) -> None:
    """A dozen statements or so, and one more connection: on a quiet machine some 15 ms, which is for a benchmark to say."""
    asked: list[str] = []
    opened: list[Any] = []

    async def connect() -> Any:
        connection = await asyncpg.connect(dsn)
        connection.add_query_logger(lambda record: asked.append(record.query))
        opened.append(connection)
        return connection

    source = DsnSource(dsn, connect)
    async with link(source, "asyncjobs") as session:
        asked.clear()
        await probe.find_modes(session, source)
        assert len(opened) == 2
        assert opened[1].is_closed()
        assert len(asked) <= 17, asked
    async with watching(dsn) as other:
        assert await other.connection.fetchval(LEFT) == 0
