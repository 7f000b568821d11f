"""What a claim locks and reads, whatever the planner prefers and however long somebody's transaction has been open."""

from __future__ import annotations

import functools
import itertools

import attrs
import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.claims import LaneRequest, Mark, claim_jobs, finish_jobs
from asyncjobs._store.session import Session
from tests.store.jobs import RUNNER, requests, session_of
from tests.store.plans import cost, fill

LANE = [("q", "k")]
ROUNDS, ROUND = 40, 100


async def _claim(request: LaneRequest, session: Session) -> list[ClaimedJob]:
    return await claim_jobs(session, [request], RUNNER, begin=True)


async def _drain(session: Session, *, marked: bool) -> list[int]:
    """The blocks each claim touched, while every job claimed before stays behind as a dead row."""
    (request,) = requests(LANE, ROUND)
    blocks: list[int] = []
    for _ in range(ROUNDS):
        spent = await cost(session, functools.partial(_claim, request))
        blocks.append(spent.blocks)
        assert len(spent.result) == ROUND
        last = spent.result[-1]
        if marked:
            request = attrs.evolve(request, mark=Mark(last.priority, last.scheduled_at, last.id))
        done = [Finished(job, FinalState.COMPLETED, 0.1) for job in spent.result]
        await finish_jobs(session, RUNNER, done)
    return blocks


@pytest.mark.failure_mode("F61")
async def test_a_transaction_open_for_hours_does_not_slow_claims(dsn: str) -> None:
    """Its dead rows cannot be removed; a claim that knows how far it came does not step over them again."""
    async with session_of(dsn) as session, session_of(dsn) as report:
        await report.connection.execute(
            "begin isolation level repeatable read; select 1 from asyncjobs.live_jobs"
        )
        await fill(session, LANE, ROUNDS * ROUND)
        marked = await _drain(session, marked=True)
        assert max(marked[1:]) <= 2 * marked[0]
        await fill(session, LANE, ROUNDS * ROUND)
        unmarked = await _drain(session, marked=False)
        assert unmarked[-1] > 2 * max(marked), "the dead rows are in nobody's way, so nothing was shown"


PREFERENCES = (
    "enable_nestloop",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_material",
    "enable_indexscan",
    "enable_tidscan",
)


@pytest.mark.failure_mode("F73")
@pytest.mark.parametrize(
    "off", [*itertools.combinations(PREFERENCES, 1), *itertools.combinations(PREFERENCES, 2)], ids="+".join
)
async def test_a_claim_locks_what_it_returns(dsn: str, off: tuple[str, ...]) -> None:
    """However the planner joins, no row beyond the room is locked, and none is taken that is not returned."""
    room, lanes = 7, [("a", "k"), ("b", "k")]
    async with session_of(dsn) as session, session_of(dsn) as other:
        await fill(session, lanes, 60)
        async with session.connection.transaction():
            for name in off:
                await session.connection.execute(f"set local {name} = off")
            shared: list[LaneRequest] = requests(lanes, room, shared=True)
            taken = await claim_jobs(session, shared, RUNNER, begin=True)
            assert len(taken) == room
            free = await other.connection.fetch(
                "select id from asyncjobs.live_jobs where id > 0 for update skip locked"
            )
            assert len(free) == 60 - room
            assert not {row[0] for row in free} & {job.id for job in taken}
