"""Roles with the least they need, neighbours in the database, and policies on our tables."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import attrs
import pytest

from asyncjobs import (
    Constant,
    Is,
    JobCancelled,
    JobFailed,
    Jobs,
    JobState,
    Unique,
    current_job,
    job,
    subscribe,
)
from asyncjobs._store.migrate import migration_sql, migrations
from asyncjobs._store.session import Session
from asyncjobs._store.statements import in_schema, statements
from tests.engine.running import running
from tests.pages import blocks_of
from tests.security.rules import PAGE
from tests.security.shadows import ANY_TYPE, cast_shadows
from tests.store.test_statements import CALLS
from tests.subscriptions import only
from tests.waiting import eventually_async

CALL = re.compile(r"\b([a-z_][a-z0-9_]*)\(")
PASSWORD = "only-for-these-tests"


@job(kind="test_roles:work", backoff=Constant(0.01), max_attempts=2)
async def work(name: str) -> str:
    if name == "fails":
        raise ValueError("as ever")
    if name == "commits":
        async with current_job().transaction() as connection:
            await connection.execute("select 1")
            current_job().result = "committed"
    return name


# Neighbours


def texts() -> dict[str, str]:
    """Every piece of SQL we send or leave in the database."""
    return {
        **statements(),
        **{migration.name: in_schema(migration.text, "asyncjobs") for migration in migrations()},
    }


def functions_called() -> list[str]:
    return sorted({name for text in texts().values() for name in CALL.findall(text)})


async def connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection = await connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.security("SEC-S4")
async def test_what_takes_any_type_is_named_with_its_schema(dsn: str) -> None:
    """A better fitting function of a neighbour's would be preferred: of those Postgres brings, none is called by name alone."""
    async with connected(dsn) as connection:
        of_any_type = {row["proname"] for row in await connection.fetch(ANY_TYPE, functions_called())}
    loose = {
        (file, found[1])
        for file, text in texts().items()
        for found in re.finditer(r"(?<![.\w])([a-z_]+)\(([^()]*)", re.sub(r"--.*", "", text))
        if found[1] in of_any_type
        and not (
            found[1] == "unnest" and "," in found[2]
        )  # several arrays at once: the parser takes Postgres' own
    }
    assert {"count", "unnest", "width_bucket", "jsonb_build_object"} <= of_any_type
    assert loose == set()


@pytest.mark.failure_mode("F66")
@pytest.mark.security("SEC-S4")
async def test_functions_of_a_neighbour_are_not_run(dsn: str) -> None:
    """Better fitting twins of whatever takes any type lie in `public`, as do operators: no statement of ours runs one."""
    async with connected(dsn) as connection:
        assert await cast_shadows(connection, functions_called()) > 1000
        with pytest.raises(asyncpg.RaiseError, match="shadowed"):  # the trap works
            await connection.fetchval("select width_bucket(1::bigint, '{1}'::bigint[])")
        session = Session(connection, "asyncjobs")
        for name, call in CALLS.items():
            transaction = connection.transaction()
            await transaction.start()
            try:
                await call(session)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{name}: {error}")
            finally:
                await transaction.rollback()
    for listen in (True, False):
        async with running(dsn, listen=listen) as jobs:
            assert await (await work.later("plain")).result(timeout=20) == "plain"
            assert await (await work.later("commits")).result(timeout=20) == "committed"
            with pytest.raises(JobFailed, match="as ever"):
                await (await work.later("fails")).result(timeout=20)
            assert await (await work.set(delay=3600).later("hidden")).cancel() == "cancelled"
            await jobs.count_jobs()


@pytest.mark.failure_mode("F66")
@pytest.mark.security("SEC-S4")
async def test_migrating_beside_a_neighbour_binds_nothing_of_his(database: str) -> None:
    """Neither by `migrate` nor by its script is a neighbour's function run or built into ours."""
    async with connected(database) as connection:
        await cast_shadows(connection, functions_called())
        await connection.execute(migration_sql("by_script"))
    await Jobs(database).migrate()
    async with running(database) as jobs:
        assert await (await work.later("plain")).result(timeout=20) == "plain"
    assert jobs.schema == "asyncjobs"


