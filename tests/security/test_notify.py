"""Anybody in the database may notify, with anything: what is heard is a hint to look, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest

from asyncjobs import JobCancelled, JobState, current_job, job
from tests.engine.running import running, watching
from tests.waiting import eventually_async

CHANNELS = ["ready", "finished", "cancel", "queues"]
PAYLOADS = [
    "",
    "0",
    "-1",
    "9" * 30,
    "1e9",
    "\ud7ff",
    "'; drop schema asyncjobs cascade; --",
    "x" * 7999,
    "{}",
    "\x1b[2J\n",
]

begun: Counter[str] = Counter()
gate: asyncio.Event


@job(kind="test_notify:hold", max_attempts=1)
async def hold(name: str) -> str:
    begun[name] += 1
    await gate.wait()
    return name


@job(kind="test_notify:quick")
async def quick() -> int | None:
    return current_job().id


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    begun.clear()
    gate = asyncio.Event()


async def has_begun(name: str) -> bool:
    return begun[name] > 0


@pytest.mark.failure_mode("F52")
@pytest.mark.security("SEC-S10")
async def test_forged_notifications_change_nothing(dsn: str) -> None:
    """Of a job that runs, one that waits and a queue: told by a stranger that all is cancelled, finished and paused, none is."""
    async with running(dsn) as jobs, watching(dsn) as stranger:
        held = await hold.later("held")
        await eventually_async(lambda: has_begun("held"))
        waiting = await hold.set(delay=3600).later("waiting")
        result = asyncio.ensure_future(held.result(timeout=60))
        for channel in CHANNELS:
            for payload in (*PAYLOADS, str(held.id), str(waiting.id), "default"):
                await stranger.connection.execute("select pg_notify($1, $2)", f"asyncjobs:{channel}", payload)
        assert (
            await (await quick.later()).result(timeout=20) is not None
        )  # all of it was heard by now, in order
        assert await held.status() is JobState.RUNNING
        assert await waiting.status() is JobState.SCHEDULED
        assert not result.done()
        assert await jobs.paused_queues() == set()
        gate.set()
        assert await result == "held"
    assert begun == {"held": 1}


@pytest.mark.failure_mode("F52")
@pytest.mark.security("SEC-S10")
async def test_a_true_request_is_heard_among_forged_ones(dsn: str) -> None:
    """While a stranger notifies without end, a cancel that stands in the row stops its job, and jobs start at once."""
    async with running(dsn), watching(dsn) as stranger:
        held = await hold.later("held")
        await eventually_async(lambda: has_begun("held"))
        is_over = False

        async def flood() -> None:
            while not is_over:
                for channel in CHANNELS:
                    await stranger.connection.execute("select pg_notify($1, '1')", f"asyncjobs:{channel}")

        flooding = asyncio.ensure_future(flood())
        assert await (await quick.later()).result(timeout=20) is not None
        assert await held.cancel() == "requested"
        with pytest.raises(JobCancelled):
            await held.result(timeout=20)
        is_over = True
        await flooding


@pytest.mark.security("SEC-S10", "SEC-S6")
async def test_what_is_notified_holds_no_data(dsn: str) -> None:
    """Whoever listens learns names of queues and ids: not what jobs take, are called, or return."""
    async with watching(dsn) as stranger:
        for channel in CHANNELS:
            await stranger.listen(f"asyncjobs:{channel}")
        async with running(dsn) as jobs:
            gate.set()
            assert await (await hold.set(tags=["s3cret"], meta={"a": "s3cret"}).later("s3cret")).result(
                timeout=20
            )
            await jobs.pause("default")
            await jobs.resume("default")
        heard = await stranger.hears_all_that_was_said()
    assert heard
    assert {payload for payload in heard if not payload.isdigit()} <= {"default", ""}


@pytest.mark.security("SEC-S10", "SEC-S3", "SEC-S13")
async def test_a_channel_is_quoted_whatever_the_schema_is_called(database: str) -> None:
    """A schema's name with capitals, blanks and dashes is one identifier, in LISTEN as in every statement."""
    async with watching(database) as other:
        from asyncjobs import Jobs

        name = 'Odd -- name"'.rstrip('"')
        await Jobs(database, schema=name).migrate()
        found: list[Any] = await other.connection.fetch(
            "select nspname from pg_namespace where nspname = $1", name
        )
        assert [row["nspname"] for row in found] == [name]
        async with running(database, schema=name):
            assert await (await quick.later()).result(timeout=20) is not None
    assert isinstance(other.connection, asyncpg.Connection)
