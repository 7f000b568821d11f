"""Those who enqueue at the same time share a statement, and nothing else: neither their mistakes nor their ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from asyncjobs import DatabaseUnavailable, Handle, Jobs, WhichJobs, job
from asyncjobs._enqueue import coalescer
from asyncjobs._model.job import Lane
from tests.connections import engine_on
from tests.network import network
from tests.waiting import eventually_async

HERE = "test_coalescer"


@job(kind=f"{HERE}:count")
async def count(number: int, padding: str = "") -> int:
    return number


@pytest.fixture
async def witness(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def stored(witness: asyncpg.Connection) -> list[int]:
    rows = await witness.fetch(
        "select (args->>'number')::int from asyncjobs.live_jobs where id > 0 order by 1"
    )
    return [row[0] for row in rows]


async def transactions(witness: asyncpg.Connection) -> int:
    """How many transactions stored what is there."""
    return int(
        await witness.fetchval("select count(distinct xmin::text) from asyncjobs.live_jobs where id > 0")
    )


@asynccontextmanager
async def slow(dsn: str) -> AsyncIterator[None]:
    """Within it, whoever stores a job waits for a lock."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("lock table asyncjobs.live_jobs in exclusive mode")
            yield
    finally:
        await connection.close()


async def waiting_for_the_lock(witness: asyncpg.Connection) -> int | None:
    """The process of Postgres that stores jobs and waits."""
    return await witness.fetchval(  # type: ignore[no-any-return]
        "select pid from pg_locks where not granted and relation = 'asyncjobs.live_jobs'::regclass"
    )


async def under_way(witness: asyncpg.Connection, number: int) -> asyncio.Task[Handle[int]]:
    """Somebody whose statement is under way, and waits for the lock."""
    task = asyncio.create_task(count.later(number))
    await eventually_async(lambda: waiting_for_the_lock(witness))
    return task


@asynccontextmanager
async def jobs_on(what: str, dsn: str) -> AsyncIterator[Jobs]:
    if what == "dsn":
        async with Jobs(dsn) as jobs:
            yield jobs
    elif what == "pool":
        async with asyncpg.create_pool(dsn, min_size=0) as pool, Jobs(pool=pool) as jobs:
            yield jobs
    else:
        async with engine_on(dsn, what) as engine, Jobs(engine=engine) as jobs:
            yield jobs


SOURCES = ["dsn", "pool", "asyncpg", "psycopg"]


# Together.


@pytest.mark.parametrize("what", SOURCES)
async def test_callers_at_the_same_time_share_a_statement(
    dsn: str, witness: asyncpg.Connection, what: str
) -> None:
    """The first goes alone, the others together; each gets the handle of its own job."""
    async with jobs_on(what, dsn):
        handles = await asyncio.gather(*(count.later(n) for n in range(300)))
        assert await transactions(witness) == 2
        rows = await witness.fetch("select id, (args->>'number')::int from asyncjobs.live_jobs where id > 0")
        assert dict(map(tuple, rows)) == {handle.id: number for number, handle in enumerate(handles)}


async def test_orders_of_many_jobs_stay_whole(dsn: str, witness: asyncpg.Connection) -> None:
    """One caller's jobs are one transaction, whatever else goes into it, and their ids come in order."""
    async with Jobs(dsn) as jobs:
        lists = await asyncio.gather(
            *(jobs.enqueue_many([count.prepare(100 * n + i) for i in range(n)]) for n in range(60))
        )
        assert [[handle.id for handle in handles] for handles in lists] == [
            sorted(handle.id for handle in handles) for handles in lists
        ]
        for n in (1, 30, 59):
            ids = [handle.id for handle in lists[n]]
            numbers = "select (args->>'number')::int from asyncjobs.live_jobs where id = any ($1) order by id"
            assert [row[0] for row in await witness.fetch(numbers, ids)] == [100 * n + i for i in range(n)]
            assert (
                await witness.fetchval(
                    "select count(distinct xmin::text) from asyncjobs.live_jobs where id = any ($1)", ids
                )
                == 1
            )
        assert await transactions(witness) <= 5  # 1,770 jobs


