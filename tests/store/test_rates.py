"""Rates by key, in the statements that let claimed jobs begin and make ready who waits.

Time passes here by moving what was used into the past.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.limits import Rate
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, JobState, LiveState
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import claim_jobs, finish_jobs, look_around, return_jobs
from asyncjobs._store.clearing import clear_jobs
from asyncjobs._store.limits import find_limits, limit_queue
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.rates import LetIn, find_rate, let_in, promote_rates, prune_rates, sweep_rates
from asyncjobs._store.session import Session
from asyncjobs._store.steering import Choice, cancel_jobs, retry_jobs
from asyncjobs._store.unique import insert_unique
from asyncjobs._store.views import cancel_job, get_job, pause_queue, resume_queue, retry_job
from tests.store.jobs import RUNNER, claim, enter, finished, live, new_job, requests, session_of, store

BUCKET, SLIDING, FIXED = 0, 1, 2

PASS = """
with rows as (
  update asyncjobs.rates
     set used_at = used_at - $1::float8 * interval '1 s', full_at = full_at - $1::float8 * interval '1 s',
         due_at = due_at - $1::float8 * interval '1 s'
), payments as (
  update asyncjobs.rate_payments set paid_at = paid_at - $1::float8 * interval '1 s'
)
update asyncjobs.live_jobs set promoted_at = promoted_at - $1::float8 * interval '1 s' where promoted_at is not null
"""


def rated(weight: int = 1, capacity: int = 3, per: float = 600.0, window: int = BUCKET, **given: Any) -> Any:
    """A job with a rate: three in ten minutes."""
    kept = {"key": "r", "weight": weight, "capacity": capacity, "per": per, "window": window}
    return new_job(
        **{
            "rate_key": "r",
            "rate_weight": weight,
            "rate_capacity": capacity,
            "rate_per": per,
            "rate_window": window,
            "options": {"rate": kept},
            **given,
        }
    )


async def time_passes(session: Session, seconds: float) -> None:
    await session.connection.execute(PASS, seconds)


async def ask(session: Session, *, room: int = 100, runner: int = RUNNER) -> LetIn:
    """Claim, and let in who can pay."""
    return await let_in(session, runner, await claim(session, runner, room=room))


async def end(session: Session, ids: frozenset[int]) -> None:
    rows = await session.connection.fetch(
        "select id, token from asyncjobs.live_jobs where id = any ($1)", list(ids)
    )
    jobs = [ClaimedJob(row["id"], row["token"], *[None] * 12) for row in rows]  # type: ignore[arg-type]
    await finish_jobs(session, RUNNER, [Finished(job, FinalState.COMPLETED, 0.1) for job in jobs])


async def in_line(session: Session) -> list[int]:
    rows = await session.connection.fetch(
        "select id from asyncjobs.live_jobs where state = 6 order by priority, scheduled_at, id"
    )
    return [row["id"] for row in rows]


async def test_who_cannot_pay_waits_in_line_and_is_claimed_no_more(dsn: str) -> None:
    """Blocked, with its attempt given back; its rate says when it is due, and a look around tells in how many seconds."""
    async with session_of(dsn) as session:
        ids = await store(session, *[rated() for _ in range(5)])
        came = await ask(session)
        assert came.held == set(ids[:3])
        assert came.blocked == set(ids[3:])
        assert came.due is not None
        assert 55 < came.due <= 60  # of a line somebody looks at least once a minute
        assert await claim(session) == []
        waits = await get_job(session, ids[3])
        assert waits is not None
        assert (waits.state, waits.attempt, waits.started_at) == (JobState.BLOCKED, 0, None)
        due = (await look_around(session)).rate_due
        assert due is not None
        assert 50 < due <= 60
        found = await find_rate(session, ids[4])
        assert found is not None
        assert found[:6] == (1, 3, 600.0, "bucket", 0, 1)
        assert await find_rate(session, ids[0]) is None


@pytest.mark.parametrize("window", [BUCKET, SLIDING, FIXED])
async def test_as_many_are_made_ready_as_there_are_tokens(dsn: str, window: int) -> None:
    """And no more while those have not paid; what is made ready pays when it is claimed."""
    async with session_of(dsn) as session:
        ids = await store(session, *[rated(window=window, per=600.0) for _ in range(8)])
        await ask(session)
        await time_passes(session, 600.1)
        lanes, due = await promote_rates(session, 10)
        assert lanes == {("q", "k")}
        assert due is not None
        assert await in_line(session) == ids[6:]
        await session.connection.execute("update asyncjobs.rates set due_at = now()")
        assert (await promote_rates(session, 10))[0] == set()
        came = await ask(session)
        assert came.held == set(ids[3:6])
        assert came.waits == {}
        assert came.blocked == set()


async def test_who_was_made_ready_and_does_not_come_holds_up_nobody(dsn: str) -> None:
    """After ten seconds the next are: to be made ready is no payment."""
    async with session_of(dsn) as session:
        ids = await store(session, *[rated() for _ in range(9)])
        await ask(session)
        await time_passes(session, 600.1)
        await promote_rates(session, 10)
        await time_passes(session, 70.0)
        await promote_rates(session, 10)
        assert await in_line(session) == ids[9:]
        assert (await ask(session)).held == set(ids[3:6])
        assert await in_line(session) == ids[6:9]


async def test_the_urgent_go_first_and_nobody_passes_the_first(dsn: str) -> None:
    """One that weighs more than is left waits, and a light one behind it, too, until both may go; an urgent one before them."""
    async with session_of(dsn) as session:
        await store(session, rated(weight=2))
        assert len((await ask(session)).held) == 1
        heavy, light = await store(session, rated(weight=3), rated(weight=1))
        assert (await ask(session)).blocked == {heavy, light}
        late = (await store(session, rated(weight=1)))[0]
        assert (await ask(session)).blocked == {late}
        urgent = (await store(session, rated(weight=1, priority=-1)))[0]
        assert (await ask(session)).held == {urgent}
        await time_passes(session, 599.0)
        await promote_rates(session, 10)
        assert await in_line(session) == [heavy, light, late]
        await time_passes(session, 2.0)
        await promote_rates(session, 10)
        assert await in_line(session) == [light, late]


async def test_those_behind_go_to_the_line_together(dsn: str) -> None:
    """One claim finds out for all that lie ready behind it in its lane: they are not claimed for nothing. Others stay."""
    async with session_of(dsn) as session:
        ids = await store(session, *[rated() for _ in range(50)])
        others = await store(session, new_job(), rated(rate_key="s"))
        assert (await ask(session, room=5)).held == set(ids[:3])
        assert await in_line(session) == ids[3:]
        assert {job.id for job in await claim(session)} == set(others)
        rows = await session.connection.fetch(
            "select token from asyncjobs.live_jobs where state = 6 and token > 0"
        )
        assert len(rows) == 2


async def test_only_so_many_pay_as_begin(dsn: str) -> None:
    """Of those that are to wait in the runner it is found out who cannot begin; the others have paid nothing, and keep their keys."""
    async with session_of(dsn) as session:
        await insert_unique(
            session,
            [rated(unique_key=f"u{n}", unique_to_start=True) for n in range(4)],
            wake=True,
            commits_itself=True,
        )
        jobs = await claim(session, begin=False)
        came = await let_in(session, RUNNER, jobs, 1)
        assert came.held == {jobs[0].id}
        assert came.later == {jobs[1].id, jobs[2].id}
        assert came.blocked == {jobs[3].id}
        keys = await session.connection.fetch(
            "select unique_key from asyncjobs.live_jobs where id > 0 order by id"
        )
        assert [row["unique_key"] for row in keys] == [None, "u1", "u2", "u3"]
        first = await live(session, jobs[0].id)
        assert first is not None
        assert (first["started_at"], first["paid_at"] is None) == (None, False)
        assert (await let_in(session, RUNNER, jobs[1:3])).held == {jobs[1].id, jobs[2].id}


@pytest.mark.parametrize("how", ["alone", "with others"])
async def test_each_attempt_pays_and_what_is_told_of_it_is_when_it_paid(dsn: str, how: str) -> None:
    """A retry pays again, also of a job that was final; its start is the moment of its payment."""
    async with session_of(dsn) as session:
        (job_id,) = await store(session, rated(capacity=2))
        (job,) = jobs = await claim(session)
        assert (await let_in(session, RUNNER, jobs)).held == {job_id}
        await return_jobs(session, RUNNER, [Returned(job, LiveState.READY, 0.0)])
        (job,) = jobs = await claim(session)
        assert (await let_in(session, RUNNER, jobs)).held == {job_id}
        paid_at = (await live(session, job_id) or {})["paid_at"]
        await finish_jobs(session, RUNNER, [Finished(job, FinalState.COMPLETED, 0.0)])
        assert (await finished(session, job_id) or {})["started_at"] == paid_at
        if how == "alone":
            assert await retry_job(session, job_id) == "q"
        else:
            assert (await retry_jobs(session, Choice([JobState.COMPLETED]), 0)).again == 1
        assert (await ask(session)).blocked == {job_id}


async def test_a_runner_that_dies_between_claim_and_payment_leaves_nothing_behind(dsn: str) -> None:
    """Its jobs are claimed again and pay then; who had paid and begun pays again."""
    async with session_of(dsn) as session:
        await enter(session)
        ids = await store(session, rated(), rated(), rated())
        jobs = await claim(session, begin=False)
        await let_in(session, RUNNER, jobs, 0)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")
        await enter(session)
        assert (await ask(session)).held == set(ids)
        left = await session.connection.fetchval("select tokens_left from asyncjobs.rate_limits")
        assert left == 0


async def test_a_paused_queue_holds_up_no_other_of_the_rate(dsn: str) -> None:
    """Who waits there is passed over, and neither a newcomer waits for it; when it goes on, it has its turn within two seconds."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        (paused,) = await store(session, rated(queue="other", priority=-1))
        await let_in(session, RUNNER, await claim(session, lanes=[("other", "k")]))
        (waits,) = await store(session, rated())
        await ask(session)
        await pause_queue(session, "other")
        await time_passes(session, 200.1)
        await promote_rates(session, 10)
        assert await in_line(session) == [paused]
        assert (await ask(session)).held == {waits}
        await time_passes(session, 200.1)
        (newcomer,) = await store(session, rated())
        assert (await ask(session)).held == {newcomer}
        due = (await look_around(session)).rate_due
        assert due is not None
        assert due <= 2
        await resume_queue(session, "other")
        await time_passes(session, 200.1)
        await promote_rates(session, 10)
        assert await in_line(session) == []


