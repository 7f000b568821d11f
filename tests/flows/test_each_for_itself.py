"""No job sees what another left behind, holds it up, or is forgotten while it waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections import Counter
from typing import Any

import asyncpg
import pytest

from asyncjobs import Constant, JobNotFound, JobState, Later, current_job, job
from tests.engine.running import running
from tests.waiting import eventually_async

S = JobState
seen: list[Any] = []
ran: Counter[str] = Counter()
used: set[int] = set()
waits_for: list[weakref.ref[asyncio.Future[str]]] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    seen.clear()
    ran.clear()
    waits_for.clear()


@job(kind="each:waits")
async def waits() -> str:
    """Nothing but this coroutine refers to what it waits for, and nothing but that to this coroutine."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waits_for.append(weakref.ref(future))
    return await future


@pytest.mark.failure_mode("F23")
async def test_a_job_that_waits_is_not_garbage(dsn: str) -> None:
    """A task that only its own future refers to would be collected; a job's is held until it is done."""
    async with running(dsn, slots=20) as jobs:
        handles = await jobs.enqueue_many([waits.prepare() for _ in range(20)])

        async def all_wait() -> bool:
            return len(waits_for) == 20

        await eventually_async(all_wait)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        for each in waits_for:
            future = each()
            assert future is not None
            future.set_result("still there")
            del future
        assert {await handle.result(timeout=10) for handle in handles} == {"still there"}


@job(kind="each:sets", max_attempts=1)
async def sets(how: str) -> None:
    async with current_job().transaction() as connection:
        await connection.execute("set timezone = 'Asia/Kathmandu'")
        await connection.execute("set statement_timeout = '5s'")
        used.add(await connection.fetchval("select pg_backend_pid()"))
        await connection.execute("select pg_advisory_lock(4711)")
        if how == "raises":
            raise ValueError("in the middle")


@job(kind="each:looks")
async def looks() -> None:
    async with current_job().transaction() as connection:
        row = await connection.fetchrow(
            "select pg_backend_pid(), current_setting('timezone'), current_setting('statement_timeout'),"
            " (select count(*) from pg_locks where objid = 4711)"
        )
        seen.append(tuple(row))


@pytest.mark.failure_mode("F24")
@pytest.mark.parametrize("how", ["commits", "raises"])
async def test_what_a_job_sets_in_its_session_is_gone_with_it(dsn: str, how: str) -> None:
    """Settings, session locks and the transaction itself: the next job's connection is as the first one was."""
    async with running(dsn, slots=1) as jobs:
        await looks.later()
        await jobs.work_off()
        for _ in range(3):
            await sets.later(how)
        await jobs.work_off()
        await looks.later()
        await jobs.work_off()
        before, after = seen
        assert after[0] in used
        assert after[1:] == before[1:]


class Mutates(Later, kind="each:Mutates", backoff=Constant(0.01)):
    """Changes what it was given, and fails the first time."""

    def __init__(self, names: list[str], options: dict[str, list[int]]) -> None:
        self.names = names
        self.options = options

    async def call(self) -> list[Any]:
        given = [list(self.names), {key: list(value) for key, value in self.options.items()}]
        self.names.append("changed")
        self.options.setdefault("a", []).append(99)
        if current_job().attempt == 1:
            raise ValueError("the first time")
        return given


@pytest.mark.failure_mode("F101")
async def test_each_attempt_is_given_what_was_enqueued(dsn: str) -> None:
    """A job that changed its inputs and failed finds them as they were; so does the caller who enqueued them."""
    names, options = ["one"], {"a": [1]}
    async with running(dsn):
        handle = await Mutates(names, options).later("call")
        assert await handle.result(timeout=10) == [["one"], {"a": [1]}]
        assert (names, options) == (["one"], {"a": [1]})
        assert (await handle.job()).args == {"names": ["one"], "options": {"a": [1]}}