async def test_a_statement_is_bounded_by_jobs_and_by_bytes(dsn: str, witness: asyncpg.Connection) -> None:
    """However many come at once."""
    async with Jobs(dsn):
        await asyncio.gather(*(count.later(n) for n in range(2 * coalescer.AT_MOST + 2)))
        assert await transactions(witness) == 4
        await witness.execute("truncate asyncjobs.live_jobs")
        await asyncio.gather(*(count.later(n, "x" * 900_000) for n in range(20)))
        assert await transactions(witness) == 4  # 1, 8, 8 and 3


async def test_one_caller_after_the_other_waits_for_nothing(dsn: str) -> None:
    """No timer: a lone caller is sent at once."""
    async with Jobs(dsn):
        await count.later(0)
        started = time.monotonic()
        for number in range(50):
            await count.later(number)
        assert time.monotonic() - started < 5


# Cancelled callers.


@pytest.mark.parametrize("what", SOURCES)
async def test_a_cancelled_caller_does_no_harm_to_the_others(
    dsn: str, witness: asyncpg.Connection, what: str
) -> None:
    """Neither the one whose statement is under way, nor one that waits: whose job is never stored."""
    async with jobs_on(what, dsn):
        async with slow(dsn):
            first = await under_way(witness, 0)
            others = [asyncio.create_task(count.later(n)) for n in range(1, 6)]
            await asyncio.sleep(0)
            others[1].cancel()
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
        assert {others.index(task) for task in others if await _came(task)} == {0, 2, 3, 4}
        assert set(await stored(witness)) - {0} == {1, 3, 4, 5}
        await count.later(6)  # and it goes on
        assert set(await stored(witness)) - {0} == {1, 3, 4, 5, 6}


async def _came(task: asyncio.Task[Any]) -> bool:
    with suppress(asyncio.CancelledError):
        await task
        return True
    return False


