"""Every statement, against a migrated database: it prepares, takes what its function passes, gives what is read."""

from __future__ import annotations

import ast
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs._model.events import Subscription
from asyncjobs._model.job import ClaimedJob, Job, NewJob
from asyncjobs._model.limits import Rate
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.schedule import NewSchedule
from asyncjobs._model.states import FinalState, JobState, LiveState
from asyncjobs._model.urgency import EVERY_PRIORITY
from asyncjobs._store import (
    bus,
    chores,
    claims,
    clearing,
    intake,
    limits,
    locks,
    migrate,
    probes,
    rates,
    runners,
    schedules,
    stats,
    steering,
    testing,
    turns,
    unique,
    views,
)
from asyncjobs._store.session import Session
from asyncjobs._store.statements import statements
from tests.store.jobs import RUNNER, claim, enter, new_job, session_of

NAMES = sorted(statements())
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


@attrs.frozen
class Recorded(Session):
    """A session that remembers what it was asked."""

    asked: list[tuple[str, tuple[Any, ...]]]

    async def fetch(self, statement: str, *args: Any) -> Sequence[Any]:
        self.asked.append((statement, args))
        return await super().fetch(statement, *args)

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        self.asked.append((statement, args))
        return await super().fetchrow(statement, *args)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        self.asked.append((statement, args))
        return await super().fetchval(statement, *args)

    async def execute(self, statement: str, *args: Any) -> None:
        self.asked.append((statement, args))
        await super().execute(statement, *args)


def a_job(job_id: int = 1, token: int = 1) -> ClaimedJob:
    at = datetime.fromisoformat("2026-01-01T00:00:00Z")
    return ClaimedJob(job_id, token, 1, 3, 0, "q", "k", None, "{}", None, None, None, at)


def a_full_job() -> NewJob:
    at = datetime.fromisoformat("2026-01-01T00:00:00Z")
    return new_job(method="call", delay=1.0, scheduled_at=at, tags=["a"], meta="{}", options={"timeout": 1})


def a_unique_job() -> NewJob:
    both = ("replace", "reschedule")
    return new_job(unique_key="key", unique_to_start=True, unique_window=1.0, on_conflict=both, delay=1.0)


def a_schedule() -> NewSchedule:
    return NewSchedule(
        name="n",
        cron="0 3 * * *",
        timezone="UTC",
        every=None,
        job=a_full_job(),
        missed="all",
        missed_within=1.0,
        overlap="skip",
        jitter=1.0,
    )


async def a_clock(session: Session) -> None:
    await testing.make_clock(session)
    await testing.drop_clock(session)


def a_choice() -> steering.Choice:
    return steering.Choice([JobState.FAILED], ["q"], ["k"], ["t"])


def a_subscription() -> Subscription:
    return Subscription(
        name="s",
        glob="e*",
        where={"a": 1},
        kind="k",
        queue="q",
        priority=0,
        max_attempts=1,
        tags=["t"],
        meta={},
        options={},
    )


