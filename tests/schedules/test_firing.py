"""What becomes of ticks: judged by the row and the database's clock, in one transaction with the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, get_args

import asyncpg
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import TICK, Cron, Every, Jobs, JobState, Later, Unique, job
from asyncjobs._define.codec import Codec
from asyncjobs._model.schedule import ON_TIME, Missed, Overlap, StoredSchedule, due
from asyncjobs._model.ticks import EPOCH, ticks_between
from asyncjobs._schedule.firing import fire
from asyncjobs._store.session import Session
from tests.store.jobs import session_of

CODEC = Codec()
JOBS = Jobs("postgresql://nowhere/x")  # whose settings are asked for, and nothing else
MINUTE = timedelta(minutes=1)


@job(kind="test_firing:sweep")
async def sweep() -> None: ...


@job(kind="test_firing:report", queue="reports", meta={"who": "me"}, priority=3)
async def report(until: datetime, *, parts: list[datetime], note: str = "") -> None: ...


@attrs.frozen
class Nightly(Later, kind="test_firing:Nightly"):
    day: datetime = TICK

    async def call(self) -> None: ...


@asynccontextmanager
async def stored(dsn: str, schedule: Cron | Every) -> AsyncIterator[Session]:
    """A session of a database with that schedule."""
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(schedule)
    async with session_of(dsn) as session:
        yield session


async def passed(session: Session, ago: timedelta) -> None:
    """The ticks of all schedules were dealt with until so long ago: as when nobody was there since."""
    await session.connection.execute(
        "update asyncjobs.schedules set passed_until = clock_timestamp() - $1::interval", ago
    )


async def ticks(session: Session) -> list[datetime]:
    """The ticks that have jobs."""
    rows = await session.connection.fetch("select meta ->> 'tick' as tick from asyncjobs.jobs order by id")
    return [datetime.fromisoformat(row["tick"]) for row in rows]


async def now(session: Session) -> datetime:
    moment: datetime = await session.connection.fetchval("select clock_timestamp()")
    return moment


async def test_a_new_schedule_is_not_backfilled(dsn: str) -> None:
    """It begins now, whatever its ticks were before."""
    async with stored(dsn, Cron("* * * * *", sweep, missed="all", window=timedelta(days=1))) as session:
        before = await now(session)
        await fire(session, "sweep", JOBS)
        assert [tick for tick in await ticks(session) if tick < before] == []


@pytest.mark.failure_mode("F108")
async def test_one_for_all_that_was_missed(dsn: str) -> None:
    """Ten missed ticks are one job, which knows the last of them."""
    async with stored(dsn, Every(MINUTE, sweep)) as session:
        await passed(session, timedelta(minutes=10))
        assert await fire(session, "sweep", JOBS)
        (tick,) = await ticks(session)
        assert timedelta() <= await now(session) - tick < MINUTE + timedelta(seconds=30)
        assert (tick - EPOCH) % MINUTE == timedelta()


@pytest.mark.failure_mode("F108")
async def test_every_one_that_was_missed(dsn: str) -> None:
    """Each job is told the tick that was missed."""
    async with stored(dsn, Every(MINUTE, sweep, missed="all", window=timedelta(hours=1))) as session:
        await passed(session, timedelta(minutes=10))
        start = (await now(session)) - timedelta(minutes=10)
        await fire(session, "sweep", JOBS)
        found = await ticks(session)
        assert len(found) in (10, 11)
        assert found == [found[0] + n * MINUTE for n in range(len(found))]
        assert found[0] - start <= MINUTE


async def test_no_further_back_than_the_window(dsn: str) -> None:
    """Of what was missed within an hour there are jobs; what is older is given up."""
    async with stored(dsn, Every(MINUTE, sweep, missed="all", window=timedelta(minutes=3))) as session:
        await passed(session, timedelta(minutes=10))
        await fire(session, "sweep", JOBS)
        assert len(await ticks(session)) in (2, 3)


async def test_more_than_one_transaction_takes(dsn: str) -> None:
    """What was missed is made up for a hundred at a time, in order, and all of it."""
    async with stored(dsn, Every(1, sweep, missed="all", window=timedelta(hours=1))) as session:
        await passed(session, timedelta(seconds=250))
        while await fire(session, "sweep", JOBS):
            pass
        found = await ticks(session)
        assert len(found) >= 250
        assert found == [found[0] + n * timedelta(seconds=1) for n in range(len(found))]


@pytest.mark.failure_mode("F108")
async def test_missed_and_skipped(dsn: str) -> None:
    """What comes more than a minute late is not run at all, and is dealt with."""
    async with stored(dsn, Every(timedelta(days=3650), sweep, missed="skip")) as session:
        await passed(session, timedelta(days=36_500))
        assert not await fire(session, "sweep", JOBS)
        assert await ticks(session) == []
        until = await session.connection.fetchval("select passed_until from asyncjobs.schedules")
        assert until > await now(session) - timedelta(days=3650)


async def test_a_little_late_is_not_missed(dsn: str) -> None:
    """The last tick, seconds ago, has its job though what was missed is skipped."""
    async with stored(dsn, Every(1, sweep, missed="skip")) as session:
        await passed(session, timedelta(seconds=10))
        assert await fire(session, "sweep", JOBS)
        assert len(await ticks(session)) == 1


async def test_the_job_of_a_tick(dsn: str) -> None:
    """It has everything the prepared call said, its tick in its meta, and wherever TICK stood among its inputs."""
    what = report.set(tags=["t"]).prepare(TICK, parts=[TICK, EPOCH], note="9999-12-31")
    async with stored(dsn, Every(MINUTE, what, name="monthly report")) as session:
        await passed(session, MINUTE)
        await fire(session, "monthly report", JOBS)
        (tick,) = await ticks(session)
        row = await session.connection.fetchrow("select * from asyncjobs.jobs")
        assert row["queue"] == "reports"
        assert row["kind"] == "test_firing:report"
        assert row["priority"] == 3
        assert row["tags"] == ["t"]
        assert row["scheduled_at"] == tick
        assert row["state"] == "available"
        args = CODEC.decode(
            row["args"], {"until": datetime, "parts": list[datetime], "note": str}, what="report"
        )
        assert args == {"until": tick, "parts": [tick, EPOCH], "note": "9999-12-31"}
        assert '"who": "me"' in row["meta"]
        assert '"schedule": "monthly report"' in row["meta"]


async def test_an_object_with_its_tick(dsn: str) -> None:
    """TICK may be a field's default."""
    async with stored(dsn, Every(MINUTE, Nightly())) as session:
        await passed(session, MINUTE)
        await fire(session, "Nightly", JOBS)
        (tick,) = await ticks(session)
        args = await session.connection.fetchval("select args from asyncjobs.jobs")
        assert CODEC.decode(args, {"day": datetime}, what="Nightly") == {"day": tick}


