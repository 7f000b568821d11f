"""Limits of a queue, in the statement that lets claimed jobs in."""

from __future__ import annotations

from typing import Any

import pytest

from asyncjobs._model.limits import Rate
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import Caution, claim_jobs, claim_suspect, finish_jobs, return_jobs, seek_suspect
from asyncjobs._store.limits import admit_jobs, find_limits, limit_queue
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.unique import insert_unique
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, new_job, requests, session_of, store
from tests.store.test_unique_keys import enqueue, unique_job


async def test_a_limit_that_was_lowered_holds_while_more_run(dsn: str) -> None:
    """Who ends makes room only when fewer run than may, whichever places those that run have."""
    async with session_of(dsn) as session:
        await store(session, *[new_job() for _ in range(8)])
        await limit_queue(session, "q", 5, None)
        running = await claim(session, room=5)
        assert len(await admit_jobs(session, RUNNER, running)) == 5
        await limit_queue(session, "q", 2, None)
        waiting = await claim(session)  # by a runner that has not heard of it yet
        for job in running[:3]:
            assert await admit_jobs(session, RUNNER, waiting) == set()
            await finish_jobs(session, RUNNER, [Finished(job, FinalState.COMPLETED, 0.1)])
        assert await admit_jobs(session, RUNNER, waiting) == set()
        await finish_jobs(session, RUNNER, [Finished(running[3], FinalState.COMPLETED, 0.1)])
        assert await admit_jobs(session, RUNNER, waiting) == {waiting[0].id}
        assert [each.jobs for each in await find_limits(session)] == [0]


async def test_a_rate_that_was_lowered_counts_what_has_begun(dsn: str) -> None:
    """The bucket of another rate is full at first; of the same one, it is as full as it was."""
    async with session_of(dsn) as session:
        await store(session, *[new_job() for _ in range(8)])
        await limit_queue(session, "q", None, Rate(2, per=600))
        jobs = await claim(session)
        assert await admit_jobs(session, RUNNER, jobs) == {jobs[0].id, jobs[1].id}
        await limit_queue(session, "q", None, Rate(2, per=600))
        assert await admit_jobs(session, RUNNER, jobs[2:]) == set()
        await limit_queue(session, "q", 3, Rate(1, per=600))
        assert await admit_jobs(session, RUNNER, jobs[2:]) == {jobs[2].id}
        assert await admit_jobs(session, RUNNER, jobs[3:]) == set()


@pytest.mark.parametrize("lock", [False, True])
async def test_who_is_not_let_in_keeps_its_unique_key(dsn: str, lock: bool) -> None:
    """It has not started: a duplicate is one still. Who is let in starts, and its key is free."""
    async with session_of(dsn) as session:
        await limit_queue(session, "q", 1, None)
        keyed: dict[str, Any] = {"lock_slots": 1} if lock else {}
        new = [unique_job(name, lock_key=name if lock else None, **keyed) for name in ("in", "out")]
        first, second = await enqueue(session, *new)
        jobs = await claim_jobs(session, requests(), RUNNER, begin=True, limited=["q"])
        if lock:
            assert len((await acquire_locks(session, RUNNER, jobs, jobs)).held) == 2
        assert await admit_jobs(session, RUNNER, jobs) == {first.id}
        refused = [job for job in jobs if job.id == second.id]
        await return_jobs(session, RUNNER, [Returned(job, LiveState.READY, unburnt=True) for job in refused])
        again = await enqueue(session, *new)
        assert [each.created for each in again] == [True, False]
        assert again[1].id == second.id


async def test_who_is_kept_from_starting_holds_nobody_up(dsn: str) -> None:
    """Somebody's open transaction has met the first job since it was claimed: the others are let in at once."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        await limit_queue(session, "q", 5, None)
        first, second = await enqueue(session, unique_job("first"), unique_job("second"))
        jobs = await claim_jobs(session, requests(), RUNNER, begin=True, limited=["q"])
        connection: Any = other.connection
        async with connection.transaction():
            met = await insert_unique(other, [unique_job("first")], wake=False, commits_itself=False)
            assert [each.id for each in met] == [first.id]
            await session.connection.execute("set lock_timeout = '2 s'")
            assert await admit_jobs(session, RUNNER, jobs) == {second.id}
        assert await admit_jobs(session, RUNNER, jobs[:1]) == {first.id}


async def test_no_runner_becomes_empty_for_a_suspect_whose_queue_is_full(dsn: str) -> None:
    """It could not run: nobody seeks it, and nobody claims it, until there is room."""
    async with session_of(dsn) as session:
        await enter(session)
        await limit_queue(session, "q", 1, None)
        await store(session, new_job(), new_job())
        (first,) = await claim(session, room=1)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")
        (second,) = await claim(session, SOMEBODY_ELSE)
        assert await admit_jobs(session, SOMEBODY_ELSE, [second]) == {second.id}
        sought = (["q"], ["k"], Caution())
        assert not await seek_suspect(session, *sought)
        assert await claim_suspect(session, RUNNER, *sought) is None
        await finish_jobs(session, SOMEBODY_ELSE, [Finished(second, FinalState.COMPLETED, 0.1)])
        assert await seek_suspect(session, *sought)
        suspect = await claim_suspect(session, RUNNER, *sought)
        assert suspect is not None
        assert suspect.job.id == first.id
