"""Whatever happens to the jobs with a key, in whatever order: one has it at most, and it is free when nobody has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import ClaimedJob, NewJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import prune_windows, rescue_jobs
from asyncjobs._store.claims import Caution, claim_suspect, finish_jobs, return_jobs
from asyncjobs._store.locks import acquire_locks, list_locks
from asyncjobs._store.session import Session
from asyncjobs._store.unique import Stored, insert_unique, insert_unique_jobs
from asyncjobs._store.views import cancel_job, retry_job
from tests.store.jobs import RUNNER, claim, enter, live, new_job, session_of
from tests.waiting import eventually_async

Until = Literal["start", "end"]


def unique_job(key: str, until: Until = "start", **given: Any) -> NewJob:
    to_start = until == "start"
    options = {"unique": {"key": key, "to_start": to_start}}
    given = {
        "unique_key": key,
        "unique_to_start": to_start,
        "options": options,
        "on_conflict": ("return",),
        **given,
    }
    return new_job(**given)


async def enqueue(session: Session, *jobs: NewJob) -> list[Stored]:
    return await insert_unique(session, jobs, wake=False, commits_itself=True)


@attrs.define
class Known:
    """What the model knows of a job."""

    key: str
    has_key: bool = True
    claimed: ClaimedJob | None = None
    is_final: bool = False

    @property
    def waits(self) -> bool:
        return self.claimed is None and not self.is_final


@attrs.define
class World:
    """A database, and what should be in it."""

    session: Session
    until: Until
    jobs: dict[int, Known] = attrs.field(factory=dict)

    def holder(self, key: str) -> int | None:
        return next((job_id for job_id, job in self.jobs.items() if job.key == key and job.has_key), None)

    def pick(self, nth: int, fact: Callable[[Known], bool]) -> tuple[int, Known] | None:
        fitting = [(job_id, job) for job_id, job in self.jobs.items() if fact(job)]
        return fitting[nth % len(fitting)] if fitting else None

    async def enqueue(self, nth: int) -> None:
        key = f"key {nth % 2}"
        holder = self.holder(key)
        (stored,) = await enqueue(self.session, unique_job(key, self.until))
        assert stored.created == (holder is None)
        if holder is None:
            assert stored.id not in self.jobs
            self.jobs[stored.id] = Known(key)
        else:
            assert stored.id == holder

    async def enqueue_many(self, nth: int) -> None:
        keys = [f"key {each % 2}" for each in range(nth, nth + 3)]
        before = {key: self.holder(key) for key in keys}
        stored = await enqueue(self.session, *(unique_job(key, self.until) for key in keys))
        for key, each in zip(keys, stored, strict=True):
            assert each.created == (before[key] is None)
            before[key] = before[key] or each.id
            assert each.id == before[key]
            self.jobs.setdefault(each.id, Known(key))

    async def claim(self, _: int) -> None:
        for job in await claim(self.session, room=1):
            known = self.jobs[job.id]
            assert known.waits
            known.claimed = job
            known.has_key = known.has_key and self.until == "end"

    async def finish(self, nth: int) -> None:
        if found := self.pick(nth, lambda job: job.claimed is not None):
            job_id, known = found
            assert known.claimed is not None
            done = Finished(known.claimed, FinalState.COMPLETED, 0.1)
            assert await finish_jobs(self.session, RUNNER, [done]) == {job_id}
            known.claimed, known.has_key, known.is_final = None, False, True

    async def fail(self, nth: int) -> None:
        if found := self.pick(nth, lambda job: job.claimed is not None):
            job_id, known = found
            assert known.claimed is not None
            back = Returned(known.claimed, LiveState.READY, 0.0)
            assert await return_jobs(self.session, RUNNER, [back]) == {job_id}
            known.claimed = None

    async def cancel(self, nth: int) -> None:
        if found := self.pick(nth, lambda job: job.waits):
            job_id, known = found
            assert await cancel_job(self.session, job_id) == "cancelled"
            known.has_key, known.is_final = False, True

    async def retry(self, nth: int) -> None:
        if found := self.pick(nth, lambda job: job.is_final):
            job_id, known = found
            free = self.holder(known.key) is None
            assert await retry_job(self.session, job_id) is not None
            known.has_key, known.is_final = free, False

    async def check(self) -> None:
        rows = await self.session.connection.fetch(
            "select id, unique_key from asyncjobs.live_jobs where unique_key is not null"
        )
        assert sorted(map(tuple, rows)) == sorted(
            (job_id, job.key) for job_id, job in self.jobs.items() if job.has_key
        )
        for key in ("key 0", "key 1"):
            alike = [job for job in self.jobs.values() if job.key == key and job.has_key]
            assert len(alike) <= 1
            assert all(job.waits or self.until == "end" for job in alike)


WORDS = ("enqueue", "enqueue", "enqueue_many", "claim", "claim", "finish", "fail", "cancel", "retry")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 5)), min_size=6, max_size=30),
    until=st.sampled_from(["start", "end"]),
)
async def test_one_job_has_a_key_at_most(dsn: str, steps: list[tuple[str, int]], until: Until) -> None:
    """A job is stored exactly when nobody has its key: nobody who waits to start, or nobody who is not final."""
    async with session_of(dsn, synchronous_commit="off") as session:
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        await session.connection.execute("delete from asyncjobs.finished_jobs")
        world = World(session, until)
        for word, nth in steps:
            step: Callable[[int], Awaitable[None]] = getattr(world, word)
            await step(nth)
            await world.check()


@pytest.mark.parametrize("until", ["start", "end"])
async def test_who_takes_its_runner_down_has_its_key_as_before(dsn: str, until: Until) -> None:
    """A suspect: until="end" it keeps the key while it waits to run alone and while it runs; until="start" it is free since the
    first claim, and never comes back."""
    async with session_of(dsn) as session:
        await enter(session)
        (first,) = await enqueue(session, unique_job("key", until))
        assert await claim(session)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")
        (second,) = await enqueue(session, unique_job("key", until))
        assert (second.id == first.id) == (until == "end")
        suspect = await claim_suspect(session, RUNNER, ["q"], ["k"], Caution())
        assert suspect is not None
        assert suspect.job.id == first.id
        (third,) = await enqueue(session, unique_job("key", until))
        assert third == Stored(second.id, False)
        assert await finish_jobs(session, RUNNER, [Finished(suspect.job, FinalState.COMPLETED, 0.1)])
        (fourth,) = await enqueue(session, unique_job("key", until))
        assert fourth.created == (until == "end")


@pytest.mark.parametrize("until", ["start", "end"])
async def test_a_suspect_that_waits_can_be_met(dsn: str, until: Until) -> None:
    """It stays a suspect, whatever it is replaced or rescheduled to."""
    async with session_of(dsn) as session:
        await enter(session)
        (first,) = await enqueue(session, unique_job("key", "end"))
        assert await claim(session)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")
        for delay, state in ((None, 4), (9.0, 1), (None, 4)):
            change = unique_job(
                "key", until, on_conflict=("replace", "reschedule"), args='{"a": 1}', delay=delay
            )
            assert await enqueue(session, change) == [Stored(first.id, False)]
            row = await live(session, first.id)
            assert row is not None
            assert (row["state"], row["crashes"], row["args"]) == (state, 1, '{"a": 1}')


async def test_a_job_that_runs_is_left_as_it_is(dsn: str) -> None:
    """Whoever asks to replace or reschedule one that runs has its handle, and nothing changes under the runner."""
    async with session_of(dsn) as session:
        (first,) = await enqueue(session, unique_job("key", "end"))
        await claim(session)
        before = await live(session, first.id)
        change = unique_job("key", "end", on_conflict=("replace", "reschedule"), args='{"a": 1}', delay=9.0)
        assert await enqueue(session, change) == [Stored(first.id, False)]
        assert await live(session, first.id) == before


async def test_a_job_that_waits_for_its_lock_when_it_was_claimed_is_taken_back(dsn: str) -> None:
    """It has its key until it has its lock; changed in between, its runner may not begin it with the old inputs."""
    async with session_of(dsn) as session:
        (first,) = await enqueue(session, unique_job("key", lock_key="lock"))
        (claimed,) = await claim(session)
        assert await enqueue(session, unique_job("key", lock_key="lock")) == [Stored(first.id, False)]
        change = unique_job("key", lock_key="lock", on_conflict=("replace",), args='{"a": 1}')
        assert await enqueue(session, change) == [Stored(first.id, False)]
        back = Returned(claimed, LiveState.READY, None, True)
        assert await return_jobs(session, RUNNER, [back]) == set()
        row = await live(session, first.id)
        assert row is not None
        assert (row["runner"], row["state"], row["attempt"], row["args"]) == (None, 0, 0, '{"a": 1}')


async def test_a_window_ends_and_is_forgotten(dsn: str) -> None:
    """A key whose window is over can be taken, and is pruned. One that still waits has its key all the same, but no window more:
    that is counted from when it was enqueued."""
    async with session_of(dsn) as session:
        over = "update asyncjobs.unique_windows set expires_at = now() - interval '1 s'"
        (first,) = await enqueue(session, unique_job("key", unique_window=100.0))
        await session.connection.execute(over)
        assert await enqueue(session, unique_job("key", unique_window=100.0)) == [Stored(first.id, False)]
        await claim(session)
        (second,) = await enqueue(session, unique_job("key", unique_window=100.0))
        assert second.created
        await claim(session)
        assert await enqueue(session, unique_job("key", unique_window=100.0)) == [Stored(second.id, False)]
        assert await prune_windows(session, 10) == 0
        await session.connection.execute(over)
        assert await prune_windows(session, 10) == 1
        (third,) = await enqueue(session, unique_job("key", unique_window=100.0))
        assert third.created


async def test_one_that_ends_in_the_moment_it_is_met_leaves_its_key(dsn: str) -> None:
    """Its window was over and its key taken; by the time its handle is looked for it is final: the new one is stored."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        (first,) = await enqueue(session, unique_job("key", unique_window=100.0))
        over = "update asyncjobs.unique_windows set expires_at = now() - interval '1 s'"
        await session.connection.execute(over)
        new = unique_job("key", unique_window=100.0)
        async with session.connection.transaction():
            assert await insert_unique_jobs(session, [new], wake=False) == []
            await cancel_job(other, first.id)
            (second,) = await insert_unique(session, [new], wake=False, commits_itself=False)
        assert second.created
        assert await enqueue(session, new) == [Stored(second.id, False)]


