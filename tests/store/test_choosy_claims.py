"""Weights, turns and bounds of priority, in the statement that claims."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import Lane
from asyncjobs._model.urgency import Urgency
from asyncjobs._store.claims import FROM_THE_START as START
from asyncjobs._store.claims import Caution, LaneRequest, Mark, claim_jobs, claim_suspect, seek_suspect
from tests.store.jobs import RUNNER, enter, new_job, session_of, store

QUEUES = ("p", "q", "r")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_claim_takes_the_heaviest_first_and_no_more_than_its_bound(dsn: str, data: st.DataObject) -> None:
    """Whatever the jobs, weights, turns, bounds and room: exactly those a sorted list would give."""
    draw = data.draw
    jobs = draw(
        st.lists(st.tuples(st.sampled_from(QUEUES), st.sampled_from("ab"), st.integers(-2, 2)), max_size=20)
    )
    weights = draw(st.fixed_dictionaries({queue: st.integers(-1, 1) for queue in QUEUES}))
    served = draw(st.permutations(range(len(QUEUES))))
    served_at = dict(zip(QUEUES, served, strict=True))
    first, last = sorted(draw(st.tuples(st.integers(-2, 2), st.integers(-2, 2))))
    room = draw(st.integers(1, 8))
    rooms = {queue: min(room, draw(st.sampled_from([1, 2, room]))) for queue in QUEUES}  # some are limited
    start: Mark = START._replace(priority=first)

    async def check() -> None:
        async with session_of(dsn) as session:
            await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
            if not jobs:
                return
            ids = await store(session, *(new_job(kind, queue, priority=p) for queue, kind, p in jobs))
            asked = [
                LaneRequest(
                    Lane(queue, kind), 0, rooms[queue], False, start, last, weights[queue], served_at[queue]
                )
                for queue in QUEUES
                for kind in "ab"
            ]
            got = [job.id for job in await claim_jobs(session, asked, RUNNER, begin=True)]
            keyed: list[tuple[Any, ...]] = []
            for queue in QUEUES:
                mine = sorted(
                    (priority, job_id)
                    for job_id, (of, _, priority) in zip(ids, jobs, strict=True)
                    if of == queue and first <= priority <= last
                )
                keyed += [
                    (-weights[queue], turn, served_at[queue], job_id)
                    for turn, (_, job_id) in enumerate(mine[: rooms[queue]])
                ]
            assert sorted(got) == sorted(job_id for *_, job_id in sorted(keyed)[: max(rooms.values())])

    asyncio.run(check())


async def test_a_lane_alone_has_a_bound_too(dsn: str) -> None:
    """Where nothing need be shared out, the statement takes a shorter way."""
    async with session_of(dsn) as session:
        ids = await store(session, *(new_job(priority=priority) for priority in (3, 2, 1)))
        asked = [LaneRequest(Lane("q", "k"), 0, 9, True, last_priority=2)]
        assert [job.id for job in await claim_jobs(session, asked, RUNNER, begin=True)] == [ids[2], ids[1]]


async def test_two_pools_may_ask_for_one_lane(dsn: str) -> None:
    """They get no more than both have room for, and of the less urgent no more than the one that takes them."""
    async with session_of(dsn) as session:
        await store(session, *(new_job(priority=priority) for priority in (1, 50, 50, 50, 50)))
        asked = [
            LaneRequest(Lane("q", "k"), 0, 2, True, last_priority=10),
            LaneRequest(Lane("q", "k"), 1, 3, True),
        ]
        got = await claim_jobs(session, asked, RUNNER, begin=True)
        assert [job.priority for job in got] == [1, 50, 50]


@pytest.mark.parametrize("urgency", [Urgency(0, 4), Urgency(6, 9)])
async def test_a_suspect_of_another_priority_is_left_to_others(dsn: str, urgency: Urgency) -> None:
    """Who takes only some priorities takes only suspects of those."""
    async with session_of(dsn) as session:
        await enter(session)
        (job_id,) = await store(session, new_job(priority=5))
        await session.connection.execute("update asyncjobs.live_jobs set state = 4, crashes = 1 where id > 0")
        asked = (["q"], ["k"], Caution())
        assert not await seek_suspect(session, *asked, urgency)
        assert await claim_suspect(session, RUNNER, *asked, urgency=urgency) is None
        assert await seek_suspect(session, *asked, Urgency(5, 5))
        found = await claim_suspect(session, RUNNER, *asked, urgency=Urgency(5, 5))
        assert found is not None
        assert found.job.id == job_id