# How each function of the store is called: with every argument given, so that none is null by accident.
CALLS: dict[str, Callable[[Session], Awaitable[Any]]] = {
    "absolve_jobs": lambda s: claims.absolve_jobs(s, RUNNER, [claims.Claim(2, 1), claims.Claim(1, 1)]),
    "acquire_locks": lambda s: locks.acquire_locks(s, RUNNER, [a_job(2), a_job(1)]),
    "admit_jobs": lambda s: limits.admit_jobs(s, RUNNER, [a_job(2), a_job(1)]),
    "adopt_jobs": lambda s: claims.adopt_jobs(s, 1, 2, [claims.Claim(2, 1), claims.Claim(1, 1)]),
    "advance_schedule": lambda s: schedules.advance_schedule(
        s, "n", EPOCH, last_tick=EPOCH, last_job=1, unfinished=[1]
    ),
    "announce_idle": lambda s: claims.announce_idle(s, ["q", ""]),
    "await_job": lambda s: views.await_job(s, 1),
    "await_jobs": lambda s: views.await_jobs(s, [2, 1]),
    "begin_jobs": lambda s: claims.begin_jobs(s, RUNNER, [claims.Claim(1, 1), claims.Claim(2, 1)]),
    "bring_forward": lambda s: testing.bring_forward(s, ["q"], EPOCH),
    "cancel_job": lambda s: views.cancel_job(s, 1),
    "cancel_jobs": lambda s: steering.cancel_jobs(s, a_choice(), 0),
    "change_duplicates": lambda s: unique.change_duplicates(s, [a_unique_job()]),
    "claim_jobs": lambda s: claim(s),
    "claim_suspect": lambda s: claims.claim_suspect(s, RUNNER, ["q"], ["k"], claims.Caution()),
    "clear_finished": lambda s: clearing.clear_finished(s, ["q"], ["k"]),
    "clear_jobs": lambda s: clearing.clear_jobs(s, ["q"], ["k"]),
    "count_blocked": locks.count_blocked,
    "count_jobs": views.count_jobs,
    "count_suspects": views.count_suspects,
    "create_schedule": lambda s: schedules.create_schedule(s, a_schedule(), replace=True),
    "declare_schedules": lambda s: schedules.declare_schedules(s, [a_schedule()], "app"),
    "delete_schedule": lambda s: schedules.delete_schedule(s, "n"),
    "beat": lambda s: bus.beat(s, 60.0),
    "declare_subscriptions": lambda s: bus.declare_subscriptions(s, "a", [a_subscription()]),
    "drop_clock": lambda s: a_clock(s),
    "drop_subscriptions": lambda s: bus.drop_subscriptions(s, "a", ["s"], 0.0),
    "find_claims": lambda s: claims.find_claims(s, [RUNNER]),
    "find_finished": lambda s: claims.find_finished(s, RUNNER, [claims.Claim(1, 1)]),
    "find_held": lambda s: claims.find_held(s, RUNNER, [claims.Claim(1, 1)]),
    "find_keys": lambda s: views.find_keys(s, 1),
    "find_limits": limits.find_limits,
    "find_locked": lambda s: claims.find_locked(s, [1]),
    "find_horizon": lambda s: claims.is_past_horizon(s, 3),
    "find_rate": lambda s: rates.find_rate(s, 1),
    "find_orphans": chores.find_orphans,
    "find_overdue": lambda s: clearing.find_overdue(s, 5.0),
    "end_frozen": lambda s: runners.end_frozen(s, RUNNER, 600.0),
    "find_suspects": lambda s: runners.find_suspects(s, RUNNER),
    "finish_jobs": lambda s: claims.finish_jobs(
        s, RUNNER, [Finished(a_job(), FinalState.FAILED, 0.5, "1", "why", '{"attempt": 1}')]
    ),
    "forget_runner": lambda s: runners.forget_runner(s, RUNNER),
    "get_job": lambda s: views.get_job(s, 1),
    "get_jobs": lambda s: views.get_jobs(s, [2, 1]),
    "get_schedule": lambda s: schedules.get_schedule(s, "n"),
    "make_clock": testing.make_clock,
    "read_clock": testing.read_clock,
    "set_clock": lambda s: testing.set_clock(s, EPOCH),
    "hold_lock": lambda s: runners.hold_lock(s, -5),
    "hold_probe": lambda s: probes.hold_probe(s, -5),
    "hold_row": lambda s: probes.hold_row(s, -5),
    "insert_finished": lambda s: intake.insert_finished(
        s,
        a_full_job(),
        Finished(None, FinalState.COMPLETED, 0.1, result="1"),  # type: ignore[arg-type]
    ),
    "insert_job": lambda s: intake.insert_job(s, a_full_job()),
    "insert_jobs": lambda s: intake.insert_jobs(s, [new_job()]),
    "insert_unique_jobs": lambda s: unique.insert_unique_jobs(s, [a_unique_job()], wake=True),
    "list_subscriptions": bus.list_subscriptions,
    "list_jobs": lambda s: views.list_jobs(
        s, states=[JobState.FAILED], queues=["q"], kinds=["k"], tags=["t"], before=9, limit=10
    ),
    "list_held": stats.list_held,
    "let_in": lambda s: rates.let_in(s, RUNNER, [a_job(2), a_job(1)], 1),
    "limit_queue": lambda s: limits.limit_queue(s, "q", 5, Rate(10, per=60)),
    "list_limits": limits.list_limits,
    "list_locks": locks.list_locks,
    "list_runners": runners.list_runners,
    "list_schedules": schedules.list_schedules,
    "list_stats": stats.list_stats,
    "look_around": claims.look_around,
    "meet_duplicates": lambda s: unique.meet_duplicates(s, [a_unique_job()], keep=True),
    "name_backend": probes.name_backend,
    "name_windows": lambda s: unique.name_windows(s, {"key": 1}),
    "note_job": lambda s: schedules.note_job(s, "n", 1),
    "pass_over_row": lambda s: probes.pass_over_row(s, -5),
    "pause_queue": lambda s: views.pause_queue(s, "q"),
    "pause_schedule": lambda s: schedules.pause_schedule(s, "n"),
    "paused_queues": views.paused_queues,
    "prepare_session": lambda s: runners.prepare_session(s, synchronous_commit=False),
    "promote_jobs": lambda s: chores.promote_jobs(s, 10),
    "promote_rates": lambda s: rates.promote_rates(s, 10),
    "prune_jobs": lambda s: chores.prune_jobs(s, 1.0, 2.0, 10),
    "prune_rates": lambda s: rates.prune_rates(s, 10),
    "prune_windows": lambda s: chores.prune_windows(s, 10),
    "register_runner": lambda s: enter(s, 99),
    "release_lock": lambda s: runners.release_lock(s, -5),
    "release_probe": lambda s: probes.release_probe(s, -5),
    "publish_event": lambda s: bus.publish_event(s, "e", '{"a": 1}', '{"event": {}}'),
    "renew_lease": lambda s: runners.renew_lease(s, RUNNER),
    "renew_subscriptions": lambda s: bus.renew_subscriptions(s, "a", [a_subscription()], 1.0),
    "rescue_jobs": lambda s: chores.rescue_jobs(s, RUNNER, blame=True, max_crashes=3, error="{}"),
    "restore_ballast": chores.restore_ballast,
    "resume_queue": lambda s: views.resume_queue(s, "q"),
    "resume_schedule": lambda s: schedules.resume_schedule(s, "n"),
    "retry_jobs": lambda s: steering.retry_jobs(s, a_choice(), 0),
    "retry_job": lambda s: views.retry_job(s, 1),
    "deal_turns": lambda s: turns.deal_turns(s, ["q"], ["k"], EVERY_PRIORITY, 10),
    "return_jobs": lambda s: claims.return_jobs(
        s, RUNNER, [Returned(a_job(), LiveState.RETRYABLE, 1.5, True, '{"attempt": 1}')]
    ),
    "seek_suspect": lambda s: claims.seek_suspect(s, ["q"], ["k"], claims.Caution()),
    "take_schedule": lambda s: schedules.take_schedule(s, "n"),
    "settle_locks": lambda s: locks.settle_locks(s, ["a", "b"]),
    "sweep_locks": lambda s: locks.sweep_locks(s, 60.0),
    "sweep_rates": rates.sweep_rates,
    "take_turn": lambda s: claims.take_turn(s, 60.0),
    "try_probe": lambda s: probes.try_probe(s, -5, "asyncjobs:probe"),
    "wake_others": lambda s: claims.wake_others(s, ["q"]),
    "walk_jobs": lambda s: views.walk_jobs(s, 0, 10, ["q"]),
    "withdraw_idle": lambda s: claims.withdraw_idle(s, ["q"]),
}
MIGRATING = {
    "analyze_jobs",
    "begin_migrating",
    "create_schema",
    "lift_timeouts",
    "limit_lock_wait",
    "lock_migrations",
    "read_version",
    "record_migration",
}

