"""A runner in this process, with the times a test needs, and who watches it from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import attrs

from asyncjobs import Jobs
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._runner.runner import Runner
from asyncjobs._store.session import Session
from tests.waiting import eventually_async

NEVER = Rhythm(poll=3600.0)
"""Nothing is found by looking now and then: whatever starts was woken."""

IDLE = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1634364777 and granted"

QUIET = """
select bool_and(state = 'idle' and state_change < clock_timestamp() - interval '70 ms')
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


@asynccontextmanager
async def running(
    dsn: str, *, rhythm: Rhythm = NEVER, wait: bool = True, **given: Any
) -> AsyncIterator[Jobs]:
    """Jobs that run, connected."""
    jobs = Jobs(dsn, **given)
    jobs._settings = attrs.evolve(jobs._settings, rhythm=rhythm)
    async with jobs.running():
        if wait:
            await runner_of(jobs).connected()
        yield jobs


def runner_of(jobs: Jobs) -> Runner:
    """The runner of *jobs*, which are running."""
    assert jobs._supervisor is not None
    return jobs._supervisor.runner


@asynccontextmanager
async def watching(dsn: str) -> AsyncIterator[Watcher]:
    """Somebody with a connection of their own."""
    connection = await asyncpg.connect(dsn)
    try:
        yield Watcher(connection)
    finally:
        await connection.close(timeout=5)


@attrs.define(eq=False)
class Watcher:
    """Looks into the database, and listens."""

    connection: Any
    heard: list[str] = attrs.field(factory=list)

    @property
    def session(self) -> Session:
        return Session(self.connection, "asyncjobs")

    async def listen(self, channel: str = "asyncjobs:ready") -> None:
        """Keep what is said on *channel* in `heard`."""
        await self.connection.add_listener(channel, lambda *said: self.heard.append(said[3]))

    async def hears_all_that_was_said(self) -> list[str]:
        """What was heard of everything committed until now."""
        await self.connection.execute("notify asyncjobs_test_watcher")
        await self.connection.fetchval("select 1")
        await asyncio.sleep(0)
        return self.heard

    async def idle_announcements(self) -> int:
        """How many announcements that a runner is idle stand."""
        count: int = await self.connection.fetchval(IDLE)
        return count

    async def until_quiet(self) -> None:
        """Wait until nobody sends anything."""

        async def quiet() -> bool:
            return bool(await self.connection.fetchval(QUIET))

        await eventually_async(quiet)

    async def until_idle(self, announcements: int = 1) -> None:
        """Wait until so many announcements stand and nobody sends anything: the runners sleep."""

        async def asleep() -> bool:
            return await self.idle_announcements() == announcements and bool(
                await self.connection.fetchval(QUIET)
            )

        await eventually_async(asleep)
