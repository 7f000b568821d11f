"""A runner in this process by the public API alone, for the tests of what users are promised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from asyncjobs import Jobs
from tests.waiting import eventually_async

IDLE = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1634364777 and granted"
"""How many announcements of runners that are idle stand in this server's database: what Postgres says of it."""


@asynccontextmanager
async def running(dsn: str, *, wait: bool = True, **given: Any) -> AsyncIterator[Jobs]:
    """Jobs that run, connected. They look by themselves once an hour: whatever starts was woken."""
    async with Jobs(dsn, **{"poll": 3600, **given}).running() as jobs:
        if wait:
            await until_connected(jobs)
        yield jobs


async def until_connected(jobs: Jobs) -> None:
    """Wait until the runner of *jobs* has reached Postgres."""

    async def is_connected() -> bool:
        return jobs.modes is not None and not jobs.is_degraded

    await eventually_async(is_connected)


async def until_idle(dsn: str, runners: int = 1) -> None:
    """Wait until so many runners of the database have announced that they are idle."""
    connection = await asyncpg.connect(dsn)
    try:

        async def asleep() -> bool:
            there: int = await connection.fetchval(
                f"{IDLE} and database = (select oid from pg_database where datname = current_database())"  # noqa: S608
            )
            return there == runners

        await eventually_async(asleep)
    finally:
        await connection.close(timeout=5)