JOB = [
    "id", "kind", "method", "queue", "state", "priority", "attempt", "max_attempts", "crashes", "args", "meta", "tags",
    "created_at", "scheduled_at", "started_at", "finished_at", "runner", "result", "result_error", "errors",
]  # fmt: skip

SCHEDULE = [
    "name", "owner", "cron", "timezone", "every", "job", "missed", "missed_within", "overlap", "jitter", "passed_until",
    "last_tick", "last_job", "created_at", "paused_at", "now",
]  # fmt: skip

# The columns each function reads, in order; none where it reads nothing.
READ: dict[str, list[str]] = {
    "absolve_jobs": ["id"],
    "acquire_locks": ["job_id", "verdict"],
    "admit_jobs": ["id"],
    "adopt_jobs": ["id"],
    "announce_idle": ["refused", "own_xid"],
    "await_job": ["id"],
    "await_jobs": ["id"],
    "begin_jobs": ["incarnation"],
    "bring_forward": ["count"],
    "cancel_job": ["answer"],
    "change_duplicates": ["unique_key", "id"],
    "claim_jobs": list(ClaimedJob._fields),
    "claim_suspect": [*ClaimedJob._fields, "crashes"],
    "clear_finished": ["count"],
    "count_blocked": ["lock_key", "jobs", "kind"],
    "count_jobs": ["queue", "state", "jobs"],
    "count_suspects": ["waiting", "failed"],
    "create_schedule": ["name"],
    "declare_schedules": ["name", "outcome"],
    "delete_schedule": ["name"],
    "beat": ["minute", "seconds"],
    "declare_subscriptions": ["name"],
    "drop_subscriptions": ["name"],
    "find_claims": ["runner", "id", "token"],
    "find_finished": ["id"],
    "find_held": ["id", "cancel_requested"],
    "find_keys": ["unique_key", "has_unique", "lock_key", "lock_slots", "fair_key", "holders", "ahead"],
    "find_limits": ["name", "allowed", "seconds"],
    "find_locked": ["id"],
    "find_orphans": ["runner"],
    "find_overdue": ["queue", "count", "oldest", "paused"],
    "end_frozen": ["incarnation", "pg_terminate_backend"],
    "find_suspects": ["incarnation", "lease_over"],
    "finish_jobs": ["id"],
    "get_job": JOB,
    "get_jobs": JOB,
    "get_schedule": SCHEDULE,
    "read_clock": ["clock_timestamp"],
    "hold_probe": ["backend", "held", "is_read_only"],
    "hold_row": ["id"],
    "insert_finished": ["id"],
    "insert_job": ["id"],
    "insert_jobs": ["id"],
    "insert_unique_jobs": ["id", "unique_key"],
    "list_held": [
        "id",
        "kind",
        "method",
        "queue",
        "priority",
        "attempt",
        "max_attempts",
        "tags",
        "started_at",
        "cancel_requested",
        "runner",
        "runner_name",
        "runner_host",
        "runner_pid",
        "runner_seen_at",
    ],
    "deal_turns": ["queue_name", "kind_name", "dealt"],
    "list_jobs": JOB,
    "list_subscriptions": [
        "app",
        "name",
        "listens_to",
        "matchers",
        "kind",
        "method",
        "queue",
        "priority",
        "max_attempts",
        "since",
    ],
    "list_stats": [
        "queue",
        "kind",
        "count",
        "count_working",
        "count_errored",
        "highest_error_count",
        "oldest_run_at",
    ],
    "list_schedules": SCHEDULE,
    "let_in": ["job_id", "verdict", "seconds"],
    "find_rate": ["rate_weight", "capacity", "seconds", "window", "tokens_left", "before_it", "due"],
    "list_limits": ["name", "concurrency", "every", "burst", "rate_window", "running"],
    "list_locks": ["key", "slot", "job", "token", "since", "kind", "method"],
    "look_around": ["queues", "kinds", "due", "paused", "suspects", "limited", "in_line", "rate_due"],
    "meet_duplicates": ["unique_key", "id"],
    "name_backend": ["backend", "is_read_only"],
    "pass_over_row": ["id"],
    "pause_schedule": ["name"],
    "paused_queues": ["name"],
    "promote_jobs": ["queue", "kind", "jobs"],
    "promote_rates": ["queues", "kinds", "due"],
    "read_version": ["version", "oldest_code"],
    "publish_event": ["id", "queue", "kind"],
    "renew_lease": ["incarnation"],
    "renew_subscriptions": ["name"],
    "rescue_jobs": ["rescued", "failed", "cancelled", "forgotten", "name", "failed_ids", "failed_kinds"],
    "restore_ballast": ["id"],
    "resume_schedule": ["name"],
    "retry_job": ["queue"],
    "retry_jobs": ["seen", "highest", "again"],
    "cancel_jobs": ["seen", "highest", "cancelled", "requested"],
    "walk_jobs": ["id", "queue", "kind", "method", "args"],
    "take_schedule": [*SCHEDULE, "unfinished"],
    "return_jobs": ["id"],
    "sweep_locks": ["freed", "handed"],
    "try_probe": ["backend", "refused", "said"],
}

