"""Rates, whatever happens in whatever order: never more than is promised in any window, and nobody waits when there are tokens."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import finish_jobs, return_jobs
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.rates import let_in, promote_rates, prune_rates, sweep_rates
from asyncjobs._store.session import Session
from asyncjobs._store.views import cancel_job, pause_queue, resume_queue, retry_job
from tests.store.jobs import claim, enter, new_job, session_of, store
from tests.store.test_rates import time_passes

BUCKET, SLIDING, FIXED = 0, 1, 2
RATES = {"bucket": (5, 10.0, BUCKET), "sliding": (4, 7.0, SLIDING), "fixed": (4, 1.0, FIXED)}
QUEUES = (("q", "k"), ("p", "k"))
RUNNERS = (11, 12, 13)
SMALL = timedelta(microseconds=2)

numbers = st.integers(0, 30)
enqueues = st.tuples(
    st.just("enqueue"),
    st.sampled_from([*RATES]),
    st.sampled_from(QUEUES),
    st.integers(1, 4),
    st.integers(-1, 1),
    st.booleans(),
    st.integers(1, 5),
)
claims = st.tuples(st.just("claim"), st.sampled_from(RUNNERS), st.integers(1, 8), st.integers(0, 8))
ops = st.one_of(
    enqueues,
    enqueues,
    claims,
    claims,
    claims,
    st.tuples(st.just("wait"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(1, 4)),
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("return"), numbers, st.sampled_from([LiveState.READY, LiveState.RETRYABLE])),
    st.tuples(st.just("crash"), st.sampled_from(RUNNERS)),
    st.tuples(st.just("cancel"), numbers),
    st.tuples(st.just("retry"), numbers),
    st.tuples(st.just("promote")),
    st.tuples(st.just("prune")),
    st.tuples(st.just("pause"), st.booleans()),
)


@attrs.define
class World:
    """A database, what its runners believe to run, and what has begun."""

    session: Session
    passed: timedelta = timedelta()  #: by moving what is stored into the past
    ids: list[int] = attrs.field(factory=list)
    held: dict[int, tuple[int, ClaimedJob]] = attrs.field(factory=dict)
    begun: dict[str, list[tuple[datetime, int]]] = attrs.field(factory=dict)

    async def do(self, name: str, *given: Any) -> None:
        await getattr(self, name.replace("return", "give_back"))(*given)

    async def enqueue(  # noqa: PLR0917
        self, rate: str, lane: tuple[str, str], weight: int, priority: int, locked: bool, count: int
    ) -> None:
        capacity, per, window = RATES[rate]
        lock = {"lock_key": "l", "lock_slots": 2} if locked else {}
        kept = {"key": rate, "weight": weight, "capacity": capacity, "per": per, "window": window}
        job = new_job(
            queue=lane[0],
            kind=lane[1],
            priority=priority,
            rate_key=rate,
            rate_weight=weight,
            rate_capacity=capacity,
            rate_per=per,
            rate_window=window,
            options={"rate": kept, **({"lock": {"key": "l", "slots": 2}} if locked else {})},
            **lock,
        )
        self.ids += await store(self.session, *[job] * count)

    async def claim(self, runner: int, room: int, beginning: int = 100) -> None:
        jobs = await claim(self.session, runner, lanes=QUEUES, room=room)
        keyed = [job for job in jobs if job.lock_key is not None]
        acquired = await acquire_locks(self.session, runner, keyed, jobs)
        left = [job for job in jobs if job.id not in acquired.blocked]
        came = await let_in(self.session, runner, left, beginning)
        assert came.held | came.later | came.blocked == {job.id for job in left}
        back = [job for job in left if job.id in came.later]
        assert len(back) == len(
            await return_jobs(
                self.session, runner, [Returned(job, LiveState.READY, unburnt=True) for job in back]
            )
        )
        for row in await self.session.connection.fetch(
            "select rate_key, paid_at, rate_weight from asyncjobs.live_jobs where id = any ($1)",
            list(came.held),
        ):
            at = row["paid_at"] + self.passed
            self.begun.setdefault(row["rate_key"], []).append((at, row["rate_weight"]))
        self.held |= {job.id: (runner, job) for job in left if job.id in came.held}

    def one(self, number: int) -> tuple[int, ClaimedJob] | None:
        return self.held.pop(sorted(self.held)[number % len(self.held)]) if self.held else None

    async def wait(self, seconds: int) -> None:
        await time_passes(self.session, seconds)
        self.passed += timedelta(seconds=seconds)

    async def finish(self, number: int) -> None:
        if (found := self.one(number)) is not None:
            await finish_jobs(self.session, found[0], [Finished(found[1], FinalState.COMPLETED, 0.1)])

    async def give_back(self, number: int, state: LiveState) -> None:
        if (found := self.one(number)) is not None:
            await return_jobs(self.session, found[0], [Returned(found[1], state, 0.0 if state else None)])

    async def crash(self, runner: int) -> None:
        await rescue_jobs(self.session, runner, blame=False, max_crashes=2, error="{}")
        await enter(self.session, runner)
        self.held = {id_: each for id_, each in self.held.items() if each[0] != runner}

    async def cancel(self, number: int) -> None:
        if self.ids:
            await cancel_job(self.session, self.ids[number % len(self.ids)])

    async def retry(self, number: int) -> None:
        if self.ids:
            await retry_job(self.session, self.ids[number % len(self.ids)])

    async def promote(self) -> None:
        await promote_jobs(self.session, 100)
        await promote_rates(self.session, 100)

    async def prune(self) -> None:
        await prune_rates(self.session, 100)
        assert await sweep_rates(self.session) == 0  # no line is left alone

    async def pause(self, on: bool) -> None:
        await (pause_queue if on else resume_queue)(self.session, "p")

    def check(self) -> None:
        """No window holds more than it may, wherever it begins."""
        for rate, starts in self.begun.items():
            capacity, per, window = RATES[rate]
            starts.sort()
            if window == FIXED:
                for _, those in groupby(starts, lambda each: each[0].replace(microsecond=0)):
                    assert sum(weight for _, weight in those) <= capacity
                continue
            for first, (start, _) in enumerate(starts):
                total = 0
                for at, weight in starts[first:]:
                    total += weight
                    if window == BUCKET:
                        assert total <= capacity + (at - start + SMALL).total_seconds() * capacity / per
                    elif at - start < timedelta(seconds=per) - SMALL:
                        assert total <= capacity


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(ops, min_size=15, max_size=40))
async def test_no_window_ever_holds_more_than_it_may(dsn: str, steps: list[tuple[Any, ...]]) -> None:
    """Read from when the database says that each began; and all is done in about the time that it takes."""
    async with session_of(dsn) as session:
        await session.connection.execute(
            "truncate asyncjobs.finished_jobs, asyncjobs.locks, asyncjobs.runners, asyncjobs.queues, asyncjobs.rates, "
            "asyncjobs.rate_payments"
        )
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        for runner in RUNNERS:
            await enter(session, runner)
        world = World(session)
        for step in steps:
            await world.do(*step)
            world.check()
        await world.pause(False)
        for runner in RUNNERS:
            await world.crash(runner)
        left = await session.connection.fetch(
            "select rate_key, sum(rate_weight)::integer as tokens from asyncjobs.live_jobs where id > 0 group by rate_key"
        )
        ideal = max(
            [row["tokens"] / RATES[row["rate_key"]][0] * RATES[row["rate_key"]][1] for row in left], default=0
        )
        rounds = 0
        while await session.connection.fetchval(
            "select exists (select from asyncjobs.live_jobs where id > 0)"
        ):
            for _ in range(3):
                await world.promote()
                await world.claim(11, 100)
                while world.held:
                    await world.finish(0)
            world.check()
            await world.wait(1)
            rounds += 1
            assert rounds <= 3 * ideal + 40, "somebody waits for nothing"
