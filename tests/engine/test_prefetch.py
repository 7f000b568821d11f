"""What is claimed ahead of a free slot is little, quick and innocent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import current_job, job
from asyncjobs._engine.pace import LONGEST_WAIT, MOST_BYTES, MOST_JOBS, SLOW, Pace
from asyncjobs._model.outcome import Returned
from asyncjobs._model.states import LiveState
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import Claim, begin_jobs, return_jobs
from tests.engine.running import runner_of, running, watching
from tests.store.jobs import RUNNER, claim, enter, live, new_job, store
from tests.waiting import eventually_async

MOODY = "test_prefetch:moody"
WITNESS = "test_prefetch:witness"

ran: Counter[str] = Counter()
gate: asyncio.Event
seen: list[bool] = []
connections: list[asyncpg.Pool] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    ran.clear()
    seen.clear()
    gate = asyncio.Event()


@job(kind=MOODY)
async def moody(slow: bool, padding: str = "") -> None:
    """Quick on one day, stuck on the other."""
    ran["slow" if slow else "fast"] += 1
    if slow:
        await gate.wait()


@job(kind=WITNESS)
async def witness(look: bool) -> None:
    """Looks itself up in the database, now and then."""
    ran["witness"] += 1
    if look:
        (pool,) = connections
        seen.append(await pool.fetchval(BEGUN, current_job().id))


BEGUN = """
select live_jobs.started_at is not null or (live_jobs.id, live_jobs.token) in (select * from unnest(begun, begun_tokens))
  from asyncjobs.live_jobs, asyncjobs.runners
 where live_jobs.id = $1 and runners.incarnation = live_jobs.runner