@pytest.mark.failure_mode("F66")
@pytest.mark.security("SEC-S4")
async def test_the_runners_own_sessions_have_a_search_path_of_their_own(dsn: str) -> None:
    """Whatever the role's search_path begins with, what claims, finishes and keeps looks in `pg_catalog` alone."""
    async with connected(dsn) as connection:
        await connection.execute(
            """
            create schema evil;
            create function evil.clock_timestamp() returns timestamptz language plpgsql as $$
              begin raise exception 'shadowed as %', current_user; end $$;
            create function evil.pg_try_advisory_lock(integer, integer) returns boolean language plpgsql as $$
              begin raise exception 'shadowed as %', current_user; end $$;
            """
        )
        await connection.execute(
            f'alter database "{urlsplit(dsn).path[1:]}" set search_path = evil, pg_catalog'
        )
        await Session(connection, "asyncjobs").fetch(
            "insert_job",
            "default",
            "test_roles:work",
            None,
            '{"name": "x"}',
            0,
            1,
            None,
            None,
            None,
            None,
            None,
            False,
        )

        async def finished() -> bool:
            states = await connection.fetch("select state from asyncjobs.jobs")
            return [row["state"] for row in states] == ["completed"]

        async with running(dsn):
            await eventually_async(finished)


@pytest.mark.security("SEC-S4")
async def test_nothing_of_ours_runs_with_anothers_rights(dsn: str) -> None:
    """No SECURITY DEFINER, no trigger, no rule, no default that calls a function of ours; nothing is in `public`."""
    async with connected(dsn) as connection:
        definers = await connection.fetch(
            "select proname from pg_proc where prosecdef and pronamespace = 'asyncjobs'::regnamespace"
        )
        triggers = await connection.fetch(
            "select tgname from pg_trigger join pg_class on pg_class.oid = tgrelid "
            "where relnamespace = 'asyncjobs'::regnamespace and not tgisinternal"
        )
        elsewhere = await connection.fetch(
            "select relname from pg_class where relnamespace not in "
            "(select oid from pg_namespace where nspname ~ '^pg_' or nspname in ('asyncjobs', 'information_schema'))"
        )
        granted = await connection.fetch(
            "select grantee from information_schema.role_table_grants "
            "where table_schema = 'asyncjobs' and grantee = 'PUBLIC'"
        )
        entered = await connection.fetchval("select has_schema_privilege('public', 'asyncjobs', 'usage')")
    assert (definers, triggers, elsewhere, granted, entered) == ([], [], [], [], False)


# Roles


@attrs.frozen
class Roles:
    """The DSN for each role, as SECURITY.md grants."""

    owner: str
    runner: str
    enqueuer: str
    reader: str


_numbers = itertools.count()


@pytest.fixture
async def roles(database: str) -> AsyncIterator[Roles]:
    """Four roles that own nothing else, after the blocks of SECURITY.md were run."""
    number = f"{os.getpid()}_{next(_numbers)}"
    names = {role: f"app_{role}_{number}" for role in ("owner", "runner", "enqueuer", "reader")}
    parts = urlsplit(database)
    dsns = {
        role: f"postgresql://{name}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
        for role, name in names.items()
    }
    admin = await connect(database)
    try:
        for name in names.values():
            await admin.execute(f"create role {name} login password '{PASSWORD}'")
        await admin.execute(
            f'grant create on database "{quote(parts.path[1:])}" to {names["owner"]}; revoke all on schema public from public'
        )
        await Jobs(dsns["owner"]).migrate()
        async with connected(dsns["owner"]) as owner:
            for block in blocks_of(PAGE.read_text("utf-8")):
                if block.language == "sql" and "awaited" not in block.code:
                    await owner.execute(re.sub(r"\bapp_(\w+)", lambda role: names[role[1]], block.code))
        yield Roles(**dsns)
    finally:
        for name in names.values():
            await admin.execute(f"drop owned by {name} cascade")
        for name in names.values():
            await admin.execute(f"drop role {name}")
        await admin.close()


