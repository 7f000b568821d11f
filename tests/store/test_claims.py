"""Who gets which job, and in which order."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import Lane
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.claims import LaneRequest, Mark, claim_jobs, finish_jobs, look_around
from asyncjobs._store.session import Session
from tests.store.jobs import RUNNER, claim, live, new_job, session_of, store


async def clear(session: Session) -> None:
    await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")


# Order.


async def test_lower_priorities_first_then_the_oldest(dsn: str) -> None:
    """In a queue, over all its kinds."""
    async with session_of(dsn) as session:
        ids = await store(
            session,
            *(new_job(kind, priority=priority) for priority in (5, 0, -3, 0) for kind in ("a", "b")),
        )
        order = []
        while jobs := await claim(session, lanes=[("q", "a"), ("q", "b")], room=3, shared=True):
            order += [job.id for job in jobs]
        assert order == [ids[4], ids[5], ids[2], ids[3], ids[6], ids[7], ids[0], ids[1]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_claim_takes_the_next_of_every_pool(dsn: str, data: st.DataObject) -> None:
    """Whatever the queues, kinds, priorities, pools and rooms: exactly those a sorted list would give."""
    queues = ["p", "q", "r"]
    jobs = data.draw(
        st.lists(st.tuples(st.sampled_from(queues), st.sampled_from("ab"), st.integers(-1, 1)), max_size=25)
    )
    pools = data.draw(st.fixed_dictionaries({queue: st.integers(0, 1) for queue in queues}))
    rooms = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    lanes = [(queue, kind) for queue in queues for kind in "ab"]

    async def check() -> None:
        async with session_of(dsn) as session:
            await clear(session)
            if not jobs:
                return
            ids = await store(
                session, *(new_job(kind, queue, priority=priority) for queue, kind, priority in jobs)
            )
            asked = [
                LaneRequest(
                    Lane(queue, kind),
                    pools[queue],
                    rooms[pools[queue]],
                    sum(pools[other] == pools[queue] for other, _ in lanes) == 1,
                )
                for queue, kind in lanes
            ]
            got = [job.id for job in await claim_jobs(session, asked, RUNNER, begin=True)]
            expected = []
            for pool in (0, 1):
                waiting: dict[str, list[tuple[int, int]]] = {
                    queue: sorted(
                        (priority, job_id)
                        for job_id, (of, _, priority) in zip(ids, jobs, strict=True)
                        if of == queue
                    )
                    for queue in queues
                    if pools[queue] == pool
                }
                turns = sorted((turn, job) for each in waiting.values() for turn, job in enumerate(each))
                expected += [job_id for _, (_, job_id) in turns[: rooms[pool]]]
            assert sorted(got) == sorted(expected)
            priority_of = dict(zip(ids, (priority for _, _, priority in jobs), strict=True))
            assert got == sorted(got, key=lambda job_id: (priority_of[job_id], job_id))

    asyncio.run(check())


@pytest.mark.failure_mode("F87")
async def test_queues_of_one_pool_take_turns(dsn: str) -> None:
    """A queue with a thousand urgent jobs does not keep the other's one waiting."""
    async with session_of(dsn) as session:
        await store(session, *(new_job(queue="busy", priority=-5) for _ in range(100)))
        (lone,) = await store(session, new_job(queue="quiet", priority=5))
        jobs = await claim(session, lanes=[("busy", "k"), ("quiet", "k")], room=4, shared=True)
        assert Counter(job.queue for job in jobs) == {"busy": 3, "quiet": 1}
        assert lone in {job.id for job in jobs}


async def test_no_pool_gets_more_than_it_has_room_for(dsn: str) -> None:
    """Each pool its own, in one statement."""
    async with session_of(dsn) as session:
        await store(
            session, *(new_job(kind, queue) for queue in ("p", "q", "r") for kind in "ab" for _ in range(10))
        )
        asked = [
            LaneRequest(Lane("p", "a"), 0, 3, True),
            LaneRequest(Lane("q", "a"), 1, 5, False),
            LaneRequest(Lane("q", "b"), 1, 5, False),
            LaneRequest(Lane("r", "a"), 1, 5, False),
        ]
        jobs = await claim_jobs(session, asked, RUNNER, begin=True)
        assert Counter(job.queue == "p" for job in jobs) == {True: 3, False: 5}
        assert {(job.queue, job.kind) for job in jobs} <= {("p", "a"), ("q", "a"), ("q", "b"), ("r", "a")}


async def test_only_lanes_asked_for_are_claimed(dsn: str) -> None:
    """Another kind in the same queue, and the same kind in another, stay."""
    async with session_of(dsn) as session:
        await store(session, new_job("k", "other"), new_job("other", "q"))
        assert await claim(session) == []


async def test_what_is_due_later_is_not_claimed(dsn: str) -> None:
    """Until it is promoted."""
    async with session_of(dsn) as session:
        await store(session, new_job(delay=3600.0))
        assert await claim(session) == []


