"""Schedules as people say them: in code, which is followed at each start, and at run time."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from asyncjobs import (
    TICK,
    Cron,
    Every,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    Jobs,
    Later,
    Schedule,
    ScheduleExists,
    ScheduleNotFound,
    UndecodableInput,
    current_job,
    job,
)
from asyncjobs._define.codec import Codec
from asyncjobs._define.fitting import check_stored_schedules
from asyncjobs._define.schedules import Repeating
from asyncjobs._schedule.ticker import Declared, Ticker
from asyncjobs._store.session import Session
from tests.engine.running import running, watching
from tests.store.jobs import session_of
from tests.waiting import eventually_async

A_DAY = timedelta(days=1)


@job(kind="test_schedules:sweep")
async def sweep() -> str:
    return "swept"


@job(kind="test_schedules:count_to")
async def count_to(number: int) -> int:
    return number


@job(kind="test_schedules:report")
async def report(day: datetime) -> datetime:
    assert current_job().tick == day
    return day


class Nightly(Later, kind="test_schedules:Nightly", queue="nights"):
    def __init__(self, tenant: str = "acme") -> None:
        self.tenant = tenant

    async def call(self) -> None: ...

    async def clean(self) -> None: ...


async def declare(dsn: str, *schedules: Repeating, application: str = "default") -> None:
    """What a process does at its start."""
    async with Jobs(dsn) as jobs, jobs.connection() as connection:
        await started(jobs, *schedules, application=application).round(Session(connection, "asyncjobs"))


def started(jobs: Jobs, *schedules: Repeating, application: str = "default") -> Ticker:
    from asyncjobs._define.codec import Codec

    return Ticker(jobs._own_source, jobs, Codec(), Declared(schedules, application))


async def names(dsn: str) -> list[str]:
    async with Jobs(dsn) as jobs:
        return [schedule.name for schedule in await jobs.schedules.list()]


async def get(dsn: str, name: str) -> Schedule:
    async with Jobs(dsn) as jobs:
        return await jobs.schedules.get(name)


async def passed_until(session: Session, name: str) -> datetime:
    moment: datetime = await session.connection.fetchval(
        "select passed_until from asyncjobs.schedules where name = $1", name
    )
    return moment


# Declared in code


async def test_what_is_declared_is_stored_at_the_start(dsn: str) -> None:
    """With everything said of it; its job as the call was prepared."""
    nightly = Cron(
        "0 3 * * *",
        Nightly("acme"),
        timezone="Europe/Berlin",
        missed="all",
        window=A_DAY,
        overlap="queue",
        jitter=timedelta(minutes=10),
    )
    async with running(dsn, schedules=[nightly, Every(timedelta(minutes=5), sweep)]) as jobs:
        await eventually_async(jobs.schedules.list)
        first, second = await jobs.schedules.list()
    assert (first.name, second.name) == ("Nightly", "sweep")
    assert (first.cron, first.timezone, first.every) == ("0 3 * * *", "Europe/Berlin", None)
    assert (first.kind, first.method, first.queue) == ("test_schedules:Nightly", "call", "nights")
    assert first.args == {"tenant": "acme"}
    assert (first.missed, first.missed_within, first.overlap) == ("all", A_DAY, "queue")
    assert first.jitter == timedelta(minutes=10)
    assert first.owner == "default"
    assert first.next_tick is not None
    assert first.next_tick.astimezone(ZoneInfo("Europe/Berlin")).hour == 3
    assert second.every == timedelta(minutes=5)


async def test_a_start_without_changes_writes_nothing(dsn: str) -> None:
    """However often the same code starts, the rows are those of the first start."""
    async with session_of(dsn) as session:
        versions = "select name, xmin::text, ctid::text from asyncjobs.schedules order by name"
        schedules = [Cron("0 3 * * *", Nightly()), Every(60, count_to.prepare(3), jitter=5)]
        await declare(dsn, *schedules)
        before = await session.connection.fetch(versions)
        await declare(dsn, *schedules)
        assert await session.connection.fetch(versions) == before


async def test_changed_times_begin_anew(dsn: str) -> None:
    """New times of an old schedule are not backfilled; new inputs are no new times."""
    async with session_of(dsn) as session:
        await declare(dsn, Cron("0 3 * * *", count_to.prepare(1)))
        await session.connection.execute(
            "update asyncjobs.schedules set passed_until = now() - interval '9 days'"
        )
        before = await passed_until(session, "count_to")
        await declare(dsn, Cron("0 3 * * *", count_to.prepare(2), jitter=1))
        changed = await get(dsn, "count_to")
        assert changed.args == {"number": 2}
        # The ticks of nine days were missed, and it is made up for them by one job.
        assert await passed_until(session, "count_to") > before
        assert changed.last_job is not None
        for new in (
            Cron("0 4 * * *", count_to.prepare(2), jitter=1),
            Cron("0 4 * * *", count_to.prepare(2), jitter=1, timezone="Asia/Tokyo"),
            Every(A_DAY, count_to.prepare(2), jitter=1),
        ):
            await session.connection.execute(
                "update asyncjobs.schedules set passed_until = now() - interval '9 days', last_job = null"
            )
            await declare(dsn, new)
            assert (await get(dsn, "count_to")).last_job is None


async def test_what_is_declared_no_more_is_dropped(dsn: str) -> None:
    """But nothing that was created at run time, and nothing of another application."""
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Every(A_DAY, sweep, name="by hand"))
    await declare(dsn, Every(A_DAY, sweep, name="theirs"), application="billing")
    await declare(dsn, Every(A_DAY, sweep, name="one"), Every(A_DAY, sweep, name="two"))
    assert await names(dsn) == ["by hand", "one", "theirs", "two"]
    await declare(dsn, Every(A_DAY, sweep, name="two"))
    assert await names(dsn) == ["by hand", "theirs", "two"]
    await declare(dsn)
    assert await names(dsn) == ["by hand", "theirs"]


async def test_a_jobs_that_says_nothing_drops_nothing(dsn: str) -> None:
    """Only `schedules=[]` says that there are none."""
    await declare(dsn, Every(A_DAY, sweep))
    async with running(dsn) as jobs:
        await jobs.work_off()
    assert await names(dsn) == ["sweep"]


@pytest.mark.failure_mode("F109")
async def test_an_older_process_does_not_fight(dsn: str) -> None:
    """Who started last is right. An older process that still runs leaves it at that, ticks by the new times, and does not bring
    back what was dropped.
    """
    async with Jobs(dsn) as old, Jobs(dsn) as new, old.connection() as theirs, new.connection() as ours:
        older = started(old, Every(A_DAY, sweep, name="kept"), Every(A_DAY, sweep, name="dropped"))
        await older.round(Session(theirs, "asyncjobs"))
        newer = started(new, Every(2 * A_DAY, sweep, name="kept"))
        await newer.round(Session(ours, "asyncjobs"))
        for _ in range(3):
            await older.round(Session(theirs, "asyncjobs"))
        (schedule,) = await new.schedules.list()
        assert schedule.every == 2 * A_DAY
        # And a tick by the new times is dealt with by whoever comes first, the older one too.
        await ours.execute("update asyncjobs.schedules set passed_until = now() - interval '2 days'")
        await older.round(Session(theirs, "asyncjobs"))
        (schedule,) = await new.schedules.list()
        assert schedule.last_tick is not None
        assert (schedule.last_tick - datetime(1970, 1, 1, tzinfo=UTC)) % (2 * A_DAY) == timedelta()


async def test_a_name_of_another_application_is_left_alone(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and nothing is overwritten."""
    await declare(dsn, Every(A_DAY, sweep, name="x"), application="billing")
    with caplog.at_level(logging.ERROR, "asyncjobs"):
        await declare(dsn, Every(1, sweep, name="x"))
    assert "belongs to the application 'billing'" in caplog.text
    assert (await get(dsn, "x")).every == A_DAY