PYTHON: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int2": (int,),
    "int4": (int,),
    "int8": (int,),
    "float8": (float, int),
    "text": (str,),
    "timestamptz": (datetime,),
}


def fits(value: Any, pg_type: asyncpg.Type) -> bool:
    """Whether a driver takes *value* for a parameter of this type."""
    if value is None:
        return True
    if pg_type.kind == "array":
        element = pg_type.name.removesuffix("[]")
        return isinstance(value, list) and all(item is None or _is(item, element) for item in value)
    return _is(value, pg_type.name)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, PYTHON[name]) and isinstance(value, bool) == (name == "bool")


def test_the_store_has_a_function_for_every_statement() -> None:
    """No file is left over, and none is missing."""
    assert CALLS.keys() | MIGRATING | {"expect_backend"} == set(NAMES)  # that one on what is no session yet


def test_a_statement_is_called_by_the_function_of_its_name() -> None:
    """One statement, one file, one function; what the migrator runs, it runs by name."""
    callers: dict[str, set[str]] = {}
    for file in (files("asyncjobs") / "_store").iterdir():
        if not file.name.endswith(".py"):
            continue
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Constant) and call.value in NAMES:
                    callers.setdefault(str(call.value), set()).add(function.name)
    expected: dict[str, set[str]] = {name: {name} for name in CALLS}
    expected["find_horizon"] = {"is_past_horizon"}  # a question, in Python
    expected["expect_backend"] = {"expect_backend"}
    expected["create_schema"] = expected["analyze_jobs"] = {"_migrate", "migration_sql"}
    expected["record_migration"] = {"_migrate", "migration_sql"}
    expected["restore_ballast"] = {"restore_ballast", "migration_sql"}
    for name in ("begin_migrating", "lift_timeouts", "lock_migrations", "limit_lock_wait"):
        expected[name] = {"_migrate"}
    expected["read_version"] = {"_migrate", "check_schema_version"}
    assert callers == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_says_its_type(name: str) -> None:
    """No driver has to guess: psycopg sends text as unknown, asyncpg asks the server."""
    text = "\n".join(line.partition("--")[0] for line in statements()[name].splitlines())
    assert re.findall(r"\$\d+(?!\d*::)", text) == []


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_a_statement_takes_what_its_function_passes(dsn: str, name: str) -> None:
    """As many parameters as are declared, each of a Python type every driver sends as the declared one."""
    async with session_of(dsn) as plain:
        session = Recorded(plain.connection, plain.schema, [])
        async with plain.connection.transaction():
            await CALLS[name](session)
        prepared = await plain.connection.prepare(  # type: ignore[attr-defined]
            statements()[name]
        )
        (args,) = [args for asked, args in session.asked if asked == name]
        types = prepared.get_parameters()
        assert len(args) == len(types)
        assert [
            (value, kind.name) for value, kind in zip(args, types, strict=True) if not fits(value, kind)
        ] == []