FORBIDDEN_TO_A_RUNNER = [
    "drop table asyncjobs.live_jobs",
    "truncate asyncjobs.live_jobs",
    "alter table asyncjobs.live_jobs disable trigger all",
    "create table asyncjobs.mine ()",
    "create function asyncjobs.wake(queue text, mine text) returns text language sql as 'select 1'",
    "create or replace function asyncjobs.wake(queue text) returns text language sql as 'select null::text'",
    "drop schema asyncjobs cascade",
]

FORBIDDEN_TO_AN_ENQUEUER = [
    *FORBIDDEN_TO_A_RUNNER,
    "select args from asyncjobs.live_jobs",
    "select * from asyncjobs.jobs",
    "select * from asyncjobs.finished_jobs",
    "select result from asyncjobs.finished_jobs",
    "update asyncjobs.live_jobs set args = '{}'",
    "update asyncjobs.live_jobs set cancel_requested = true",
    "delete from asyncjobs.live_jobs",
    "insert into asyncjobs.live_jobs (id, queue, kind, args) overriding system value values (1, 'q', 'k', '{}')",
    "insert into asyncjobs.live_jobs (queue, kind, args, runner) values ('q', 'k', '{}', 1)",
    "insert into asyncjobs.live_jobs (queue, kind, args, attempt) values ('q', 'k', '{}', 32767)",
    "insert into asyncjobs.live_jobs (queue, kind, args, errors) values ('q', 'k', '{}', '[1]')",
    "insert into asyncjobs.live_jobs (queue, kind, args, token) values ('q', 'k', '{}', 9223372036854775807)",
    "insert into asyncjobs.queues (name, paused_at) values ('default', now())",
    "insert into asyncjobs.migrations values (9999, 'no', 9999)",
    "select * from asyncjobs.runners",
    "delete from asyncjobs.runners",
]

FORBIDDEN_TO_A_READER = [
    *FORBIDDEN_TO_A_RUNNER,
    "insert into asyncjobs.live_jobs (queue, kind, args) values ('q', 'k', '{}')",
    "update asyncjobs.live_jobs set awaited = true",
    "delete from asyncjobs.finished_jobs",
    "insert into asyncjobs.queues (name, paused_at) values ('default', now())",
    "update asyncjobs.runners set lease = '1 year'",
]


async def allowed(dsn: str, statements: list[str]) -> list[str]:
    """Which of *statements* the role may run; none of them stays."""
    may = []
    async with connected(dsn) as connection:
        for statement in statements:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                pass
            except asyncpg.PostgresError as error:  # not for want of a right
                may.append(f"{statement}: {error}")
            else:
                may.append(statement)
            finally:
                await transaction.rollback()
    return may