async def test_jitter_delays_the_job(dsn: str) -> None:
    """The tick stays what it is; its job is due later, each by an amount of its own that everybody knows."""
    schedule = Every(MINUTE, sweep, missed="all", window=timedelta(hours=1), jitter=timedelta(days=1))
    async with stored(dsn, schedule) as session:
        await passed(session, timedelta(minutes=10))
        await fire(session, "sweep", JOBS)
        rows = await session.connection.fetch(
            "select scheduled_at, state, meta ->> 'tick' as tick from asyncjobs.jobs"
        )
        late = [row["scheduled_at"] - datetime.fromisoformat(row["tick"]) for row in rows]
        assert len({*late}) == len(rows)
        assert all(timedelta() <= each <= timedelta(days=1) for each in late)
        assert {row["state"] for row in rows} >= {"scheduled"}


async def unfinished(session: Session) -> list[int]:
    return [
        row[0] for row in await session.connection.fetch("select id from asyncjobs.live_jobs where id > 0")
    ]


async def finish(dsn: str) -> None:
    """Every job is done."""
    async with Jobs(dsn).running() as jobs:
        await jobs.work_off()


async def test_overlap_allowed(dsn: str) -> None:
    """Unless told otherwise, a tick has its job whatever became of the last one's."""
    async with stored(dsn, Every(1, sweep)) as session:
        for _ in range(3):
            await passed(session, timedelta(seconds=1.5))
            assert await fire(session, "sweep", JOBS)
        assert len(await unfinished(session)) == 3


async def test_overlap_skipped(dsn: str) -> None:
    """While one is unfinished, ticks are dealt with and have no job; then they have again. One by hand counts too."""
    async with stored(dsn, Every(MINUTE, sweep, overlap="skip")) as session:
        for _ in range(3):
            await passed(session, MINUTE)
            await fire(session, "sweep", JOBS)
        assert len(await unfinished(session)) == 1
        assert not await fire(session, "sweep", JOBS), (
            "nothing is due: the ticks that were skipped are dealt with"
        )
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        await passed(session, MINUTE)
        assert await fire(session, "sweep", JOBS)
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        async with Jobs(dsn) as jobs:
            await jobs.schedules.run_now("sweep")
        await passed(session, MINUTE)
        assert not await fire(session, "sweep", JOBS)


