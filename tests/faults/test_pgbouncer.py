"""Behind PgBouncer in transaction mode: each transaction may be on another server connection than the last."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from asyncjobs import Cancel, Constant, JobCancelled, JobFailed, Jobs, JobState, current_job, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import running, watching
from tests.faults.poolers import pgbouncer
from tests.store.jobs import new_job, store
from tests.waiting import eventually_async

ran: Counter[Any] = Counter()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    ran.clear()
    gate = asyncio.Event()


@job(kind="pgbouncer:twice")
async def twice(number: int) -> int:
    ran[number] += 1
    return number * 2


@job(kind="pgbouncer:fails", max_attempts=3, backoff=Constant(0.02))
async def fails() -> None:
    ran["fails"] += 1
    raise ValueError("as ever")


@job(kind="pgbouncer:hold")
async def hold() -> None:
    ran["hold"] += 1
    await gate.wait()


@job(kind="pgbouncer:commits")
async def commits(name: str) -> None:
    async with current_job().transaction() as connection:
        await connection.execute("insert into effects values ($1)", name)
        await connection.execute("select pg_sleep(0.01)")
        if name == "undone":
            raise Cancel("no")


@pytest.fixture
async def pooled(dsn: str) -> AsyncIterator[str]:
    """The DSN of the database through a pooler with three server connections."""
    async with pgbouncer(dsn) as through:
        yield through


@pytest.mark.failure_mode("F48")
async def test_jobs_run_behind_a_transaction_pooler(pooled: str, dsn: str) -> None:
    """Nobody says that there is one. Enqueued and run by polling alone: results, retries, cancelling, pausing and completing with one's own writes."""
    async with watching(dsn) as other:
        await other.connection.execute("create table effects (name text)")
        async with running(pooled, rhythm=Rhythm(), slots=5) as jobs:
            handles = await asyncio.gather(*(twice.later(number) for number in range(200)))
            results = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
            assert results == [number * 2 for number in range(200)]
            assert set(ran.values()) == {1}

            failing = await fails.later()
            with pytest.raises(JobFailed, match="as ever"):
                await failing.result(timeout=20)
            assert ran["fails"] == 3

            held = await hold.later()
            await eventually_async(lambda: has_run("hold"))
            assert await held.cancel() == "requested"
            with pytest.raises(JobCancelled):
                await held.result(timeout=20)

            await jobs.pause("default")
            await asyncio.sleep(1.2)
            paused = await twice.later(1000)
            await asyncio.sleep(0.5)
            assert await paused.status() is JobState.AVAILABLE
            await jobs.resume("default")
            assert await paused.result(timeout=20) == 2000

            done, undone = await commits.later("done"), await commits.later("undone")
            await done.result(timeout=20)
            with pytest.raises(JobCancelled):
                await undone.result(timeout=20)
            assert [row[0] for row in await other.connection.fetch("select name from effects")] == ["done"]

            await store(other.session, new_job("pgbouncer:twice", "default", args='{"number": -1}'))
            await eventually_async(lambda: has_run(-1))
        await nothing_is_left(other.connection)


async def nothing_is_left(connection: asyncpg.Connection) -> None:
    """No lock, no LISTEN and no setting stays with a server connection for its next user."""
    locks = "select count(*) from pg_locks where locktype = 'advisory'"
    assert await connection.fetchval(locks) == 0
    assert await connection.fetchval("select count(*) from asyncjobs.runners") == 0


async def has_run(what: Any) -> bool:
    return bool(ran[what])


@pytest.mark.failure_mode("F48")
async def test_two_runners_behind_a_pooler_do_not_take_each_other_for_dead(pooled: str, dsn: str) -> None:
    """They hold no locks: their leases speak for them."""
    alert = Vigilance(look_every=0.05, settle=0.1, lease=1.0, renew_every=0.1)
    async with (
        running(pooled, rhythm=Rhythm(), vigilance=alert),
        watching(dsn) as other,
    ):
        second = Jobs(pooled, vigilance=alert)
        async with second.running():
            handle = await hold.set(jobs=second).later()
            await eventually_async(lambda: has_run("hold"))
            await asyncio.sleep(1.5)
            gate.set()
            await handle.result(timeout=20)
            assert ran["hold"] == 1
            rows = await other.connection.fetch(
                "select distinct attempt, crashes, token from asyncjobs.finished_jobs"
            )
            assert [tuple(row) for row in rows] == [(1, 0, 1)]
