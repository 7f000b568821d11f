"""Locks of the store: who holds them, who waits, who is next, whatever ends the holder."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import Claim, adopt_jobs, finish_jobs, return_jobs
from asyncjobs._store.clearing import clear_jobs
from asyncjobs._store.limits import admit_jobs, limit_queue
from asyncjobs._store.locks import Acquired, acquire_locks, list_locks, settle_locks, sweep_locks
from asyncjobs._store.session import Session
from asyncjobs._store.views import cancel_job, pause_queue, retry_job
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, finished, live, new_job, session_of, store
from tests.waiting import eventually_async


async def claim_and_lock(session: Session, runner: int = RUNNER) -> tuple[list[ClaimedJob], Acquired]:
    """Claim all that is ready, and ask for the locks: the jobs that may run."""
    jobs = await claim(session, runner)
    acquired = await acquire_locks(session, runner, [job for job in jobs if job.lock_key is not None])
    return [job for job in jobs if job.lock_key is None or job.id in acquired.held], acquired


def done(job: ClaimedJob) -> Finished:
    return Finished(job, FinalState.COMPLETED, 0.1)


def back(job: ClaimedJob, state: LiveState = LiveState.READY, delay: float | None = None) -> Returned:
    return Returned(job, state, delay, unburnt=True)


def transaction_of(session: Session, **given: Any) -> Any:
    connection: Any = session.connection
    return connection.transaction(**given)


async def holders(session: Session) -> list[tuple[str, int, int]]:
    return [(lock.key, lock.slot, lock.job) for lock in await list_locks(session)]


def locked(key: str = "a", slots: int = 1, **given: Any) -> Any:
    return new_job(lock_key=key, lock_slots=slots, **given)


async def test_one_holds_and_the_others_wait_unburnt(dsn: str) -> None:
    """A loser is blocked: nobody's, with its attempt given back, and out of the way of every claim."""
    async with session_of(dsn) as session:
        first, second, other = await store(session, locked(), locked(), new_job())
        running, acquired = await claim_and_lock(session)
        assert ({job.id for job in running}, set(acquired.blocked)) == ({first, other}, {second})
        row = await live(session, second)
        assert row is not None
        assert (row["state"], row["runner"], row["attempt"], row["token"], row["started_at"]) == (
            3,
            None,
            0,
            1,
            None,
        )
        assert await claim(session) == []
        assert await holders(session) == [("a", 1, first)]


@pytest.mark.parametrize("slots", [1, 3])
async def test_so_many_hold_as_there_are_slots(dsn: str, slots: int) -> None:
    """Each in a slot of its own; keys do not concern one another."""
    async with session_of(dsn) as session:
        ids = await store(session, *[locked(slots=slots) for _ in range(5)], locked("b"))
        running, _ = await claim_and_lock(session)
        assert [job.id for job in running] == [*ids[:slots], ids[-1]]


@pytest.mark.parametrize("ending", ["finish", "retry", "snooze", "release", "crash", "stopped", "cancelled"])
async def test_whatever_ends_the_holder_the_next_has_the_lock(dsn: str, ending: str) -> None:
    """In the same transaction: it is ready, the lock is its own, and nobody who comes later gets it first."""
    async with session_of(dsn) as session:
        await enter(session)
        first, second = await store(session, locked(), locked())
        (job,), _ = await claim_and_lock(session)
        match ending:
            case "finish":
                await finish_jobs(session, RUNNER, [done(job)])
            case "retry":
                await return_jobs(
                    session, RUNNER, [Returned(job, LiveState.RETRYABLE, 60.0, error='{"error": "x"}')]
                )
            case "snooze":
                await return_jobs(session, RUNNER, [back(job, LiveState.SCHEDULED, 60.0)])
            case "release":
                await return_jobs(session, RUNNER, [back(job)])
            case "crash":
                await rescue_jobs(session, RUNNER, blame=True, max_crashes=1, error="{}")
            case "stopped":
                await rescue_jobs(session, RUNNER, blame=False, max_crashes=3, error="{}")
            case "cancelled":
                await cancel_job(session, first)
                await return_jobs(session, RUNNER, [back(job)])
        assert await holders(session) == [("a", 1, second)]
        await store(session, locked(priority=-100))
        running, acquired = await claim_and_lock(session, SOMEBODY_ELSE)
        assert [job.id for job in running] == [second]
        assert (await list_locks(session))[0].token == running[0].token


