"""Where nobody may be notified: the server's queue of notifications is full, or the transaction is to be prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from asyncjobs import Jobs, job
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from tests.waiting import eventually_async

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """Its queue has 64 pages: the fewest there may be."""
    server = Embedded(
        settings={**TEST_SETTINGS, "max_notify_queue_pages": "64", "max_prepared_transactions": "5"},
        keep=False,
    )
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def database(server: Embedded, name: str) -> AsyncIterator[str]:
    """The DSN of a migrated database."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(f"create database {name}")
    try:
        await Jobs(server.dsn(name)).migrate()
        yield server.dsn(name)
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


@asynccontextmanager
async def full(dsn: str) -> AsyncIterator[None]:
    """The server's queue of notifications is full."""
    listener, talker = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await listener.execute("listen elsewhere")
        await listener.execute("begin; select 1")  # what arrives waits for the end of this transaction

        async def filled() -> bool:
            # What an earlier listener had left unread goes when it is looked at, so that the first error may come too early.
            with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
                for number in range(10_000):
                    await talker.execute(f"select pg_notify('elsewhere', '{number}' || repeat('x', 7000))")
            return bool(await talker.fetchval("select pg_notification_queue_usage()") > 0.9)

        await eventually_async(filled)
        yield
    finally:
        await listener.close()
        await talker.close()


@job(kind="test_notifications:echo")
async def echo(word: str) -> str:
    return word


@job(kind="test_notifications:hold")
async def hold() -> None:
    await asyncio.Event().wait()


async def _would_be_notified(session: asyncpg.Connection) -> bool:
    """A runner has announced that it is idle."""
    announced = "select true from pg_locks where locktype = 'advisory' and classid = 1634364777 and mode = 'ShareLock'"
    return bool(await session.fetchval(announced))


@pytest.mark.failure_mode("F62")
async def test_a_full_queue_fails_no_commit(server: Embedded) -> None:
    """Enqueuing beside an idle runner, finishing what is awaited, cancelling, pausing: all of it goes on, found by looking."""
    async with database(server, "stuffed") as dsn, Jobs(dsn, slots=2).running() as jobs:
        application = await asyncpg.connect(dsn)
        await eventually_async(lambda: _would_be_notified(application))
        async with full(dsn):
            async with application.transaction():
                handle = await echo.set(on=application).later("in a transaction of the application")
            assert await handle.result(timeout=20) == "in a transaction of the application"
            held = await hold.set(on=application).later()

            async def runs() -> bool:
                return await held.status() == "running"

            await eventually_async(runs)
            assert await held.cancel() == "requested"

            async def cancelled() -> bool:
                return await held.status() == "cancelled"

            await eventually_async(cancelled)
            await jobs.pause("default")
            await jobs.resume("default")
        await application.close()


@pytest.mark.failure_mode("F62")
async def test_a_full_queue_does_not_look_like_a_pooler(server: Embedded) -> None:
    """A runner that starts meanwhile goes by the lock all the same, and listens: the queue will be empty one day."""
    async with database(server, "started") as dsn, full(dsn), Jobs(dsn).running() as jobs:
        await jobs.work_off()
        assert jobs.modes is not None
        assert (jobs.modes.liveness, jobs.modes.wake) == ("lock", "notify")


@pytest.mark.failure_mode("F64")
async def test_jobs_of_a_two_phase_commit(server: Embedded) -> None:
    """A transaction that notified cannot be prepared. A session that says so notifies nobody: its jobs are found by looking."""
    async with database(server, "prepared") as dsn, Jobs(dsn).running() as jobs:
        application = await asyncpg.connect(dsn)
        await eventually_async(lambda: _would_be_notified(application))
        await application.execute("begin")
        await echo.set(on=application).later("loud")
        with pytest.raises(asyncpg.PostgresError, match="NOTIFY"):
            await application.execute("prepare transaction 'loud'")
        await application.execute("begin; set local asyncjobs_session.notify = off")
        handle = await echo.set(on=application).later("in two phases")
        await application.execute("prepare transaction 'quiet'")
        assert await jobs.get_job(handle.id) is None
        await application.execute("commit prepared 'quiet'")
        assert await handle.result(timeout=20) == "in two phases"
        await application.close()
