"""Q18: what que-scheduler promises of jobs that repeat."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from asyncjobs import TICK, Cron, Every, Job, Jobs, JobState, job
from tests.waiting import eventually_async

SHORT = timedelta(milliseconds=200)
LONG = timedelta(minutes=5)
SINCE_1970 = datetime(1970, 1, 1, tzinfo=UTC)


@job(kind="seeds_schedules:one")
async def one() -> None: ...


@job(kind="seeds_schedules:each")
async def each(tick: datetime) -> datetime:
    return tick


def tick_of(done: Job) -> datetime:
    assert done.meta is not None
    return datetime.fromisoformat(done.meta["tick"])


async def until_there_are(jobs: Jobs, kind: str, number: int) -> list[Job]:
    """The jobs of a kind, the oldest first, once there are so many."""

    async def found() -> list[Job]:
        found = await jobs.list_jobs(kinds=[kind], limit=1000)
        return found[::-1] if len(found) >= number else []

    return await eventually_async(found)


@pytest.mark.seed("Q18")
async def test_exactly_once_for_each_tick(dsn: str) -> None:
    """Q18 "scheduler semantics: exactly once per tick": of three runners that declare the same, each tick has one job."""
    schedules = [Every(SHORT, each.prepare(TICK), missed="all", window=LONG)]
    async with AsyncExitStack() as stack:
        jobs, *_ = [
            await stack.enter_async_context(Jobs(dsn, schedules=schedules).running()) for _ in range(3)
        ]
        found = await until_there_are(jobs, "each", 6)
    ticks = Counter(map(tick_of, found))
    assert set(ticks.values()) == {1}
    assert all((tick - SINCE_1970) % SHORT == timedelta() for tick in ticks)
    assert max(ticks) - min(ticks) == SHORT * (len(ticks) - 1)


@pytest.mark.seed("Q18")
async def test_one_for_what_was_missed_or_every_occurrence(dsn: str) -> None:
    """Q18 "coalesce vs every occurrence": nobody was there for some ticks. Of one schedule the last of them has a job, of the
    other each; and each job is told the time it was missed at.
    """
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Every(SHORT, one, name="one"))
        await jobs.schedules.create(Every(SHORT, each.prepare(TICK), name="each", missed="all", window=LONG))
        created = (await jobs.schedules.get("each")).created_at
        await asyncio.sleep(6 * SHORT.total_seconds())
        started = (await jobs.schedules.preview("one", 1))[0]
    async with Jobs(dsn).running() as jobs:
        every = await until_there_are(jobs, "each", 6)
        await jobs.schedules.pause("each")
        await jobs.work_off()
        coalesced = await until_there_are(jobs, "one", 1)
    ticks = [tick_of(done) for done in every]
    assert ticks[0] - created < 2 * SHORT
    assert ticks == [ticks[0] + number * SHORT for number in range(len(ticks))]
    assert ticks[0] < started <= tick_of(coalesced[0]) + SHORT, "those before it were made up for by this one"
    for done in every:
        if done.state is JobState.COMPLETED:
            assert datetime.fromisoformat(done.result) == tick_of(done)


@pytest.mark.seed("Q18")
async def test_what_is_new_is_not_backfilled(dsn: str) -> None:
    """Q18 "new entries not backfilled": declared or created, a schedule begins when it becomes known."""
    schedules = [Every(SHORT, one, missed="all", window=LONG)]
    before = datetime.now(UTC)
    async with Jobs(dsn, schedules=schedules).running() as jobs:
        await jobs.schedules.create(Cron("* * * * * *", each.prepare(TICK), missed="all", window=LONG))
        found = [*await until_there_are(jobs, "one", 2), *await until_there_are(jobs, "each", 1)]
        stored = {schedule.kind: schedule.created_at for schedule in await jobs.schedules.list()}
    assert min(stored.values()) > before - timedelta(seconds=1)
    assert [done.id for done in found if tick_of(done) <= stored[done.kind]] == []


@pytest.mark.seed("Q18")
async def test_an_audit_trail(dsn: str) -> None:
    """Q18 "audit trail": which schedule a job is of, for which tick, and what became of it, is kept with the job."""
    async with Jobs(dsn, schedules=[Every(SHORT, one, name="now and then")]).running() as jobs:
        first, second, *_ = await until_there_are(jobs, "one", 2)
        await jobs.work_off()
        done = await jobs.get_job(first.id)
        assert done is not None
        assert done.meta is not None
        assert done.meta["schedule"] == "now and then"
        assert (done.state, done.scheduled_at) == (JobState.COMPLETED, tick_of(first))
        assert tick_of(first) < tick_of(second)
        schedule = await jobs.schedules.get("now and then")
        assert schedule.last_tick is not None
        assert schedule.last_tick >= tick_of(second)