"""


# How many.


durations = st.floats(0, 10)
sizes = st.integers(0, 2_000_000)
kinds = st.sampled_from("abc")


@pytest.mark.failure_mode("F25")
@given(
    observed=st.lists(st.tuples(kinds, durations, sizes), max_size=30),
    asked=st.sets(kinds, min_size=1),
    slots=st.integers(1, 200),
)
def test_what_may_wait_is_bounded(
    observed: list[tuple[str, float, int]], asked: set[str], slots: int
) -> None:
    """By number; by time, for the slowest of the kinds; by size, for the biggest; and nothing waits behind a slow kind."""
    pace = Pace()
    for kind, seconds, size in observed:
        pace.observe(kind, seconds, size)
    allowed = pace.prefetch(asked, slots)
    assert 0 <= allowed <= MOST_JOBS
    of = {kind: [(seconds, size) for each, seconds, size in observed if each == kind] for kind in asked}
    if not all(of.values()):
        assert allowed == 0, "a kind that was never seen may be slow"
        return
    least_seconds = max(min(seconds for seconds, _ in each) for each in of.values())
    assert allowed * least_seconds <= LONGEST_WAIT * slots + 1e-6
    least_bytes = max(min(size for _, size in each) for each in of.values())
    assert allowed * least_bytes <= MOST_BYTES
    if least_seconds >= SLOW:
        assert allowed == 0


def test_a_quick_kind_is_prefetched() -> None:
    """Otherwise all of this would be easy."""
    pace = Pace()
    pace.observe("k", 0.0001, 100)
    assert pace.prefetch(["k"], 20) == MOST_JOBS


@pytest.mark.failure_mode("F25")
async def test_nothing_is_claimed_ahead_of_slow_jobs(dsn: str) -> None:
    """A runner holds as many as it has slots."""
    async with running(dsn, slots=3), watching(dsn) as other:
        await store(other.session, *(new_job(MOODY, "default", args='{"slow": true}') for _ in range(50)))

        async def busy() -> bool:
            return ran["slow"] == 3

        await eventually_async(busy)
        held = "select count(*) from asyncjobs.live_jobs where runner is not null and id > 0"
        await other.until_quiet()
        assert await other.connection.fetchval(held) == 3
        gate.set()


async def test_jobs_that_turn_slow_do_not_lock_up_what_was_claimed_ahead(dsn: str) -> None:
    """Claimed while the kind was quick, they wait behind one that is not: they go back, unburnt, for whoever has a slot."""
    async with running(dsn, slots=2, guard=None), watching(dsn) as other:
        fast = [new_job(MOODY, "default", args='{"slow": false}') for _ in range(400)]
        slow = [new_job(MOODY, "default", args='{"slow": true}') for _ in range(40)]
        await store(other.session, *fast, *slow)

        async def stuck() -> bool:
            return ran["slow"] == 2

        await eventually_async(stuck)

        async def given_back() -> bool:
            free = "select count(*) from asyncjobs.live_jobs where runner is null and state = 0 and id > 0"
            count: int = await other.connection.fetchval(free)
            return count == 38

        await eventually_async(given_back, within=5)
        rows = await other.connection.fetch(
            "select distinct attempt, crashes from asyncjobs.live_jobs where runner is null and id > 0"
        )
        assert [tuple(row) for row in rows] == [(0, 0)]
        taken = await claim(other.session, 77, lanes=[("default", MOODY)], room=100)
        assert len(taken) == 38
        gate.set()


@pytest.mark.failure_mode("F25")
async def test_big_jobs_after_small_ones_do_not_fill_the_memory(dsn: str) -> None:
    """The bound in bytes holds for what is claimed, not for what was observed."""
    async with running(dsn, slots=2, guard=None) as jobs, watching(dsn) as other:
        big = json.dumps({"slow": False, "padding": "x" * 200_000})
        await store(other.session, *(new_job(MOODY, "default", args='{"slow": false}') for _ in range(600)))
        for _ in range(20):
            await store(other.session, *(new_job(MOODY, "default", args=big) for _ in range(20)))
        most = 0
        while ran["fast"] < 1000:
            waiting = [job for pool in runner_of(jobs)._pools for job in pool.prefetched]
            most = max(most, sum(len(job.args) for job in waiting))
            await asyncio.sleep(0)
        assert most <= MOST_BYTES


# Who may be blamed.


async def test_a_job_that_runs_is_known_to_have_begun(dsn: str) -> None:
    """Prefetched or not, by the time its first line runs the database knows; and never of more than have slots."""
    slots = 5
    async with asyncpg.create_pool(dsn, min_size=2, max_size=6) as pool:
        connections[:] = [pool]
        async with running(dsn, slots=slots, guard=None), watching(dsn) as other:
            count = 3_000
            prefetched = 0
            jobs = [
                new_job(WITNESS, "default", args=f'{{"look": {json.dumps(nth % 97 == 0)}}}')
                for nth in range(count)
            ]
            await store(other.session, *jobs)
            while ran["witness"] < count:
                rows = await other.connection.fetchrow("""
                    select cardinality(begun) as begun,
                           (select count(*) from asyncjobs.live_jobs
                             where runner = incarnation and started_at is null and id <> all (begun)) as waiting
                      from asyncjobs.runners""")
                assert rows["begun"] <= slots
                prefetched = max(prefetched, rows["waiting"])
                await asyncio.sleep(0)
            assert len(seen) == len([nth for nth in range(count) if nth % 97 == 0])
            assert all(seen)
            assert prefetched > slots, "nothing was prefetched, so nothing was shown"


async def test_a_job_that_ran_before_is_innocent_while_it_waits_again(dsn: str) -> None:
    """It had begun under an earlier claim of the same runner; that is over."""
    async with watching(dsn) as other:
        session = other.session
        await enter(session)
        (job_id,) = await store(session)
        (first,) = await claim(session, begin=False)
        assert await begin_jobs(session, RUNNER, [Claim(first.id, first.token)])
        await return_jobs(session, RUNNER, [Returned(first, LiveState.READY, unburnt=True)])
        await claim(session, begin=False)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error='{"error": "gone"}')
        row = await live(session, job_id)
        assert row
        assert row["crashes"] == 0


async def test_begun_jobs_are_carried_over_to_the_next_incarnation(dsn: str) -> None:
    """A prefetched job that has begun stays begun when its runner takes a new name: a crash after that is on its record."""
    async with running(dsn, slots=2) as jobs, watching(dsn) as other:
        await store(other.session, *(new_job(MOODY, "default", args='{"slow": false}') for _ in range(400)))
        await store(other.session, *(new_job(MOODY, "default", args='{"slow": true}') for _ in range(2)))

        async def stuck() -> bool:
            held = "select count(*) from asyncjobs.live_jobs where runner is not null and id > 0"
            return ran["slow"] == 2 and await other.connection.fetchval(held) == 2

        await eventually_async(stuck)
        runner = runner_of(jobs)
        before = runner._identity.current
        runner._identity.doubt()

        async def renamed() -> bool:
            return runner._identity.current not in (None, before)

        await eventually_async(renamed)
        rows: Any = await other.connection.fetch(
            "select id from asyncjobs.live_jobs where runner is not null and id > 0"
        )
        begun = [await other.connection.fetchval(BEGUN, row["id"]) for row in rows]
        assert begun == [True, True]
        assert runner._identity.current is not None
        rescue = await rescue_jobs(
            other.session, runner._identity.current, blame=True, max_crashes=1, error='{"error": "gone"}'
        )
        assert rescue.failed == 2
        gate.set()
