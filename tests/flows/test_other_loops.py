"""The same on another event loop: uvloop keeps its own timers, sockets, signals and order of callbacks."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Any

import asyncpg
import pytest

from asyncjobs import Constant, JobCancelled, JobFailed, Jobs, JobState, current_job, job
from tests.engine.running import running
from tests.features import need
from tests.waiting import eventually_async

S = JobState
told: list[str] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    told.clear()


@job(kind="loops:twice", max_attempts=2, backoff=Constant(0.01))
async def twice(number: int) -> str:
    if current_job().attempt == 1:
        raise ValueError("the first time")
    return f"{number} on {type(asyncio.get_running_loop()).__module__.partition('.')[0]}"


@job(kind="loops:in_thread")
def in_thread(number: int) -> str:
    time.sleep(0.01)
    return str(number)


@job(kind="loops:hangs", timeout=0.1, max_attempts=1)
async def hangs() -> None:
    await asyncio.sleep(3600)


@job(kind="loops:holds")
async def holds() -> None:
    told.append("begun")
    try:
        await asyncio.sleep(3600)
    finally:
        told.append("ended")


@job(kind="loops:clings")
async def clings() -> None:
    told.append("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            told.append("swallowed")


@job(kind="loops:commits")
async def commits() -> int:
    async with current_job().transaction() as connection:
        current_job().result = await connection.fetchval("select 42")
    return 0


async def begun() -> bool:
    return "begun" in told


async def story(dsn: str, loop: str = "asyncio") -> None:
    """Most of what a runner does."""
    async with running(dsn, slots=10) as jobs:
        handles = await jobs.enqueue_many([twice.prepare(number) for number in range(30)])
        answers = [await handle.result(timeout=20) for handle in handles]
        assert answers == [f"{number} on {loop}" for number in range(30)]
        assert await (await in_thread.later(5)).result(timeout=10) == "5"
        assert await (await commits.later()).result(timeout=10) == 42
        hung = await hangs.later()
        with pytest.raises(JobFailed, match="TimeoutError"):
            await hung.result(timeout=10)
        held = await holds.later()

        await eventually_async(begun)
        await held.cancel()
        with pytest.raises(JobCancelled):
            await held.result(timeout=10)
        assert told == ["begun", "ended"]
        due = await in_thread.set(delay=0.1).later(6)
        assert await due.result(timeout=10) == "6"
        admin = await asyncpg.connect(dsn)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await admin.close()

        async def works_again() -> bool:
            try:
                return await (await in_thread.later(7)).result(timeout=10) == "7"
            except Exception:
                return False

        await eventually_async(works_again)


async def stopped_with_a_job_that_clings(dsn: str) -> int:
    async with Jobs(dsn, shutdown_timeout=0.4).running():
        handle = await clings.later()
        await eventually_async(begun)
    return handle.id


async def status(dsn: str, job_id: int) -> Any:
    async with Jobs(dsn) as jobs:
        return await jobs.handle(job_id).status()


@pytest.mark.failure_mode("F28")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_run_on_uvloop(dsn: str) -> None:
    """Retries, threads, timeouts, cancelling, delays, transactions, lost connections, and a job that will not end."""
    need("uvloop", importlib.util.find_spec("uvloop"))
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story(dsn, "uvloop"))
    told.clear()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        job_id = runner.run(stopped_with_a_job_that_clings(dsn))
        assert "swallowed" in told
        assert runner.run(status(dsn, job_id)) is S.AVAILABLE