@job(kind="each:bomb", queue="bombs")
async def bomb() -> None:
    ran["bomb"] += 1
    await bomb.later()
    await bomb.later()


@job(kind="each:modest", queue="modest")
async def modest() -> None:
    ran["modest"] += 1


@pytest.mark.failure_mode("F100")
async def test_jobs_that_multiply_do_not_keep_others_out(dsn: str) -> None:
    """On the same slots they take turns with another queue, what is claimed is bounded, and a pause ends it."""
    async with running(dsn, slots=4) as jobs:
        await bomb.later()

        async def many() -> bool:
            return ran["bomb"] > 300

        await eventually_async(many)
        handles = await jobs.enqueue_many([modest.prepare() for _ in range(5)])
        for handle in handles:
            await handle.result(timeout=10)
        await jobs.pause("bombs")

        async def rests() -> bool:
            counts = (await jobs.count_jobs())["bombs"]
            return counts.get(S.RUNNING, 0) == 0 and counts[S.AVAILABLE] > 100

        await eventually_async(rests)
        before = ran["bomb"]
        await (await modest.later()).result(timeout=10)
        assert ran["bomb"] == before


@job(kind="each:undone", max_attempts=3, backoff=Constant(0.01))
async def undone(code: str) -> int:
    """Postgres undoes its transaction, the first time, in favour of somebody else's."""
    ran[code] += 1
    async with current_job().transaction() as connection:
        await connection.execute("insert into effects values ($1)", code)
        if ran[code] == 1:
            await connection.execute(f"do $$ begin raise exception using errcode = '{code}'; end $$")
        current_job().result = ran[code]
    return 0


@pytest.mark.failure_mode("F80")
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_jobs_transaction_that_postgres_undoes_is_tried_again(dsn: str, code: str) -> None:
    """As a failed attempt, with the error kept: what it wrote is there once."""
    other = await asyncpg.connect(dsn)
    await other.execute("create table effects (code text)")
    async with running(dsn):
        handle = await undone.later(code)
        assert await handle.result(timeout=10) == 2
        done = await handle.job()
        assert (done.attempt, done.crashes, len(done.errors)) == (2, 0, 1)
        assert await other.fetchval("select count(*) from effects") == 1
    await other.close()


@pytest.mark.failure_mode("F78")
async def test_a_deadlock_of_the_applications_own_takes_its_job_with_it(dsn: str) -> None:
    """Two requests lock the same rows in opposite order, and enqueue in between: Postgres ends one of them, job and all."""
    async with running(dsn), contextlib.AsyncExitStack() as stack:
        requests = [await asyncpg.connect(dsn) for _ in range(2)]
        for request in requests:
            stack.push_async_callback(request.close)
        await requests[0].execute("create table accounts (name text primary key, balance int)")
        await requests[0].execute("insert into accounts values ('a', 0), ('b', 0)")
        handles: dict[str, Any] = {}
        both_have_one = asyncio.Barrier(2)

        async def transfer(request: asyncpg.Connection, first: str, second: str) -> None:
            async with request.transaction():
                await request.execute("update accounts set balance = balance - 1 where name = $1", first)
                handles[first] = await modest.set(on=request).later()
                await both_have_one.wait()
                await modest.set(on=request).later()
                await request.execute("update accounts set balance = balance + 1 where name = $1", second)

        ended = await asyncio.gather(
            transfer(requests[0], "a", "b"), transfer(requests[1], "b", "a"), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in ended) == ["DeadlockDetectedError", "NoneType"]
        undone, done = ("a", "b") if ended[0] is not None else ("b", "a")
        await handles[done].result(timeout=10)
        with pytest.raises(JobNotFound):
            await handles[undone].status()

        async def two_ran() -> bool:
            return ran["modest"] == 2

        await eventually_async(two_ran)
        assert await requests[0].fetchval("select count(*) from asyncjobs.jobs") == 2