async def test_a_mark_hides_what_lies_before_it(dsn: str) -> None:
    """And nothing behind it."""
    async with session_of(dsn) as session:
        ids = await store(session, *(new_job(priority=priority) for priority in (0, 0, 1)))
        first = await live(session, ids[0])
        assert first
        mark = Mark(0, first["scheduled_at"], ids[0])
        got = await claim_jobs(session, [LaneRequest(Lane("q", "k"), 0, 9, True, mark)], RUNNER, begin=True)
        assert [job.id for job in got] == ids[1:]


async def test_a_claim_says_when_its_jobs_begin(dsn: str) -> None:
    """At once, or not yet: a prefetched job has no start."""
    async with session_of(dsn) as session:
        await store(session, new_job(), new_job())
        (now,) = await claim(session, room=1)
        (later,) = await claim(session, room=1, begin=False)
        for job, begun in ((now, True), (later, False)):
            row = await live(session, job.id)
            assert row
            assert (row["runner"], row["token"], row["attempt"]) == (RUNNER, 1, 1)
            assert (row["started_at"] is not None) == begun


async def test_looking_around_finds_the_lanes_with_jobs(dsn: str) -> None:
    """Those with a job nobody holds; the next due; the queues that are paused."""
    async with session_of(dsn) as session:
        nothing = await look_around(session)
        assert (nothing.lanes, nothing.due, nothing.paused) == ([], None, frozenset())
        await store(session, *(new_job(kind, queue) for queue in (" ", "q", "~", "é") for kind in ("a", "ü")))
        await claim(session, lanes=[("q", "a")])
        await store(session, new_job(delay=100.0), new_job(delay=50.0))
        await session.connection.execute("insert into asyncjobs.queues values ('p', now()), ('q', null)")
        seen = await look_around(session)
        expected = [(queue, kind) for queue in (" ", "q", "~", "é") for kind in ("a", "ü")]
        expected.remove(("q", "a"))
        assert seen.lanes == [Lane(*lane) for lane in expected]
        assert seen.due is not None
        assert 40 < seen.due <= 50
        assert seen.paused == {"p"}


# At the same time.


async def test_a_job_somebody_else_is_claiming_is_passed_over(dsn: str) -> None:
    """Not waited for, and not taken from behind."""
    async with session_of(dsn) as one, session_of(dsn) as other:
        ids = await store(one, *(new_job() for _ in range(4)))
        async with one.connection.transaction():
            mine = await claim(one, room=2)
            async with asyncio.timeout(5):
                theirs = await claim(other, runner=8, room=2)
            assert [job.id for job in mine] == ids[:2]
            assert [job.id for job in theirs] == ids[2:]


@pytest.mark.parametrize("claimers", [2, 8])
async def test_no_job_is_claimed_twice(dsn: str, claimers: int) -> None:
    """However many claim at once: each job by one, under its first token, and none is left."""
    count = 1_500
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session_of(dsn)) for _ in range(claimers)]
        await store(sessions[0], *(new_job(kind) for kind in "ab" for _ in range(count // 2)))
        together = asyncio.Barrier(claimers)

        async def take(number: int, session: Session) -> list[int]:
            got: list[int] = []
            empty = 0
            while empty < 3:  # a short claim does not mean a drained queue where others claim too
                if number % 2:
                    jobs = await claim(
                        session, number + 1, lanes=[("q", "a"), ("q", "b")], room=7, shared=True
                    )
                else:
                    jobs = await claim(session, number + 1, lanes=[("q", "b"), ("q", "a")], room=5)
                got += [job.id for job in jobs]
                assert all((job.token, job.attempt) == (1, 1) for job in jobs)
                empty = 0 if jobs else empty + 1
                done = [Finished(job, FinalState.COMPLETED, 0.0) for job in jobs]
                assert len(await finish_jobs(session, number + 1, done)) == len(jobs)
            return got

        async def start(number: int, session: Session) -> list[int]:
            await together.wait()
            return await take(number, session)

        taken = await asyncio.gather(*(start(number, session) for number, session in enumerate(sessions)))
        everything = [job_id for each in taken for job_id in each]
        assert len(everything) == len(set(everything)) == count
        assert await sessions[0].connection.fetchval("select count(*) from asyncjobs.finished_jobs") == count


async def test_a_claim_touches_no_index(dsn: str) -> None:
    """The claimed row stays where it is: all but a few of the updates are HOT, also of a whole page at once."""
    async with session_of(dsn) as session:
        await store(session, *(new_job(args='{"text": "' + "x" * 80 + '"}') for _ in range(2_000)))
        while await claim(session, room=500, begin=True):
            pass
        await session.connection.execute("select pg_stat_force_next_flush()")
        updates: Any = await session.connection.fetchrow(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'live_jobs'"
        )
        assert updates["n_tup_upd"] == 2_000
        assert updates["n_tup_hot_upd"] >= 0.9 * updates["n_tup_upd"]
