"""What a connection needs changes while processes run: the password, and where the server is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from asyncjobs import DatabaseUnavailable, Jobs, job
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from tests.engine.running import running
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@job(kind="rotations:double")
async def double(number: int) -> int:
    return 2 * number


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def server() -> Iterator[Embedded]:
    """One that asks for a password."""
    embedded = Embedded(settings=TEST_SETTINGS, keep=False, port=free_port())
    with embedded.running():
        yield embedded


@pytest.mark.failure_mode("F51")
async def test_a_password_is_changed_under_a_runner(server: Embedded) -> None:
    """Connections stay, new ones are refused until `connect=` knows the new one; then all is as before, and nothing is lost."""
    dsn = server.dsn()
    admin = await asyncpg.connect(dsn)
    await admin.execute("create role shop login superuser password 'one'")
    known = "one"

    async def connect() -> Any:
        return await asyncpg.connect(dsn, user="shop", password=known)

    await Jobs(dsn).migrate()
    async with running(dsn, connect=connect) as jobs:
        assert await (await double.later(1)).result(timeout=10) == 2
        await admin.execute("alter role shop password 'two'")
        assert await (await double.later(2)).result(timeout=10) == 4
        waits = await double.set(delay=0.2).later(3)
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'shop'")

        async def is_degraded() -> bool:
            return jobs.is_degraded

        await eventually_async(is_degraded)

        async def is_refused() -> bool:
            with pytest.raises(DatabaseUnavailable) as caught:
                await double.later(4)
            return "refuses the connection" in str(caught.value)

        await eventually_async(is_refused)
        known = "two"
        assert await waits.result(timeout=20) == 6
        assert (await waits.job()).attempt == 1
        assert await (await double.later(5)).result(timeout=10) == 10
    await admin.close()


@pytest.mark.failure_mode("F51")
async def test_the_server_moves_under_a_runner() -> None:
    """Stopped here and started there, as behind a name that points elsewhere: `connect=` is asked where it is each time."""
    first = Embedded(settings=TEST_SETTINGS, keep=False, port=free_port())
    second = Embedded(settings=TEST_SETTINGS, keep=False, port=free_port())
    with first.running() as dsn, second.running() as new:
        for each in (dsn, new):
            await Jobs(each).migrate()
        where = dsn

        async def connect() -> Any:
            return await asyncpg.connect(where)

        async with running(dsn, connect=connect):
            assert await (await double.later(1)).result(timeout=10) == 2
            where = new
            admin = await asyncpg.connect(dsn)
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
            await admin.close()

            async def works_there() -> bool:
                try:
                    handle = await double.later(2)
                    return await handle.result(timeout=10) == 4
                except DatabaseUnavailable:
                    return False

            await eventually_async(works_there)
        admin = await asyncpg.connect(new)
        assert await admin.fetchval("select count(*) from asyncjobs.jobs where state = 'completed'") == 1
        await admin.close()