@pytest.mark.parametrize("how", ["cancelled", "cancelled with others", "cleared"])
async def test_cancelled_or_cleared_it_holds_up_nobody(dsn: str, how: str) -> None:
    """The line is looked at again at once: who is behind may be lighter."""
    async with session_of(dsn) as session:
        await store(session, rated(weight=2))
        await ask(session)
        heavy, light = await store(session, rated(weight=3, kind="heavy"), rated(weight=1))
        await let_in(session, RUNNER, await claim(session, lanes=[("q", "k"), ("q", "heavy")]))
        assert await in_line(session) == [heavy, light]
        if how == "cancelled":
            assert await cancel_job(session, heavy) == "cancelled"
        elif how == "cancelled with others":
            blocked = Choice([JobState.BLOCKED], kinds=["heavy"])
            assert (await cancel_jobs(session, blocked, 0)).cancelled == 1
        else:
            assert await clear_jobs(session, kinds=["heavy"]) == 1
        await promote_rates(session, 10)
        assert await in_line(session) == []


async def test_one_whose_inputs_are_replaced_asks_its_new_rate(dsn: str) -> None:
    """It leaves the line it was in."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        unique: Any = {"unique_key": "u", "on_conflict": ("replace",)}
        ((job_id, _),) = await insert_unique(session, [rated(**unique)], wake=True, commits_itself=True)
        assert (await ask(session)).blocked == {job_id}
        await insert_unique(session, [rated(rate_key="other", **unique)], wake=True, commits_itself=True)
        assert (await ask(session)).held == {job_id}


async def test_the_lock_comes_first_and_is_not_kept_in_line(dsn: str) -> None:
    """Who has its lock and cannot pay lets it go to the next."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        both, second = await store(
            session, *[rated(lock_key="l", lock_slots=1), new_job(lock_key="l", lock_slots=1)]
        )
        jobs = await claim(session)
        held = (await acquire_locks(session, RUNNER, jobs)).held
        assert held == {both}
        assert (await let_in(session, RUNNER, [jobs[0]])).blocked == {both}
        handed = await session.connection.fetchval("select job from asyncjobs.locks")
        assert handed == second


