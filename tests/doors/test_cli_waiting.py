"""What jobs wait for, and what holds them: `show`, `enqueue --wait`, `retry`, `limits`, `locks`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncjobs import Jobs, JobState, Lock, Rate, job
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.views import find_keys
from asyncjobs.cli.looking import _description
from asyncjobs.cli.steering import why_not_again
from asyncjobs.cli.waiting import waits_for
from tests.command import Shell, open_shop
from tests.store.jobs import RUNNER, claim, enter, session_of

KIND = "test_cli_waiting:export"


@job(kind=KIND, queue="exports")
async def export(tenant: str) -> None: ...


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, {"ASYNCJOBS_DSN": dsn})


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


@pytest.fixture
async def three(dsn: str, jobs: Jobs) -> list[int]:
    """One that runs, and two that wait for its lock."""
    ids = [(await export.set(lock=Lock("tenant"), unique=False).later("acme")).id for _ in range(3)]
    async with session_of(dsn) as session:
        await enter(session)
        claimed = await claim(session, lanes=[("exports", KIND)])
        acquired = await acquire_locks(session, RUNNER, claimed)
    assert (acquired.held, acquired.blocked) == (frozenset(ids[:1]), frozenset(ids[1:]))
    return ids


async def said_of(jobs: Jobs, job_id: int) -> str | None:
    found = await jobs.get_job(job_id)
    assert found is not None
    return await waits_for(jobs, found)


async def shown_of(jobs: Jobs, job_id: int) -> list[str]:
    """The lines `show` has of a job."""
    found, keys = await jobs.get_job(job_id), await jobs.ask(find_keys, job_id)
    assert found is not None
    assert keys is not None
    return _description(found, keys, await waits_for(jobs, found))


async def test_show_names_keys_and_who_is_in_the_way(shell: Shell, jobs: Jobs, three: list[int]) -> None:
    """Of a job that holds its lock, that it does; of one that waits, for whom, and how many come first."""
    data = (await shell("show", str(three[2]), "--json")).data
    key = data["lock_key"]
    assert (data["holders"], data["ahead"]) == ([three[0]], 1)
    assert data["waits_for"] == f"its lock, held by job {three[0]}, after 1 other in line"
    assert f"lock      {key}, 1 job at a time, held by this one" in await shown_of(jobs, three[0])
    waits = await shown_of(jobs, three[2])
    assert f"lock      {key}, 1 job at a time" in waits
    assert f"waits for {data['waits_for']}" in waits
    keyed = await export.set(unique="tenant", fair="tenant").later("globex")
    found = await jobs.ask(find_keys, keyed.id)
    assert found is not None
    lines = await shown_of(jobs, keyed.id)
    assert f"unique    {found.unique_key}" in lines
    assert f"fair      {found.fair_key}" in lines
    await keyed.cancel()
    assert f"unique    {found.unique_key}, let go" in await shown_of(jobs, keyed.id)


async def test_what_a_job_waits_for(dsn: str, jobs: Jobs) -> None:
    """Its time, its queue, a runner: whatever it is, and what helps."""
    later = await export.set(delay=3 * 7200).later("acme")
    assert await said_of(jobs, later.id) == "its time, in 6 h"
    now = await export.later("acme")
    assert "none runs on this database" in str(await said_of(jobs, now.id))
    async with session_of(dsn) as session:
        await enter(session)
    said = str(await said_of(jobs, now.id))
    assert said.startswith("a free slot: runner test:1 did not take it yet")
    assert said.endswith(f"serving neither queue 'exports' nor kind '{KIND}'")
    await jobs.limit("exports", rate=Rate(1, per=3600))
    async with jobs.connection() as connection:
        await connection.execute(
            """insert into asyncjobs.rates (key, capacity, per, "window", said_by, used, full_at)
               values ('queue:exports', 1, 3600, 0, 0, 1, now() + interval '1 h')"""
        )
    assert "whose limit is reached" in str(await said_of(jobs, now.id))
    await jobs.pause("exports")
    assert "queue 'exports', which is paused: `resume exports`" in str(await said_of(jobs, now.id))
    await now.cancel()
    assert await said_of(jobs, now.id) is None


async def test_retry_says_why_not(shell: Shell, jobs: Jobs, three: list[int]) -> None:
    """It runs, it waits for a lock, its inputs are gone."""
    done = await shell("retry", *map(str, three))
    assert done.code == 1
    assert done.err.splitlines() == [
        f"job {three[0]} runs already",
        f"job {three[1]} is blocked already: it waits for its lock, held by job {three[0]}",
        f"job {three[2]} is blocked already: it waits for its lock, held by job {three[0]}, after 1 other in line",
    ]
    async with jobs.connection() as connection:
        await connection.execute('update asyncjobs.live_jobs set options = \'{"args": "not kept"}\'')
    await jobs.cancel(three[1])
    assert not await jobs.retry(three[1])
    found = await jobs.get_job(three[1])
    assert found is not None
    assert found.state is JobState.CANCELLED
    assert await why_not_again(jobs, found) == "is cancelled, and cannot run again: its inputs were not kept"


async def test_locks_and_limits(shell: Shell, jobs: Jobs, three: list[int]) -> None:
    """Who holds which lock, and how many wait; of queues, what was said and what is taken."""
    done = await shell("locks")
    heading, line = done.out.splitlines()
    assert heading.split() == ["lock", "held", "by", "since", "waiting", "kind"]
    assert f"job {three[0]}  " in line
    assert line.endswith(f"2        {KIND}")
    await jobs.limit("exports", concurrency=2, rate=Rate(100, per=60, burst=10))
    await jobs.limit("mail", rate=Rate(5))
    async with jobs.connection() as connection:
        await connection.execute(
            "insert into asyncjobs.locks (key, slot, job, token) values ('queue:exports', 1, 1, 1)"
        )
    lines = (await shell("limits")).out.splitlines()
    assert [line.split() for line in lines] == [
        ["queue", "at", "a", "time", "running", "rate"],
        ["exports", "2", "1", "10", "in", "6", "s"],
        ["mail", "any", "5", "in", "1", "s"],
    ]
    (data,) = (await shell("locks", "--json")).data  # a place in a queue is no lock
    assert (data["holders"], data["waiting"], data["kind"]) == ([three[0]], 2, KIND)


async def test_wait_says_that_nobody_comes(tmp_path: Path, dsn: str, jobs: Jobs) -> None:
    """Once, after a moment, on stderr; and it goes on waiting."""
    shop = open_shop(tmp_path, dsn)
    async with shop.going("enqueue", "shop.main:jobs", "send", "user_id=1", "--wait") as waiting:
        await waiting.says("job 1 waits for a runner, and none runs on this database")
        async with Jobs(dsn).running(queues={"nothing": 1}):
            assert (await shop("work-off", "shop.main:jobs")).code == 0
        assert await waiting.ended() == 0
    assert waiting.err.count("waits for") == 1
