"""`asyncjobs.enqueue`: a job stored by SQL is the job `later` would have stored."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import attrs
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, text

from asyncjobs import InvalidOption, JobFailed, Jobs, Later, job
from tests.connections import sqlalchemy_url
from tests.running import running

ROW = """
select queue, kind, method, args, priority, max_attempts, state, tags, meta, options,
       extract(epoch from scheduled_at - created_at) as due_in,
       case when $2 then scheduled_at end as at, unique_key, lock_key, token, attempt, crashes, runner, errors
  from asyncjobs.live_jobs where id = $1
"""


@job(kind="test_sql_enqueue:greet")
async def greet(name: str, times: int = 1) -> str:
    return " ".join([f"hello {name}"] * times)


@attrs.frozen
class Shipment(Later, kind="test_sql_enqueue:Shipment"):
    order: int

    async def call(self) -> int:
        return self.order

    async def other(self) -> str:
        return f"other {self.order}"


async def connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn)


# It is what `later` does.


@pytest.mark.seed("Q1", "Q20", "P5")
async def test_a_job_of_sql_runs(dsn: str) -> None:
    """Q1 "transactional enqueue on the caller's connection": enqueued by SQL, committed, and run with its inputs."""
    async with running(dsn) as jobs:
        db = await connect(dsn)
        async with db.transaction():
            first = await db.fetchval(
                """select asyncjobs.enqueue('test_sql_enqueue:greet', '{"name": "Ada", "times": 2}')"""
            )
            second = await db.fetchval(
                """select asyncjobs.enqueue(kind => 'test_sql_enqueue:Shipment', args => '{"order": 7}',
                                            options => '{"method": "other", "priority": -5}')"""
            )
        assert await jobs.handle(first).result(timeout=20) == "hello Ada hello Ada"
        assert await jobs.handle(second).result(timeout=20) == "other 7"
        await db.close()


@pytest.mark.seed("Q1")
async def test_a_transaction_of_sql_that_rolls_back_takes_its_job_along(dsn: str) -> None:
    """Q1 "transactional enqueue on the caller's connection": with a savepoint, too."""
    db = await connect(dsn)
    try:
        async with db.transaction():
            await db.execute("savepoint before")
            await db.execute("select asyncjobs.enqueue('k', '{}')")
            await db.execute("rollback to savepoint before")
            await db.execute("select asyncjobs.enqueue('kept', '{}')")
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                await db.execute("select asyncjobs.enqueue('k', '{}')")
                raise ZeroDivisionError
        assert [row["kind"] for row in await db.fetch("select kind from asyncjobs.jobs")] == ["kept"]
    finally:
        await db.close()


async def test_the_drivers_pass_it_what_they_have(dsn: str) -> None:
    """asyncpg, psycopg and SQLAlchemy, each with parameters of its own manner."""
    db = await connect(dsn)
    await db.fetchval("select asyncjobs.enqueue($1, $2, $3)", "a", '{"n": 1}', '{"queue": "q"}')

    def sync() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "select asyncjobs.enqueue(%s, %s, %s)",
                ("b", Jsonb({"n": 2}), Jsonb({"queue": "q"})),
            )
        engine = create_engine(sqlalchemy_url(dsn, "psycopg"))
        with engine.begin() as begun:
            asked = text("select asyncjobs.enqueue(:kind, cast(:args as jsonb), cast(:options as jsonb))")
            begun.execute(asked, {"kind": "c", "args": '{"n": 3}', "options": '{"queue": "q"}'})
        engine.dispose()

    await asyncio.to_thread(sync)
    stored = await db.fetch("select kind, args, queue from asyncjobs.jobs order by id")
    assert [(row[0], json.loads(row[1]), row[2]) for row in stored] == [
        ("a", {"n": 1}, "q"),
        ("b", {"n": 2}, "q"),
        ("c", {"n": 3}, "q"),
    ]
    await db.close()


async def test_a_trigger_enqueues_for_each_row(dsn: str) -> None:
    """One job for each order that was committed, however the orders came into the table."""
    async with running(dsn) as jobs:
        db = await connect(dsn)
        await db.execute("""
            create table orders (id bigint generated always as identity primary key, item text);
            create function ship() returns trigger language plpgsql as $$
            begin
              perform asyncjobs.enqueue('test_sql_enqueue:Shipment', jsonb_build_object('order', new.id),
                                        '{"method": "call", "queue": "shipping"}');
              return new;
            end $$;
            create trigger shipping after insert on orders for each row execute function ship();
            insert into orders (item) select 'lamp' from generate_series(1, 5)""")
        rows = await db.fetch("select id from asyncjobs.jobs order by id")
        assert [await jobs.handle(row["id"]).result(timeout=20) for row in rows] == [1, 2, 3, 4, 5]
        await db.close()


async def test_an_idle_runner_is_woken_by_sql(dsn: str) -> None:
    """At the commit, though the runner of this test never polls."""
    async with running(dsn) as jobs:
        db = await connect(dsn)
        for name in ("Ada", "Bob"):
            kept = await db.fetchval(
                "select asyncjobs.enqueue($1, jsonb_build_object('name', $2::text))", greet.kind, name
            )
            assert await jobs.handle(kept).result(timeout=20) == f"hello {name}"
        await db.close()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": NAMES,
        "priority": st.integers(-40000, 40000),
        "max_attempts": st.integers(-1, 40000),
        "tags": st.lists(NAMES, max_size=3),
        "meta": st.dictionaries(NAMES, PLAIN, max_size=3),
        "timeout": st.none() | st.floats(-1, 4e9, allow_nan=False) | st.integers(0, 10),
        "delay": st.floats(-1, 4e9) | st.integers(0, 100),
        "at": st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    },
)


async def later_or_refused(db: Any, name: str, options: dict[str, Any]) -> int | None:
    try:
        return (await greet.set(on=db, **options).later(name)).id
    except InvalidOption:
        return None


async def sql_or_refused(db: Any, name: str, options: dict[str, Any]) -> int | None:
    said = {word: value.isoformat() if word == "at" else value for word, value in options.items()}
    try:
        async with db.transaction():
            stored: int = await db.fetchval(
                "select asyncjobs.enqueue($1, $2, $3)",
                greet.kind,
                json.dumps({"name": name}),
                json.dumps(said),
            )
            return stored
    except asyncpg.InvalidParameterValueError:
        return None


@pytest.mark.seed("Q1")
async def test_sql_and_later_store_the_same_row(dsn: str) -> None:
    """Whatever the options are: both refuse them, or both store the same."""
    loop = asyncio.get_running_loop()
    seen: dict[bool, int] = {True: 0, False: 0}

    async def compare(name: str, options: dict[str, Any]) -> None:
        mine, theirs = await later_or_refused(db, name, options), await sql_or_refused(db, name, options)
        assert (mine is None) == (theirs is None), (mine, theirs)
        seen[mine is None] += 1
        if mine is not None:
            rows = [dict(await db.fetchrow(ROW, each, "at" in options)) for each in (mine, theirs)]
            for row in rows:
                if "at" in options:
                    row.pop("due_in")
                row.update({word: json.loads(row[word]) for word in ("args", "meta", "options") if row[word]})
            assert rows[0] == rows[1]

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10), OPTIONS)
    def law(name: str, options: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(compare(name, options), loop).result(30)

    async with Jobs(dsn):
        db = await connect(dsn)
        await asyncio.to_thread(law)
        await db.close()
    assert min(seen.values()) > 5


async def test_a_moment_from_sql_is_that_moment(dsn: str) -> None:
    """As `to_jsonb` writes a timestamptz, whatever the session's time zone."""
    db = await connect(dsn)
    await db.execute("set timezone to 'Asia/Kathmandu'; set datestyle to 'German'")
    assert await db.fetchval("select asyncjobs.enqueue('x', '{}', '{\"at\": \"2100-01-01T00:00:00Z\"}')")
    async with db.transaction():
        said = await db.fetchval(
            "select asyncjobs.enqueue('k', '{}', jsonb_build_object('at', now() + interval '1 day'))"
        )
        assert await db.fetchval(
            "select scheduled_at = now() + interval '1 day' from asyncjobs.live_jobs where id = $1", said
        )
    assert await db.fetchval("select scheduled_at from asyncjobs.jobs where kind = 'x'") == datetime(
        2100, 1, 1, tzinfo=UTC
    )
    await db.close()


