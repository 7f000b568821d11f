"""Turns, whatever happens in whatever order: no job is lost, no key is left out, no more lies ready than was asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.urgency import EVERY_PRIORITY
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import finish_jobs, return_jobs
from asyncjobs._store.session import Session
from asyncjobs._store.turns import deal_turns
from asyncjobs._store.views import cancel_job, retry_job
from tests.store.jobs import claim, enter, new_job, session_of, store

QUEUES = ("q", "r")
RUNNERS = {11: ("k",), 12: ("k", "l"), 13: ("k", "l")}  #: and the kinds each knows

numbers = st.integers(0, 60)
enqueues = st.tuples(
    st.just("enqueue"),
    st.sampled_from("abcde"),
    st.sampled_from(QUEUES),
    st.sampled_from("kl"),
    st.sampled_from([0, 0, 0, 3]),
    st.integers(1, 6),
)
turns = st.tuples(st.just("deal"), st.sampled_from(sorted(RUNNERS)), st.integers(1, 5))
claims = st.tuples(st.just("claim"), st.sampled_from(sorted(RUNNERS)), st.integers(1, 5))
ops = st.one_of(
    enqueues,
    turns,
    turns,
    claims,
    claims,
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("give_back"), numbers, st.sampled_from([LiveState.READY, LiveState.RETRYABLE])),
    st.tuples(st.just("crash"), st.sampled_from(sorted(RUNNERS)), st.booleans()),
    st.tuples(st.just("cancel"), numbers),
    st.tuples(st.just("retry"), numbers),
    st.tuples(st.just("promote")),
)

Round = tuple[tuple[str, ...], str, int]
"""The kinds that are known, a queue and a priority."""


@attrs.define
class World:
    """A database, and what its runners believe to run."""

    session: Session
    ids: list[int] = attrs.field(factory=list)
    running: dict[int, tuple[int, ClaimedJob]] = attrs.field(factory=dict)
    #: of each round and key: those who waited when it had its last turn, do still, and have had none since
    owed: dict[Round, dict[str, set[str]]] = attrs.field(factory=dict)

    async def do(self, name: str, *given: Any) -> None:
        await getattr(self, name)(*given)
        for round_, owed in self.owed.items():  # who does not wait any more is owed nothing
            waiting = await self.waiting(round_)
            for key in owed:
                owed[key] &= set(waiting)

    async def waiting(self, round_: Round) -> Counter[str]:
        """How many jobs of each key are in line."""
        kinds, queue, priority = round_
        return Counter(
            row["fair_key"]
            for row in await self.fetch(
                "select fair_key from asyncjobs.live_jobs"
                " where state = 5 and kind = any ($1) and queue = $2 and priority = $3",
                list(kinds),
                queue,
                priority,
            )
        )

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        connection: Any = self.session.connection
        return list(await connection.fetch(query, *args))

    async def enqueue(self, key: str, queue: str, kind: str, priority: int, count: int) -> None:
        job = new_job(kind, queue, fair_key=key, priority=priority, options={"fair": key})
        self.ids += await store(self.session, *[job] * count)

    async def deal(self, runner: int, wanted: int) -> None:
        kinds = RUNNERS[runner]
        before = {
            (queue, priority): await self.waiting((kinds, queue, priority))
            for queue in QUEUES
            for priority in (0, 3)
        }
        ready = {row["id"] for row in await self.fetch("select id from asyncjobs.live_jobs where state = 0")}
        dealt = await deal_turns(self.session, [""], list(kinds), EVERY_PRIORITY, wanted)
        rows = await self.fetch(
            "select * from asyncjobs.live_jobs where state = 0 and id <> all ($1) order by scheduled_at",
            list(ready),
        )
        assert sum(dealt.values()) == len(rows)
        for row in rows:
            assert row["kind"] in kinds
            round_ = (kinds, row["queue"], row["priority"])
            owed, line = self.owed.setdefault(round_, {}), before[round_[1:]]
            key = row["fair_key"]
            assert not owed.get(key), f"{key} has a second turn before {owed[key]}"
            line[key] -= 1
            for others in owed.values():
                others.discard(key)
            owed[key] = {each for each, jobs in line.items() if jobs > 0 and each != key}
        for queue in QUEUES:
            unclaimed = await self.fetch(
                "select priority from asyncjobs.live_jobs where state = 0 and runner is null and id > 0"
                " and queue = $1 and kind = any ($2)",
                queue,
                list(kinds),
            )
            if any(row["queue"] == queue for row in rows):
                assert len(rows) <= wanted * len(QUEUES)
            if len(unclaimed) < wanted:  # then nobody whose turn could be dealt was left in line
                assert not await self.waiting((kinds, queue, 0))
                assert not await self.waiting((kinds, queue, 3))

    async def claim(self, runner: int, room: int) -> None:
        lanes = [(queue, kind) for queue in QUEUES for kind in RUNNERS[runner]]
        jobs = await claim(self.session, runner, lanes=lanes, room=room, shared=True)
        self.running |= {job.id: (runner, job) for job in jobs}

    def one(self, number: int) -> tuple[int, ClaimedJob] | None:
        return self.running.pop(sorted(self.running)[number % len(self.running)]) if self.running else None

    async def finish(self, number: int) -> None:
        if (found := self.one(number)) is not None:
            await finish_jobs(self.session, found[0], [Finished(found[1], FinalState.COMPLETED, 0.1)])

    async def give_back(self, number: int, state: LiveState) -> None:
        if (found := self.one(number)) is not None:
            await return_jobs(
                self.session, found[0], [Returned(found[1], state, 0.0 if number % 2 or state else None)]
            )

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

    async def check(self) -> None:
        """Every job is somewhere, and only once."""
        rows = await self.fetch(
            "select id from asyncjobs.live_jobs where id > 0 union all select id from asyncjobs.finished_jobs"
        )
        assert sorted(row["id"] for row in rows) == sorted(self.ids)


@settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(ops, min_size=15, max_size=40))
async def test_between_two_turns_of_a_key_each_other_has_one(dsn: str, steps: list[tuple[Any, ...]]) -> None:
    """Of one queue and priority, among those who know the same kinds; and in the end every job has run."""
    async with session_of(dsn) as session:
        await session.connection.execute(
            "truncate asyncjobs.finished_jobs, asyncjobs.runners, asyncjobs.turns"
        )
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        for runner in RUNNERS:
            await enter(session, runner)
        world = World(session)
        for step in steps:
            await world.do(*step)
            await world.check()
        for _ in range(1000):
            await world.promote()
            await world.do("deal", 12, 3)
            await world.do("claim", 12, 3)
            if not world.running:
                break
            while world.running:
                await world.finish(0)
        left = await world.fetch("select state from asyncjobs.live_jobs where id > 0")
        assert {row["state"] for row in left} <= {LiveState.SUSPECTED}
        await world.check()
