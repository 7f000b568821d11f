"""Jobs whose runners died: who is blamed, who runs alone, and what becomes of what kills every runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import asyncpg
import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.urgency import EVERY_PRIORITY
from asyncjobs._store.chores import Rescue, promote_jobs, prune_jobs, rescue_jobs
from asyncjobs._store.claims import (
    Caution,
    Claim,
    Suspect,
    absolve_jobs,
    adopt_jobs,
    begin_jobs,
    claim_suspect,
    finish_jobs,
    look_around,
    return_jobs,
    seek_suspect,
    take_turn,
)
from asyncjobs._store.session import Session
from asyncjobs._store.statements import statements
from asyncjobs._store.views import cancel_job, count_suspects, get_job, pause_queue, retry_job
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, finished, live, new_job, session_of, store
from tests.waiting import eventually_async

pytestmark = pytest.mark.failure_mode("F06")

GONE = '{"error": "RunnerLost: gone"}'
CAUTION = Caution(alone=3600.0, max_crashes=3)


@pytest.fixture
async def session(dsn: str) -> AsyncIterator[Session]:
    async with session_of(dsn) as session:
        await enter(session)
        await enter(session, SOMEBODY_ELSE)
        yield session


async def dies(session: Session, runner: int = RUNNER, *, max_crashes: int = 3) -> Rescue:
    """The process is gone, and another took its jobs back; then somebody else starts under a new name."""
    rescue = await rescue_jobs(session, runner, blame=True, max_crashes=max_crashes, error=GONE)
    if rescue.forgotten:
        await enter(session, runner)
    return rescue


async def suspect(
    session: Session,
    runner: int = RUNNER,
    *,
    queues: tuple[str, ...] = ("",),
    kinds: tuple[str, ...] = ("k",),
    caution: Caution = CAUTION,
) -> Suspect | None:
    return await claim_suspect(session, runner, list(queues), list(kinds), caution)


async def one_suspect(session: Session, runner: int = RUNNER) -> ClaimedJob:
    found = await suspect(session, runner)
    assert found is not None
    return found.job


async def a_crash(session: Session, jobs: int = 1) -> list[int]:
    """So many jobs that had begun when their runner died."""
    ids = await store(session, *[new_job() for _ in range(jobs)])
    assert len(await claim(session, room=jobs)) == jobs
    await dies(session)
    return ids


async def field(session: Session, job_id: int, name: str) -> Any:
    row = await live(session, job_id) or await finished(session, job_id)
    assert row is not None
    return row[name]


# Who is blamed.


async def test_what_had_begun_is_suspected_and_what_was_claimed_ahead_is_innocent(session: Session) -> None:
    """After a first crash; the innocent waits among the others, the suspect does not."""
    begun, ahead, innocent = await store(session, new_job(), new_job(), new_job())
    held = await claim(session, room=3, begin=False)
    await begin_jobs(session, RUNNER, [job for job in held if job.id != innocent][:1])
    assert (await dies(session)).waiting == 3
    assert [await field(session, job_id, "crashes") for job_id in (begun, ahead, innocent)] == [1, 0, 0]
    assert {job.id for job in await claim(session)} == {ahead, innocent}
    assert (await one_suspect(session, SOMEBODY_ELSE)).id == begun


async def test_where_a_suspect_had_begun_nobody_beside_it_is_blamed(session: Session) -> None:
    """It may let others begin beside it when it has run alone for long enough."""
    (guilty,) = await a_crash(session)
    await one_suspect(session)
    (beside,) = await store(session)
    assert len(await claim(session)) == 1
    await dies(session)
    assert (await field(session, guilty, "crashes"), await field(session, beside, "crashes")) == (2, 0)
    assert await field(session, beside, "state") == LiveState.READY


async def test_nobody_beside_a_suspect_is_blamed_at_a_later_look_either(dsn: str, session: Session) -> None:
    """What the dead runner's own transaction still locks is passed over by the look that blames the suspect."""
    (guilty,) = await a_crash(session)
    await one_suspect(session)
    (beside,) = await store(session)
    await claim(session)
    async with session_of(dsn) as locks:
        own: Any = locks.connection.transaction()
        await own.start()
        await locks.connection.execute("select from asyncjobs.live_jobs where id = $1 for update", beside)
        rescue = await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error=GONE)
        assert (rescue.waiting, rescue.forgotten) == (1, False)
        await own.rollback()
    rescue = await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error=GONE)
    assert (rescue.waiting, rescue.forgotten) == (1, True)
    assert (await field(session, guilty, "crashes"), await field(session, beside, "crashes")) == (2, 0)


