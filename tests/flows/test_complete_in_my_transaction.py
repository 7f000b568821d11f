"""A job's writes and its completion are one commit, so that what it does to the database happens exactly once."""

from __future__ import annotations

import asyncio
import logging
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from asyncjobs import (
    AlreadyCompleted,
    Constant,
    Dependency,
    Handle,
    Job,
    JobFailed,
    Jobs,
    LeaseLost,
    ResultNotStored,
    Snooze,
    WhichJobs,
    WrongConnection,
    current_job,
    job,
)
from asyncjobs._model.job import Lane
from tests.connections import KINDS, engine_on
from tests.kinds import forgotten
from tests.network import network
from tests.waiting import eventually_async

HERE = "test_complete_in_my_transaction"

Script = Callable[[], Awaitable[Any]]
scripts: dict[str, Script] = {}


@job(kind=f"{HERE}:play", backoff=Constant(0), max_attempts=3)
async def play(script: str) -> Any:
    return await scripts[script]()


@attrs.frozen
class Receipt:
    number: UUID
    at: datetime


@job(kind=f"{HERE}:print_receipt", backoff=Constant(0), max_attempts=2)
async def print_receipt(script: str) -> Receipt:
    return await scripts[script]()  # type: ignore[no-any-return]


@job(kind=f"{HERE}:other")
async def other(number: int) -> int:
    return number


async def enqueued(script: Script, **options: Any) -> Handle[Any]:
    """A job that runs *script*."""
    name = f"{script.__qualname__} {id(script)}"
    scripts[name] = script
    return await play.set(**options).later(name)


async def final(handle: Handle[Any]) -> Job:
    """The job, once it is final."""

    async def fact() -> Job | None:
        found = await handle.job()
        return found if found.state.is_final else None

    found = await eventually_async(fact)
    assert found is not None
    return found


@pytest.fixture
async def witness(dsn: str) -> AsyncIterator[Witness]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table ledger (entry text)")
    yield Witness(connection)
    await connection.close()


@attrs.frozen
class Witness:
    """Sees what is committed."""

    connection: asyncpg.Connection

    async def ledger(self) -> list[str]:
        return [row[0] for row in await self.connection.fetch("select entry from ledger order by entry")]

    async def is_final(self, job_id: int | None) -> bool:
        return bool(
            await self.connection.fetchval("select true from asyncjobs.finished_jobs where id = $1", job_id)
        )

    async def take_away(self, job_id: int | None) -> None:
        """What a rescue does to a runner that was thought dead; nobody claims the job before it is `due`."""
        taken = await self.connection.execute(
            "update asyncjobs.live_jobs set runner = null, started_at = null, state = 1, queue = 'rescued', "
            "scheduled_at = now() + interval '1 hour' where id = $1",
            job_id,
        )
        assert taken == "UPDATE 1"

    async def due(self) -> None:
        """What was taken away may be claimed, from its new queue."""
        await self.connection.execute(
            "update asyncjobs.live_jobs set state = 0, scheduled_at = now() where id > 0"
        )


SOURCES = ["dsn", "pool", "asyncpg", "psycopg"]


@asynccontextmanager
async def running(what: str, dsn: str, **given: Any) -> AsyncIterator[Jobs]:
    """A Jobs that runs, on a DSN, a pool, or an engine on a driver."""
    if what == "dsn":
        async with Jobs(dsn, **given).running() as jobs:
            yield jobs
    elif what == "pool":
        async with asyncpg.create_pool(dsn, min_size=0) as pool, Jobs(pool=pool, **given).running() as jobs:
            yield jobs
    else:
        async with engine_on(dsn, what) as engine, Jobs(engine=engine, **given).running() as jobs:
            yield jobs


# transaction()


@pytest.mark.parametrize("what", SOURCES)
async def test_the_writes_and_the_completion_are_one_commit(dsn: str, witness: Witness, what: str) -> None:
    """Until the block's end nobody sees either; after it everybody sees both."""
    seen: list[Any] = []

    async def script() -> None:
        me = current_job()
        async with me.transaction() as connection:
            await connection.execute("insert into ledger values ($1)", "paid 100 % of $1")
            assert await connection.fetchval("select count(*) from ledger") == 1
            row = await connection.fetchrow("select entry, 2 as two from ledger")
            seen.extend([row["entry"], row[1], len(await connection.fetch("select 1 union select 2"))])
            seen.append((await witness.ledger(), await witness.is_final(me.id)))
            me.result = {"paid": 1}
        seen.append((await witness.ledger(), await witness.is_final(me.id)))

    async with running(what, dsn):
        handle = await enqueued(script)
        assert await handle.result(timeout=10) == {"paid": 1}
        found = await handle.job()
    assert seen == ["paid 100 % of $1", 2, 2, ([], False), (["paid 100 % of $1"], True)]
    assert (found.state.value, found.attempt, found.errors) == ("completed", 1, ())