async def test_who_comes_second_takes_no_window(dsn: str) -> None:
    """It waits for who has just taken the key, without a window, and has its handle; the key is free with that job's end."""
    async with session_of(dsn) as session, session_of(dsn) as other, session_of(dsn) as eyes:
        new = unique_job("key", unique_window=100.0)
        async with other.connection.transaction():
            (first,) = await insert_unique(other, [unique_job("key")], wake=False, commits_itself=False)
            second = asyncio.create_task(enqueue(session, new))
            waits = "select exists (select from pg_locks where not granted)"
            await eventually_async(lambda: eyes.connection.fetchval(waits))
        assert await second == [Stored(first.id, False)]
        await cancel_job(session, first.id)
        (third,) = await enqueue(session, new)
        assert third.created


@pytest.mark.parametrize("ended", [False, True])
async def test_duplicates_in_a_window_do_not_wait_for_one_another(dsn: str, ended: bool) -> None:
    """Each in an open transaction: the one that has the key was committed before, and waits, or has ended."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        (first,) = await enqueue(session, unique_job("key", unique_window=100.0))
        if ended:
            await cancel_job(session, first.id)
        async with session.connection.transaction(), other.connection.transaction():
            for each in (session, other):
                await each.connection.execute("set local lock_timeout = '2 s'")
                new = unique_job("key", unique_window=100.0)
                assert await insert_unique(each, [new], wake=False, commits_itself=False) == [
                    Stored(first.id, False)
                ]


async def test_who_is_put_off_lets_go_of_the_lock_it_was_handed(dsn: str) -> None:
    """It was about to be claimed, and is rescheduled for later: the next in turn has the lock."""
    async with session_of(dsn) as session:
        keyed: dict[str, Any] = {"lock_key": "lock", "lock_slots": 1}
        for name in ("first", "second", "third"):
            await enqueue(session, unique_job(name, **keyed))
        first, second, third = await claim(session)
        assert (await acquire_locks(session, RUNNER, [first, second, third])).held == {first.id}
        await finish_jobs(session, RUNNER, [Finished(first, FinalState.COMPLETED, 0.1)])
        assert [lock.job for lock in await list_locks(session)] == [second.id]
        change = unique_job("second", on_conflict=("reschedule",), delay=60.0, **keyed)
        assert await enqueue(session, change) == [Stored(second.id, False)]
        assert [lock.job for lock in await list_locks(session)] == [third.id]
        assert [job.id for job in await claim(session)] == [third.id]


async def test_jobs_that_are_replaced_together_hand_no_lock_to_one_another(dsn: str) -> None:
    """One that was about to be claimed and one behind it have other locks now: theirs is free, whatever the plan."""
    async with session_of(dsn, enable_hashjoin="off", enable_mergejoin="off") as session:
        keyed: dict[str, Any] = {"lock_key": "lock", "lock_slots": 1}
        names = ("first", "second", "third", "fourth")
        for name in names:
            await enqueue(session, unique_job(name, **keyed))
        jobs = await claim(session)
        await acquire_locks(session, RUNNER, jobs)
        await finish_jobs(session, RUNNER, [Finished(jobs[0], FinalState.COMPLETED, 0.1)])
        changes = [
            unique_job(name, on_conflict=("replace",), lock_key=f"of {name}", lock_slots=1)
            for name in names[1:]
        ]
        assert [each.created for each in await enqueue(session, *changes)] == [False] * 3
        assert await list_locks(session) == []
        again = await claim(session)
        assert (await acquire_locks(session, RUNNER, again)).held == {job.id for job in jobs[1:]}


async def test_two_who_retry_and_enqueue_at_once_do_not_fail(dsn: str) -> None:
    """A retry that finds its key taken in the same moment runs without it."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        (first,) = await enqueue(session, unique_job("key", "end"))
        await cancel_job(session, first.id)
        transaction = other.connection.transaction()
        await transaction.__aenter__()
        await insert_unique(other, [unique_job("key", "end")], wake=False, commits_itself=False)
        retried = asyncio.create_task(retry_job(session, first.id))
        async with session_of(dsn) as eyes:
            waits = "select exists (select from pg_locks where not granted)"
            await eventually_async(lambda: eyes.connection.fetchval(waits))
        await transaction.__aexit__(None, None, None)
        assert await retried == "q"
        row = await live(session, first.id)
        assert row is not None
        assert row["unique_key"] is None
