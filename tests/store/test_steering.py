"""Many jobs at once: run again, or cancelled, by what they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncjobs import InvalidOption, Jobs, JobState
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store import steering
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import finish_jobs
from asyncjobs._store.session import Session
from asyncjobs._store.steering import Choice, cancel_jobs, retry_jobs
from tests.store.jobs import RUNNER, claim, enter, finished, live, new_job, session_of, store

FAILED = Choice([JobState.FAILED])
LIVE = [state for state in JobState if not state.is_final]


async def states(session: Session, *ids: int) -> list[str]:
    rows = await session.connection.fetch("select id, state from asyncjobs.jobs")
    found = {row[0]: row[1] for row in rows}
    return [found[each] for each in ids]


async def ended(session: Session, state: FinalState, *jobs: Any) -> list[int]:
    """The ids of these jobs, which have ended."""
    ids = await store(session, *jobs)
    lanes = sorted({(each.queue, each.kind) for each in jobs})
    outcomes = [Finished(each, state, 0.1) for each in await claim(session, lanes=lanes)]
    assert len(await finish_jobs(session, RUNNER, outcomes)) == len(ids)
    return ids


async def test_what_failed_runs_again_and_nothing_else(dsn: str) -> None:
    """By state, queue, kind (any ending of it, any version) and all of the tags; with all its attempts, and the token going on."""
    async with session_of(dsn) as session:
        mine, tagged, versioned, other, elsewhere = await ended(
            session,
            FinalState.FAILED,
            new_job("shop:Mail", tags=["a"]),
            new_job("shop:Mail", tags=["b", "a"]),
            new_job("shop:Mail@2", tags=["a", "b"]),
            new_job("shop:Other", tags=["a", "b"]),
            new_job("shop:Mail", "p", tags=["a", "b"]),
        )
        (done,) = await ended(session, FinalState.COMPLETED, new_job("shop:Mail", tags=["a", "b"]))
        before = await finished(session, tagged)
        chunk = await retry_jobs(session, Choice([JobState.FAILED], ["q"], ["Mail"], ["a", "b"]), 0)
        assert chunk == (2, versioned, 2)
        assert await states(session, mine, tagged, versioned, other, elsewhere, done) == [
            "failed",
            "available",
            "available",
            "failed",
            "failed",
            "completed",
        ]
        after = await live(session, tagged)
        assert before is not None and after is not None
        assert (after["attempt"], after["token"], after["max_attempts"]) == (0, before["token"], 10)
        assert (await retry_jobs(session, FAILED, 0)).again == 3
        assert (await retry_jobs(session, FAILED, 0)).seen == 0


async def test_what_waits_for_its_time_is_hurried(dsn: str) -> None:
    """Where its state is asked for; what a runner holds is left to it."""
    async with session_of(dsn) as session:
        (running,) = await store(session)
        await claim(session)
        (waiting,) = await store(session, new_job(delay=3600))
        assert (await retry_jobs(session, Choice([JobState.RETRYABLE]), 0)).again == 0
        assert (await retry_jobs(session, Choice([JobState.SCHEDULED]), 0)).again == 1
        assert await states(session, waiting, running) == ["available", "running"]


async def test_of_a_unique_key_only_one_has_it_again(dsn: str) -> None:
    """The newest of those that failed, if nobody has taken it meanwhile; the others run without."""
    unique = {"unique": {"key": "u"}}
    async with session_of(dsn) as session:
        first, second = await ended(
            session, FinalState.FAILED, new_job(options=unique), new_job(options=unique)
        )
        assert (await retry_jobs(session, FAILED, 0)).again == 2
        rows = [await live(session, each) for each in (first, second)]
        assert [row and row["unique_key"] for row in rows] == [None, "u"]
        (third,) = await ended(session, FinalState.FAILED, new_job("other", options=unique))
        assert (await retry_jobs(session, FAILED, 0)).again == 1
        row = await live(session, third)
        assert row is not None and row["unique_key"] is None


async def test_what_took_runners_down_and_what_lost_its_inputs_stay(dsn: str) -> None:
    """The one needs somebody who decides of it alone; the other could only fail."""
    async with session_of(dsn) as session:
        (bare,) = await ended(session, FinalState.FAILED, new_job(options={"args": "not kept"}))
        await enter(session)
        (poison,) = await store(session)
        await claim(session)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=1, error="{}")
        assert await retry_jobs(session, FAILED, 0) == (2, poison, 0)
        assert await states(session, bare, poison) == ["failed", "failed"]


async def test_two_at_the_same_time_retry_each_job_once(dsn: str) -> None:
    """And neither waits for ever for the other."""
    async with session_of(dsn) as one, session_of(dsn) as two:
        await ended(one, FinalState.FAILED, *(new_job() for _ in range(60)))
        chunks = await asyncio.gather(retry_jobs(one, FAILED, 0), retry_jobs(two, FAILED, 0))
        assert sum(chunk.again for chunk in chunks) == 60
        assert await one.connection.fetchval("select count(*) from asyncjobs.jobs") == 60


async def test_what_waits_is_cancelled_and_what_runs_is_asked_to_stop(dsn: str) -> None:
    """Chosen as above; who awaits one is told, and ballast is no job."""
    async with session_of(dsn) as session:
        (running,) = await store(session)
        await claim(session)
        waiting, later, other = await store(session, new_job(), new_job(delay=60), new_job("other"))
        assert await cancel_jobs(session, Choice([JobState.SCHEDULED], kinds=["k"]), 0) == (1, later, 1, 0)
        assert await cancel_jobs(session, Choice(LIVE, kinds=["k"]), 0) == (2, waiting, 1, 1)
        assert await states(session, running, waiting, later, other) == [
            "running",
            "cancelled",
            "cancelled",
            "available",
        ]
        row = await live(session, running)
        assert row is not None and row["cancel_requested"]
        ballast = await session.connection.fetchval("select count(*) from asyncjobs.live_jobs where id < 0")
        await cancel_jobs(session, Choice(LIVE), -10_000)
        assert (
            await session.connection.fetchval("select count(*) from asyncjobs.live_jobs where id < 0")
            == ballast
        )


async def test_a_lock_goes_on_to_who_stays(dsn: str) -> None:
    """A job that was cancelled with others leaves its lock to one that was not."""
    async with session_of(dsn) as session:
        heir_of, stays = await store(session, new_job(tags=["gone"]), new_job())
        await session.connection.execute(
            "update asyncjobs.live_jobs set lock_key = 'l', lock_slots = 1, state = case id when $1 then 0 else 3 end "
            "where id = any ($2)",
            heir_of,
            [heir_of, stays],
        )
        await session.connection.execute(
            "insert into asyncjobs.locks (key, slot, job, token) values ('l', 1, $1, 1)", heir_of
        )
        assert (await cancel_jobs(session, Choice(LIVE, tags=["gone"]), 0)).cancelled == 1
        assert await states(session, stays) == ["available"]
        assert await session.connection.fetchval("select job from asyncjobs.locks") == stays


async def test_all_chunks_are_walked(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; what is said of none is refused in a sentence."""
    monkeypatch.setattr(steering, "CHUNK", 3)
    async with session_of(dsn) as session, Jobs(dsn) as jobs:
        for count in (1, 3, 7):
            await store(session, *(new_job(delay=60) for _ in range(count)))
            assert await jobs.cancel_many(queues=["q"]) == {"cancelled": count, "requested": 0}
            assert await jobs.retry_many(states=["cancelled"], kinds=["k"]) == count
            assert await jobs.cancel_many(queues=["q"]) == {"cancelled": count, "requested": 0}
            await session.connection.execute("truncate asyncjobs.finished_jobs")
        with pytest.raises(
            InvalidOption, match="retry_many leaves alone what is completed; it takes failed, "
        ):
            await jobs.retry_many(states=["completed"])
        with pytest.raises(InvalidOption, match="cancel_many leaves alone what is failed"):
            await jobs.cancel_many(states=["failed"], queues=["q"])
        with pytest.raises(InvalidOption, match="which jobs shall be cancelled"):
            await jobs.cancel_many()