@pytest.mark.parametrize("what", SOURCES)
async def test_what_is_raised_inside_undoes_both(dsn: str, witness: Witness, what: str) -> None:
    """The job failed, and is tried again; what it wrote was never there."""

    async def script() -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into ledger values ($1)", f"attempt {current_job().attempt}")
            await other.later(current_job().attempt)
            if current_job().attempt == 1:
                raise ValueError("not yet")

    async with running(what, dsn) as jobs:
        handle = await enqueued(script)
        found = await final(handle)
        await jobs.work_off()
        others = [each.args for each in await jobs.list_jobs(kinds=[other.kind])]
    assert (found.state.value, found.attempt, [each.error for each in found.errors]) == (
        "completed",
        2,
        ["ValueError: not yet"],
    )
    assert await witness.ledger() == ["attempt 2"]
    assert others == [{"number": 2}]


@pytest.mark.parametrize("what", SOURCES)
async def test_a_savepoint_inside_is_undone_alone(dsn: str, witness: Witness, what: str) -> None:
    """The connection's own transaction() is a savepoint there, and `later` keeps to it."""

    async def script() -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into ledger values ('kept')")
            with suppress(KeyError):
                async with connection.transaction():
                    await connection.execute("insert into ledger values ('undone')")
                    await other.later(1)
                    raise KeyError
            await other.later(2)

    async with running(what, dsn) as jobs:
        await final(await enqueued(script))
        await jobs.work_off()
        assert [each.args for each in await jobs.list_jobs(kinds=[other.kind])] == [{"number": 2}]
    assert await witness.ledger() == ["kept"]


async def test_later_inside_joins_and_a_child_task_is_refused(dsn: str) -> None:
    """The transaction is the task's that entered it; another gets an error, and none of them a job of its own."""
    said: list[BaseException | None] = []

    async def script() -> None:
        async with current_job().transaction() as connection:
            said.extend(await asyncio.gather(other.later(1), return_exceptions=True))  # type: ignore[arg-type]
            await other.set(on=connection).later(2)

    async with running("dsn", dsn) as jobs:
        await final(await enqueued(script))
        assert isinstance(said[0], WrongConnection)
        assert [each.args for each in await jobs.list_jobs(kinds=[other.kind])] == [{"number": 2}]


async def test_a_job_enqueued_inside_starts_after_the_commit_even_where_nothing_listens(dsn: str) -> None:
    """The commit is ours, so the runner here is told of it."""
    from asyncjobs._engine.claimer import Rhythm

    handles: list[Handle[int]] = []

    async def script() -> None:
        async with current_job().transaction():
            handles.append(await other.later(5))

    jobs = Jobs(dsn, listen=False)
    jobs._settings = attrs.evolve(jobs._settings, rhythm=Rhythm(poll_from=300, poll_to=300))
    async with jobs.running():
        await final(await enqueued(script))
        assert await handles[0].result(timeout=10) == 5


def _truth(value: Any) -> Callable[[], Awaitable[bool]]:
    async def fact() -> bool:
        return bool(value)

    return fact


@pytest.mark.parametrize("what", SOURCES)
async def test_a_typed_result_comes_back(dsn: str, what: str) -> None:
    """As from a job that returns it."""
    receipt = Receipt(UUID(int=7), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))

    async def script() -> None:
        async with current_job().transaction():
            current_job().result = receipt

    scripts[f"typed {what}"] = script
    async with running(what, dsn):
        handle = await print_receipt.later(f"typed {what}")
        assert await handle.result(timeout=10) == receipt


@pytest.mark.failure_mode("F91")
@pytest.mark.parametrize("way", ["transaction", "complete"])
async def test_a_result_that_cannot_be_stored_never_reruns_the_job(
    dsn: str, witness: Witness, way: str
) -> None:
    """It is completed, its writes are kept, and `result` says what is wrong with the result."""

    async def script() -> Any:
        if way == "transaction":
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('once')")
                current_job().result = object()
        else:
            async with KINDS["asyncpg"](dsn) as theirs, theirs.begin():
                await theirs.run("insert into ledger values ('once')")
                await current_job().complete(on=theirs.on, result="\0")
        return Receipt(UUID(int=1), datetime.now(UTC))

    scripts[f"unstorable {way}"] = script
    async with running("dsn", dsn):
        handle = await print_receipt.later(f"unstorable {way}")
        with pytest.raises(ResultNotStored):
            await handle.result(timeout=10)
        assert (await handle.job()).attempt == 1
    assert await witness.ledger() == ["once"]