async def test_one_that_has_its_turn_is_no_ones_who_follows_it(dsn: str) -> None:
    """In one batch: a loser, one that the lock was handed to, a loser."""
    async with session_of(dsn) as session:
        await store(session, *[locked(slots=2) for _ in range(3)])
        (first, *_), _ = await claim_and_lock(session)
        await finish_jobs(session, RUNNER, [done(first)])
        early, late = await store(session, locked(slots=2, priority=-1), locked(slots=2, priority=1))
        running, acquired = await claim_and_lock(session)
        assert ([job.id for job in running], set(acquired.blocked)) == ([first.id + 2], {early, late})


async def test_who_waits_is_served_by_priority_then_age(dsn: str) -> None:
    """The order of a queue, whatever the order in which they came to wait."""
    async with session_of(dsn) as session:
        ids = await store(session, *[locked(priority=priority) for priority in (-9, 5, 0, 5, -1)])
        (job,), _ = await claim_and_lock(session)
        order = [job.id]
        while await finish_jobs(session, RUNNER, [done(job)]) and (found := await claim_and_lock(session))[0]:
            (job,) = found[0]
            order.append(job.id)
        assert order == [ids[0], ids[4], ids[2], ids[1], ids[3]]
        assert await holders(session) == []


async def test_a_write_of_somebody_else_frees_nothing(dsn: str) -> None:
    """The lock is the claim's: a runner that lost its claim cannot let go of a lock that is another's by now."""
    async with session_of(dsn) as session:
        await enter(session)
        (first,) = await store(session, locked())
        (old,), _ = await claim_and_lock(session)
        await rescue_jobs(session, RUNNER, blame=False, max_crashes=3, error="{}")
        (new,), _ = await claim_and_lock(session, SOMEBODY_ELSE)
        assert await finish_jobs(session, RUNNER, [done(old)]) == set()
        assert await return_jobs(session, RUNNER, [back(old)]) == set()
        assert [(lock.job, lock.token) for lock in await list_locks(session)] == [(first, new.token)]


async def test_asking_under_a_claim_that_is_over_takes_nothing(dsn: str) -> None:
    """Neither the lock nor the job: it is fenced by (id, incarnation, token) like every write."""
    async with session_of(dsn) as session:
        await store(session, locked())
        (job,) = await claim(session)
        assert not any(await acquire_locks(session, SOMEBODY_ELSE, [job]))
        assert not any(await acquire_locks(session, RUNNER, [job._replace(token=job.token + 1)]))
        assert await holders(session) == []
        row = await live(session, job.id)
        assert row is not None and row["runner"] == RUNNER


async def test_a_lock_stays_with_a_job_that_is_adopted(dsn: str) -> None:
    """Its process goes on under another incarnation, and so does the job."""
    async with session_of(dsn) as session:
        first, _ = await store(session, locked(), locked())
        (job,), _ = await claim_and_lock(session)
        await adopt_jobs(session, RUNNER, SOMEBODY_ELSE, [Claim(job.id, job.token)])
        assert await holders(session) == [("a", 1, first)]
        await finish_jobs(session, SOMEBODY_ELSE, [done(job)])
        assert [(await list_locks(session))[0].job] == [first + 1]


async def test_cancelled_before_it_runs_the_next_has_its_turn(dsn: str) -> None:
    """One that waits is gone at once; one that the lock was handed to hands it on."""
    async with session_of(dsn) as session:
        first, second, third, fourth = await store(session, *[locked() for _ in range(4)])
        (job,), _ = await claim_and_lock(session)
        assert await cancel_job(session, third) == "cancelled"
        await finish_jobs(session, RUNNER, [done(job)])
        assert await cancel_job(session, second) == "cancelled"
        assert await holders(session) == [("a", 1, fourth)]
        assert (await finished(session, first)) is not None


async def test_one_that_is_to_be_stopped_does_not_go_to_wait(dsn: str) -> None:
    """Nothing is said of it: it goes back, where it is cancelled."""
    async with session_of(dsn) as session:
        _, second = await store(session, locked(), locked())
        jobs = await claim(session)
        assert await cancel_job(session, second) == "requested"
        acquired = await acquire_locks(session, RUNNER, jobs)
        assert second not in acquired.held | acquired.blocked
        await return_jobs(session, RUNNER, [back(jobs[1])])
        row = await finished(session, second)
        assert row is not None and row["state"] == 12