async def test_a_full_queue_costs_no_tokens(dsn: str) -> None:
    """Who finds no place goes back and has paid nothing, neither the queue's rate nor its own."""
    async with session_of(dsn) as session:
        await limit_queue(session, "q", 1, Rate(10, per=600))
        ids = await store(session, rated(), rated())
        came = await ask(session)
        assert came.held == {ids[0]}
        assert not came.blocked
        left = await session.connection.fetch(
            "select queue, tokens_left from asyncjobs.rate_limits order by queue"
        )
        assert [tuple(row) for row in left] == [("q", 9), (None, 2)]
        assert (await live(session, ids[1]) or {})["runner"] == RUNNER  # its runner gives it back


@pytest.mark.parametrize("window", ["sliding", "fixed"])
async def test_a_queue_has_a_window(dsn: str, window: Any) -> None:
    """As many as it says begin in it, all of them at once, and no more until it is over."""
    async with session_of(dsn) as session:
        await limit_queue(session, "q", None, Rate(2, per=600, window=window))
        await store(session, *[new_job() for _ in range(5)])
        jobs = await claim(session)
        assert len((await let_in(session, RUNNER, jobs)).held) == 2
        assert (await let_in(session, RUNNER, jobs[2:])).held == set()
        ((queue, allowed, seconds),) = await find_limits(session)
        assert (queue, allowed) == ("q", 0)
        assert seconds is not None
        assert 0 < seconds <= 600
        await time_passes(session, 600.0)
        assert (await let_in(session, RUNNER, jobs[2:])).held == {jobs[2].id, jobs[3].id}


