"""Schedules in processes that run jobs: who ticks, when, and how often they ask."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from asyncjobs import TICK, Cron, Every, Jobs, current_job, job
from asyncjobs._schedule import ticker
from asyncjobs._store import schedules as store
from asyncjobs._store.session import Session
from tests.connections import engine_on
from tests.engine.running import running, watching
from tests.network import network
from tests.waiting import eventually_async

SOON = timedelta(milliseconds=200)
NEVER = timedelta(days=3650)

ran: list[tuple[str, datetime | None, datetime]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@job(kind="test_ticker:note")
async def note(name: str, tick: datetime | None = None) -> None:
    assert tick is None or tick == current_job().tick
    ran.append((name, current_job().tick, datetime.now(UTC)))


async def until_ran(name: str, times: int) -> list[datetime]:
    """The ticks that ran for *name*, once there are so many."""

    async def ticks() -> list[datetime]:
        found = [tick for each, tick, _ in ran if each == name and tick is not None]
        return found if len(found) >= times else []

    return await eventually_async(ticks)


async def test_a_declared_schedule_ticks(dsn: str) -> None:
    """Each tick runs once, in order, and knows which tick it is."""
    schedules = [Every(SOON, note.prepare("every", TICK), name="every")]
    async with running(dsn, schedules=schedules):
        ticks = await until_ran("every", 4)
    assert ticks == sorted(set(ticks))
    assert all((tick - datetime(1970, 1, 1, tzinfo=UTC)) % SOON == timedelta() for tick in ticks)


async def test_cron_with_seconds(dsn: str) -> None:
    """A cron expression ticks on the second."""
    async with running(dsn, schedules=[Cron("* * * * * *", note.prepare("cron"), name="cron")]):
        first, second, *_ = await until_ran("cron", 2)
    assert first.microsecond == 0
    assert second > first


async def test_a_schedule_created_while_runners_sleep(dsn: str) -> None:
    """They are told, in this process and in others."""
    async with running(dsn), watching(dsn) as watcher:
        await watcher.until_idle()
        async with Jobs(dsn) as elsewhere:
            await elsewhere.schedules.create(Every(SOON, note.prepare("new"), name="new"))
            await until_ran("new", 2)


async def test_where_nobody_is_told(dsn: str) -> None:
    """Behind a pooler there is no LISTEN: the runner of the very process is told all the same."""
    async with running(dsn, listen=False) as jobs:
        await jobs.schedules.create(Every(SOON, note.prepare("new"), name="new"))
        await until_ran("new", 2)


@pytest.mark.parametrize("what", ["pool", "asyncpg", "psycopg"])
async def test_on_the_connections_of_the_application(dsn: str, what: str) -> None:
    """Of its asyncpg pool, or its engine on either driver."""
    schedules = [
        Every(SOON, note.prepare("theirs", TICK), name="theirs", missed="all", window=60, overlap="queue")
    ]
    async with AsyncExitStack() as stack:
        given: dict[str, Any]
        if what == "pool":
            given = {
                "pool": await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=0, max_size=1))
            }
        else:
            given = {"engine": await stack.enter_async_context(engine_on(dsn, what))}
        jobs = await stack.enter_async_context(Jobs(**given, schedules=schedules).running())
        await until_ran("theirs", 2)
        await jobs.schedules.create(Every(SOON, note.prepare("created"), name="created"))
        await until_ran("created", 1)
        handle = await jobs.schedules.run_now("created")
        await handle.result(timeout=20)


async def test_who_runs_nothing_does_not_tick(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Jobs that only enqueues deals with no ticks."""

    async def never(*_: Any) -> None:
        raise AssertionError("a tick was dealt with")

    monkeypatch.setattr(ticker, "fire", never)
    async with Jobs(dsn, schedules=[Every(0.1, note.prepare("x"), name="x")]) as jobs:
        await jobs.schedules.create(Every(0.1, note.prepare("y"), name="y"))
        await asyncio.sleep(0.3)
        assert [each.name for each in await jobs.schedules.list()] == ["y"], "nor declares anything"


