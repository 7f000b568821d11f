"""Results are waited for together, woken by the database; notifications may be lost, and are only a way to be quicker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from asyncjobs import DatabaseUnavailable, Handle, JobNotFound, Jobs, SchemaMissing, WhichJobs, job
from asyncjobs._enqueue import waiter
from tests.network import network
from tests.waiting import eventually_async

HERE = "test_waiter"

gates: dict[str, asyncio.Event] = {}


@job(kind=f"{HERE}:through")
async def through(gate: str) -> str:
    await gates[gate].wait()
    return gate


@pytest.fixture(autouse=True)
def fresh_gates() -> None:
    gates.clear()
    gates.update({name: asyncio.Event() for name in "abcdefghij"})


@asynccontextmanager
async def elsewhere(dsn: str, **given: Any) -> AsyncIterator[Jobs]:
    """A runner that is not in the process that waits, as far as that knows."""
    async with Jobs(dsn, **given).running() as jobs:
        yield jobs


async def started(handle: Handle[Any]) -> None:
    await eventually_async(lambda: _is(handle, "running"))


async def _is(handle: Handle[Any], state: str) -> bool:
    return (await handle.status()).value == state


@pytest.fixture
def deaf_without_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever misses a notification misses the test's end."""
    monkeypatch.setattr(waiter, "LOOK_EVERY", 300.0)


async def listening(jobs: Jobs) -> None:
    async def fact() -> bool:
        return jobs._waiter._hears

    await eventually_async(fact)


@pytest.mark.usefixtures("deaf_without_notifications")
async def test_a_result_is_told_by_the_database(dsn: str) -> None:
    """Its job runs in another process; nobody polls."""
    async with elsewhere(dsn), Jobs(dsn) as jobs:
        handle = await through.set(jobs=jobs).later("a")
        result = asyncio.create_task(handle.result(timeout=30))
        await listening(jobs)
        await asyncio.sleep(2 * waiter.POLL_TO)  # by now it waits for the notification alone
        gates["a"].set()
        async with asyncio.timeout(10):
            assert await result == "a"


@pytest.mark.usefixtures("deaf_without_notifications")
async def test_the_runner_of_this_process_hears_for_all(dsn: str) -> None:
    """No connection more, and no other process' jobs less."""
    async with Jobs(dsn, queues={"none": 1}).running() as jobs, elsewhere(dsn, queues={"default": 5}):
        await eventually_async(lambda: _hears(jobs))
        handle = await through.set(jobs=jobs).later("a")
        result = asyncio.create_task(handle.result(timeout=30))
        await started(handle)
        gates["a"].set()
        async with asyncio.timeout(10):
            assert await result == "a"
        assert jobs._waiter._listener is None


async def _hears(jobs: Jobs) -> bool:
    return jobs._waiter.runner_hears


@pytest.mark.usefixtures("deaf_without_notifications")
async def test_all_share_one_connection(dsn: str) -> None:
    """However many results are awaited, and however often the same one."""
    async with elsewhere(dsn), Jobs(dsn) as jobs:
        handles = [await through.set(jobs=jobs).later(name) for name in "abcdefghij"]
        results = [asyncio.create_task(handle.result(timeout=30)) for handle in handles * 3]
        await listening(jobs)
        admin = await asyncpg.connect(dsn)
        listeners = await admin.fetchval(
            "select count(*) from pg_stat_activity where query ilike 'listen%asyncjobs:finished%' and datname = current_database()"
        )
        await admin.close()
        assert listeners == 1
        for gate in gates.values():
            gate.set()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*results) == list("abcdefghij") * 3
        assert jobs._waiter._waiting == {}


async def test_only_a_job_somebody_awaits_notifies(dsn: str) -> None:
    """A notification takes a lock that all commits share."""
    heard: list[int] = []
    ears = await asyncpg.connect(dsn)
    await ears.add_listener("asyncjobs:finished", lambda *what: heard.append(int(str(what[-1]))))
    async with elsewhere(dsn) as jobs:
        silent = await through.later("a")
        awaited = await through.later("b")
        result = asyncio.create_task(awaited.result(timeout=30))
        await started(awaited)
        await eventually_async(lambda: _marked(dsn, awaited.id))
        for gate in gates.values():
            gate.set()
        await result
        await jobs.work_off()
        assert await _is(silent, "completed")
        await eventually_async(lambda: _heard(heard, awaited.id))
    await ears.close()
    assert heard == [awaited.id]


async def _marked(dsn: str, job_id: int) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(
            await connection.fetchval("select awaited from asyncjobs.live_jobs where id = $1", job_id)
        )
    finally:
        await connection.close()


async def _heard(heard: list[int], job_id: int) -> bool:
    return job_id in heard


@pytest.mark.parametrize("listen", [True, False])
async def test_however_many_results_are_awaited_they_take_one_connection_of_the_application(
    dsn: str, listen: bool
) -> None:
    """Whether they are told of or polled for; requests have the others."""
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=5)
    most = 0

    def counted(*_: object) -> None:
        nonlocal most
        most = max(most, engine.sync_engine.pool.checkedout())  # type: ignore[attr-defined]

    async with elsewhere(dsn) as others, Jobs(engine=engine, listen=listen) as jobs:
        numbers = [await through.set(jobs=others).later("a") for _ in range(50)]
        event.listen(engine.sync_engine, "checkout", counted)
        results = [asyncio.create_task(jobs.handle(each.id).result(timeout=30)) for each in numbers]
        await eventually_async(lambda: _marked(dsn, numbers[-1].id))
        gates["a"].set()
        assert await asyncio.gather(*results) == ["a"] * 50
    await engine.dispose()
    assert most == 1


