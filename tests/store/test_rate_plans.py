"""Jobs that wait for a rate are in nobody's way, and the next is found at once, whatever the statistics say."""

from __future__ import annotations

import pytest

from asyncjobs._store.rates import let_in, promote_rates, sweep_rates
from tests.store.jobs import RUNNER, claim, session_of, store
from tests.store.plans import cost
from tests.store.test_lock_plans import MANY, drain
from tests.store.test_rates import rated, time_passes

IN_LINE = """
insert into asyncjobs.live_jobs (queue, kind, args, rate_key, rate_weight, rate_capacity, rate_per, rate_window, state, token)
select 'q', 'k', '{}', 'r', 1, 3, 600, 0, 6, 1 from generate_series(1, $1::integer)
"""
OTHER_KEYS = """
with lines as (
  insert into asyncjobs.live_jobs (queue, kind, args, rate_key, rate_weight, rate_capacity, rate_per, rate_window, state, token)
  select 'q', 'k', '{}', 'r' || n, 1, 3, 600, 0, 6, 1 from generate_series(1, $1::integer) n
)
insert into asyncjobs.rates (key, capacity, per, "window", said_by, due_at)
select 'r' || n, 3, 600, 0, 0, now() + interval '50 s' from generate_series(1, $1::integer) n
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_waits_costs_the_others_nothing(dsn: str, analyzed: bool) -> None:
    """With 30,000 in line, looking, claiming and finishing touch what they touch without them, give or take a tenth; and to let
    in, to make ready the next, and to sweep touch a few blocks.
    """
    async with session_of(dsn) as session:
        for _ in range(2):  # the first fills caches
            alone = await drain(session)
        await session.connection.execute(IN_LINE, MANY)
        await session.connection.execute(OTHER_KEYS, 1000)
        if analyzed:
            await session.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
        for _ in range(2):
            beside = await drain(session)
            await store(session, rated(priority=-1))
            jobs = await claim(session, room=1)
            paid = await cost(session, lambda s, jobs=jobs: let_in(s, RUNNER, jobs))  # type: ignore[misc]
            assert len(paid.result.held) == 1
            await time_passes(session, 60.0)
            ready = await cost(session, lambda s: promote_rates(s, 1))
            swept = await cost(session, sweep_rates)
    for statement, blocks in beside.items():
        assert blocks <= alone[statement] * 1.1 + 100, (statement, alone, beside)
    assert paid.blocks < 500
    assert ready.blocks < 500
    assert swept.blocks < 20_000  # one step for each key