async def test_a_suspect_that_had_not_begun_covers_for_nobody(session: Session) -> None:
    """Nor is it blamed."""
    (innocent,) = await a_crash(session)
    job = await one_suspect(session)
    await session.connection.execute("update asyncjobs.live_jobs set started_at = null where id = $1", job.id)
    (guilty,) = await store(session)
    await claim(session)
    await dies(session)
    assert (await field(session, innocent, "crashes"), await field(session, guilty, "crashes")) == (1, 1)


# Alone.


async def test_a_suspect_is_not_among_the_jobs_that_are_claimed_together(session: Session) -> None:
    """Whichever way it comes to be ready again: rescued, promoted, given back, hurried."""
    (job_id,) = await a_crash(session)
    assert await claim(session) == []
    job = await one_suspect(session)
    await return_jobs(session, RUNNER, [Returned(job, LiveState.READY, unburnt=True)])
    assert (await claim(session), await field(session, job_id, "attempt")) == ([], 0)
    job = await one_suspect(session)
    await return_jobs(session, RUNNER, [Returned(job, LiveState.RETRYABLE, delay=0.0)])
    assert not (await look_around(session)).suspects
    assert sum((await promote_jobs(session, 10)).values()) == 1
    assert await claim(session) == []
    job = await one_suspect(session)
    await return_jobs(session, RUNNER, [Returned(job, LiveState.SCHEDULED, delay=3600.0)])
    assert await retry_job(session, job_id) == "q"
    assert await claim(session) == []
    surroundings = await look_around(session)
    assert (surroundings.lanes, surroundings.suspects) == ([], True)
    assert (await one_suspect(session)).attempt == 3
    assert await field(session, job_id, "crashes") == 1


async def test_no_statement_can_put_a_suspect_among_the_others(session: Session) -> None:
    """The table refuses it."""
    (job_id,) = await a_crash(session)
    with pytest.raises(asyncpg.CheckViolationError):
        await session.connection.execute("update asyncjobs.live_jobs set state = 0 where id = $1", job_id)


async def test_one_suspect_runs_at_a_time(session: Session) -> None:
    """As long as its claim is held, under whichever name, none begins anywhere; the least suspected is the first."""
    worse, *_ = await a_crash(session, 3)
    await session.connection.execute("update asyncjobs.live_jobs set crashes = 2 where id = $1", worse)
    first = await one_suspect(session)
    assert await suspect(session, SOMEBODY_ELSE) is None
    assert not await seek_suspect(session, [""], ["k"], CAUTION)
    await adopt_jobs(session, RUNNER, SOMEBODY_ELSE, [Claim(first.id, first.token)])
    assert await suspect(session, SOMEBODY_ELSE) is None
    await finish_jobs(session, SOMEBODY_ELSE, [Finished(first, FinalState.COMPLETED, 0.1)])
    second = await one_suspect(session, SOMEBODY_ELSE)
    assert second.id not in (first.id, worse)
    await return_jobs(session, SOMEBODY_ELSE, [Returned(second, LiveState.SCHEDULED, delay=60.0)])
    assert (await one_suspect(session)).id == worse