async def test_inputs_that_do_not_fit_fail_at_once(dsn: str) -> None:
    """SQL cannot know them; the runner does, and does not try the job ten times."""
    async with running(dsn) as jobs:
        db = await connect(dsn)
        for args in ({"name": 7}, {}):
            kept = await db.fetchval("select asyncjobs.enqueue($1, $2)", greet.kind, json.dumps(args))
            with pytest.raises(JobFailed, match="name"):
                await jobs.handle(kept).result(timeout=20)
            assert (await jobs.handle(kept).job()).attempt == 1
        await db.close()


# What makes no sense is refused in words.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("null, '{}'", "kind is not a name"),
        ("'', '{}'", "kind is not a name"),
        (r"E'a\nb', '{}'", "kind is not a name"),
        (r"E'a\u2028b', '{}'", "kind is not a name"),
        (r"E'\u00a0', '{}'", "kind is not a name"),
        ("repeat('x', 121), '{}'", "kind is not a name"),
        ("'k', null", "args is not a JSON object"),
        ("'k', '[]'", "args is not a JSON object"),
        ("'k', '{}', null", "options is not a JSON object"),
        ("'k', '{}', '[]'", "options is not a JSON object"),
        ("'k', '{}', '{\"quue\": \"q\"}'", 'no option "quue"; there are at, delay,'),
        ("'k', '{}', '{\"queue\": null}'", "queue is not a name"),
        ("'k', '{}', '{\"queue\": 7}'", "queue is not a name"),
        ("'k', '{}', '{\"priority\": 1.5}'", "priority is not a whole number from -32768"),
        ("'k', '{}', '{\"priority\": \"1\"}'", "priority is not a whole number"),
        ("'k', '{}', '{\"max_attempts\": 0}'", "max_attempts is not a whole number from 1 to"),
        ("'k', '{}', '{\"delay\": -1}'", "delay is not a number of seconds"),
        ("'k', '{}', '{\"delay\": \"1 day\"}'", "delay is not a number of seconds"),
        ("'k', '{}', '{\"at\": \"2030-01-01\"}'", "at is not a moment"),
        ("'k', '{}', '{\"at\": \"2030-01-01T00:00:00\"}'", "at is not a moment"),
        ("'k', '{}', '{\"at\": \"2030-02-30T00:00:00Z\"}'", "no moment of the calendar"),
        ("'k', '{}', '{\"at\": \"2030-02-01T00:00:00+99:99\"}'", "no moment of the calendar"),
        ("'k', '{}', '{\"at\": \"2030-02-01T00:00:00Z\", \"delay\": 3}'", "both say when"),
        ("'k', '{}', '{\"timeout\": 0}'", "timeout is not a number"),
        ("'k', '{}', '{\"tags\": \"one\"}'", "tags is not an array"),
        ("'k', '{}', '{\"tags\": [1]}'", "a tag is not a name"),
        ("'k', '{}', '{\"meta\": []}'", "meta is not a JSON object"),
        ("'k', '{}', '{\"method\": \"_call\"}'", "method is not the name of a public method"),
    ],
)
async def test_what_makes_no_sense_is_refused(dsn: str, call: str, words: str) -> None:
    """By a sentence that says what does, as an invalid parameter."""
    db = await connect(dsn)
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await db.fetchval(f"select asyncjobs.enqueue({call})")  # noqa: S608 -- the test's own
    assert words in str(refused.value)
    assert await db.fetchval("select count(*) from asyncjobs.jobs") == 0
    await db.close()


