"""Que: whose word counts when a connection is lost, and whose clock."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

import asyncjobs
from asyncjobs import Jobs, JobState, LeaseLost, current_job, job
from asyncjobs._keeper.vigilance import Vigilance
from tests.connections import KINDS
from tests.network import network
from tests.waiting import eventually_async

SOON = Vigilance(look_every=0.1, settle=0.3)
"""Who looks for the dead need not wait for a server to be restarted here."""

began: list[int] = []
said: list[str] = []
new = asyncio.Event()


@job(kind="seeds.outlives_its_connection")
async def outlives_its_connection(dsn: str) -> str:
    began.append(current_job().attempt)
    if len(began) > 1:
        await new.wait()
        return "the new run"
    with suppress(asyncio.CancelledError):  # told that its job is another's, it goes on
        await asyncio.Event().wait()
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("insert into effects values ('old')")
            await current_job().complete(on=connection, result="the old run")
    except LeaseLost:
        said.append("refused")
    finally:
        await connection.close()
    return "the old run"


@pytest.mark.seed("Q15")
async def test_who_is_cut_off_loses_its_job_and_its_say(dsn: str) -> None:
    """Q15 lost-connection: jobs visible again quickly; old run's ack refused."""
    began.clear()
    said.clear()
    new.clear()

    async def again() -> bool:
        return len(began) == 2

    async def refused() -> bool:
        return "refused" in said

    async with network(dsn) as way, Jobs(way.dsn).running() as cut_off, Jobs(dsn) as other:
        async with other.connection() as connection:
            await connection.execute("create table effects (of text)")
        handle = await outlives_its_connection.set(jobs=cut_off).later(dsn)

        async def once() -> bool:
            return len(began) == 1

        await eventually_async(once)
        way.swallow()
        way.cut()
        async with Jobs(dsn, vigilance=SOON).running() as heir:
            await eventually_async(again)
            way.restore()
            await eventually_async(refused)
            new.set()
            assert await heir.handle(handle.id).result(timeout=10) == "the new run"
        async with other.connection() as connection:
            assert await connection.fetchval("select count(*) from effects") == 0


@job(kind="seeds.when")
async def when() -> None: ...


class AnyDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


class WrongClock(datetime, metaclass=AnyDatetime):
    """A machine whose clock is a day ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(days=1)


@pytest.fixture
def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of asyncjobs reads it."""
    import sys
    import time

    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 86_400)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == asyncjobs.__name__ and vars(module).get("datetime") is datetime:
            monkeypatch.setattr(module, "datetime", WrongClock)


@pytest.mark.seed("Q20")
@pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "session"])
async def test_the_databases_clock_decides(dsn: str, wrong_clock: None, kind: str) -> None:
    """Q20 clock: DB `now()` only; run_at=None means DB now. Here, this machine's is a day ahead."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        handles = [await when.later(), await when.set(delay=60).later()]
        handles += await jobs.enqueue_many([when.prepare(), when.set(delay=60).prepare()])
        async with theirs.begin():
            handles += [await when.set(on=theirs.on).later(), await when.set(on=theirs.on, delay=60).later()]
        async with jobs.connection() as connection:
            now = await connection.fetchval("select clock_timestamp()")
        for handle, delay in zip(handles, [0, 60] * 3, strict=True):
            stored = await handle.job()
            assert abs(stored.created_at - now) < timedelta(minutes=5)
            assert stored.scheduled_at - stored.created_at == timedelta(seconds=delay)
            assert stored.state is (JobState.SCHEDULED if delay else JobState.AVAILABLE)


@pytest.mark.seed("Q1")
@pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "session"])
async def test_a_job_is_its_callers(dsn: str, kind: str) -> None:
    """Q1 transactional enqueue on the caller's connection."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        with pytest.raises(ZeroDivisionError):
            async with theirs.begin():
                await when.set(on=theirs.on).later()
                raise ZeroDivisionError
        async with theirs.begin():
            kept = await when.set(on=theirs.on).later()
            assert await jobs.get_job(kept.id) is None
        assert [each.id for each in await jobs.list_jobs()] == [kept.id]