async def test_a_result_that_was_not_set_is_said_to_be_missing(dsn: str) -> None:
    """What the function returns afterwards comes too late; `result` tells the way."""

    async def script() -> Receipt:
        async with current_job().transaction():
            pass
        return Receipt(UUID(int=1), datetime.now(UTC))

    scripts["unset"] = script
    async with running("dsn", dsn):
        handle = await print_receipt.later("unset")
        with pytest.raises(ResultNotStored, match=r"current_job\(\)\.result"):
            await handle.result(timeout=10)


# complete(on=)


@pytest.mark.parametrize("kind", KINDS)
async def test_completed_on_their_connection_it_commits_with_their_data(
    dsn: str, witness: Witness, kind: str
) -> None:
    """Before the owner's commit neither is there; after it both are."""
    seen: list[Any] = []

    async def script() -> str:
        me = current_job()
        async with KINDS[kind](dsn) as theirs:
            async with theirs.begin():
                await theirs.run("insert into ledger values ('paid')")
                await me.complete(on=theirs.on, result=[1, {"two": None}])
                seen.append((await witness.ledger(), await witness.is_final(me.id)))
            seen.append((await witness.ledger(), await witness.is_final(me.id)))
        return "too late"

    async with running("dsn", dsn):
        handle = await enqueued(script)
        assert await handle.result(timeout=10) == [1, {"two": None}]
        found = await handle.job()
    assert seen == [([], False), (["paid"], True)]
    assert (found.state.value, found.attempt, found.errors) == ("completed", 1, ())


@pytest.mark.parametrize("kind", KINDS)
async def test_completed_and_rolled_back_the_job_failed(dsn: str, witness: Witness, kind: str) -> None:
    """Neither lost nor completed: tried again, until its attempts are used up."""

    async def script() -> None:
        async with KINDS[kind](dsn) as theirs:
            with suppress(KeyError):
                async with theirs.begin():
                    await theirs.run("insert into ledger values ('undone')")
                    await current_job().complete(on=theirs.on, result=1)
                    if current_job().attempt < 3:
                        raise KeyError

    async with running("dsn", dsn):
        found = await final(await enqueued(script))
    assert (found.state.value, found.attempt, len(found.errors), found.result) == ("completed", 3, 2, 1)
    assert "rolled back" in found.errors[0].error
    assert await witness.ledger() == ["undone"]


async def test_rolled_back_at_every_attempt_the_job_has_failed_in_the_end(dsn: str) -> None:
    """And says why."""

    async def script() -> None:
        async with KINDS["session"](dsn) as theirs:
            await current_job().complete(on=theirs.on)  # and no commit: what users forget

    async with running("dsn", dsn):
        handle = await enqueued(script)
        with pytest.raises(JobFailed, match="rolled back"):
            await handle.result(timeout=10)