async def test_who_waits_in_a_paused_queue_is_passed_over(dsn: str) -> None:
    """Else everybody would wait for a job nobody may claim. When the queue goes on, a look finds it."""
    async with session_of(dsn) as session:
        _, paused, third = await store(session, locked(), locked(queue="paused"), locked(priority=9))
        (job,), _ = await claim_and_lock(session)
        (waiting,) = await claim(session, lanes=[("paused", "k")])
        assert (await acquire_locks(session, RUNNER, [waiting])).blocked == {paused}
        await pause_queue(session, "paused")
        await finish_jobs(session, RUNNER, [done(job)])
        assert await holders(session) == [("a", 1, third)]


async def test_a_retried_job_has_its_lock_again(dsn: str) -> None:
    """It is kept with what was said of the job, which outlives the live row."""
    async with session_of(dsn) as session:
        options = {"lock": {"key": "a", "slots": 2}}
        (first,) = await store(session, locked(slots=2, options=options))
        (job,), _ = await claim_and_lock(session)
        await finish_jobs(session, RUNNER, [done(job)])
        assert await holders(session) == []
        await retry_job(session, first)
        row = await live(session, first)
        assert row is not None and (row["lock_key"], row["lock_slots"]) == ("a", 2)


async def test_a_suspect_that_waited_is_a_suspect_when_its_turn_comes(dsn: str) -> None:
    """It runs alone, with the lock."""
    async with session_of(dsn) as session:
        await enter(session)
        _, second = await store(session, locked(), locked())
        (job,), _ = await claim_and_lock(session)
        await session.connection.execute("update asyncjobs.live_jobs set crashes = 1 where id = $1", second)
        await finish_jobs(session, RUNNER, [done(job)])
        row = await live(session, second)
        assert row is not None and (row["state"], row["runner"]) == (4, None)
        assert await holders(session) == [("a", 1, second)]


# Races


async def test_who_goes_to_wait_is_seen_by_who_ends(dsn: str) -> None:
    """Whoever ends while another is going to wait waits for its commit, and hands over."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        _, second = await store(session, locked(), locked())
        (holder,) = await claim(session, room=1)
        await acquire_locks(session, RUNNER, [holder])
        (waiter,) = await claim(other, SOMEBODY_ELSE)
        transaction = transaction_of(other)
        await transaction.start()
        assert (await acquire_locks(other, SOMEBODY_ELSE, [waiter])).blocked == {second}
        finishing = asyncio.ensure_future(finish_jobs(session, RUNNER, [done(holder)]))
        await until_waiting(dsn)
        await transaction.commit()
        await finishing
        assert await holders(other) == [("a", 1, second)]


async def test_a_holder_that_is_just_ending_leaves_a_doubt(dsn: str) -> None:
    """Nobody waits for its transaction, which may be the application's own; a look after it hands over."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        _, second = await store(session, locked(), locked())
        (holder,) = await claim(session, room=1)
        await acquire_locks(session, RUNNER, [holder])
        (waiter,) = await claim(other, SOMEBODY_ELSE)
        transaction = transaction_of(session)
        await transaction.start()
        await finish_jobs(session, RUNNER, [done(holder)])
        acquired = await acquire_locks(other, SOMEBODY_ELSE, [waiter])
        assert (set(acquired.blocked), set(acquired.doubtful)) == ({second}, {second})
        assert await settle_locks(other, ["a"]) == 0
        await transaction.commit()
        assert await settle_locks(other, ["a"]) == 1
        assert await holders(other) == [("a", 1, second)]


