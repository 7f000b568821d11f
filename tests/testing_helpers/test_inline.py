"""`inline`: what is enqueued within runs at once, in the transaction of who enqueues."""

from __future__ import annotations

import asyncpg
import pytest

from asyncjobs import Jobs
from asyncjobs.testing import assert_enqueued, inline
from tests.testing_helpers.kinds import DID, Charge, Write, fails, first, second


async def test_jobs_run_where_they_are_enqueued(jobs: Jobs) -> None:
    """And those they enqueue, too; later is later again after the block."""
    with inline():
        handle = await first.later(1)
        assert DID == [("first", 1), ("second", 2)]
        assert await handle.result() == 1
    await second.later(5)
    assert len(DID) == 2
    await assert_enqueued(second, count=1)


async def test_in_the_callers_transaction(dsn: str, connection: asyncpg.Connection) -> None:
    """Of a Jobs with connections of its own: on the one that was passed."""
    async with Jobs(dsn) as jobs:
        with inline(jobs):
            async with jobs.on(connection):
                await Write("a").later("call")
            assert await connection.fetchval("select text from notes") == "a"
        assert await jobs.list_jobs() == []


async def test_what_a_job_raises_is_raised_there_and_later_is_again_later(jobs: Jobs) -> None:
    """Whatever happened in the block."""
    with pytest.raises(Exception, match="no such customer"), inline():
        await fails.later()
    assert jobs.run is None


async def test_what_is_due_later_is_stored(jobs: Jobs) -> None:
    """Its time has not come; and a call may insist."""
    with inline(jobs):
        await Charge(1).later("call", delay=60)
        await second.set(run="later").later(1)
    assert DID == []
    await assert_enqueued(Charge, delay=60)
    await assert_enqueued(second)
