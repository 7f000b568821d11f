"""Stored, and nobody heard: the answer to an enqueue's commit is lost on the way."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from asyncjobs import DatabaseUnavailable, Jobs, job
from asyncjobs._enqueue import coalescer
from bench.proxy import proxy_to
from tests.engine.running import watching
from tests.waiting import eventually_async

UNKNOWN = "whether it was is not known"


@job(kind="lost_replies:count")
async def count(number: int) -> int:
    return number


@pytest.mark.failure_mode("F46")
@pytest.mark.parametrize("how", ["never comes", "breaks"])
async def test_a_job_whose_answer_is_lost_is_stored_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The caller is told that nobody knows; we do not try again by ourselves, and those who come later are served."""
    if how == "never comes":
        monkeypatch.setattr(coalescer, "ANSWER", 0.5)
    async with proxy_to(dsn) as proxy, Jobs(proxy.dsn), watching(dsn) as other:
        await count.later(0)
        for line in proxy.lines:
            line.loses_replies = True
        first = asyncio.create_task(count.later(1))

        async def stored() -> bool:
            return bool(await other.connection.fetchval("select count(*) = 2 from asyncjobs.jobs"))

        await eventually_async(stored)
        if how == "breaks":
            for line in proxy.lines:
                line.abort_client()
        with pytest.raises(DatabaseUnavailable, match=UNKNOWN):
            await first
        await count.later(2)
        numbers = await other.connection.fetch("select args ->> 'number' from asyncjobs.jobs order by id")
        assert [row[0] for row in numbers] == ["0", "1", "2"]


@pytest.mark.failure_mode("F46")
async def test_a_transaction_whose_commit_is_not_answered_says_what_became_of_it(dsn: str) -> None:
    """Whoever needs to know asks Postgres by the transaction's id: the job is there exactly when it was committed."""
    async with proxy_to(dsn) as proxy, Jobs(dsn) as jobs, watching(dsn) as other:
        connection = await asyncpg.connect(proxy.dsn)
        transaction = connection.transaction()
        await transaction.start()
        handle = await count.set(on=connection).later(7)
        number = await connection.fetchval("select pg_current_xact_id()::text")
        (line,) = proxy.lines
        line.loses_replies = True
        committing = asyncio.create_task(transaction.commit())

        async def committed() -> bool:
            said = await other.connection.fetchval("select pg_xact_status($1::text::xid8)", number)
            return bool(said == "committed")

        await eventually_async(committed)
        line.abort_client()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await committing
        assert (await jobs.handle(handle.id).job()).args == {"number": 7}
        connection.terminate()
