"""Jobs that wait for locks are in nobody's way, and are found at once, whatever the statistics say."""

from __future__ import annotations

import pytest

from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.claims import finish_jobs, look_around
from asyncjobs._store.locks import acquire_locks, sweep_locks
from asyncjobs._store.session import Session
from tests.store.jobs import RUNNER, claim, new_job, session_of, store
from tests.store.plans import cost

MANY = 30_000

WAITERS = """
insert into asyncjobs.live_jobs (queue, kind, args, lock_key, lock_slots, state, token)
select 'q', 'k', '{}', 'hot', 1, 3, 1 from generate_series(1, $1::integer)
"""
HOLDER = """
with holder as (
  insert into asyncjobs.live_jobs (queue, kind, args, lock_key, lock_slots, runner, token, attempt)
  values ('q', 'k', '{}', 'hot', 1, 99, 1, 1) returning id
)
insert into asyncjobs.locks (key, slot, job, token) select 'hot', 1, id, 1 from holder
"""


async def drain(session: Session) -> dict[str, int]:
    """The blocks that a hundred jobs without a lock touch, from look to end."""
    await store(session, *[new_job() for _ in range(100)])
    looked = await cost(session, look_around)
    claimed = await cost(session, lambda s: claim(s, room=100))
    assert len(claimed.result) == 100
    done = [Finished(job, FinalState.COMPLETED, 0.1) for job in claimed.result]
    ended = await cost(session, lambda s: finish_jobs(s, RUNNER, done))
    return {"look": looked.blocks, "claim": claimed.blocks, "finish": ended.blocks}


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_waits_costs_the_others_nothing(dsn: str, analyzed: bool) -> None:
    """With 30,000 blocked on one key, looking, claiming and finishing touch what they touch without them, give or take a tenth."""
    async with session_of(dsn) as session:
        for _ in range(2):  # the first fills caches
            alone = await drain(session)
        await session.connection.execute(HOLDER)
        await session.connection.execute(WAITERS, MANY)
        if analyzed:
            await session.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
        for _ in range(2):
            beside = await drain(session)
    for statement, blocks in beside.items():
        assert blocks <= alone[statement] * 1.1 + 100, (statement, alone, beside)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_next_is_found_among_any_number(dsn: str, analyzed: bool) -> None:
    """Going to wait, handing over and the sweep touch a few blocks, not the 30,000 that wait."""
    async with session_of(dsn) as session:
        await session.connection.execute(HOLDER)
        await session.connection.execute(WAITERS, MANY)
        if analyzed:
            await session.connection.execute("vacuum (analyze) asyncjobs.live_jobs, asyncjobs.locks")
        await store(session, *[new_job(lock_key="hot", lock_slots=1) for _ in range(10)])
        jobs = await claim(session, room=10)
        waiting = await cost(session, lambda s: acquire_locks(s, RUNNER, jobs))
        swept = await cost(session, lambda s: sweep_locks(s, 60.0))
        holder = await session.connection.fetchval("select job from asyncjobs.locks")
        ending = await cost(
            session, lambda s: s.connection.fetchval("select asyncjobs.let_go($1::bigint)", holder)
        )
    assert len(waiting.result.blocked) == 10
    assert (swept.result, ending.result) == ((0, 0), 1)
    assert waiting.blocks < 800
    assert swept.blocks < 200
    assert ending.blocks < 200