async def test_two_runners_that_ask_at_once_get_one_suspect(dsn: str, session: Session) -> None:
    """However their statements cross: whoever has the lock sees what was claimed before, the other is passed over."""
    await a_crash(session, 2)
    async with session_of(dsn) as one, session_of(dsn) as other:
        own: Any = one.connection.transaction()
        await own.start()
        assert await suspect(one) is not None
        assert await suspect(other, SOMEBODY_ELSE) is None  # at once, though the first has not committed
        await own.commit()
        assert await suspect(other, SOMEBODY_ELSE) is None


async def test_a_claim_whose_view_is_older_than_another_takes_nothing(dsn: str, session: Session) -> None:
    """It began before the other committed, and gets the lock after: then it asks again."""
    await a_crash(session, 2)
    await session.connection.execute("""
        create function asyncjobs.at_the_gate() returns boolean language plpgsql volatile as $$
        begin perform pg_advisory_xact_lock(4711); return true; end $$""")
    lock = "solitude for update skip locked"
    text = statements()["claim_suspect"]
    assert lock in text
    late = text.replace(lock, "solitude where asyncjobs.at_the_gate() for update skip locked")
    async with session_of(dsn) as other, anyio.create_task_group() as tasks:
        await session.connection.execute("select pg_advisory_lock(4711)")
        got: list[Any] = []

        async def claim_late() -> None:
            got.append(
                await other.connection.fetchrow(late, [""], ["k"], *CAUTION, SOMEBODY_ELSE, *EVERY_PRIORITY)
            )

        tasks.start_soon(claim_late)

        async def waits() -> bool:
            return bool(
                await session.connection.fetchval(
                    "select count(*) from pg_locks where locktype = 'advisory' and not granted"
                )
            )

        await eventually_async(waits)
        assert await suspect(session) is not None
        await session.connection.execute("select pg_advisory_unlock(4711)")
    assert got == [None]


async def test_after_a_while_the_next_suspect_may_begin(session: Session) -> None:
    """Unless the first is on its last chance."""
    one, two = await a_crash(session, 2)
    impatient = Caution(alone=0.0, max_crashes=3)
    first = await suspect(session)
    assert first is not None
    assert first.crashes == 1
    assert await suspect(session, SOMEBODY_ELSE, caution=Caution(alone=0.0, max_crashes=2)) is None
    assert await suspect(session, SOMEBODY_ELSE, caution=impatient) is not None
    assert {await field(session, job_id, "runner") for job_id in (one, two)} == {RUNNER, SOMEBODY_ELSE}


async def test_a_runner_takes_only_suspects_it_could_run(session: Session) -> None:
    """Of its kinds, its queues, and none that is paused."""
    await a_crash(session)
    for queues, kinds in (("", "other"), ("other", "k")):
        assert not await seek_suspect(session, [queues], [kinds], CAUTION)
        assert await suspect(session, queues=(queues,), kinds=(kinds,)) is None
    await pause_queue(session, "q")
    assert not await seek_suspect(session, ["q"], ["k"], CAUTION)
    assert await suspect(session, queues=("q",)) is None


async def test_one_busy_runner_at_a_time_empties_itself(session: Session) -> None:
    """Each try in vain makes the next one twice as long, up to a limit; a suspect that begins ends the turn."""
    await a_crash(session)
    assert await take_turn(session, 5.0) == pytest.approx(2.0, abs=0.5)
    assert await take_turn(session, 5.0) is None
    await session.connection.execute("update asyncjobs.solitude set closed_until = now()")
    assert await take_turn(session, 5.0) == pytest.approx(4.0, abs=0.5)
    await session.connection.execute("update asyncjobs.solitude set closed_until = now()")
    assert await take_turn(session, 5.0) == pytest.approx(5.0, abs=0.5)
    await one_suspect(session)
    assert await take_turn(session, 5.0) == pytest.approx(2.0, abs=0.5)


# Given up.


async def quarantined(session: Session) -> int:
    """A job that took three runners down."""
    (job_id,) = await a_crash(session)
    for _ in range(2):
        assert (await one_suspect(session)).id == job_id
        await dies(session)
    return job_id