async def test_a_pause_outlasts_a_deployment(dsn: str) -> None:
    """What somebody paused stays paused when the code starts again, changed or not."""
    await declare(dsn, Every(A_DAY, sweep))
    async with Jobs(dsn) as jobs:
        await jobs.schedules.pause("sweep")
        await declare(dsn, Every(2 * A_DAY, sweep))
        schedule = await jobs.schedules.get("sweep")
        assert schedule.paused_at is not None
        assert schedule.next_tick is None


# At run time


async def test_created_inside_my_transaction(dsn: str) -> None:
    """It exists when that has committed, and not when it was rolled back."""
    async with Jobs(dsn) as jobs:
        connection = await asyncpg.connect(dsn)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await jobs.schedules.create(Every(A_DAY, sweep), on=connection)
                raise ZeroDivisionError
        assert await jobs.schedules.list() == []
        async with connection.transaction():
            await jobs.schedules.create(Every(A_DAY, sweep), on=connection)
        assert [each.owner for each in await jobs.schedules.list()] == [None]
        await connection.close()


async def test_a_name_is_taken_once(dsn: str) -> None:
    """Unless it is replaced; what code declares is changed in the code."""
    await declare(dsn, Every(A_DAY, sweep, name="declared"))
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Every(A_DAY, sweep, name="x"))
        for taken, replace in (("x", False), ("declared", False), ("declared", True)):
            with pytest.raises(ScheduleExists, match="already"):
                await jobs.schedules.create(Every(1, sweep, name=taken), replace=replace)
        await jobs.schedules.create(Every(2 * A_DAY, sweep, name="x"), replace=True)
        assert (await jobs.schedules.get("x")).every == 2 * A_DAY
        await jobs.schedules.delete("x")
        with pytest.raises(InvalidOption, match="declared in code"):
            await jobs.schedules.delete("declared")