async def test_the_youngest_says_what_the_rate_is(dsn: str) -> None:
    """What was used stays used; an older one that asks later changes nothing."""
    async with session_of(dsn) as session:
        old = await store(session, *[rated() for _ in range(4)])
        assert len((await ask(session)).held) == 3
        new = await store(session, *[rated(capacity=5, window=SLIDING) for _ in range(3)])
        assert (await ask(session)).blocked == set(new)  # the old one comes first …
        row = await session.connection.fetchrow("select * from asyncjobs.rate_limits")
        assert (row["capacity"], row["window"]) == (5, "sliding")
        assert (await ask(session)).held == {old[3], new[0]}  # … and five may have begun
        await end(session, frozenset(old[:1]))
        await retry_job(session, old[0])
        await ask(session)
        row = await session.connection.fetchrow("select * from asyncjobs.rate_limits")
        assert (row["capacity"], row["window"]) == (5, "sliding")


async def test_a_job_that_weighs_more_than_a_lowered_rate_pays_all_of_it(dsn: str) -> None:
    """It was stored when the rate held more, and is not to wait for ever."""
    async with session_of(dsn) as session:
        (heavy,) = await store(session, rated(weight=10, capacity=10))
        (small,) = await store(session, rated(weight=1, capacity=4))
        came = await ask(session)
        assert came.held == {heavy}
        assert came.blocked == {small}


async def test_a_clock_that_is_set_back_stops_no_rate(dsn: str) -> None:
    """What was used in what is the future now counts as used now: one time more to wait, not until the clock is there again."""
    async with session_of(dsn) as session:
        for window in (BUCKET, SLIDING, FIXED):
            await store(session, *[rated(rate_key=f"r{window}", window=window, per=1.0) for _ in range(3)])
        assert len((await ask(session)).held) == 9
        await time_passes(session, -3600.0)
        await store(session, *[rated(rate_key=f"r{window}", window=window, per=1.0) for window in range(3)])
        assert (await ask(session)).held == set()
        await time_passes(session, 1.0)
        await promote_rates(session, 10)
        assert len((await ask(session)).held) == 3