async def test_a_stricter_isolation_ends_a_job_and_the_sweep_hands_over(dsn: str) -> None:
    """A transaction that sees the past could not be committed if it wrote to who waits: one it sees may be gone by now."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        await store(session, locked(), locked(), locked())
        (holder,) = await claim(session, room=1)
        await acquire_locks(session, RUNNER, [holder])
        gone, waiter = await claim(other, SOMEBODY_ELSE)
        await acquire_locks(other, SOMEBODY_ELSE, [gone])
        transaction = transaction_of(session, isolation="repeatable_read")
        await transaction.start()
        await session.connection.fetchval("select 1 from asyncjobs.locks")
        await cancel_job(other, gone.id)
        await acquire_locks(other, SOMEBODY_ELSE, [waiter])
        await finish_jobs(session, RUNNER, [done(holder)])
        await transaction.commit()
        assert await sweep_locks(other, 60.0) == (0, 1)
        assert await holders(other) == [("a", 1, waiter.id)]


async def test_a_sweep_frees_what_nobody_holds(dsn: str) -> None:
    """A stranger deleted the job; or a lock was handed over to one that nobody comes for."""
    async with session_of(dsn) as session:
        first, second, third = await store(session, *[locked() for _ in range(3)])
        await claim_and_lock(session)
        await session.connection.execute("delete from asyncjobs.live_jobs where id = $1", first)
        assert await sweep_locks(session, 60.0) == (1, 0)
        assert await holders(session) == [("a", 1, second)]
        assert await sweep_locks(session, 0.0) == (1, 0)
        assert await holders(session) == [("a", 1, third)]
        running, acquired = await claim_and_lock(session)
        assert ([job.id for job in running], set(acquired.blocked)) == ([third], {second})
        assert await sweep_locks(session, 0.0) == (0, 0)


async def until_waiting(dsn: str) -> None:
    async with session_of(dsn) as watcher:

        async def waits() -> bool:
            return bool(
                await watcher.connection.fetchval("select exists (select from pg_locks where not granted)")
            )

        await eventually_async(waits)


async def test_nobody_waits_for_another_in_a_circle(dsn: str) -> None:
    """Runners that claim, finish and give back the same few keys never meet a deadlock, and nothing is left."""
    keys = [f"key {number}" for number in range(4)]
    running: dict[str, int] = dict.fromkeys(keys, 0)
    async with session_of(dsn) as session:
        for number in range(1, 5):
            await enter(session, number)
        await store(session, *[locked(keys[number % 4], 2) for number in range(120)])

    async def run(number: int) -> None:
        async with session_of(dsn) as session:
            while True:
                jobs = await claim(session, number, room=7)
                acquired = await acquire_locks(session, number, jobs)
                mine = [job for job in jobs if job.id in acquired.held]
                for job in mine:
                    assert job.lock_key is not None
                    running[job.lock_key] += 1
                    assert running[job.lock_key] <= 2
                await asyncio.sleep(0)
                for job in mine:
                    assert job.lock_key is not None
                    running[job.lock_key] -= 1
                given_back = mine[::5] if number % 2 else []
                await return_jobs(session, number, [back(job) for job in given_back])
                await finish_jobs(session, number, [done(job) for job in mine if job not in given_back])
                undecided = [job for job in jobs if job.id not in acquired.held | acquired.blocked]
                await return_jobs(session, number, [back(job) for job in undecided])
                if not jobs:
                    await settle_locks(session, keys)
                    if not await session.connection.fetchval(
                        "select count(*) from asyncjobs.live_jobs where id > 0"
                    ):
                        return

    await asyncio.gather(*map(run, range(1, 5)))
    async with session_of(dsn) as session:
        assert await holders(session) == []
        assert await session.connection.fetchval("select count(*) from asyncjobs.finished_jobs") == 120


async def test_the_lock_of_one_key_is_the_keys_own(dsn: str) -> None:
    """Two rows for one slot cannot be."""
    async with session_of(dsn) as session:
        await session.connection.execute(
            "insert into asyncjobs.locks (key, slot, job, token) values ('a', 1, 1, 1)"
        )
        with pytest.raises(asyncpg.UniqueViolationError):
            await session.connection.execute(
                "insert into asyncjobs.locks (key, slot, job, token) values ('a', 1, 2, 1)"
            )


async def test_jobs_that_are_cleared_hand_no_lock_to_one_another(dsn: str) -> None:
    """The one that was about to be claimed, and those that waited behind it: all are gone, and the lock is free."""
    async with session_of(dsn) as session:
        await store(session, *[locked() for _ in range(5)])
        (job,), _ = await claim_and_lock(session)
        await return_jobs(session, RUNNER, [back(job)])
        assert [holder for *_, holder in await holders(session)] == [job.id + 1]
        assert await clear_jobs(session) == 5
        assert await holders(session) == []


async def test_a_lock_goes_to_who_is_not_cleared(dsn: str) -> None:
    """Of two kinds only one is cleared: the next in turn is of the other."""
    async with session_of(dsn) as session:
        await store(session, *[locked() for _ in range(3)], locked(kind="other"))
        (job,), _ = await claim_and_lock(session)
        (other,) = await claim(session, lanes=[("q", "other")])
        await acquire_locks(session, RUNNER, [other])
        await return_jobs(session, RUNNER, [back(job)])
        assert await clear_jobs(session, kinds=["k"]) == 3
        assert await holders(session) == [("a", 1, other.id)]


async def narrow(session: Session) -> ClaimedJob:
    """A queue of one place, and who has it."""
    await limit_queue(session, "narrow", 1, None)
    await store(session, new_job(queue="narrow"))
    (job,) = await claim(session, lanes=[("narrow", "k")])
    assert await admit_jobs(session, RUNNER, [job]) == {job.id}
    return job


async def block(session: Session, *waiting: Any) -> tuple[ClaimedJob, list[int]]:
    """Who holds the lock `a`, and *waiting*, who wait for it."""
    ids = await store(session, locked(priority=-9), *waiting)
    jobs = await claim(session, lanes=[("q", "k"), ("narrow", "k")])
    assert (await acquire_locks(session, RUNNER, jobs)).blocked == set(ids[1:])
    (holder,) = [job for job in jobs if job.id == ids[0]]
    return holder, ids[1:]


async def test_one_whose_queue_is_full_is_passed_over(dsn: str) -> None:
    """It could not run: the lock goes to the next that can, and to it once there is room."""
    async with session_of(dsn) as session:
        full = await narrow(session)
        holder, (waiting, other) = await block(session, locked(queue="narrow"), locked())
        await finish_jobs(session, RUNNER, [done(holder)])
        assert ("a", 1, other) in await holders(session)
        (job,) = await claim(session, SOMEBODY_ELSE)
        await acquire_locks(session, SOMEBODY_ELSE, [job])
        await finish_jobs(session, SOMEBODY_ELSE, [done(job)])
        assert await sweep_locks(session, 60.0) == (0, 0)
        await finish_jobs(session, RUNNER, [done(full)])
        assert await sweep_locks(session, 60.0) == (0, 1)
        assert await holders(session) == [("a", 1, waiting)]


async def test_the_place_of_who_ends_is_not_in_the_way(dsn: str) -> None:
    """Of a queue of one place, who waits for the lock of the one job that runs in it has that at once."""
    async with session_of(dsn) as session:
        await limit_queue(session, "q", 1, None)
        first, second = await store(session, locked(), locked())
        (job,), _ = await claim_and_lock(session)
        assert await admit_jobs(session, RUNNER, [job]) == {first}
        await finish_jobs(session, RUNNER, [done(job)])
        assert await holders(session) == [("a", 1, second)]


async def test_a_lock_is_taken_back_from_who_cannot_be_claimed(dsn: str) -> None:
    """Its queue was paused after the lock was handed to it: the next in turn has it soon; otherwise it has a minute."""
    async with session_of(dsn) as session:
        holder, (waiting, other) = await block(session, locked(queue="narrow"), locked(priority=1))
        await finish_jobs(session, RUNNER, [done(holder)])
        assert await holders(session) == [("a", 1, waiting)]
        await session.connection.execute("update asyncjobs.locks set since = now() - interval '5 s'")
        assert await sweep_locks(session, 60.0) == (0, 0)
        await pause_queue(session, "narrow")
        assert await sweep_locks(session, 60.0, 10.0) == (0, 0)
        assert await sweep_locks(session, 60.0) == (1, 0)
        assert await holders(session) == [("a", 1, other)]


async def test_nobody_comes_before_who_waits_already(dsn: str) -> None:
    """A race left a slot free: who asks for it next waits, unless it is more urgent, and who waited has it."""
    async with session_of(dsn) as session:
        _, second = await store(session, locked(), locked())
        await claim_and_lock(session)
        await session.connection.execute("delete from asyncjobs.locks")
        (late,) = await store(session, locked())
        running, acquired = await claim_and_lock(session, SOMEBODY_ELSE)
        assert (running, set(acquired.blocked)) == ([], {late})
        assert await holders(session) == [("a", 1, second)]
        await session.connection.execute("delete from asyncjobs.locks")
        (urgent,) = await store(session, locked(priority=-1))
        running, _ = await claim_and_lock(session, SOMEBODY_ELSE)
        assert [job.id for job in running] == [urgent]


async def test_a_sweep_leaves_alone_who_waits_for_what_is_held(dsn: str) -> None:
    """Ten thousand keys may be waited for: a row of each, every other second, is not locked for nothing."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        _, second = await store(session, locked(), locked())
        await claim_and_lock(session)
        async with transaction_of(session):
            assert await sweep_locks(session, 60.0) == (0, 0)
            waits = "select id from asyncjobs.live_jobs where state = 3 and id > 0 for update skip locked"
            assert [row[0] for row in await other.connection.fetch(waits)] == [second]