async def test_code_takes_over_what_was_created(dsn: str) -> None:
    """A schedule that is declared under a name somebody created at run time is the code's from then on."""
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Every(A_DAY, sweep, name="x"))
    await declare(dsn, Every(A_DAY, sweep, name="x"))
    assert (await get(dsn, "x")).owner == "default"
    await declare(dsn)
    assert await names(dsn) == []


async def test_there_is_no_such_schedule(dsn: str) -> None:
    """Every verb says so."""
    async with Jobs(dsn) as jobs:
        schedules = jobs.schedules
        for verb in (
            schedules.get,
            schedules.pause,
            schedules.resume,
            schedules.delete,
            schedules.run_now,
            schedules.preview,
        ):
            with pytest.raises(ScheduleNotFound, match="no schedule 'x'"):
                await verb("x")


async def test_run_now(dsn: str) -> None:
    """Its job, at once, though it is paused; the tick is now, and the next ticks are what they were."""
    async with running(dsn, schedules=[Every(3650 * A_DAY, report.prepare(TICK))]) as jobs:
        await eventually_async(jobs.schedules.list)
        before = await jobs.schedules.get("report")
        await jobs.schedules.pause("report")
        handle = await jobs.schedules.run_now("report")
        tick = await handle.result(timeout=20)
        stored = await handle.job()
        assert stored.meta == {"schedule": "report", "tick": tick.isoformat()}
        assert stored.scheduled_at == tick
        after = await jobs.schedules.get("report")
        assert after.last_job == handle.id
        assert after.last_tick == before.last_tick