@pytest.mark.parametrize("name", sorted(READ))
async def test_a_statement_gives_what_its_function_reads(dsn: str, name: str) -> None:
    """The columns that are read by position come first, in that order."""
    async with session_of(dsn) as session:
        prepared = await session.connection.prepare(  # type: ignore[attr-defined]
            statements()[name]
        )
        columns = [column.name for column in prepared.get_attributes()]
        assert columns[: len(READ[name])] == READ[name]


@pytest.mark.parametrize("name", NAMES)
async def test_every_statement_prepares(dsn: str, name: str) -> None:
    """Each is valid on a migrated database; what creates the schema is a script."""
    async with session_of(dsn) as session:
        if name == "create_schema":
            await session.connection.execute(statements()[name])
        else:
            await session.connection.prepare(statements()[name])  # type: ignore[attr-defined]


def test_people_see_every_column_of_a_job() -> None:
    """A job's fields are the columns of the view, less none; the version is a part of its kind there."""
    assert sorted(attribute.name for attribute in attrs.fields(Job)) == sorted([*JOB, "version"])


async def test_all_null_is_nothing_and_reads_null(dsn: str) -> None:
    """An array left empty because every element is null stores null for every job."""
    async with session_of(dsn) as session:
        await intake.insert_jobs(session, [new_job(), new_job()])
        jobs = await claim(session)
        done = [Finished(jobs[0], FinalState.COMPLETED, 0.1), Finished(jobs[1], FinalState.COMPLETED, 0.1)]
        assert await claims.finish_jobs(session, RUNNER, done) == {job.id for job in jobs}
        rows = await session.connection.fetch(
            "select result, result_error, errors from asyncjobs.finished_jobs"
        )
        assert [tuple(row) for row in rows] == [(None, None, None)] * 2


async def test_a_column_of_one_job_does_not_move_to_another(dsn: str) -> None:
    """Outcomes given in any order, some without a result, keep their own."""
    async with session_of(dsn) as session:
        await intake.insert_jobs(session, [new_job() for _ in range(7)])
        jobs = await claim(session)
        done = [
            Finished(job, FinalState.COMPLETED, 0.1, result=str(job.id) if job.id % 2 else None)
            for job in jobs
        ]
        await claims.finish_jobs(session, RUNNER, done[::-1])
        rows = await session.connection.fetch(
            "select id, result::text from asyncjobs.finished_jobs order by id"
        )
        assert [tuple(row) for row in rows] == [(job.id, str(job.id) if job.id % 2 else None) for job in jobs]


def test_migrations_are_numbered_without_gaps() -> None:
    """Version n is the n-th file."""
    assert [each.version for each in migrate.migrations()] == list(range(1, len(migrate.migrations()) + 1))