async def test_a_whole_number_may_be_written_with_a_fraction(dsn: str) -> None:
    """As some languages write it in JSON, where 1.0 is 1."""
    db = await connect(dsn)
    await db.fetchval("select asyncjobs.enqueue('k', '{}', '{\"priority\": -1.0, \"max_attempts\": 3.00}')")
    assert tuple(await db.fetchrow("select priority, max_attempts from asyncjobs.jobs")) == (-1, 3)
    await db.close()


# Whose rights it has.


@pytest.mark.security("SEC-S4", "SEC-S5")
async def test_it_has_the_rights_of_its_caller(dsn: str) -> None:
    """Who may insert jobs may call it, who may not may not: the function lends no rights."""
    db = await connect(dsn)
    await db.execute("""
        create role sql_enqueuer; create role sql_nobody;
        grant usage on schema asyncjobs to sql_enqueuer, sql_nobody;
        grant insert (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options),
              select (id, queue) on asyncjobs.live_jobs to sql_enqueuer""")
    try:
        await db.execute("set role sql_enqueuer")
        options = '{"queue": "q", "tags": ["t"], "meta": {"a": 1}, "timeout": 3, "delay": 1, "method": "m"}'
        assert await db.fetchval("select asyncjobs.enqueue('k', '{}', $1)", options) > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.fetch("select * from asyncjobs.live_jobs")
        await db.execute("set role sql_nobody")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.fetchval("select asyncjobs.enqueue('k', '{}')")
    finally:
        await db.execute("reset role")
        await db.execute(
            "drop owned by sql_enqueuer; drop owned by sql_nobody; drop role sql_enqueuer; drop role sql_nobody"
        )
        await db.close()


@pytest.mark.security("SEC-S4")
async def test_the_callers_search_path_is_not_searched(dsn: str) -> None:
    """Whatever stands before pg_catalog there, and whatever fits the arguments better."""
    db = await connect(dsn)
    await db.execute("""
        create schema trap;
        create function trap.left(text, integer) returns text language plpgsql as $$ begin raise 'trapped'; end $$;
        create function trap.jsonb_typeof(jsonb) returns text language plpgsql as $$ begin raise 'trapped'; end $$;
        create function trap.statement_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trapped'; end $$;
        set search_path = trap, pg_catalog""")
    assert await db.fetchval("""select asyncjobs.enqueue('k', '{"a": 1}', '{"queue": "q", "method": "m"}')""")
    await db.close()


async def test_a_delay_counts_from_the_statement(dsn: str) -> None:
    """Q20 "clock: DB `now()` only; run_at=None means DB now": not from this machine's clock, nor the transaction's begin."""
    db = await connect(dsn)
    async with db.transaction():
        await db.execute("select pg_sleep(0.2)")
        stored = await db.fetchval("select asyncjobs.enqueue('k', '{}', '{\"delay\": 60}')")
        at_once = await db.fetchval("select asyncjobs.enqueue('k', '{}')")
        began = await db.fetchval("select now()")
        rows = await db.fetch(
            "select id, scheduled_at, created_at from asyncjobs.jobs where id = any($1) order by id",
            [stored, at_once],
        )
    assert rows[0]["scheduled_at"] - rows[0]["created_at"] == timedelta(seconds=60)
    assert rows[0]["created_at"] - began >= timedelta(seconds=0.2)
    assert rows[1]["scheduled_at"] == rows[1]["created_at"]
    await db.close()