async def test_a_job_somebody_is_at_holds_up_no_result_of_another(dsn: str) -> None:
    """Its row is taken by a transaction of somebody's: who awaits it waits for that, and nobody else does."""
    async with elsewhere(dsn, slots=1) as others, Jobs(dsn) as jobs:
        taken = await through.set(jobs=others, priority=9).later("b")
        quick = await through.set(jobs=others).later("a")
        holder = await asyncpg.connect(dsn)
        try:
            async with holder.transaction():
                await holder.execute("select from asyncjobs.live_jobs where id = $1 for update", taken.id)
                waiting = asyncio.create_task(jobs.handle(taken.id).result(timeout=30))
                gates["a"].set()
                gates["b"].set()
                assert await jobs.handle(quick.id).result(timeout=20) == "a"
                assert not waiting.done()
            assert await waiting == "b"
        finally:
            await holder.close()


@pytest.mark.failure_mode("F40", "F42")
async def test_a_lost_listener_is_made_up_for(dsn: str) -> None:
    """Terminated while somebody waits: the result is looked for all the same."""
    async with elsewhere(dsn), Jobs(dsn) as jobs:
        handle = await through.set(jobs=jobs).later("a")
        result = asyncio.create_task(handle.result(timeout=30))
        await listening(jobs)
        admin = await asyncpg.connect(dsn)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where query ilike 'listen%asyncjobs:finished%' and datname = current_database()"
        )
        await admin.close()
        gates["a"].set()
        async with asyncio.timeout(10):
            assert await result == "a"
            other = await through.set(jobs=jobs).later("a")
            assert await other.result() == "a"


async def test_a_network_that_breaks_is_waited_out(dsn: str) -> None:
    """Every connection breaks, and new ones are refused for a while: the result comes when it is there."""
    async with elsewhere(dsn), network(dsn) as way, Jobs(way.dsn) as jobs:
        handle = await through.set(jobs=jobs).later("a")
        result = asyncio.create_task(handle.result(timeout=30))
        await listening(jobs)
        await eventually_async(lambda: _marked(dsn, handle.id))
        for _ in range(10):
            way.cut()
            await asyncio.sleep(0.05)
        assert not result.done()
        gates["a"].set()
        assert await result == "a"


async def test_an_outage_at_first_is_an_error(dsn: str) -> None:
    """Nobody waits for a database that may never have been there."""
    async with network(dsn) as way:
        pass
    async with Jobs(way.dsn) as jobs:
        with pytest.raises(DatabaseUnavailable):
            await jobs.handle(1).result()


async def test_without_listening_results_are_polled_for(dsn: str) -> None:
    """Behind a pooler nothing can be heard."""
    async with elsewhere(dsn), Jobs(dsn, listen=False) as jobs:
        handle = await through.set(jobs=jobs).later("a")
        result = asyncio.create_task(handle.result(timeout=30))
        await started(handle)
        gates["a"].set()
        async with asyncio.timeout(10):
            assert await result == "a"
        assert jobs._waiter._listener is None


async def test_a_timeout_is_the_callers_alone(dsn: str) -> None:
    """The job goes on, others go on waiting, and nothing is left of who gave up."""
    async with elsewhere(dsn), Jobs(dsn) as jobs:
        handle = await through.set(jobs=jobs).later("a")
        patient = asyncio.create_task(handle.result(timeout=30))
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)
        impatient = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        gates["a"].set()
        assert await patient == "a"
        assert jobs._waiter._waiting == {}


async def test_a_job_that_does_not_exist_is_said_at_once(dsn: str) -> None:
    """And nobody is left listening for it in vain."""
    async with Jobs(dsn) as jobs:
        begun = time.monotonic()
        with pytest.raises(JobNotFound):
            await jobs.handle(12345).result()
        assert time.monotonic() - begun < 5


async def test_a_finished_job_is_not_waited_for(dsn: str) -> None:
    """Awaited late, awaited again, awaited by a handle made from its id."""
    gates["a"].set()
    async with elsewhere(dsn) as jobs:
        handle = await through.later("a")
        for again in (handle, handle, jobs.handle(handle.id)):
            assert await again.result(timeout=10) == "a"


async def test_a_closed_jobs_answers_nothing_and_opens_nothing(dsn: str) -> None:
    """A handle of a Jobs that is closed, or not yet open, says so."""
    jobs = Jobs(dsn)
    async with jobs:
        handle = await through.later("a")
    for ask in (handle.status, handle.result, handle.cancel, handle.job):
        with pytest.raises(WhichJobs, match="not open"):
            await ask()
    assert jobs._own_source._pool is None  # type: ignore[attr-defined]


async def test_questions_to_a_database_without_our_schema_say_so(database: str) -> None:
    """As enqueuing does."""
    async with Jobs(database) as jobs:
        for ask in (jobs.list_jobs, jobs.count_jobs, jobs.handle(1).result, jobs.handle(1).cancel):
            with pytest.raises(SchemaMissing, match="migrate"):
                await ask()


async def test_who_waits_when_the_jobs_is_closed_is_told(dsn: str) -> None:
    """Not for ever: the Jobs it waits with is gone."""
    async with elsewhere(dsn):
        async with Jobs(dsn) as jobs:
            handle = await through.set(jobs=jobs).later("a")
            result = asyncio.create_task(handle.result())
            await started(handle)
        with pytest.raises(WhichJobs, match="closed|not open"):
            async with asyncio.timeout(15):
                await result
        gates["a"].set()
