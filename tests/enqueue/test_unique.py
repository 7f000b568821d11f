"""Unique jobs and transactions: on every connection people have, and with a thousand at a time."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from asyncjobs import DuplicateJob, Jobs, Unique, job
from asyncjobs._store.statements import statements
from tests.connections import KINDS
from tests.engine.running import running, watching
from tests.waiting import eventually_async

HERE = "test_unique"


class ChangedMyMind(Exception):
    pass


@job(kind=f"{HERE}:index", unique="user")
async def index(user: int, note: str = "") -> None: ...


@job(kind=f"{HERE}:plain")
async def plain() -> None: ...


@pytest.mark.parametrize("kind", KINDS)
async def test_a_duplicate_never_aborts_the_transaction(dsn: str, kind: str) -> None:
    """It goes on on every connection, whether the other one was stored before or in it, and what is rejected is not stored."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs, watching(dsn) as other:
        await other.connection.execute("create table effects (note text)")
        before = await index.later(1)
        async with theirs.begin():
            first = await index.set(on=theirs.on).later(1)
            own = await index.set(on=theirs.on).later(2)
            again = await index.set(on=theirs.on).later(2)
            many = await jobs.enqueue_many(
                [index.prepare(3), index.prepare(2), index.prepare(3)], on=theirs.on
            )
            reject = Unique("user", on_conflict="reject")
            with pytest.raises(DuplicateJob):
                await index.set(on=theirs.on, unique=reject).later(1)
            with pytest.raises(DuplicateJob):
                await jobs.enqueue_many(
                    [index.set(unique=reject).prepare(user) for user in (4, 1)], on=theirs.on
                )
            await index.set(on=theirs.on, unique=Unique("user", window=100)).later(5)
            await theirs.run("insert into effects values ('done')")
        stored = {each.args["user"]: each.id for each in await jobs.list_jobs()}
        assert await other.connection.fetchval("select note from effects") == "done"
        assert (first.created, first.id) == (False, before.id)
        assert (own.created, again.created) == (True, False)
        assert [each.created for each in many] == [True, False, False]
        assert set(stored) == {1, 2, 3, 5}
        assert [each.id for each in many] == [stored[3], stored[2], stored[3]]
        assert own.id == again.id == stored[2]


async def test_who_waits_for_a_key_leaves_connections_to_others(dsn: str) -> None:
    """Many wait for what one open transaction will do; jobs with other keys, and without one, are stored meanwhile."""
    async with Jobs(dsn) as jobs, watching(dsn) as other:
        transaction = other.connection.transaction()
        await transaction.start()
        first = await index.set(on=other.connection).later(1)
        waiting = [asyncio.create_task(_one_more()) for _ in range(30)]
        async with watching(dsn) as eyes:
            waits = "select exists (select from pg_locks where not granted)"
            await eventually_async(lambda: eyes.connection.fetchval(waits))
        async with asyncio.timeout(4):  # to open a connection takes longer, where there is none left
            assert await jobs.count_jobs() == {}
            assert (await index.later(2)).created
            assert (await plain.later()).created
        assert not any(task.done() for task in waiting)
        await transaction.commit()
        assert set(await asyncio.gather(*waiting)) == {(first.id, False)}