@pytest.mark.parametrize("kind", ["asyncpg", "session", "psycopg"])
async def test_rolled_back_it_may_be_completed_again(dsn: str, witness: Witness, kind: str) -> None:
    """Users repeat a transaction that Postgres undid, and savepoints: the same attempt completes in the second."""

    async def script() -> None:
        async with KINDS[kind](dsn) as theirs, KINDS[kind](dsn) as others:
            for each in (theirs, theirs, others):
                with suppress(KeyError):
                    async with each.begin():
                        await each.run("insert into ledger values ('repeated')")
                        with suppress(ValueError):
                            async with each.nest():
                                await current_job().complete(on=each.on, result="undone")
                                raise ValueError
                        await current_job().complete(on=each.on, result="done")
                        if each is theirs:
                            raise KeyError

    async with running("dsn", dsn):
        handle = await enqueued(script)
        assert await handle.result(timeout=10) == "done"
        assert (await handle.job()).attempt == 1
    assert await witness.ledger() == ["repeated"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_completion_raises_and_is_undone(dsn: str, witness: Witness, kind: str) -> None:
    """On the same connection or on another, after the first's commit or before it: at once, and never waiting for itself."""
    raised: list[str] = []

    async def second(name: str, completing: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(5):
            try:
                await completing()
            except AlreadyCompleted:
                raised.append(name)

    async def in_a_transaction() -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into ledger values ('twice')")

    async def script() -> None:
        me = current_job()
        async with KINDS[kind](dsn) as theirs, KINDS[kind](dsn) as others:
            async with theirs.begin():
                await theirs.run("insert into ledger values ('once')")
                await me.complete(on=theirs.on)
                await second("same, before", lambda: me.complete(on=theirs.on))
                await second("transaction, before", in_a_transaction)
                with suppress(KeyError):
                    async with others.begin():
                        await others.run("insert into ledger values ('twice')")
                        await second("other, before", lambda: me.complete(on=others.on))
                        raise KeyError
            with suppress(KeyError):
                async with others.begin():
                    await second("other, after", lambda: me.complete(on=others.on))
                    raise KeyError
            await second("transaction, after", in_a_transaction)

    async with running("dsn", dsn):
        found = await final(await enqueued(script))
    assert raised == [
        "same, before",
        "transaction, before",
        "other, before",
        "other, after",
        "transaction, after",
    ]
    assert (found.state.value, found.attempt) == ("completed", 1)
    assert await witness.ledger() == ["once"]


@pytest.mark.parametrize("what", SOURCES)
async def test_a_transaction_within_a_completed_job_raises(dsn: str, witness: Witness, what: str) -> None:
    """Two transaction() blocks, one after the other or one in the other: one completes the job, the other is undone."""
    raised: list[str] = []

    async def one_after_the_other() -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into ledger values ('a once')")
        with pytest.raises(AlreadyCompleted):
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('a twice')")
        raised.append("after")

    async def one_in_the_other() -> None:
        with pytest.raises(AlreadyCompleted):
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('b outer')")
                async with current_job().transaction() as inner:
                    await inner.execute("insert into ledger values ('b inner')")
        raised.append("in")

    async def completed_in_it() -> None:
        if current_job().attempt == 1:
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('c')")
                await current_job().complete(on=connection)

    async with running(what, dsn):
        done = [
            await final(await enqueued(each))
            for each in (one_after_the_other, one_in_the_other, completed_in_it)
        ]
    assert [found.state.value for found in done] == ["completed"] * 3
    assert [found.attempt for found in done] == [1, 1, 2]
    assert raised == ["after", "in"]
    assert await witness.ledger() == ["a once", "b inner"]


@pytest.mark.failure_mode("F82")
async def test_completing_needs_a_transaction(dsn: str) -> None:
    """On a connection that commits by itself nothing would be one commit; it is said, and the job is not completed."""
    said: list[str] = []

    async def script() -> str:
        for kind in ("asyncpg", "psycopg autocommit"):
            async with KINDS[kind](dsn) as theirs:
                with pytest.raises(WrongConnection, match="open transaction") as caught:
                    await current_job().complete(on=theirs.on)
                said.append(str(caught.value))
        with pytest.raises(WrongConnection):
            await current_job().complete(on=None)
        return "by returning"

    async with running("dsn", dsn):
        assert await (await enqueued(script)).result(timeout=10) == "by returning"
    assert len(said) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_completing_in_a_failed_transaction_is_refused(dsn: str, kind: str) -> None:
    """It could never commit."""

    async def script() -> str:
        async with KINDS[kind](dsn) as theirs:
            with suppress(KeyError):
                async with theirs.begin():
                    with suppress(Exception):
                        await theirs.run("select 1 / 0")
                    with pytest.raises(WrongConnection, match="failed"):
                        await current_job().complete(on=theirs.on)
                    raise KeyError
        return "by returning"

    async with running("dsn", dsn):
        assert await (await enqueued(script)).result(timeout=10) == "by returning"


# After the commit.


@pytest.mark.parametrize("way", ["transaction", "complete"])
@pytest.mark.parametrize(
    "error", [ValueError("too late"), SystemExit(3), asyncio.CancelledError(), Snooze(1)]
)
async def test_what_is_raised_after_the_commit_cannot_fail_the_job(
    dsn: str, witness: Witness, caplog: pytest.LogCaptureFixture, way: str, error: BaseException
) -> None:
    """It is completed; an error is logged."""

    async def script() -> None:
        if way == "transaction":
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('kept')")
                current_job().result = "kept"
        else:
            async with KINDS["session"](dsn) as theirs, theirs.begin():
                await theirs.run("insert into ledger values ('kept')")
                await current_job().complete(on=theirs.on, result="kept")
        raise error

    async with running("dsn", dsn) as jobs:
        with caplog.at_level(logging.INFO, "asyncjobs"):
            handle = await enqueued(script)
            assert await handle.result(timeout=10) == "kept"
            await jobs.work_off()
        found = await handle.job()
    assert (found.state.value, found.attempt, found.errors) == ("completed", 1, ())
    assert await witness.ledger() == ["kept"]
    if isinstance(error, ValueError):
        assert "too late" in caplog.text
    assert "were taken from this runner" not in caplog.text


async def test_a_job_goes_on_after_its_commit(dsn: str, witness: Witness) -> None:
    """It may still work, enqueue, and be told to stop: completed it is."""

    async def script() -> None:
        async with current_job().transaction():
            current_job().result = 1
        await other.later(9)
        await witness.connection.execute("insert into ledger values ('afterwards')")
        await asyncio.sleep(3600)

    async with running("dsn", dsn, shutdown_timeout=1) as jobs:
        handle = await enqueued(script)
        assert await handle.result(timeout=10) == 1
        await eventually_async(lambda: jobs.list_jobs(kinds=[other.kind]))
    assert await witness.ledger() == ["afterwards"]
    assert await witness.is_final(handle.id)


async def test_a_transaction_that_outlives_the_job_holds_up_nobody(
    dsn: str, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end says what came of the job; until then the others are completed, and people are told who is waited for."""
    left: dict[str, asyncpg.Connection] = {}

    def leaving(name: str) -> Script:
        async def script() -> None:
            if current_job().attempt > 1:
                return
            connection = left[name] = await asyncpg.connect(dsn)
            await connection.execute("begin")
            await connection.execute("insert into ledger values ($1)", name)
            await current_job().complete(on=connection)

        script.__qualname__ += name
        return script

    async with running("dsn", dsn) as jobs:
        committed, rolled_back = [await enqueued(leaving(name)) for name in ("committed", "rolled back")]
        await eventually_async(lambda: _said(caplog, "is still open"))
        for number in range(3):
            assert await (await other.later(number)).result(timeout=10) == number
        assert [(await handle.status()).value for handle in (committed, rolled_back)] == [
            "running",
            "running",
        ]
        await left["committed"].execute("commit")
        await left["rolled back"].execute("rollback")
        first, second = await final(committed), await final(rolled_back)
        await jobs.work_off()
    assert [(each.state.value, each.attempt) for each in (first, second)] == [
        ("completed", 1),
        ("completed", 2),
    ]
    assert await witness.ledger() == ["committed"]
    for connection in left.values():
        await connection.close()


async def _said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


async def test_a_runner_stops_in_time_although_a_transaction_outlives_its_job(
    dsn: str, witness: Witness
) -> None:
    """Nothing is written for the job, which would wait for that transaction; the others' outcomes are."""
    left: list[asyncpg.Connection] = []

    async def script() -> None:
        left.append(await asyncpg.connect(dsn))
        await left[0].execute("begin")
        await current_job().complete(on=left[0])

    async with running("dsn", dsn, shutdown_timeout=1):
        handle = await enqueued(script)
        await eventually_async(_truth(left))
        done = await other.later(1)
        assert await done.result(timeout=10) == 1
        started = time.monotonic()
    assert time.monotonic() - started < 5
    await left[0].execute("commit")
    await left[0].close()
    assert await witness.is_final(handle.id)


# Stopped in the middle.


@pytest.mark.parametrize("what", SOURCES)
async def test_a_job_that_is_stopped_inside_its_transaction_has_done_nothing(
    dsn: str, witness: Witness, what: str
) -> None:
    """By its timeout, by somebody, by itself: rolled back, and the connection is given back."""
    inside: dict[int | None, asyncio.Event] = {}

    async def script() -> None:
        me = current_job()
        async with me.transaction() as connection:
            await connection.execute("insert into ledger values ('undone')")
            inside.setdefault(me.id, asyncio.Event()).set()
            await connection.execute("select pg_sleep(10)")

    async def leaving() -> None:
        me = current_job()
        async with me.transaction() as connection:
            await connection.execute("insert into ledger values ('undone, too')")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await connection.execute("select 1")

    async with running(what, dsn) as jobs:
        timed_out = await enqueued(script, timeout=0.3, max_attempts=1)
        cancelled = await enqueued(script)
        left = await enqueued(leaving, max_attempts=1)
        await eventually_async(_truth_of(lambda: cancelled.id in inside))
        await cancelled.cancel()
        states = [(await final(handle)).state.value for handle in (timed_out, cancelled, left)]
        assert states == ["failed", "cancelled", "failed"]
        await asyncio.gather(*(other.later(n) for n in range(30)))
        await jobs.work_off()
    assert await witness.ledger() == []
    await eventually_async(lambda: _nobody_is_in_a_transaction(witness))


async def _nobody_is_in_a_transaction(witness: Witness) -> bool:
    return not await witness.connection.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and xact_start is not null "
        "and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )


def _truth_of(say: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def fact() -> bool:
        return say()

    return fact


async def test_a_job_that_is_stopped_at_shutdown_inside_its_transaction_runs_again(
    dsn: str, witness: Witness
) -> None:
    """Given back unburnt: nothing of it was committed."""
    begun: list[int] = []

    async def script() -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into ledger values ('once')")
            begun.append(current_job().attempt)
            if len(begun) == 1:
                await connection.execute("select pg_sleep(3600)")

    async with running("dsn", dsn, shutdown_timeout=1):
        handle = await enqueued(script)
        await eventually_async(_truth(begun))
    async with running("dsn", dsn) as jobs:
        await jobs.handle(handle.id).result(timeout=10)
    assert begun == [1, 1]
    assert await witness.ledger() == ["once"]


@pytest.mark.parametrize("way", ["transaction", "complete"])
async def test_a_commit_that_fails_fails_the_job(dsn: str, witness: Witness, way: str) -> None:
    """A deferred constraint speaks at the commit: neither the writes nor the completion are there, and it is tried again."""
    await witness.connection.execute("create table orders (number int unique deferrable initially deferred)")
    await witness.connection.execute("insert into orders values (1)")

    async def script() -> None:
        number = current_job().attempt
        if way == "transaction":
            async with current_job().transaction() as connection:
                await connection.execute(f"insert into orders values ({number})")
        else:
            async with KINDS["session"](dsn) as theirs, theirs.begin():
                await theirs.run(f"insert into orders values ({number})")
                await current_job().complete(on=theirs.on)

    async with running("dsn", dsn):
        found = await final(await enqueued(script))
    assert (found.state.value, found.attempt, len(found.errors)) == ("completed", 2, 1)
    assert "unique" in found.errors[0].error
    assert await witness.connection.fetchval("select count(*) from orders") == 2


@pytest.mark.parametrize("what", SOURCES)
async def test_a_connection_that_breaks_at_the_commit_does_not_run_a_completed_job_again(
    dsn: str, witness: Witness, what: str
) -> None:
    """Committed, and nobody was told: the fence refuses what the attempt says of itself, and the job stays completed."""
    async with network(dsn) as way, running(what, way.dsn) as jobs:

        async def script() -> None:
            async with current_job().transaction() as connection:
                await connection.execute("insert into ledger values ('once')")
                await connection.execute(
                    "create temp table slow (x int unique deferrable initially deferred)"
                )
                await connection.execute(
                    "create function pg_temp.slowly() returns trigger language plpgsql as "
                    "'begin perform pg_sleep(0.5); return null; end'"
                )
                await connection.execute(
                    "create constraint trigger slowly after insert on slow deferrable initially deferred "
                    "for each row execute function pg_temp.slowly()"
                )
                await connection.execute("insert into slow values (1)")
                asyncio.get_running_loop().call_later(0.25, way.cut)  # in the middle of the commit

        handle = await enqueued(script)
        await eventually_async(_is_final(witness, handle.id))
        await eventually_async(_idle(jobs))
    assert await witness.ledger() == ["once"]
    assert (
        await witness.connection.fetchval("select attempt from asyncjobs.jobs where id = $1", handle.id) == 1
    )


def _is_final(witness: Witness, job_id: int) -> Callable[[], Awaitable[bool]]:
    return lambda: witness.is_final(job_id)


def _idle(jobs: Jobs) -> Callable[[], Awaitable[bool]]:
    async def fact() -> bool:
        async with asyncio.timeout(5):
            await jobs.work_off()
        return True

    return fact


# A claim that was lost.


@pytest.mark.failure_mode("F75")
@pytest.mark.parametrize("what", SOURCES)
async def test_a_runner_that_lost_its_claim_writes_nothing(dsn: str, witness: Witness, what: str) -> None:
    """LeaseLost at the block's end; the writes roll back; whoever claims the job next does it once."""
    raised: list[type[BaseException]] = []

    async def script() -> None:
        me = current_job()
        try:
            async with me.transaction() as connection:
                await connection.execute("insert into ledger values ($1)", f"attempt {me.attempt}")
                if me.attempt == 1:
                    await witness.take_away(me.id)
        except LeaseLost as error:
            raised.append(type(error))
            raise

    async with running(what, dsn) as jobs:
        handle = await enqueued(script)
        await eventually_async(_truth(raised))
        await witness.due()
        jobs.runner.wake([Lane("rescued", play.kind)])  # type: ignore[union-attr]
        found = await final(handle)
    assert raised == [LeaseLost]
    assert (found.state.value, found.attempt) == ("completed", 2)
    assert await witness.ledger() == ["attempt 2"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_runner_that_lost_its_claim_completes_nothing(dsn: str, witness: Witness, kind: str) -> None:
    """complete(on=) raises, so that the owner's transaction is not committed."""
    raised: list[int] = []

    async def script() -> None:
        me = current_job()
        async with KINDS[kind](dsn) as theirs, theirs.begin():
            await theirs.run(f"insert into ledger values ('attempt {me.attempt}')")
            if me.attempt == 1:
                await witness.take_away(me.id)
            try:
                await me.complete(on=theirs.on)
            except LeaseLost:
                raised.append(me.attempt)
                raise

    async with running("dsn", dsn) as jobs:
        handle = await enqueued(script)
        await eventually_async(_truth(raised))
        await witness.due()
        jobs.runner.wake([Lane("rescued", play.kind)])  # type: ignore[union-attr]
        found = await final(handle)
    assert raised == [1]
    assert (found.state.value, found.attempt) == ("completed", 2)
    assert await witness.ledger() == ["attempt 2"]


async def test_a_zombie_cannot_undo_what_its_successor_did(dsn: str, witness: Witness) -> None:
    """Taken away and finished by another while it worked, it is refused, and changes nothing."""
    zombie = asyncio.Event()
    ends: list[str] = []

    async def script() -> None:
        me = current_job()
        if me.attempt == 1:
            with suppress(LeaseLost):
                async with me.transaction() as connection:
                    await connection.execute("insert into ledger values ('zombie')")
                    await witness.take_away(me.id)
                    await witness.due()
                    await zombie.wait()
                ends.append("committed")
            ends.append("refused")
            return
        async with me.transaction() as connection:
            await connection.execute("insert into ledger values ('successor')")

    async with (
        running("dsn", dsn, queues={"default": 1}) as jobs,
        running("pool", dsn, queues={"rescued": 1}),
    ):
        handle = await enqueued(script, jobs=jobs)
        found = await final(handle)
        zombie.set()
        await eventually_async(_truth(ends))
    assert ends == ["refused"]
    assert found.state.value == "completed"
    assert await witness.ledger() == ["successor"]


# The end of the process.


@pytest.mark.parametrize("way", ["transaction", "complete"])
async def test_a_process_that_dies_right_after_the_commit_has_done_the_job(
    dsn: str, witness: Witness, way: str
) -> None:
    """It is not run again: nothing about it was left to be said."""
    code = f"""
        import asyncio, os, asyncpg
        from asyncjobs import Jobs, current_job, job

        @job(kind="{HERE}:die")
        async def die():
            if {way == "transaction"}:
                async with current_job().transaction() as connection:
                    await connection.execute("insert into ledger values ('done')")
            else:
                connection = await asyncpg.connect({dsn!r})
                async with connection.transaction():
                    await connection.execute("insert into ledger values ('done')")
                    await current_job().complete(on=connection)
            os._exit(7)

        async def main():
            async with Jobs({dsn!r}).running():
                await die.later()
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(code))
    assert await asyncio.wait_for(process.wait(), 30) == 7
    assert await witness.ledger() == ["done"]
    assert await witness.connection.fetchval("select count(*) from asyncjobs.live_jobs where id > 0") == 0
    async with Jobs(dsn) as jobs:
        (found,) = await jobs.list_jobs()
    assert (found.state.value, found.attempt) == ("completed", 1)


# Called now.


@pytest.mark.parametrize("what", SOURCES)
async def test_called_now_it_is_a_plain_transaction(dsn: str, witness: Witness, what: str) -> None:
    """The same code outside a runner: id None, and the writes commit or roll back by themselves."""

    async def business(entry: str) -> None:
        me = current_job()
        assert me.id is None
        assert me.attempt == 1
        async with me.transaction() as connection:
            await connection.execute("insert into ledger values ($1)", entry)
            await other.later(1)
            me.result = 5
            if entry == "undone":
                raise KeyError

    async with running(what, dsn) as jobs:
        await business("kept")
        with suppress(KeyError):
            await business("undone")
        await jobs.work_off()
        assert len(await jobs.list_jobs()) == 1
    assert await witness.ledger() == ["kept"]
    with pytest.raises(WhichJobs, match="open"):
        await business("nowhere")


@pytest.mark.parametrize("kind", KINDS)
async def test_called_now_inside_somebodys_transaction_it_is_part_of_it(
    dsn: str, witness: Witness, kind: str
) -> None:
    """Under `jobs.on(session)` the block is a savepoint of the session's transaction."""

    async def business(entry: str) -> None:
        async with current_job().transaction() as connection:
            await connection.execute(f"insert into ledger values ('{entry}')")
            await other.later(1)
            if entry == "undone":
                raise KeyError
        await current_job().complete(on=connection)  # nothing to complete

    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        for commits in (True, False):
            with suppress(ValueError):
                async with theirs.begin(), jobs.on(theirs.on):
                    await theirs.run("select 1")
                    await business(f"kept: {commits}")
                    with suppress(KeyError):
                        await business("undone")
                    if not commits:
                        raise ValueError
        assert len(await jobs.list_jobs()) == 1
    assert await witness.ledger() == ["kept: True"]


# Dependencies.


@asynccontextmanager
async def _begun(sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    async with sessions() as session, session.begin():
        yield session


class Pays(Protocol):
    async def later(self, entry: str) -> Handle[str]: ...


@pytest.fixture
def pay() -> Iterator[Pays]:
    """A job that wants a session; known to these tests alone, for whoever runs jobs must provide what all of them want."""
    with forgotten():

        @job(kind=f"{HERE}:pay", backoff=Constant(0), max_attempts=2)
        async def pay(entry: str, session: Dependency[AsyncSession] | None = None) -> str:
            assert session is not None
            await session.execute(text("insert into ledger values (:entry)"), {"entry": entry})
            await other.set(on=session).later(1)
            await current_job().complete(on=session, result=entry)
            if entry == "committed":
                await session.commit()
            if entry == "fails" and current_job().attempt == 1:
                raise ValueError("after complete, before the commit")
            return "too late"

        yield pay


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_session_that_is_supplied_commits_the_job_with_its_block(
    dsn: str, witness: Witness, driver: str, pay: Pays
) -> None:
    """The factory's `session.begin()` ends after the job, and the completion is committed there."""
    async with engine_on(dsn, driver) as engine:
        sessions = async_sessionmaker(engine)
        async with Jobs(engine=engine, provide={AsyncSession: lambda: _begun(sessions)}).running() as jobs:
            handle = await pay.later("supplied")
            assert await handle.result(timeout=10) == "supplied"
            failing = await pay.later("fails")
            assert await failing.result(timeout=10) == "fails"
            await jobs.work_off()
            assert [(await each.job()).attempt for each in (handle, failing)] == [1, 2]
            assert [each.error for each in (await failing.job()).errors] == [
                "ValueError: after complete, before the commit"
            ]
            assert len(await jobs.list_jobs(kinds=[other.kind])) == 2
    assert await witness.ledger() == ["fails", "supplied"]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_session_that_is_supplied_may_be_committed_by_the_job(
    dsn: str, witness: Witness, driver: str, pay: Pays
) -> None:
    """A sessionmaker is a factory: the session is closed after the job, and committing is the job's."""
    async with engine_on(dsn, driver) as engine:
        jobs = Jobs(dsn, provide={AsyncSession: async_sessionmaker(engine)})
        async with jobs.running():
            handle = await pay.later("committed")
            assert await handle.result(timeout=10) == "committed"
            not_committed = await pay.later("not committed")
            with pytest.raises(JobFailed, match="rolled back"):
                await not_committed.result(timeout=10)
    assert await witness.ledger() == ["committed"]


@job(kind=f"{HERE}:writes_once", backoff=Constant(0), max_attempts=1)
async def writes_once() -> str:
    """Has one attempt, and needs the database."""
    async with current_job().transaction() as connection:
        await connection.execute("select 1")
        current_job().result = "done"
    return "done"


@pytest.mark.failure_mode("F55")
async def test_a_transaction_that_cannot_be_begun_costs_no_attempt(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No connection is to be had, for whatever reason and time: nothing was done yet, so nothing is counted."""
    monkeypatch.setattr("asyncjobs._store.opening.CONNECT_TIMEOUT", 0.1)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, Jobs(pool=pool).running():
        handle = await writes_once.later()
        async with pool.acquire():

            async def tried_twice() -> bool:
                return sum("found no database" in record.getMessage() for record in caplog.records) >= 2

            await eventually_async(tried_twice)
        assert await handle.result(timeout=20) == "done"