async def test_what_somebody_else_has_written(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A row that holds no job is named, and hides no other: in the list, and in `check`."""
    async with Jobs(dsn) as jobs, watching(dsn) as other:
        await jobs.schedules.create(Every(A_DAY, sweep, name="good"))
        for number, stored in enumerate(('{"kind": "k"}', "[]", '{"kind": 3, "queue": "q", "args": "{}"}')):
            await other.connection.execute(
                "insert into asyncjobs.schedules (name, every, timezone, job, missed, overlap, jitter, passed_until) "
                "select $1, every, timezone, $2::jsonb, missed, overlap, jitter, passed_until from asyncjobs.schedules "
                "where name = 'good'",
                f"by hand {number}",
                stored,
            )
        assert [each.name for each in await jobs.schedules.list()] == ["good"]
        assert [f"schedule 'by hand {number}' holds no job" in caplog.text for number in range(3)] == [
            True
        ] * 3
        with pytest.raises(UndecodableInput, match=r"'by hand 0' holds no job.*it lacks .*args"):
            await jobs.schedules.get("by hand 0")
        with pytest.raises(UndecodableInput, match="'by hand 1' holds no job"):
            await jobs.schedules.run_now("by hand 1")
        problems = await check_stored_schedules(jobs, Codec())
        assert [problem.partition(" holds")[0] for problem in problems] == [
            f"schedule 'by hand {number}'" for number in range(3)
        ]
        for number in range(3):
            await jobs.schedules.delete(f"by hand {number}")


@pytest.mark.parametrize("name", [None, 3, "a\0b", "\ud800"])
@pytest.mark.parametrize("verb", ["get", "pause", "resume", "delete", "run_now", "preview"])
async def test_what_is_no_name(dsn: str, verb: str, name: Any) -> None:
    """It is refused at the call, whatever Postgres or its driver would say of it."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidOption, match="is no name of a schedule"):
            await getattr(jobs.schedules, verb)(name)


async def test_preview(dsn: str) -> None:
    """When it ticks next, on its own clock; also of one that is not stored."""
    schedule = Cron("30 2 * * *", sweep, timezone="Europe/Berlin")
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(schedule)
        ticks = await jobs.schedules.preview("sweep", 400)
    assert len(ticks) == 400
    assert ticks == sorted(ticks)
    assert {(tick.hour, tick.minute) for tick in ticks} == {(2, 30), (3, 0)}
    assert (await get(dsn, "sweep")).next_tick == ticks[0]
    moment = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert [tick.isoformat() for tick in schedule.preview(2, after=moment)] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


async def test_another_process_resumes(dsn: str) -> None:
    """A runner that sleeps is told when a schedule ticks again."""
    async with (
        running(dsn, schedules=[Every(0.2, sweep)]) as jobs,
        watching(dsn) as watcher,
        Jobs(dsn) as elsewhere,
    ):
        await eventually_async(jobs.schedules.list)
        await elsewhere.schedules.pause("sweep")
        await watcher.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        before = (await elsewhere.schedules.get("sweep")).last_job
        await elsewhere.schedules.resume("sweep")

        async def ticked() -> bool:
            return (await elsewhere.schedules.get("sweep")).last_job != before

        await eventually_async(ticked)


# What is refused


def hidden(value: Any) -> Any:
    """From the type checker, which would refuse it."""
    return value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cron("0 3 * *", sweep), "'0 3 * *' is no cron expression"),
        (lambda: Cron("0 3 * * *", sweep, timezone="Europe/Berlim"), "'Europe/Berlim' is not known"),
        (lambda: Every(0, sweep), "too often"),
        (lambda: Every(60, sweep, missed=hidden("al")), "missed='al' is none of 'skip', 'one', 'all'"),
        (lambda: Every(60, sweep, overlap=hidden("no")), "overlap='no' is none of"),
        (lambda: Every(60, sweep, missed="all"), "window=timedelta(days=1)"),
        (lambda: Every(60, sweep, missed="skip", window=5), "no window="),
        (lambda: Every(60, sweep, missed="all", window=5, overlap="skip"), "contradict"),
        (lambda: Every(60, sweep, missed="skip", overlap="queue"), "contradict"),
        (lambda: Every(60, sweep, jitter=-1), "jitter=-1 is negative"),
        (lambda: Every(60, sweep, name=""), "name='' is not a name"),
        (lambda: Every(60, sweep.set(delay=5)), "has no delay="),
        (lambda: Every(60, sweep.set(at=TICK)), "has no at="),
        (lambda: Jobs("postgresql://nowhere/x", schedules=hidden(Every(60, sweep))), "takes a list"),
        (lambda: Jobs("postgresql://nowhere/x", schedules=hidden([sweep])), "is neither"),
        (
            lambda: Jobs("postgresql://nowhere/x", schedules=[Every(60, sweep), Every(9, sweep)]),
            "two schedules",
        ),
        (lambda: Jobs("postgresql://nowhere/x", schedules=[], application=""), "application="),
        (lambda: Every(60, sweep).preview(after=datetime(2026, 1, 1)), "has no time zone"),  # noqa: DTZ001
        (lambda: Every(60, sweep).preview(-1), "count=-1"),
    ],
)
def test_what_makes_no_sense(make: Any, said: str) -> None:
    """Where it is written, with a sentence that says what to write."""
    with pytest.raises(InvalidOption, match=re.escape(said)):
        make()


async def test_what_cannot_be_stored_is_said_at_the_start(dsn: str) -> None:
    """And not only in the log of a runner, whose other schedules would stand still, too."""
    with pytest.raises(InvalidInput, match="declared"):
        async with Jobs(
            dsn, schedules=[Every(60, sweep), Every(60, count_to.prepare(hidden("x")))]
        ).running():
            pass


@job(kind="test_schedules:of_its_tick", unique=True)
async def of_its_tick(until: datetime, part: int = 0) -> None: ...


async def test_a_key_is_by_no_tick(dsn: str) -> None:
    """It is made before there is any: all ticks would have the same, and be one job."""
    for schedule in (
        Every(60, of_its_tick.prepare(TICK)),
        Every(60, of_its_tick.set(unique=None, lock=("until",)).prepare(TICK)),
    ):
        with pytest.raises(InvalidOption, match="is by an input that is TICK"):
            async with Jobs(dsn, schedules=[schedule]).running():
                pass
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Every(60, of_its_tick.set(unique=("part",), lock="part").prepare(TICK)))


def test_what_cannot_be_repeated() -> None:
    """What is no prepared call, or lacks its inputs."""
    with pytest.raises(InvalidDefinition, match=r"prepare\('call'\)"):
        Every(60, Nightly)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="number"):
        Every(60, count_to)  # type: ignore[arg-type]


def test_names() -> None:
    """A schedule is called like what it repeats, unless it is named."""
    assert Every(60, sweep).name == "sweep"
    assert Every(60, Nightly()).name == "Nightly"
    assert Every(60, Nightly().prepare("clean")).name == "Nightly.clean"
    assert Every(60, sweep, name="x").name == "x"