async def test_a_token_that_comes_in_a_moment_is_paid_ahead(dsn: str) -> None:
    """Its job is let in now, and begins when it is there: so says its row, and the runner is told in how many seconds."""
    async with session_of(dsn) as session:
        ids = await store(session, rated(capacity=1, per=0.5), rated(capacity=1, per=0.5))
        await ask(session)
        await time_passes(session, 0.495)
        await promote_rates(session, 10)
        came = await ask(session)
        if came.waits:  # unless the machine took its time
            assert came.held == {ids[1]}
            assert 0 < came.waits[ids[1]] < 0.010
        rows = await session.connection.fetch(
            "select paid_at from asyncjobs.live_jobs where id = any ($1) order by id", ids
        )
        assert (rows[1]["paid_at"] - rows[0]["paid_at"]).total_seconds() > 0


async def test_what_a_stranger_did_is_put_right_by_the_sweep(dsn: str) -> None:
    """A line of which no row is left is seen to again; one that is seen to is left alone."""
    async with session_of(dsn) as session:
        ids = await store(session, *[rated() for _ in range(5)])
        await ask(session)
        assert await sweep_rates(session) == 0
        await session.connection.execute("delete from asyncjobs.rates")
        assert await sweep_rates(session) == 1
        assert (await ask(session)).held == set(ids[3:])


async def test_a_rate_nobody_uses_is_forgotten(dsn: str) -> None:
    """When it is full again and nobody waits; its payments too."""
    async with session_of(dsn) as session:
        await store(session, *[rated(rate_key=f"r{window}", window=window) for window in range(3)])
        came = await ask(session)
        await end(session, came.held)
        assert await prune_rates(session, 10) == 0
        await time_passes(session, 700.0)
        assert await prune_rates(session, 10) == 3
        assert await session.connection.fetchval("select count(*) from asyncjobs.rate_payments") == 0


async def test_a_row_that_is_forgotten_just_now_is_made_again(dsn: str) -> None:
    """Who asks waits for who forgets, and finds a full one."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        ids = await store(session, *[rated() for _ in range(3)])
        came = await ask(session, room=1)
        await end(session, came.held)
        await time_passes(session, 700.0)
        transaction: Any = other.connection.transaction()
        await transaction.start()
        assert await prune_rates(other, 10) == 1
        asking = asyncio.ensure_future(ask(session))
        await asyncio.sleep(0.05)
        assert not asking.done()
        await transaction.commit()
        assert (await asking).held == set(ids[1:])
        assert await session.connection.fetchval("select tokens_left from asyncjobs.rate_limits") == 1


async def test_runners_that_let_in_at_once_do_not_exceed_it(dsn: str) -> None:
    """One after the other, each seeing what those before it have paid, with keys and queues in any order: no deadlock."""
    async with session_of(dsn) as one, session_of(dsn) as two:
        await limit_queue(one, "q", None, Rate(1000, per=600))
        for _ in range(10):
            await store(
                one, *[rated(rate_key=f"r{n % 4}", queue="qp"[n % 2], capacity=50) for n in range(40)]
            )
            lanes = [("q", "k"), ("p", "k")]
            sessions = ((one, 11), (two, 12))
            claims = [await claim(session, runner, lanes=lanes, room=10) for session, runner in sessions]
            both = await asyncio.gather(
                *(
                    let_in(session, runner, jobs)
                    for (session, runner), jobs in zip(sessions, claims, strict=True)
                )
            )
            assert sum(len(each.held) for each in both) <= 40
        left = await one.connection.fetch("select tokens_left from asyncjobs.rate_limits where queue is null")
        assert min(row["tokens_left"] for row in left) >= 0
        paid = await one.connection.fetch(
            "select rate_key, count(*) as jobs from asyncjobs.live_jobs where paid_at is not null group by rate_key"
        )
        assert max(row["jobs"] for row in paid) <= 50


async def test_a_claim_of_one_with_a_rate_is_as_cheap_as_any(dsn: str) -> None:
    """Claimed, it keeps its place in every index: a HOT update."""
    async with session_of(dsn) as session:
        await store(session, *[rated(rate_key=f"r{n}") for n in range(50)])
        await claim_jobs(session, requests(), RUNNER, begin=True)
        await session.connection.execute("select pg_stat_force_next_flush()")
        row = await session.connection.fetchrow(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'live_jobs'"
        )
        assert row["n_tup_upd"] == row["n_tup_hot_upd"] == 50