async def _one_more() -> tuple[int, bool]:
    handle = await index.later(1)
    return handle.id, handle.created


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("autocommit", [False, True])
async def test_sync_code_meets_duplicates_too(dsn: str, driver: str, autocommit: bool) -> None:
    """On a sync connection, with a transaction and without: stored, met, changed, and taken for a while."""
    sync: Any = pytest.importorskip(driver)
    connection = sync.connect(dsn)
    connection.autocommit = autocommit
    try:
        async with Jobs(dsn) as jobs:
            first = index.set(on=connection).later_sync(1)
            again = index.set(on=connection).later_sync(1)
            replace = Unique("user", on_conflict="replace", window=100)
            changed = index.set(on=connection, unique=replace).later_sync(1, "new")
            throttled = [index.set(on=connection, unique=replace).later_sync(2) for _ in range(2)]
            connection.commit()
            stored = await jobs.get_job(first.id)
        assert [each.created for each in (first, again, changed, *throttled)] == [
            True,
            False,
            False,
            True,
            False,
        ]
        assert first.id == again.id == changed.id
        assert stored is not None
        assert stored.args == {"user": 1, "note": "new"}
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "session", "session on psycopg"])
async def test_a_rollback_frees_the_key(dsn: str, kind: str) -> None:
    """And the window that was taken with it; a savepoint's too."""
    rule = Unique("user", window=100)
    async with Jobs(dsn), KINDS[kind](dsn) as theirs:
        with pytest.raises(ChangedMyMind):
            async with theirs.begin():
                assert (await index.set(on=theirs.on, unique=rule).later(1)).created
                raise ChangedMyMind
        async with theirs.begin():
            with pytest.raises(ChangedMyMind):
                async with theirs.nest():
                    assert (await index.set(on=theirs.on, unique=rule).later(1)).created
                    raise ChangedMyMind
            assert (await index.set(on=theirs.on, unique=rule).later(1)).created
        assert not (await index.set(unique=rule).later(1)).created


@job(kind=f"{HERE}:counts", unique=True, queue=f"{HERE}:paused")
async def counts(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("select count(*) from effects"))
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["asyncpg", "session on psycopg"])
async def test_the_job_that_waits_sees_what_was_done_with_its_duplicate(dsn: str, kind: str) -> None:
    """It cannot start before the duplicate's transaction has committed: else it would miss that one's data, and nobody
    would run for it. It is woken then, and nothing is found by polling.
    """
    async with running(dsn) as jobs, KINDS[kind](dsn) as theirs, watching(dsn) as other:
        await other.connection.execute("create table effects (note text)")
        await jobs.pause(f"{HERE}:paused")
        waiting = await counts.later(dsn)
        async with theirs.begin():
            await theirs.run("insert into effects values ('mine')")
            duplicate = await counts.set(on=theirs.on).later(dsn)
            assert (duplicate.created, duplicate.id) == (False, waiting.id)
            await jobs.resume(f"{HERE}:paused")
            for _ in range(2):  # the runner has looked meanwhile, and passed it by
                await (await plain.set(queue=f"{HERE}:paused").later()).result(timeout=20)
            assert await waiting.status() == "available"
        assert await waiting.result(timeout=20) == 1


async def test_whoever_passed_by_a_job_that_is_kept_is_woken_at_the_commit(dsn: str) -> None:
    """The runner is idle when a transaction meets a waiting job, and would look at it never again."""
    connection = await asyncpg.connect(dsn)
    try:
        async with running(dsn) as jobs, watching(dsn) as other:
            await jobs.pause(f"{HERE}:paused")
            waiting = await counts.later(dsn)
            await other.listen()
            await other.until_idle()
            before = len(await other.hears_all_that_was_said())
            async with connection.transaction():
                assert (await counts.set(on=connection).later(dsn)).id == waiting.id
                assert len(await other.hears_all_that_was_said()) == before
            assert (await other.hears_all_that_was_said())[before:] == [f"{HERE}:paused"]
    finally:
        await connection.close()


async def test_a_duplicate_of_a_running_job_does_not_hold_it_up(dsn: str) -> None:
    """until="end": the running job is not locked, so it finishes while the duplicate's transaction is open."""
    gate = asyncio.Event()
    rule = Unique("user", until="end")

    @job(kind=f"{HERE}:runs", unique=rule)
    async def runs(user: int) -> int:
        await gate.wait()
        return user

    connection = await asyncpg.connect(dsn)
    try:
        async with running(dsn):
            first = await runs.later(1)
            await eventually_async(lambda: _is(first, "running"))
            async with connection.transaction():
                assert (await runs.set(on=connection).later(1)).id == first.id
                gate.set()
                assert await first.result(timeout=20) == 1
    finally:
        await connection.close()