async def test_the_third_crash_fails_it_and_says_so(session: Session) -> None:
    """A waiter gets its answer; its failures are another count."""
    job_id = await quarantined(session)
    job = await get_job(session, job_id)
    assert job is not None
    assert (job.state, job.crashes, job.attempt, len(job.errors)) == ("failed", 3, 1, 3)
    assert "took 3 runners down" in job.errors[-1].error
    assert await count_suspects(session) == (0, 1)


async def test_a_crash_that_was_interrupted_is_none(session: Session) -> None:
    """Given back at a shutdown it keeps its counts; a rescue that blames nobody leaves them too."""
    (job_id,) = await a_crash(session)
    job = await one_suspect(session)
    await return_jobs(session, RUNNER, [Returned(job, LiveState.READY, unburnt=True)])
    await one_suspect(session)
    await rescue_jobs(session, RUNNER, blame=False, max_crashes=3, error="{}")
    assert (await field(session, job_id, "crashes"), await field(session, job_id, "state")) == (1, 4)


async def test_what_a_runner_that_was_told_to_stop_leaves_running_is_innocent(session: Session) -> None:
    """However it had begun; the process goes on in threads, and then it is gone."""
    await store(session, new_job(), new_job(), new_job())
    (at_once,) = await claim(session, room=1)
    ahead, other = await claim(session, room=2, begin=False)
    await begin_jobs(session, RUNNER, [ahead])
    left = [Claim(job.id, job.token) for job in (at_once, ahead)]
    assert await absolve_jobs(session, RUNNER, [*left, Claim(other.id, 99)]) == {at_once.id, ahead.id}
    assert await absolve_jobs(session, SOMEBODY_ELSE, left) == set()
    await dies(session)
    assert {await field(session, job.id, "crashes") for job in (at_once, ahead, other)} == {0}


async def test_it_is_kept_until_somebody_decides(session: Session) -> None:
    """Other failed jobs are pruned."""
    job_id = await quarantined(session)
    (other,) = await store(session)
    (job,) = await claim(session)
    await finish_jobs(session, RUNNER, [Finished(job, FinalState.FAILED, 0.1)])
    await session.connection.execute(
        "update asyncjobs.finished_jobs set finished_at = now() - interval '1 year'"
    )
    assert await prune_jobs(session, 1.0, 1.0, 100) == 1
    assert await finished(session, other) is None
    assert await cancel_job(session, job_id) == "cancelled"
    assert await cancel_job(session, job_id) is None
    assert await prune_jobs(session, 1.0, 1.0, 100) == 1


async def test_retry_frees_it_of_all_suspicion(session: Session) -> None:
    """It runs among the others, and may crash three times again."""
    job_id = await quarantined(session)
    assert await retry_job(session, job_id) == "q"
    (job,) = await claim(session)
    assert (job.id, await field(session, job_id, "crashes")) == (job_id, 0)
    await dies(session)
    assert await count_suspects(session) == (1, 0)


async def test_a_suspect_that_completes_is_done(session: Session) -> None:
    """Nothing is left of the suspicion but the count."""
    (job_id,) = await a_crash(session)
    job = await one_suspect(session)
    await finish_jobs(session, RUNNER, [Finished(job, FinalState.COMPLETED, 0.1)])
    assert (await field(session, job_id, "state"), await count_suspects(session)) == (10, (0, 0))


async def test_the_claim_of_the_innocent_costs_what_it_did(session: Session) -> None:
    """Its updates touch no index, with suspects about or without."""
    await a_crash(session, 3)
    await store(session, *[new_job() for _ in range(50)])
    await session.connection.execute("select pg_stat_force_next_flush()")
    counts = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'live_jobs'"
    before = await session.connection.fetchrow(counts)
    assert len(await claim(session)) == 50
    await session.connection.execute("select pg_stat_force_next_flush()")
    await session.connection.execute("select pg_stat_clear_snapshot()")
    after = await session.connection.fetchrow(counts)
    assert after[0] - before[0] == 50
    assert after[1] - before[1] >= 40  # a page that is full makes a few exceptions