@pytest.mark.security("SEC-S5")
async def test_each_role_can_do_its_work_and_no_more(roles: Roles) -> None:
    """Under the GRANTs of SECURITY.md: the enqueuer enqueues, the runner runs, the reader looks, and nobody else's work."""
    async with Jobs(roles.enqueuer) as jobs:
        waiting = await work.later("plain")
        await jobs.enqueue_many(
            [work.set(tags=["a"], meta={"by": "me"}, queue="many").prepare(n) for n in "abc"]
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await jobs.list_jobs()
    async with connected(roles.enqueuer) as connection:
        by_sql = await connection.fetchval(
            """select asyncjobs.enqueue('test_roles:work', '{"name": "by SQL"}', '{"tags": ["a"], "delay": 0}')"""
        )
    async with running(roles.runner) as jobs:
        assert await jobs.handle(by_sql).result(timeout=20) == "by SQL"
        assert await jobs.handle(waiting.id).result(timeout=20) == "plain"
        assert await (await work.later("commits")).result(timeout=20) == "committed"
        failing = await work.later("fails")
        with pytest.raises(JobFailed):
            await failing.result(timeout=20)
        assert await jobs.retry(failing.id)
        later = await work.set(delay=3600).later("later")
        await later.cancel()
        with pytest.raises(JobCancelled):
            await later.result(timeout=20)
        await jobs.pause("many")
        await jobs.resume("many")
    async with Jobs(roles.reader) as jobs:
        seen = await jobs.get_job(waiting.id)
        assert seen is not None
        assert (seen.state, seen.args, seen.result) == (JobState.COMPLETED, {"name": "plain"}, "plain")
        assert await jobs.list_jobs()
        assert await jobs.count_jobs()
        assert {each.kind for each in await jobs.stats()} <= {
            "test_roles:work"
        }  # the one retried may have run
        assert await jobs.states() == []
        assert await jobs.paused_queues() == set()
    assert await allowed(roles.runner, FORBIDDEN_TO_A_RUNNER) == []
    assert await allowed(roles.enqueuer, FORBIDDEN_TO_AN_ENQUEUER) == []
    assert await allowed(roles.reader, FORBIDDEN_TO_A_READER) == []


@pytest.mark.security("SEC-S5")
async def test_an_enqueuer_may_publish_and_still_reads_none(roles: Roles) -> None:
    """With the block of SECURITY.md for it: whoever subscribed gets a job, and the publisher sees none of its inputs."""
    (grants,) = [
        block.code for block in blocks_of(PAGE.read_text("utf-8")) if "asyncjobs.subscriptions" in block.code
    ]
    async with connected(roles.owner) as owner:
        await owner.execute(grants.replace("app_enqueuer", urlsplit(roles.enqueuer).username or ""))
    with only({}):
        subscribe("test_roles_*", where={"name": Is.PRESENT})(work)
        async with running(roles.runner) as runner, Jobs(roles.enqueuer) as jobs:
            done = await jobs.publish("test_roles_published", {"name": "news"})
            assert await runner.handle(done.jobs[0]).result(timeout=20) == "news"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await jobs.list_jobs()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await jobs.declare_subscriptions(only=True)


@pytest.mark.security("SEC-S5")
async def test_an_enqueuer_may_store_unique_jobs_and_still_reads_none(roles: Roles) -> None:
    """With the block of SECURITY.md for it: in a transaction, with a window, and when one is met."""
    (grants,) = [block.code for block in blocks_of(PAGE.read_text("utf-8")) if "unique_windows" in block.code]
    async with connected(roles.owner) as owner:
        await owner.execute(grants.replace("app_enqueuer", urlsplit(roles.enqueuer).username or ""))
    async with Jobs(roles.enqueuer), connected(roles.enqueuer) as connection:
        for rule in (Unique(), Unique(window=60, namespace="for a while")):
            first = await work.set(unique=rule).later("once")
            async with connection.transaction():
                again = await work.set(unique=rule, on=connection).later("once")
            assert (first.created, again.created, again.id) == (True, False, first.id)
    forbidden = [each for each in FORBIDDEN_TO_AN_ENQUEUER if "awaited" not in each]
    assert await allowed(roles.enqueuer, forbidden) == []


# Policies


@pytest.mark.failure_mode("F70")
@pytest.mark.security("SEC-S5")
async def test_a_policy_that_hides_jobs_is_said_aloud(roles: Roles, caplog: pytest.LogCaptureFixture) -> None:
    """With row level security on, a runner neither runs half of the jobs in silence nor ends: it says why it runs none."""
    async with connected(roles.owner) as owner, Jobs(roles.enqueuer) as enqueuing:
        waiting = await work.set(jobs=enqueuing).later("plain")
        await owner.execute("alter table asyncjobs.live_jobs enable row level security")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await work.set(jobs=enqueuing).later("refused")
        async with running(roles.runner, wait=False) as jobs:

            async def said() -> bool:
                return "row-level security" in caplog.text

            await eventually_async(said)
            await owner.execute("alter table asyncjobs.live_jobs disable row level security")
            assert await jobs.handle(waiting.id).result(timeout=20) == "plain"