async def test_a_caller_that_runs_out_of_time_does_no_harm(dsn: str, witness: asyncpg.Connection) -> None:
    """A timeout around `later` is the caller's business alone."""
    async with Jobs(dsn):
        async with slow(dsn):
            first = await under_way(witness, 0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await count.later(1)
            other = asyncio.create_task(count.later(2))
        await asyncio.gather(first, other)
        assert await stored(witness) == [0, 2]


class Ears:
    def __init__(self) -> None:
        self.heard: list[Lane] = []

    def is_hungry(self, lane: Lane) -> bool:  # noqa: ARG002
        return True

    def wake(self, lanes: Sequence[Lane]) -> None:
        self.heard += lanes


async def test_a_job_stored_for_a_cancelled_caller_still_wakes_the_runner(
    dsn: str, witness: asyncpg.Connection
) -> None:
    """Its statement was under way: the job is there, and somebody has to run it."""
    async with Jobs(dsn) as jobs:
        jobs.runner = ears = Ears()
        async with slow(dsn):
            first = asyncio.create_task(count.later(0))
            await asyncio.sleep(0)
            others = [asyncio.create_task(count.set(queue="others").later(n)) for n in (1, 2)]
            await eventually_async(lambda: waiting_for_the_lock(witness))
            first.cancel()  # the others' statement is begun, and waits in its turn
            await eventually_async(lambda: _statement(witness, "Store new jobs"))
            for task in others:
                task.cancel()
        await eventually_async(lambda: _stored(witness, [1, 2]))
        await eventually_async(lambda: _heard(ears, Lane("others", count.kind)))


async def _statement(witness: asyncpg.Connection, words: str) -> bool:
    return bool(
        await witness.fetchval(
            "select true from pg_stat_activity where wait_event_type = 'Lock' and query like $1", f"%{words}%"
        )
    )


async def _stored(witness: asyncpg.Connection, numbers: list[int]) -> bool:
    return [number for number in await stored(witness) if number] == numbers


async def _heard(ears: Ears, lane: Lane) -> bool:
    return lane in ears.heard


# What Postgres refuses.


async def spoil(witness: asyncpg.Connection, body: str) -> None:
    """Make Postgres refuse some jobs."""
    await witness.execute(
        f"""
        create sequence tries;
        create function spoil() returns trigger language plpgsql as $$ begin {body}; return new; end $$;
        create trigger spoil before insert on asyncjobs.live_jobs for each row when (new.id > 0) execute function spoil();
        """
    )


async def test_one_bad_order_does_no_harm_to_the_others(dsn: str, witness: asyncpg.Connection) -> None:
    """Whoever ordered what cannot be stored hears of it; of a caller's many jobs none is stored then."""
    await spoil(
        witness,
        "if new.args->>'number' in ('13', '77') then raise exception 'unlucky' using errcode = '22000'; end if",
    )
    async with Jobs(dsn) as jobs:
        answers = await asyncio.gather(
            *(count.later(n) for n in range(100)),
            jobs.enqueue_many([count.prepare(1000), count.prepare(13), count.prepare(1001)]),
            return_exceptions=True,
        )
    failed = [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert failed == [13, 77, 100]
    assert all("unlucky" in str(answers[number]) for number in failed)
    assert await stored(witness) == [n for n in range(100) if n not in (13, 77)]


@pytest.mark.failure_mode("F78")
async def test_what_postgres_undoes_in_favour_of_another_is_tried_again(
    dsn: str, witness: asyncpg.Connection
) -> None:
    """A serialisation failure or a deadlock is nobody's fault, and of a lone INSERT nothing is left behind."""
    await spoil(
        witness, "if nextval('tries') < 3 then raise exception 'once more' using errcode = '40001'; end if"
    )
    async with Jobs(dsn):
        await count.later(1)
    assert await stored(witness) == [1]


async def test_what_is_always_undone_is_said_not_to_be_stored(dsn: str, witness: asyncpg.Connection) -> None:
    """There is an end to trying."""
    await spoil(witness, "raise exception 'never' using errcode = '40P01'")
    async with Jobs(dsn):
        with pytest.raises(DatabaseUnavailable, match="was not stored.*never"):
            await count.later(1)


async def test_a_full_disk_is_told_from_a_lost_connection(dsn: str, witness: asyncpg.Connection) -> None:
    """Postgres answered: nothing was stored."""
    await spoil(witness, "raise exception 'no space left' using errcode = '53100'")
    async with Jobs(dsn):
        with pytest.raises(DatabaseUnavailable, match="was not stored.*no space left"):
            await count.later(1)


async def test_a_read_only_database_is_told_from_a_lost_connection(dsn: str) -> None:
    """A standby, or a setting: nothing was stored."""
    settings = {"default_transaction_read_only": "on"}
    async with asyncpg.create_pool(dsn, min_size=0, server_settings=settings) as pool, Jobs(pool=pool):
        with pytest.raises(DatabaseUnavailable, match="was not stored.*read-only"):
            await count.later(1)


async def test_a_statement_timeout_of_the_servers_is_told_from_a_lost_connection(
    dsn: str, witness: asyncpg.Connection
) -> None:
    """Whoever set it, nothing was stored."""
    await spoil(witness, "perform pg_sleep(10)")
    async with (
        asyncpg.create_pool(dsn, min_size=0, server_settings={"statement_timeout": "50"}) as pool,
        Jobs(pool=pool),
    ):
        with pytest.raises(DatabaseUnavailable, match="was not stored.*statement timeout"):
            await count.later(1)


async def test_an_error_of_ours_is_told_to_its_caller(dsn: str, witness: asyncpg.Connection) -> None:
    """What nobody foresaw goes to who asked, and the next caller is served."""
    await spoil(
        witness,
        "if new.args->>'number' = '1' then raise exception 'unforeseen' using errcode = 'XX000'; end if",
    )
    async with Jobs(dsn):
        with pytest.raises(asyncpg.InternalServerError, match="unforeseen"):
            await count.later(1)
        await count.later(2)
    assert await stored(witness) == [2]


# What breaks.


@pytest.mark.failure_mode("F46")
@pytest.mark.parametrize("what", SOURCES)
async def test_a_connection_killed_in_the_middle_leaves_it_unknown(
    dsn: str, witness: asyncpg.Connection, what: str
) -> None:
    """And says so to those whose statement it was; who waited behind it is served by another connection."""
    async with jobs_on(what, dsn):
        async with slow(dsn):
            first = await under_way(witness, 0)
            others = [asyncio.create_task(count.later(n)) for n in (1, 2)]
            await asyncio.sleep(0)
            await witness.execute("select pg_terminate_backend($1)", await waiting_for_the_lock(witness))
            with pytest.raises(DatabaseUnavailable, match="whether it was is not known"):
                await first
        await asyncio.gather(*others)
        await count.later(3)
    assert await stored(witness) == [1, 2, 3]


@pytest.mark.failure_mode("F46")
@pytest.mark.parametrize("what", SOURCES)
async def test_a_network_that_breaks_in_the_middle_leaves_it_unknown(dsn: str, what: str) -> None:
    """Without a word from Postgres."""
    async with network(dsn) as way, jobs_on(what, way.dsn):
        await count.later(0)
        async with slow(dsn):
            first = asyncio.create_task(count.later(1))
            await asyncio.sleep(0.1)
            way.cut()
            with pytest.raises(DatabaseUnavailable, match="whether it was is not known"):
                await first
        await count.later(2)


@pytest.mark.parametrize("what", SOURCES)
async def test_a_network_that_swallows_everything_is_given_up_on(
    dsn: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """No answer in good time: unknown for those whose statement it was, and nobody waits for ever."""
    monkeypatch.setattr(coalescer, "ANSWER", 0.3)
    monkeypatch.setattr("asyncjobs._store.opening.CONNECT_TIMEOUT", 0.5)
    async with network(dsn) as way, jobs_on(what, way.dsn):
        await count.later(0)
        way.swallow()
        started = time.monotonic()
        answers = await asyncio.gather(*(count.later(n) for n in range(50)), return_exceptions=True)
        assert {
            type(answer).__mro__[-8:] and isinstance(answer, DatabaseUnavailable) for answer in answers
        } == {True}
        assert time.monotonic() - started < 15
        assert any("no answer within" in str(answer) for answer in answers)
        way.restore()
        await eventually_async(lambda: _works(99))


async def _works(number: int) -> bool:
    with suppress(DatabaseUnavailable):
        await count.later(number)
        return True
    return False


async def test_the_limit_is_longer_than_any_statement_and_shorter_than_patience() -> None:
    """The numbers the messages and the documentation speak of."""
    assert 5 <= coalescer.ANSWER <= 30
    assert coalescer.CLOSE < 5


# The end.


async def test_what_was_ordered_before_the_end_is_stored(dsn: str, witness: asyncpg.Connection) -> None:
    """Tasks may still be enqueuing when the block ends."""
    async with Jobs(dsn):
        tasks = [asyncio.create_task(count.later(n)) for n in range(100)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert await stored(witness) == list(range(100))


@pytest.mark.parametrize("what", SOURCES)
async def test_the_end_waits_for_nobody_for_long(
    dsn: str, witness: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Orders that cannot be stored are refused; the one under way is unknown, at worst; nobody hangs."""
    monkeypatch.setattr(coalescer, "CLOSE", 0.3)
    async with slow(dsn):
        started = time.monotonic()
        async with jobs_on(what, dsn):
            first = await under_way(witness, 0)
            others = [asyncio.create_task(count.later(n)) for n in (1, 2)]
            await asyncio.sleep(0)
        for task, words in (
            (first, "not known|not stored"),
            (others[0], "closed before"),
            (others[1], "closed before"),
        ):
            with pytest.raises(DatabaseUnavailable, match=words):
                async with asyncio.timeout(10):
                    await task
        assert time.monotonic() - started < 8


async def test_whoever_comes_during_the_end_is_refused(dsn: str, witness: asyncpg.Connection) -> None:
    """And stores nothing, and leaves no connection open."""
    said: list[BaseException] = []
    jobs = Jobs(dsn)

    async def late() -> None:
        await eventually_async(_closing)
        try:
            await count.set(jobs=jobs).later(2)
        except WhichJobs as error:
            said.append(error)

    async def _closing() -> bool:
        return jobs._closing

    async with slow(dsn):
        await jobs.__aenter__()
        first = await under_way(witness, 1)
        tasks = [asyncio.create_task(late()), asyncio.create_task(jobs.__aexit__(None, None, None))]
        await tasks[0]
    await asyncio.gather(first, *tasks)
    assert "being closed" in str(said[0])
    assert await stored(witness) == [1]


async def test_a_loop_that_ends_ends_its_callers(dsn_for_loops: str) -> None:
    """asyncio.run cancels everything at its end; nobody waits for an order then."""

    async def main() -> None:
        jobs = Jobs(dsn_for_loops)
        await jobs.__aenter__()
        tasks = [asyncio.create_task(count.later(n)) for n in range(10)]
        await asyncio.sleep(0)
        del tasks

    async with asyncio.timeout(20):
        await asyncio.to_thread(lambda: asyncio.run(main()))


@pytest.fixture
async def dsn_for_loops(dsn: str) -> str:
    return dsn