async def test_nobody_asks_while_nothing_is_due(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two ticks no statement is sent."""
    looks = []

    async def list_schedules(session: Session) -> Any:
        looks.append(1)
        return await store.list_schedules(session)

    monkeypatch.setattr(ticker, "list_schedules", list_schedules)
    async with (
        running(dsn, schedules=[Every(NEVER, note.prepare("x"), name="x")]) as jobs,
        watching(dsn) as watcher,
    ):
        await watcher.until_idle()
        await jobs.schedules.list()
        told = len(looks)
        await asyncio.sleep(0.5)
        assert len(looks) <= told + 1  # what it was told of its own declaration may have been on its way


@pytest.mark.faults
async def test_an_outage_loses_and_doubles_nothing(dsn: str) -> None:
    """Postgres is away while ticks are due: each that was wanted has its one job afterwards."""
    schedules = [Every(SOON, note.prepare("all"), name="all", missed="all", window=timedelta(minutes=1))]
    async with network(dsn) as way, running(way.dsn, schedules=schedules) as jobs:
        await until_ran("all", 2)
        for _ in range(12):
            way.cut()
            await asyncio.sleep(SOON.total_seconds() / 3)
        known = len(ran)
        await until_ran("all", known + 6)
        await jobs.work_off()
    async with watching(dsn) as watcher:
        rows = await watcher.connection.fetch("select meta ->> 'tick' as tick from asyncjobs.jobs")
    ticks = Counter(datetime.fromisoformat(row["tick"]) for row in rows)
    assert set(ticks.values()) == {1}
    assert max(ticks) - min(ticks) == SOON * (len(ticks) - 1)


async def test_a_broken_schedule_keeps_no_other_from_ticking(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one that somebody wrote by hand and nobody can read, it is said once; the others tick."""
    async with watching(dsn) as watcher:
        for name, cron, args in (("a", "nonsense", "{}"), ("b", "* * * * * *", "not json")):
            await watcher.connection.execute(
                """insert into asyncjobs.schedules
                          (name, cron, timezone, job, missed, overlap, jitter, passed_until)
                   values ($1, $2, 'UTC', jsonb_build_object('kind', 'k', 'args', $3::text), 'one', 'allow', 0, now())""",
                name,
                cron,
                args,
            )
    with caplog.at_level(logging.ERROR, "asyncjobs"):
        async with running(dsn, schedules=[Every(SOON, note.prepare("good"), name="good")]):
            await eventually_async(lambda: was_said(caplog, "'b'"))  # at its first tick
            await until_ran("good", 4)
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if "'a'" in each]) == 1
    assert len([each for each in said if "'b'" in each]) == 1


async def was_said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in record.getMessage() for record in caplog.records)


class Cancels:
    """Lets the first ticks be cancelled, as by awaiting a task that was."""

    def __init__(self) -> None:
        self.times = 3

    async def enqueue(self, jobs: Any, call_next: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise asyncio.CancelledError
        return await call_next(jobs)


async def test_a_cancelled_middleware_is_not_the_end_of_a_runner(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick is tried again, and said once."""
    schedules = [Every(SOON, note.prepare("on"), name="on")]
    async with running(dsn, schedules=schedules, middleware=[Cancels()]):
        await until_ran("on", 2)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said == ["a tick of schedule 'on' has no job yet; it is tried again"]


async def test_a_queued_tick_runs_when_the_one_before_has_ended(dsn: str) -> None:
    """No two of a schedule run at once, though each takes longer than its interval."""
    async with running(dsn, schedules=[Every(0.1, slow, name="slow", overlap="queue")]):
        await eventually_async(lambda: _true(len(ran) >= 2))
    assert most == [1]


most = [0]
now_running = [0]


@job(kind="test_ticker:slow")
async def slow() -> None:
    now_running[0] += 1
    most[0] = max(most[0], now_running[0])
    await asyncio.sleep(0.3)
    now_running[0] -= 1
    ran.append(("slow", current_job().tick, datetime.now(UTC)))


async def _true(fact: bool) -> bool:
    return fact