@pytest.mark.failure_mode("F79")
async def test_a_key_in_an_open_transaction_holds_up_nobody_else(dsn: str) -> None:
    """Who enqueues the same waits to know what came of it; plain jobs and other keys go on meanwhile."""
    connection = await asyncpg.connect(dsn)
    try:
        async with Jobs(dsn) as jobs:
            transaction = connection.transaction()
            await transaction.start()
            first = await index.set(on=connection).later(1)
            waits = asyncio.create_task(index.later(1))
            async with watching(dsn) as other:
                await eventually_async(lambda: _somebody_waits(other.connection))
            await asyncio.wait_for(plain.later(), 10)
            assert (await asyncio.wait_for(index.later(2), 10)).created
            assert not waits.done()
            await transaction.commit()
            second = await waits
            assert (second.created, second.id) == (False, first.id)
            assert len(await jobs.list_jobs(kinds=[index.kind])) == 2
    finally:
        await connection.close()


@pytest.mark.failure_mode("F79")
async def test_those_who_meet_the_same_job_do_not_wait_for_each_other(dsn: str) -> None:
    """Two open transactions with a duplicate of one waiting job: both have it at once."""
    async with Jobs(dsn), AsyncExitStack() as stack:
        first = await index.later(1)
        for _ in range(3):
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            handle = await asyncio.wait_for(index.set(on=connection).later(1), 10)
            assert handle.id == first.id


async def test_a_thousand_at_once_over_fifty_connections_make_one_job_each(dsn: str) -> None:
    """1,000 concurrent enqueues over 50 connections, of 20 keys: 20 jobs, and everybody is told which is theirs."""
    async with Jobs(dsn) as jobs, asyncpg.create_pool(dsn, min_size=50, max_size=50) as pool:

        async def enqueue(nth: int) -> tuple[int, int, bool]:
            async with pool.acquire() as connection:
                if nth % 2:
                    handle = await index.set(on=connection).later(nth % 20)
                else:
                    async with connection.transaction():
                        handle = await index.set(on=connection).later(nth % 20)
            return nth % 20, handle.id, handle.created

        told = await asyncio.gather(*map(enqueue, range(1000)))
        stored = {each.id: each.args["user"] for each in await jobs.list_jobs(limit=1000)}
    assert Counter(stored.values()) == Counter(range(20))
    assert all(stored[job_id] == user for user, job_id, _ in told)
    assert Counter(user for user, _, created in told if created) == Counter(range(20))


async def test_many_by_many_in_any_order_make_one_job_each(dsn: str) -> None:
    """Callers who store the same keys in opposite orders, alone and in transactions, do not deadlock."""
    async with Jobs(dsn) as jobs:

        async def enqueue(nth: int) -> None:
            users = range(30) if nth % 2 else reversed(range(30))
            await jobs.enqueue_many([index.prepare(user) for user in users])

        await asyncio.gather(*map(enqueue, range(20)))
        stored = await jobs.list_jobs(limit=1000)
    assert Counter(each.args["user"] for each in stored) == Counter(range(30))


def test_the_statements_for_unique_jobs_store_what_the_one_for_all_does() -> None:
    """A column that is added to insert_jobs.sql is not forgotten in those for unique jobs."""
    texts = {
        name: " ".join(statements("asyncjobs")[name].split())
        for name in ("insert_jobs", "insert_unique_jobs", "change_duplicates")
    }
    parameters = re.search(r"new \((queue text, .*?)\)", texts["insert_jobs"])
    stored = re.search(r"live_jobs (\(queue.*?\)) select (.*?) from", texts["insert_jobs"])
    assert parameters
    assert stored
    assert parameters[1] in texts["insert_unique_jobs"]
    assert parameters[1] in texts["change_duplicates"]
    assert stored[1] in texts["insert_unique_jobs"]
    assert stored[2] in texts["insert_unique_jobs"].replace(" + (new.nth - 1)::float8 * interval '1 us'", "")


async def _is(handle: object, state: str) -> bool:
    return str(await handle.status()) == state  # type: ignore[attr-defined]


async def _somebody_waits(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval("select exists (select from pg_locks where not granted)"))
