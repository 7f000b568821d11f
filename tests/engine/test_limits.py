"""Limits of a queue, over all processes: how many of its jobs run at a time, and how often one begins."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from asyncjobs import InvalidOption, Jobs, JobState, Lock, Rate, job
from tests.engine.running import running
from tests.waiting import eventually_async

gate: asyncio.Event
now = most = 0
began: list[float] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate, now, most
    gate = asyncio.Event()
    now = most = 0
    began.clear()


@job(kind="test_limits:gated", queue="narrow")
async def gated(wait: bool = True) -> None:
    global now, most
    now += 1
    most = max(most, now)
    began.append(time.monotonic())
    try:
        if wait:
            await gate.wait()
    finally:
        now -= 1


@job(kind="test_limits:beside", queue="wide")
async def beside() -> None: ...


@job(kind="test_limits:alike", queue="narrow", unique="user")
async def alike(user: int) -> None:
    await gated.function()


async def limited(dsn: str, **limit: Any) -> None:
    """Before anybody runs jobs: those who do hear of a limit within a second, and a test cannot know when."""
    async with Jobs(dsn) as jobs:
        await jobs.limit("narrow", **limit)


async def nothing_is_left(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("select not exists (select from asyncjobs.locks)"))
    finally:
        await connection.close()


async def test_so_many_jobs_of_a_queue_run_at_a_time_in_all_processes(dsn: str) -> None:
    """On three runners with ten slots each; the others stay available, and other queues are not held up."""
    await limited(dsn, concurrency=3)
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running(), Jobs(dsn, slots=10).running():
        handles = [await gated.set(jobs=jobs).later() for _ in range(20)]
        await eventually_async(lambda: run(3))
        await (await beside.set(jobs=jobs).later()).result(timeout=20)
        await eventually_async(lambda: held(jobs, 3))  # what was claimed and found no place has gone back
        assert (await jobs.limits())["narrow"].running == 3
        gate.set()
        for handle in handles:
            await handle.result(timeout=30)
        done = await jobs.get_job(handles[-1].id)
        assert done is not None and done.attempt == 1
    assert most == 3
    assert await nothing_is_left(dsn)


async def held(jobs: Jobs, count: int) -> bool:
    return (await jobs.count_jobs())["narrow"].get(JobState.RUNNING) == count


async def run(count: int) -> bool:
    return now == count


async def test_a_place_is_taken_as_soon_as_it_is_free(dsn: str) -> None:
    """By a runner that sleeps, and looks once an hour: who ends says so."""
    await limited(dsn, concurrency=1)
    async with running(dsn, slots=5):
        handles = [await gated.later(wait=False) for _ in range(30)]
        for handle in handles:
            await handle.result(timeout=30)
    assert most == 1


async def test_without_its_limit_a_queue_is_as_before(dsn: str) -> None:
    """As soon as it is said, and what had waited begins."""
    await limited(dsn, concurrency=1)
    async with running(dsn, slots=5) as jobs:
        handles = [await gated.later() for _ in range(5)]
        await eventually_async(lambda: run(1))
        await jobs.limit("narrow")
        assert await jobs.limits() == {}
        await eventually_async(lambda: run(5))
        gate.set()
        for handle in handles:
            await handle.result(timeout=20)
    assert await nothing_is_left(dsn)


async def test_so_many_begin_in_a_time(dsn: str) -> None:
    """A bucket of three tokens, and one more each tenth of a second: ten jobs take at least seven tenths, on two runners."""
    await limited(dsn, rate=Rate(10, burst=3))
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running():
        handles = [await gated.set(jobs=jobs).later(wait=False) for _ in range(10)]
        for handle in handles:
            await handle.result(timeout=30)
        attempts = [found.attempt for handle in handles if (found := await jobs.get_job(handle.id))]
    assert began[9] - began[0] >= 0.65
    assert attempts == [1] * 10


async def test_a_lock_is_not_kept_by_who_finds_the_queue_full(dsn: str) -> None:
    """It goes back with its lock let go, and both come together when there is room."""
    await limited(dsn, concurrency=1)
    async with running(dsn, slots=5):
        handles = [
            await gated.set(lock=Lock(key=str(number % 2))).later(wait=number == 0) for number in range(6)
        ]
        await eventually_async(lambda: run(1))
        gate.set()
        for handle in handles:
            await handle.result(timeout=30)
    assert most == 1
    assert await nothing_is_left(dsn)


@pytest.mark.parametrize("lock", [None, "user"])
async def test_who_finds_the_queue_full_is_still_unique(dsn: str, lock: str | None) -> None:
    """Several runners claim at once, and one job is let in; the others have not started, and keep their keys."""
    async with Jobs(dsn) as first:
        await first.limit("narrow", rate=Rate(1, per=3600))
        await first.enqueue_many(alike.set(lock=lock).prepare(user) for user in range(8))
    async with running(dsn) as jobs, Jobs(dsn).running(), Jobs(dsn).running(), Jobs(dsn).running():
        await eventually_async(lambda: run(1))
        await eventually_async(lambda: held(jobs, 1))
        again = [await alike.set(jobs=jobs, lock=lock).later(user) for user in range(8)]
        assert [handle.created for handle in again].count(True) == 1
        gate.set()


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"concurrency": True}, {"concurrency": 10_001}, {"rate": 5}]
)
async def test_a_limit_that_makes_no_sense_is_refused(dsn: str, wrong: dict[str, Any]) -> None:
    """Where it is said."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidOption):
            await jobs.limit("narrow", **wrong)
        with pytest.raises(InvalidOption):
            Rate(0)
        with pytest.raises(InvalidOption):
            Rate(1, per=0)
        with pytest.raises(InvalidOption):
            Rate(1, burst=0)
