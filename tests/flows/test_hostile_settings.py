"""Whatever role and database prescribe for their sessions, jobs are enqueued, run and finished."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from asyncjobs import Constant, JobCancelled, JobNotFound, Jobs, current_job, job
from asyncjobs._engine.link import link
from asyncjobs._store.migrate import migrations
from asyncjobs._store.source import DsnSource
from tests.engine.running import running
from tests.waiting import eventually_async

ran: Counter[str] = Counter()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    ran.clear()
    gate = asyncio.Event()


@job(kind="hostile:work", backoff=Constant(0.01))
async def work(name: str) -> str:
    ran[name] += 1
    if name == "fails once" and ran[name] == 1:
        raise ValueError("once")
    if name == "held":
        await gate.wait()
    if name == "commits":
        async with current_job().transaction():
            current_job().result = name
    return name


SETTINGS = {
    "repeatable read": {"default_transaction_isolation": "repeatable read"},
    "serializable, deferrable": {
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
    },
    "odd formats": {
        "timezone": "Asia/Kathmandu",
        "datestyle": "SQL, DMY",
        "intervalstyle": "sql_standard",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "search_path": "pg_catalog",
        "lc_messages": "C",
    },
    "short timeouts": {
        "statement_timeout": "2s",
        "lock_timeout": "1s",
        "idle_session_timeout": "300ms",
        "idle_in_transaction_session_timeout": "1s",
    },
    "no index likes us": {
        "enable_indexscan": "off",
        "enable_nestloop": "off",
        "plan_cache_mode": "force_generic_plan",
    },
    "quoting": {"quote_all_identifiers": "on", "backslash_quote": "off", "row_security": "off", "jit": "on"},
}


@pytest.mark.failure_mode("F60", "F65", "F66")
@pytest.mark.parametrize("settings", SETTINGS)
async def test_jobs_run_whatever_is_prescribed(dsn: str, settings: str) -> None:
    """Each setting is the database's default, for our sessions too."""
    admin = await asyncpg.connect(dsn)
    database = await admin.fetchval("select current_database()")
    for name, value in SETTINGS[settings].items():
        await admin.execute(f'alter database "{database}" set {name} = {_quoted(value)}')
    await admin.close()
    async with running(dsn) as jobs:
        handles = [await work.later(name) for name in ("plain", "fails once", "commits")]
        await asyncio.sleep(0.5)
        handles.append(await work.set(delay=0.1).later("later"))
        results = [await handle.result(timeout=15) for handle in handles]
        assert results == ["plain", "fails once", "commits", "later"]
        held = await work.later("held")

        async def runs() -> bool:
            return ran["held"] == 1

        await eventually_async(runs)
        assert await held.cancel() == "requested"
        with pytest.raises(JobCancelled):
            await held.result(timeout=15)
        assert ran == {"plain": 1, "fails once": 2, "commits": 1, "later": 1, "held": 1}
        assert (await jobs.count_jobs())["default"] == {"completed": 4, "cancelled": 1}


@pytest.mark.failure_mode("F65")
async def test_a_result_is_awaited_while_the_job_is_being_finished(dsn: str) -> None:
    """Where reads are repeatable, marking the row that a finish just took fails to serialize: it is asked again."""
    admin = await asyncpg.connect(dsn)
    database = await admin.fetchval("select current_database()")
    await admin.execute(
        f"alter database \"{database}\" set default_transaction_isolation = 'repeatable read'"
    )

    async def waits_for_the_row() -> bool:
        asked = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%awaited%'"
        )
        return bool(await admin.fetchval(asked) == 1)

    finishing = await asyncpg.connect(dsn)
    async with Jobs(dsn):
        handle = await work.later("plain")
        async with finishing.transaction():
            await finishing.execute("delete from asyncjobs.live_jobs where id = $1", handle.id)
            asking = asyncio.create_task(handle.result(timeout=15))
            await eventually_async(waits_for_the_row)
        with pytest.raises(JobNotFound):
            await asking
    await finishing.close()
    await admin.close()


def _quoted(value: str) -> str:
    return ", ".join(f"'{part.strip()}'" for part in value.split(","))


@pytest.mark.failure_mode("F65", "F95")
async def test_many_migrate_at_once_where_reads_are_repeatable(database: str) -> None:
    """Who waited for the others sees what they did, and is not timed out over it."""
    admin = await asyncpg.connect(database)
    name = await admin.fetchval("select current_database()")
    await admin.execute(f"alter database \"{name}\" set default_transaction_isolation = 'repeatable read'")
    await admin.execute(f"alter database \"{name}\" set statement_timeout = '30ms'")
    await admin.close()
    applied = await asyncio.gather(*(Jobs(database).migrate() for _ in range(10)))
    assert sorted(map(len, applied)) == [0] * 9 + [len(migrations())]


@pytest.mark.failure_mode("F65")
async def test_a_database_that_is_read_only_by_default_can_be_migrated_and_run(database: str) -> None:
    """The runner's sessions say that they write; whoever enqueues on their own says so themselves."""
    admin = await asyncpg.connect(database)
    await Jobs(database).migrate()
    name = await admin.fetchval("select current_database()")
    await admin.execute(f'alter database "{name}" set default_transaction_read_only = on')
    await admin.close()
    await Jobs(database).migrate()
    async with running(database) as jobs:
        writing = await asyncpg.connect(database, server_settings={"default_transaction_read_only": "off"})
        handle = await work.set(on=writing).later("plain")
        await writing.close()

        async def done() -> bool:
            return ran["plain"] == 1 and (await handle.status()).is_final

        await eventually_async(done)
        assert not jobs.is_degraded


TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout")


@pytest.mark.failure_mode("F60")
async def test_no_timeout_of_the_role_ends_a_session_of_ours(dsn: str) -> None:
    """A statement that takes its time, and a session that is idle, live; a statement of the application's own does not."""
    admin = await asyncpg.connect(dsn)
    database = await admin.fetchval("select current_database()")
    known = await admin.fetch("select name from pg_settings where name = any ($1)", list(TIMEOUTS))
    for (name,) in known:
        await admin.execute(f'alter database "{database}" set {name} = 100')
    await admin.close()
    source = DsnSource(dsn)
    async with link(source, "asyncjobs") as session:
        await session.connection.execute("select pg_sleep(0.3)")
        await asyncio.sleep(0.3)
        assert await session.connection.fetchval("select 1") == 1
    theirs = await asyncpg.connect(dsn)
    with pytest.raises(asyncpg.PostgresError):
        await theirs.execute("select pg_sleep(0.3)")
    theirs.terminate()
