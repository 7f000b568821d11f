"""Locks, whatever happens in whatever order: never more holders than slots, no lock left behind, nobody waits for nothing."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import finish_jobs, return_jobs
from asyncjobs._store.limits import admit_jobs, limit_queue
from asyncjobs._store.locks import acquire_locks, sweep_locks
from asyncjobs._store.session import Session
from asyncjobs._store.views import cancel_job, retry_job
from tests.store.jobs import claim, enter, new_job, session_of, store

SLOTS = {"a": 1, "b": 2, "c": 3}
QUEUES = (("q", "k"), ("narrow", "k"))
PLACES = 3
RUNNERS = (11, 12, 13)

numbers = st.integers(0, 30)
enqueues = st.tuples(
    st.just("enqueue"),
    st.sampled_from([None, *SLOTS]),
    st.sampled_from(QUEUES),
    st.integers(-2, 2),
    st.integers(1, 5),
)
claims = st.tuples(st.just("claim"), st.sampled_from(RUNNERS), st.integers(1, 5))
ops = st.one_of(
    enqueues,
    enqueues,
    claims,
    claims,
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("return"), numbers, st.sampled_from([LiveState.READY, LiveState.RETRYABLE])),
    st.tuples(st.just("crash"), st.sampled_from(RUNNERS), st.booleans()),
    st.tuples(st.just("cancel"), numbers),
    st.tuples(st.just("retry"), numbers),
    st.tuples(st.just("promote")),
    st.tuples(st.just("sweep")),
)


@attrs.define
class World:
    """A database, and what its runners believe to run."""

    session: Session
    ids: list[int] = attrs.field(factory=list)
    running: dict[int, tuple[int, ClaimedJob]] = attrs.field(factory=dict)

    async def do(self, name: str, *given: Any) -> None:
        await getattr(self, name.replace("return", "give_back"))(*given)

    async def enqueue(self, key: str | None, lane: tuple[str, str], priority: int, count: int) -> None:
        lock = {} if key is None else {"lock_key": key, "lock_slots": SLOTS[key]}
        options = {} if key is None else {"options": {"lock": {"key": key, "slots": SLOTS[key]}}}
        job = new_job(queue=lane[0], kind=lane[1], priority=priority, **lock, **options)
        self.ids += await store(self.session, *[job] * count)

    async def claim(self, runner: int, room: int) -> None:
        jobs = await claim(self.session, runner, lanes=QUEUES, room=room)
        keyed = [job for job in jobs if job.lock_key is not None]
        acquired = await acquire_locks(self.session, runner, keyed)
        assert acquired.held | acquired.blocked == {job.id for job in keyed}
        left = [job for job in jobs if job.id not in acquired.blocked]
        asking = [job for job in left if job.queue == "narrow"]
        admitted = await admit_jobs(self.session, runner, asking)
        refused = [job for job in asking if job.id not in admitted]
        await return_jobs(
            self.session, runner, [Returned(job, LiveState.READY, unburnt=True) for job in refused]
        )
        self.running |= {job.id: (runner, job) for job in left if job not in refused}

    def one(self, number: int) -> tuple[int, ClaimedJob] | None:
        return self.running.pop(sorted(self.running)[number % len(self.running)]) if self.running else None

    async def finish(self, number: int) -> None:
        if (found := self.one(number)) is not None:
            await finish_jobs(self.session, found[0], [Finished(found[1], FinalState.COMPLETED, 0.1)])

    async def give_back(self, number: int, state: LiveState) -> None:
        if (found := self.one(number)) is not None:
            await return_jobs(self.session, found[0], [Returned(found[1], state, 0.0 if state else None)])

    async def crash(self, runner: int, blame: bool) -> None:
        await rescue_jobs(self.session, runner, blame=blame, max_crashes=2, error="{}")
        await enter(self.session, runner)
        self.running = {id_: each for id_, each in self.running.items() if each[0] != runner}

    async def cancel(self, number: int) -> None:
        if self.ids:
            await cancel_job(self.session, self.ids[number % len(self.ids)])

    async def retry(self, number: int) -> None:
        if self.ids:
            await retry_job(self.session, self.ids[number % len(self.ids)])

    async def promote(self) -> None:
        await promote_jobs(self.session, 100)

    async def sweep(self) -> None:
        assert (
            await sweep_locks(self.session, 60.0)
        ).freed == 0  # what it hands on: to who was passed over, the queue being full

    async def check(self) -> None:
        fetch: Any = self.session.connection.fetch
        live = {row["id"]: row for row in await fetch("select * from asyncjobs.live_jobs where id > 0")}
        held: dict[int, set[str]] = {}
        for lock in await fetch("select * from asyncjobs.locks"):
            job = live[lock["job"]]  # none is left behind
            held.setdefault(job["id"], set()).add(lock["key"])
            if job["runner"] is not None:
                assert job["token"] == lock["token"]
            else:  # handed over
                assert job["state"] in (0, 4)
                assert job["token"] + 1 == lock["token"]
        free = {
            key: slots - sum(key in keys for keys in held.values())
            for key, slots in (*SLOTS.items(), ("queue:narrow", PLACES))
        }
        assert min(free.values()) >= 0
        for job_id, (runner, claimed) in self.running.items():
            assert (live[job_id]["runner"], live[job_id]["token"]) == (runner, claimed.token)
            wanted = {claimed.lock_key} - {None} | ({"queue:narrow"} if claimed.queue == "narrow" else set())
            assert held.get(job_id, set()) == wanted
        for job in live.values():
            if job["state"] == 3:
                assert (
                    free[job["lock_key"]] == 0 or job["queue"] == "narrow"
                )  # else it would wait for nothing
                assert job["runner"] is None


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(ops, min_size=15, max_size=35))
async def test_the_books_of_locks_balance(dsn: str, steps: list[tuple[Any, ...]]) -> None:
    """After every step, and when everything has ended nothing is held."""
    async with session_of(dsn) as session:
        await session.connection.execute(
            "truncate asyncjobs.finished_jobs, asyncjobs.locks, asyncjobs.runners, asyncjobs.queues"
        )
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        for runner in RUNNERS:
            await enter(session, runner)
        await limit_queue(session, "narrow", PLACES, None)
        world = World(session)
        for step in steps:
            await world.do(*step)
            await world.check()
        while await session.connection.fetchval(
            "select exists (select from asyncjobs.live_jobs where id > 0 and (state < 4 or runner is not null))"
        ):
            await world.promote()
            await world.sweep()
            await world.claim(11, 5)
            while world.running:
                await world.finish(0)
            await world.check()
            if not await session.connection.fetchval(
                "select exists (select from asyncjobs.live_jobs where id > 0 and (state < 3 or runner is not null))"
            ):
                break  # who is left is suspected, or waits for one who is
        suspected = await session.connection.fetchval(
            "select exists (select from asyncjobs.live_jobs where state = 4)"
        )
        assert suspected or await session.connection.fetchval(
            "select not exists (select from asyncjobs.locks)"
        )