async def test_overlap_queued(dsn: str) -> None:
    """While one is unfinished, ticks wait; when it has ended, there is one job for all that waited."""
    async with stored(dsn, Every(MINUTE, sweep, overlap="queue")) as session:
        await passed(session, MINUTE)
        assert await fire(session, "sweep", JOBS)
        await passed(session, timedelta(minutes=5))
        assert not await fire(session, "sweep", JOBS)
        assert len(await unfinished(session)) == 1
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        assert await fire(session, "sweep", JOBS)
        assert len(await unfinished(session)) == 1
        assert not await fire(session, "sweep", JOBS)


async def test_every_missed_one_in_turn(dsn: str) -> None:
    """All that was missed, and no two at once: each begins when the one before has ended."""
    schedule = Every(MINUTE, sweep, overlap="queue", missed="all", window=timedelta(hours=1))
    async with stored(dsn, schedule) as session:
        await passed(session, timedelta(minutes=3))
        found = []
        while await fire(session, "sweep", JOBS):
            (job_id,) = await unfinished(session)
            assert not await fire(session, "sweep", JOBS)
            found += await ticks(session)
            await session.connection.execute("delete from asyncjobs.live_jobs where id = $1", job_id)
        assert len(found) in (3, 4)
        assert found == [found[0] + n * MINUTE for n in range(len(found))]


async def test_a_paused_schedule_does_not_tick(dsn: str) -> None:
    """Nor is what it did not do made up for when it is resumed."""
    async with Jobs(dsn) as jobs, session_of(dsn) as session:
        await jobs.schedules.create(Every(MINUTE, sweep))
        await jobs.schedules.pause("sweep")
        await passed(session, timedelta(minutes=5))
        assert not await fire(session, "sweep", JOBS)
        await jobs.schedules.resume("sweep")
        resumed = await now(session)
        await fire(session, "sweep", JOBS)
        assert [tick for tick in await ticks(session) if tick < resumed - timedelta(seconds=5)] == []


async def test_a_failed_transaction_leaves_the_tick(dsn: str) -> None:
    """The jobs and how far the schedule has come are one: when they cannot be stored, the tick is due still."""
    async with stored(dsn, Every(MINUTE, sweep)) as session:
        await passed(session, MINUTE)
        await session.connection.execute(
            "alter table asyncjobs.live_jobs add constraint full_up check (kind <> 'test_firing:sweep') not valid"
        )
        with pytest.raises(asyncpg.CheckViolationError):
            await fire(session, "sweep", JOBS)
        await session.connection.execute("alter table asyncjobs.live_jobs drop constraint full_up")
        assert await fire(session, "sweep", JOBS)


@pytest.mark.failure_mode("F106")
async def test_one_job_for_each_tick_however_many_try(dsn: str) -> None:
    """Sixteen try at once, again and again."""
    window = timedelta(hours=2)
    async with (
        stored(dsn, Every(MINUTE, sweep, missed="all", window=window)) as session,
        AsyncExitStack() as stack,
    ):
        crowd = [await stack.enter_async_context(session_of(dsn)) for _ in range(16)]
        await passed(session, timedelta(minutes=90))
        for _ in range(5):
            await asyncio.gather(*(fire(each, "sweep", JOBS) for each in crowd))
        found = await ticks(session)
        assert len(found) in (90, 91)
        assert len(set(found)) == len(found)


async def test_who_has_the_row_is_not_waited_for(dsn: str) -> None:
    """A process that stands still in the middle holds up nobody but its own schedule, and its tick is another's if it fails."""
    async with stored(dsn, Every(MINUTE, sweep)) as session, session_of(dsn) as stuck:
        await passed(session, MINUTE)
        transaction: Any = stuck.connection.transaction()
        await transaction.start()
        await stuck.fetchrow("take_schedule", "sweep")
        async with asyncio.timeout(10):
            assert not await fire(session, "sweep", JOBS)
        await transaction.rollback()
        assert await fire(session, "sweep", JOBS)


