"""A DSN that names several hosts: one of them takes writes, and the others may be anything."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from asyncjobs import DatabaseUnavailable, Jobs, job
from asyncjobs._store.hosts import Host, hosts_of
from asyncjobs._store.probes import is_pooled
from asyncjobs._store.source import DsnSource, PoolSource
from tests.network import network
from tests.waiting import eventually_async


@job(kind="hosts:nothing")
async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://u:p@one/db", [Host("one", None)]),
        ("postgresql://u:p@one:1,two:2/db", [Host("one", "1"), Host("two", "2")]),
        ("postgresql://u@one,two:2/db?sslmode=disable", [Host("one", None), Host("two", "2")]),
        ("postgresql://[::1]:1,[::2]/db", [Host("::1", "1"), Host("::2", None)]),
        ("postgresql:///db?host=/a,/b&port=1,2", [Host("/a", "1"), Host("/b", "2")]),
        ("postgresql:///db?host=one,two&port=7", [Host("one", "7"), Host("two", "7")]),
        ("postgresql:///db?host=one,two", [Host("one", None), Host("two", None)]),
        ("postgresql:///db", []),
        ("postgresql:///db?host=one,two,three&port=1,2", []),  # asyncpg says what is wrong with it
        ("postgresql://%2Ftmp%2Fa:1,two/db", [Host("/tmp/a", "1"), Host("two", None)]),
    ],
)
def test_every_host_is_read(dsn: str, hosts: list[Host]) -> None:
    """However they are written."""
    assert hosts_of(dsn) == hosts


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are accepted by the kernel, and answered by nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def beside(by_us: str, *ports: int) -> str:
    """The DSN *by_us*, with hosts before it."""
    parts = urlsplit(by_us)
    user, _, host = parts.netloc.rpartition("@")
    others = "".join(f"127.0.0.1:{port}," for port in ports)
    return f"postgresql://{user}@{others}{host}{parts.path}"


@pytest.mark.failure_mode("F57")
async def test_a_host_that_is_gone_without_a_word_holds_nobody_up(dsn: str, silent: int) -> None:
    """It has a head start, and not the whole time; afterwards the one that answered is asked first."""
    async with network(dsn) as way:
        source = DsnSource(beside(way.dsn, closed(), silent))
        started = time.monotonic()
        first = await source.connect()
        took = time.monotonic() - started
        assert 0.5 <= took < 4.5, took
        assert [str(host.port) for host in source._hosts._hosts][0] == str(urlsplit(way.dsn).port)
        again = await source.connect()
        for connection in (first, again):
            assert await connection.fetchval("select 1") == 1
            assert not is_pooled(connection)
            await connection.close()
        async with source.connection() as connection:
            assert await connection.fetchval("select 1") == 1
        await source.close()


@pytest.mark.failure_mode("F57")
async def test_of_several_hosts_one_that_takes_writes_is_used(dsn: str) -> None:
    """Without a word in the DSN; a reader is left at once, and a DSN that wants one has it."""
    admin = await asyncpg.connect(dsn)
    name = urlsplit(dsn).path.removeprefix("/")
    async with network(dsn) as reader, network(dsn) as writer:
        # The same database twice; who comes by the first way may only read.
        await admin.execute(f'create role reads login; grant connect on database "{name}" to reads')
        await admin.execute("alter role reads set default_transaction_read_only = on")
        try:
            alone = DsnSource(reader.dsn.replace("postgres@", "reads@"))
            both = f"postgresql://reads@127.0.0.1:{urlsplit(reader.dsn).port},127.0.0.1:{urlsplit(writer.dsn).port}/{name}"
            connection = await alone.connect()
            assert await connection.fetchval("show transaction_read_only") == "on"
            await connection.close()
            with pytest.raises(DatabaseUnavailable):
                await DsnSource(both).connect()
            connection = await DsnSource(f"{both}?target_session_attrs=any").connect()
            await connection.close()
        finally:
            await admin.execute("drop owned by reads; drop role reads")
            await admin.close()


async def test_what_the_server_itself_says_comes_before_silence(dsn: str) -> None:
    """A database that is not there is not reported as a host that is not there."""
    async with network(dsn) as way:
        wrong = beside(way.dsn, closed()).rpartition("/")[0] + "/nowhere"
        with pytest.raises(DatabaseUnavailable, match="nowhere"):
            await DsnSource(wrong).connect()
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await DsnSource(f"postgresql://postgres@127.0.0.1:{closed()},127.0.0.1:{closed()}/x").connect()


async def test_whoever_lost_the_race_is_hung_up_on(dsn: str) -> None:
    """Giving up while hosts are dialled leaves no connection behind."""
    async with network(dsn) as way:
        before = asyncio.all_tasks()
        way.swallow()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await DsnSource(beside(way.dsn, closed())).connect()

        async def all_ended() -> bool:
            return {task for task in asyncio.all_tasks() - before if "open_connection" in repr(task)} == set()

        await eventually_async(all_ended, within=4)  # by itself each would end after 5
        way.restore()


@pytest.mark.failure_mode("F57")
async def test_a_connection_to_a_demoted_primary_leaves_the_pool(dsn: str) -> None:
    """Ours and the application's: the next statement has another one, to whoever is the primary now."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=3)
    source = DsnSource(dsn)
    try:
        for each in (source, PoolSource(pool)):
            async with each.connection() as connection:
                before = await connection.fetchval("select pg_backend_pid()")
                await connection.execute("set session characteristics as transaction read only")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with each.connection() as connection:
                    await connection.execute("set default_transaction_read_only = on")
                    assert await connection.fetchval("select pg_backend_pid()") == before
                    await connection.execute("create table never (x integer)")
            async with each.connection() as connection:
                assert await connection.fetchval("select pg_backend_pid()") != before
                await connection.execute("create temporary table now (x integer)")
    finally:
        await source.close()
        await pool.close()


async def test_jobs_run_over_several_hosts(dsn: str, silent: int) -> None:
    """Enqueued and run; one of the hosts is not there."""
    async with network(dsn) as way, Jobs(beside(way.dsn, closed())).running() as jobs:
        assert jobs.modes is None or jobs.modes.hears
        await (await nothing.later()).result(timeout=20)
    assert parse_qs(urlsplit(dsn).query)["host"]
