"""What those who come from delayed_job and Que look at: views with the columns they know, and the same from Python."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import attrs
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry

from asyncjobs import (
    Constant,
    HeldJob,
    InvalidInput,
    InvalidOption,
    Job,
    Jobs,
    JobState,
    JobStats,
    Later,
    job,
)
from tests.connections import sqlalchemy_url
from tests.running import running, until_idle
from tests.waiting import eventually_async

gate: asyncio.Event


@job(kind="test_seen_from_sql:fail", max_attempts=1)
async def fail(what: str) -> None:
    raise ValueError(f"no {what}")


@job(kind="test_seen_from_sql:stumble", max_attempts=3, backoff=Constant(3600))
async def stumble() -> None:
    raise LookupError("try again")


@job(kind="test_seen_from_sql:hold")
async def hold() -> None:
    await gate.wait()


@job(kind="test_seen_from_sql:fine")
async def fine(number: int = 0) -> int:
    return number


@attrs.frozen
class Report(Later, kind="billing:Report"):
    month: int

    async def call(self) -> None: ...

    @job
    async def send(self, to: str) -> None: ...


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def jobs(dsn: str) -> AsyncIterator[Jobs]:
    """Jobs that run; what holds is let go at the end."""
    global gate
    gate = asyncio.Event()
    async with running(dsn) as jobs:
        yield jobs
        gate.set()


async def seen(db: Any, job_id: int) -> dict[str, Any] | None:
    row = await db.fetchrow("select * from asyncjobs.delayed_jobs where id = $1", job_id)
    return dict(row) if row else None


async def until(jobs: Jobs, job_id: int, state: str) -> None:
    async def is_there() -> bool:
        job = await jobs.get_job(job_id)
        return job is not None and job.state == state

    await eventually_async(is_there)


# delayed_jobs


@pytest.mark.seed("D1")
async def test_the_view_has_the_columns_of_delayed_job(db: Any) -> None:
    """D1 "columns/attributes readable on our job (`priority, attempts, last_error, run_at, locked_at, locked_by, failed_at,
    queue`) — exact names in the SQL view `asyncjobs.jobs`": in the view
    `asyncjobs.delayed_jobs`, with the types that table has, beside `asyncjobs.jobs`, which has more."""
    columns = await db.fetch("""
        select column_name, data_type from information_schema.columns
         where table_schema = 'asyncjobs' and table_name = 'delayed_jobs' order by ordinal_position""")
    assert [tuple(row) for row in columns] == [
        ("id", "bigint"),
        ("priority", "integer"),
        ("attempts", "integer"),
        ("handler", "text"),
        ("last_error", "text"),
        ("run_at", "timestamp with time zone"),
        ("locked_at", "timestamp with time zone"),
        ("locked_by", "text"),
        ("failed_at", "timestamp with time zone"),
        ("queue", "text"),
        ("created_at", "timestamp with time zone"),
        ("updated_at", "timestamp with time zone"),
    ]


@pytest.mark.seed("D1")
async def test_a_waiting_job_of_delayed_job(dsn: str, db: Any) -> None:
    """D1 "columns/attributes readable on our job": due when it was said, held by nobody, with its handler as text."""
    at = datetime.now(UTC) + timedelta(days=1)
    async with Jobs(dsn):
        handle = await Report(7).send.set(at=at, priority=-3, queue="bills").later("Ada")
    row = await seen(db, handle.id)
    assert row is not None
    assert {word: row[word] for word in ("priority", "attempts", "last_error", "run_at", "queue")} == {
        "priority": -3,
        "attempts": 0,
        "last_error": None,
        "run_at": at,
        "queue": "bills",
    }
    assert (row["locked_at"], row["locked_by"], row["failed_at"]) == (None, None, None)
    assert row["created_at"] == row["updated_at"]
    assert await db.fetchval(
        'select handler::jsonb = \'{"kind": "billing:Report", "method": "send", "args": '
        '{"month": 7, "()": {"to": "Ada"}}}\' from asyncjobs.delayed_jobs'
    )


@pytest.mark.seed("D1")
async def test_a_running_job_of_delayed_job(jobs: Jobs, db: Any) -> None:
    """D1 "`locked_at, locked_by`": since when, and by which runner, host:pid."""
    handle = await hold.later()
    await until(jobs, handle.id, "running")
    row = await seen(db, handle.id)
    assert row is not None
    assert row["locked_by"] == f"{socket.gethostname()}:{os.getpid()}"
    assert row["created_at"] <= row["locked_at"] <= await db.fetchval("select clock_timestamp()")
    assert (row["attempts"], row["failed_at"]) == (0, None)  # the one under way has not failed
    gate.set()
    await handle.result(timeout=20)
    assert await seen(db, handle.id) is None  # delayed_job deletes what is done


@pytest.mark.seed("D1")
async def test_a_job_fetched_ahead_is_locked_too(dsn: str, db: Any) -> None:
    """D1 "`locked_at, locked_by`": it waits in its runner, and no other may have it."""
    async with Jobs(dsn):
        handle = await fine.later()
    await db.execute("""
        insert into asyncjobs.runners (incarnation, lock_key, holds_lock, started_at, lease, name, version)
        values (7, 7, true, now() + interval '1 s', interval '1 minute', 'there:42', '0')""")
    await db.execute(
        "update asyncjobs.live_jobs set runner = 7, token = 1, attempt = 1 where id = $1", handle.id
    )
    row = await seen(db, handle.id)
    assert row is not None
    assert row["locked_by"] == "there:42"
    assert row["locked_at"] == await db.fetchval("select started_at from asyncjobs.runners")  # not before
    assert row["attempts"] == 0
    await db.execute("delete from asyncjobs.runners")
    row = await seen(db, handle.id)
    assert row is not None
    assert (row["locked_by"], row["locked_at"]) == ("7", row["run_at"])  # about to be taken back


@pytest.mark.seed("D1", "Q5")
async def test_a_job_that_failed_of_delayed_job(jobs: Jobs, db: Any) -> None:
    """D1 "`attempts, last_error, failed_at`": the message, then the traceback; one that waits to be tried again has not failed."""
    failed, retried = await fail.later("luck"), await stumble.later()
    await until(jobs, failed.id, "failed")
    await until(jobs, retried.id, "retryable")
    row = await seen(db, failed.id)
    assert row is not None
    assert row["attempts"] == 1
    assert row["last_error"].startswith("ValueError: no luck\n")
    assert "Traceback" in row["last_error"]
    assert row["failed_at"] == row["updated_at"] == (await failed.job()).finished_at
    row = await seen(db, retried.id)
    assert row is not None
    assert (row["attempts"], row["failed_at"], row["locked_by"]) == (1, None, None)
    assert row["last_error"].startswith("LookupError: try again\n")
    assert row["updated_at"] == (await retried.job()).errors[-1].at


async def test_what_somebody_else_wrote_as_errors_hides_no_row(dsn: str, db: Any) -> None:
    """A row of any shape is shown as far as it can be read."""
    async with Jobs(dsn):
        handles = [await fine.later(number) for number in range(4)]
    for handle, errors in zip(
        handles, ('{"a": 1}', "[3]", '[{"at": "never", "error": {"a": 1}}]', '[{"at": 7}]'), strict=True
    ):
        await db.execute("update asyncjobs.live_jobs set errors = $1 where id = $2", errors, handle.id)
    rows = await db.fetch("select * from asyncjobs.delayed_jobs order by id")
    assert [row["last_error"] for row in rows] == [None, None, '{"a": 1}', None]
    assert all(row["updated_at"] == row["created_at"] for row in rows)


# Stats and states


@pytest.mark.seed("Q14")
async def test_stats(jobs: Jobs, db: Any) -> None:
    """Q14 "stats & states as SQL views **and** Python API": by queue and kind, what waits, runs, and has failed before."""
    held = [await hold.later() for _ in range(2)]
    retried = await stumble.later()
    for number in range(3):
        await fine.set(queue="bulk", delay=3600).later(number)
    done = await fine.later()
    await done.result(timeout=20)
    for handle in held:
        await until(jobs, handle.id, "running")
    await until(jobs, retried.id, "retryable")
    stats = {each.kind: each for each in await jobs.stats()}
    waiting = stats[fine.kind]
    assert waiting == JobStats(
        queue="bulk",
        kind=fine.kind,
        count=3,
        count_working=0,
        count_errored=0,
        highest_error_count=0,
        oldest_run_at=waiting.oldest_run_at,
    )
    assert waiting.oldest_run_at > datetime.now(UTC) + timedelta(minutes=30)
    assert (stats[hold.kind].count, stats[hold.kind].count_working, stats[hold.kind].count_errored) == (
        2,
        2,
        0,
    )
    again = stats[stumble.kind]
    assert (again.count, again.count_working, again.count_errored, again.highest_error_count) == (1, 0, 1, 1)
    rows = await db.fetch("select * from asyncjobs.job_stats")
    assert {row["kind"]: JobStats(**row) for row in rows} == stats
    assert [each.kind for each in await jobs.stats()][0] == fine.kind  # the most numerous first


async def test_versions_are_no_kinds_of_their_own(jobs: Jobs, db: Any) -> None:
    """To people a kind has one name; what is stored tells versions apart."""
    names = ["shop:Unheard", "shop:Unheard@2", "shop:Unheard@2"]
    for name in names:
        await db.execute("select asyncjobs.enqueue($1)", name)
    (stats,) = [each for each in await jobs.stats() if each.kind.startswith("shop:Unheard")]
    assert (stats.kind, stats.count, stats.count_working) == ("shop:Unheard", 3, 0)
    rows = await db.fetch("select kind, count from asyncjobs.job_stats where kind like 'shop:Un%' order by 1")
    assert [tuple(row) for row in rows] == [("shop:Unheard", 1), ("shop:Unheard@2", 2)]


@pytest.mark.seed("Q14")
async def test_states(jobs: Jobs, db: Any) -> None:
    """Q14 "stats & states as SQL views **and** Python API": who runs what."""
    assert await jobs.states() == []
    handle = await hold.set(tags=["a", "b"], priority=4).later()
    await until(jobs, handle.id, "running")
    [state] = await jobs.states()
    assert isinstance(state, HeldJob)
    assert (state.id, state.kind, state.queue, state.priority, state.attempt) == (
        handle.id,
        hold.kind,
        "default",
        4,
        1,
    )
    assert state.tags == ("a", "b")
    assert (state.runner_host, state.runner_pid) == (socket.gethostname(), os.getpid())
    assert state.runner_name == f"{socket.gethostname()}:{os.getpid()}"
    assert state.runner_seen_at is not None
    [row] = await db.fetch("select * from asyncjobs.job_states")
    assert {**row, "tags": tuple(row["tags"])} == attrs.asdict(state)


async def test_the_ballast_is_in_no_view(db: Any) -> None:
    """What keeps the planner honest is nobody's job."""
    for view in ("delayed_jobs", "job_stats", "job_states"):
        assert await db.fetch(f"select * from asyncjobs.{view}") == []  # noqa: S608 -- the test's own


# Names, tags, and who is told


@pytest.mark.seed("D16")
async def test_a_job_has_a_name_for_people(dsn: str, db: Any) -> None:
    """D16 "name/display_name from method target incl. for undeserialisable jobs"."""
    async with Jobs(dsn) as jobs:
        handles = [
            await Report(1).later("call"),
            await Report(1).send.later("Ada"),
            await fine.later(),
        ]
        names = [(await handle.job()).name for handle in handles]
        assert names == ["Report.call", "Report.send", "fine"]
        broken = await db.fetchval(
            "select asyncjobs.enqueue('gone.module:Outer.Class', '{\"no\": 1}', '{\"method\": \"vanished\"}')"
        )
        found = await jobs.get_job(broken)
        assert isinstance(found, Job)
        assert found.name == "Outer.Class.vanished"


@pytest.mark.seed("Q7")
async def test_tags(dsn: str, db: Any) -> None:
    """Q7 "tags ≤ cap, indexed only on demand": jobs are found by all the tags named; too many are refused; no index costs
    those who have none."""
    async with Jobs(dsn) as jobs:
        both = await fine.set(tags=["acme", "eu"]).later(1)
        one = await fine.set(tags=["acme"]).later(2)
        await fine.later(3)
        assert [each.id for each in await jobs.list_jobs(tags=["acme"])] == [one.id, both.id]
        assert [each.id for each in await jobs.list_jobs(tags=["eu", "acme"])] == [both.id]
        assert await jobs.list_jobs(tags=["us"]) == []
        with pytest.raises(InvalidOption, match="one word"):
            await jobs.list_jobs(tags="acme")
        with pytest.raises(InvalidOption, match="at most 100"):
            await fine.set(tags=[str(number) for number in range(101)]).later(4)
    indexed = "select count(*) from pg_indexes where schemaname = 'asyncjobs' and indexdef ~ 'tags'"
    assert await db.fetchval(indexed) == 0
    await db.execute("create index on asyncjobs.live_jobs using gin (tags) where id > 0")  # the demand


@pytest.mark.seed("Q8")
async def test_bulk_says_whether_it_wakes(dsn: str, db: Any) -> None:
    """Q8 "bulk with notify policy": with wake=False nobody is told, neither at once nor at the caller's commit."""
    heard: list[str] = []
    async with running(dsn) as jobs:
        listener = await asyncpg.connect(dsn)
        for channel in ("asyncjobs:ready", "test_seen_from_sql"):
            await listener.add_listener(channel, lambda *said: heard.append(said[3]))

        await until_idle(dsn)
        quiet = await jobs.enqueue_many([fine.prepare(1), fine.prepare(2)], wake=False)
        async with db.transaction():
            quiet += await jobs.enqueue_many([fine.prepare(3)], on=db, wake=False)
        quiet += await jobs.enqueue_many([fine.prepare(4)], on=db, wake=False)  # commits by itself
        await db.execute("select pg_notify('test_seen_from_sql', 'the end')")

        async def all_heard() -> bool:
            return "the end" in heard

        await eventually_async(all_heard)
        assert set(heard) == {"the end"}
        await jobs.work_off()  # the runner of this very process has nothing to do either
        assert {await handle.status() for handle in quiet} == {JobState.AVAILABLE}
        told = await jobs.enqueue_many([fine.prepare(5)], wake=True)
        for handle in (*quiet, *told):  # whoever is woken sees all there is
            assert await handle.result(timeout=20) in (1, 2, 3, 4, 5)
        await listener.close()


# Entities


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "seen_orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Parcel:
    """Mapped afterwards: its fields look like plain data."""

    id: int | None = None


_registry = registry()
_registry.map_imperatively(
    Parcel,
    sqlalchemy.Table(
        "mapped", _registry.metadata, sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)
    ),
)


@job(kind="test_seen_from_sql:anything")
async def anything(value: Any) -> None: ...


@job(kind="test_seen_from_sql:ordered")
async def ordered(order: Order) -> None: ...


@job(kind="test_seen_from_sql:copied")
async def copied(orders: list[Parcel]) -> None: ...


@job(kind="test_seen_from_sql:by_id")
async def by_id(order_id: int) -> None: ...


@pytest.mark.seed("D15")
async def test_an_entity_is_no_input(dsn: str) -> None:
    """D15 "enqueuing an unsaved/removed entity ⇒ ValueError at enqueue (if the entity registry can tell)": the error says in
    which state it is, and what to pass instead, whatever the annotation is."""

    def work() -> tuple[Order, Order]:
        engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"))
        Base.metadata.create_all(engine)
        with Session(engine, expire_on_commit=False) as session:
            saved, deleted = Order(), Order()
            session.add_all([saved, deleted])
            session.commit()
            session.delete(deleted)
            session.commit()
        engine.dispose()
        return saved, deleted

    saved, deleted = await asyncio.to_thread(work)
    async with Jobs(dsn) as jobs:
        for function in (anything, ordered):
            for entity, words in (
                (Order(), "has not been saved: flush or save it, then pass its id"),
                (saved, "may have changed by the time the job runs; pass its id"),
                (deleted, "was deleted"),
            ):
                with pytest.raises(ValueError, match=words) as refused:
                    await function.later(entity)
                assert isinstance(refused.value, InvalidInput)
        with pytest.raises(ValueError, match="has not been saved"):
            await copied.later([Parcel(3)])
        with pytest.raises(ValueError, match="the id of a new row is None until it is flushed"):
            await by_id.later(Order().id)
        await by_id.later(saved.id)
        assert len(await jobs.list_jobs()) == 1