async def test_ticks_are_seen_in_the_jobs(dsn: str) -> None:
    """The audit: which ticks had a job, and what became of it, is in the view everybody reads."""
    async with stored(dsn, Every(MINUTE, sweep)) as session:
        await passed(session, MINUTE)
        await fire(session, "sweep", JOBS)
        await finish(dsn)
        row = await session.connection.fetchrow(
            "select state, (meta ->> 'tick')::timestamptz as tick from asyncjobs.jobs where meta ->> 'schedule' = 'sweep'"
        )
        assert row["state"] == JobState.COMPLETED
        async with Jobs(dsn) as jobs:
            schedule = await jobs.schedules.get("sweep")
            assert schedule.last_tick == row["tick"]
            assert schedule.last_job is not None


@job(kind="test_firing:only_one", unique=Unique(on_conflict="reject"))
async def only_one() -> None: ...


async def test_a_unique_job_on_a_schedule(dsn: str) -> None:
    """While one is there already, the tick has that one: even where a caller would be refused."""
    async with stored(dsn, Every(MINUTE, only_one)) as session:
        async with Jobs(dsn):
            handle = await only_one.later()
        await passed(session, MINUTE)
        assert await fire(session, "only_one", JOBS)
        assert await unfinished(session) == [handle.id]
        async with Jobs(dsn) as jobs:
            assert (await jobs.schedules.get("only_one")).last_job == handle.id
            again = await jobs.schedules.run_now("only_one")
            assert (again.id, again.created) == (handle.id, False)


async def test_the_job_of_a_tick_is_as_any_other(dsn: str) -> None:
    """Middleware of the process that deals with it sees it, and its context travels."""
    seen: list[Any] = []

    class Sees:
        async def enqueue(self, jobs: Sequence[Any], call_next: Any) -> Any:
            seen.extend(jobs)
            return await call_next([attrs.evolve(each, priority=7) for each in jobs])

    async with stored(dsn, Every(MINUTE, sweep)) as session:
        await passed(session, MINUTE)
        context = ContextVar[str]("test_firing_tenant")
        context.set("acme")
        await fire(session, "sweep", Jobs("postgresql://nowhere/x", middleware=[Sees()], context=[context]))
        assert [each.kind for each in seen] == ["test_firing:sweep"]
        row = await session.connection.fetchrow("select priority, meta::text from asyncjobs.jobs")
        assert row["priority"] == 7
        assert "acme" in row["meta"]


# The rule, for all times.


def a_schedule(  # noqa: PLR0917
    missed: Missed, overlap: Overlap, window: float | None, every: int, passed_for: int, at: int
) -> StoredSchedule:
    moment = EPOCH + timedelta(days=20_000, seconds=at)
    return StoredSchedule(
        name="s",
        owner=None,
        cron=None,
        timezone="UTC",
        every=float(every),
        job="{}",
        missed=missed,
        missed_within=window,
        overlap=overlap,
        jitter=0.0,
        passed_until=moment - timedelta(seconds=passed_for),
        last_tick=None,
        last_job=None,
        created_at=moment,
        paused_at=None,
        now=moment,
    )


@settings(max_examples=200, deadline=None)
@given(
    missed=st.sampled_from(get_args(Missed)),
    overlap=st.sampled_from(get_args(Overlap)),
    window=st.none() | st.floats(0, 500),
    every=st.integers(1, 100),
    passed_for=st.integers(0, 600),
    at=st.integers(0, 86_400),
    live=st.lists(st.integers(1, 9), max_size=1),
)
def test_what_is_due(  # noqa: PLR0917
    missed: Missed,
    overlap: Overlap,
    window: float | None,
    every: int,
    passed_for: int,
    at: int,
    live: Sequence[int],
) -> None:
    """Only ticks that are due and not dealt with have jobs, in order; afterwards nothing is due but what waits its turn; and what
    has no job was too old, too many, or in the way of another.
    """
    schedule = a_schedule(missed, overlap, window, every, passed_for, at)
    all_due = list(ticks_between(schedule.timing, schedule.passed_until, schedule.now))
    found = due(schedule, live)
    if found is None:
        assert not all_due or (live and overlap == "queue")
        return
    in_time = [tick for tick in all_due if window is None or schedule.now - tick < timedelta(seconds=window)]
    assert list(found.ticks) == [tick for tick in all_due if tick in found.ticks]
    assert found.until in all_due
    if missed != "all":
        assert found.until == all_due[-1]
        assert len(found.ticks) <= 1
    if live and overlap != "allow":
        assert not found.ticks
    elif missed == "one" and window is None:
        assert list(found.ticks) == all_due[-1:]
    elif missed == "skip":
        assert bool(found.ticks) == (schedule.now - all_due[-1] <= ON_TIME)
    elif missed == "all" and overlap == "queue":
        assert len(found.ticks) == bool(in_time)
