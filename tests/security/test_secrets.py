"""What is secret is said nowhere: a canary goes in everywhere, and is looked for in all that comes out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import traceback
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncjobs import Handle, JobCancelled, JobFailed, Jobs, JobState, Later, current_job, job
from asyncjobs.errors import DatabaseUnavailable, JobsError
from tests.engine.running import running
from tests.waiting import eventually_async

CANARY = "c4n4ry-s3cr3t"

WRONG_DSNS = [
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql+asyncpg://u:{}@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password={}",
    "postgresql://u@127.0.0.1:1/db?sslmode=nonsense&password={}",
    # Passwords as generators make them, not percent-encoded.
    "postgresql://u:{}?x@127.0.0.1:1/db",
    "postgresql://u:12?{}@127.0.0.1:1/db",
    "postgresql://u:{}/x@127.0.0.1:1/db",
    "postgresql://u:12/{}@127.0.0.1:1/db",
    "postgresql://u:{}#x@127.0.0.1:1/db",
    "postgresql://u:x#{}@127.0.0.1:1/db",
    "postgresql://u:x@{}@127.0.0.1:1/db",
    "postgresql://u:[{}@127.0.0.1:1/db",
    "postgresql://u:%zz{}@127.0.0.1:1/db",
    "postgresql://u:x:{}@127.0.0.1:1/db",
    "postgresql://u:{}@127.0.0.1:port/db",
    # Not an address at all.
    "host=127.0.0.1 password={}",
    "u:{}@127.0.0.1/db",
    "mysql://u:{}@127.0.0.1/db",
    "{}",
]


def all_of(error: BaseException) -> str:
    """Whatever of *error* a log would show."""
    return f"{error!r}\n{''.join(traceback.format_exception(error))}"


@pytest.mark.security("SEC-S6")
@pytest.mark.parametrize("template", WRONG_DSNS)
async def test_no_password_is_in_a_repr_or_an_error(template: str) -> None:
    """However a DSN is wrong, neither the Jobs nor the error shows its password, nor half of it."""
    said = []
    with pytest.raises(JobsError) as caught:  # noqa: PT012
        jobs = Jobs(template.format(CANARY))
        said.append(repr(jobs))
        async with jobs:
            await jobs.count_jobs()
    said.append(all_of(caught.value))
    assert CANARY not in "\n".join(said)


@attrs.frozen
class Strict(Later, kind="test_secrets:Strict", max_attempts=1):
    token: str
    size: int = 0

    async def call(self) -> str:
        return self.token

    async def fail(self) -> None:
        raise ValueError("of itself")

    async def unstorable(self) -> object:
        return {self.token: object()}

    async def complete_badly(self) -> str:
        async with current_job().transaction():
            current_job().result = {self.token: object()}
        return ""

    async def hang(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            if self.size:
                raise ValueError("while it was stopped")

    @job(timeout=0.05)
    async def slow(self) -> None:
        await asyncio.sleep(60)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything logged, with tracebacks, at every level, by asyncjobs and by the drivers."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(map(logging.Formatter("%(name)s %(message)s %(args)s").format, caplog.records))


@pytest.mark.security("SEC-S6")
async def test_inputs_and_results_are_in_no_log(dsn: str, logged: Callable[[], str]) -> None:
    """However a job ends: done, failed, cancelled, over its time, unreadable, with a result that cannot be kept."""
    async with running(dsn, shutdown_timeout=0.8) as jobs:
        strict = Strict(CANARY)
        assert await (await strict.later("call")).result(timeout=20) == CANARY
        for method in ("fail", "slow"):
            with pytest.raises(JobFailed):
                await (await strict.later(method)).result(timeout=20)
        for method in ("unstorable", "complete_badly"):
            seen = await jobs.wait_for_job((await strict.later(method)).id)
            assert seen.result_error
        async with jobs.connection() as connection:
            for inputs in (f'{{"token": 5, "size": "{CANARY}"}}', f'["{CANARY}"]', f'{{"{CANARY}": 1}}'):
                number = await connection.fetchval(
                    "insert into asyncjobs.live_jobs (queue, kind, method, args, max_attempts) "
                    "values ('default', 'test_secrets:Strict', 'call', $1::text::jsonb, 1) returning id",
                    inputs,
                )
                await connection.fetchval("select asyncjobs.wake('default')")
                with pytest.raises(JobFailed):
                    await jobs.handle(number).result(timeout=20)
        stopped = await Strict(CANARY, 1).later("hang")
        await eventually_async(lambda: is_running(stopped))
        await stopped.cancel()
        with pytest.raises(JobCancelled):
            await stopped.result(timeout=20)
        left = await Strict(CANARY, 1).later("hang")
        await eventually_async(lambda: is_running(left))
    assert "failed at attempt" in logged()
    assert "result is not kept" in logged()
    assert "do not fit" in logged()
    assert CANARY not in logged()


async def is_running(handle: Handle[None]) -> bool:
    return await handle.status() is JobState.RUNNING


@pytest.mark.security("SEC-S6")
async def test_what_the_database_refuses_is_not_quoted(dsn: str, logged: Callable[[], str]) -> None:
    """Postgres quotes a row that breaks a rule, inputs and all: the log says which rule, and not the row."""
    async with running(dsn) as jobs:
        async with jobs.connection() as connection:
            await connection.execute(
                "alter table asyncjobs.finished_jobs add constraint theirs check (result_error is distinct from '!' and method <> 'call')"
            )
        refused = await Strict(CANARY).later("call")

        async def said() -> bool:
            return "is tried again" in logged()

        await eventually_async(said)
        async with jobs.connection() as connection:
            await connection.execute("alter table asyncjobs.finished_jobs drop constraint theirs")
        assert (await jobs.wait_for_job(refused.id)).state is JobState.COMPLETED
    assert logged().count("theirs") <= 20  # it is not tried without end
    assert CANARY not in logged()


@pytest.mark.security("SEC-S6")
async def test_what_runners_say_of_themselves_is_no_secret(
    dsn: str, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    """Not the DSN, not the environment: in the list of runners stand the host, the process and versions."""
    monkeypatch.setenv("PGPASSWORD", CANARY)
    parts = urlsplit(dsn)
    secret = f"postgresql://postgres:{CANARY}@{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    async with running(secret) as jobs:
        async with jobs.connection() as connection:
            (row,) = await connection.fetch("select name, version, info::text from asyncjobs.runners")
            names = await connection.fetch("select application_name, query from pg_stat_activity")
        assert CANARY not in repr([*row, names, jobs, jobs._own_source])
        assert set(json.loads(row["info"])) <= {
            "host",
            "pid",
            "python",
            "modes",
            "mode",
            "liveness",
            "wake",
            "claim",
        }
    assert CANARY not in logged()


@pytest.mark.security("SEC-S6")
async def test_a_wrong_password_is_not_said(dsn: str, logged: Callable[[], str]) -> None:
    """A role that does not exist, or a password that is wrong: the error and the log name the role at most."""
    parts = urlsplit(dsn)
    wrong = f"postgresql://nobody_{os.getpid()}:{CANARY}@{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    async with Jobs(wrong) as jobs:
        with pytest.raises(DatabaseUnavailable) as caught:
            await jobs.count_jobs()
    assert CANARY not in all_of(caught.value) + logged()


@pytest.mark.security("SEC-S6")
def test_an_engines_password_is_not_shown() -> None:
    """Nor in the repr of a Jobs on SQLAlchemy's."""
    engine = create_async_engine(f"postgresql+asyncpg://u:{CANARY}@127.0.0.1:1/db")
    assert CANARY not in repr(Jobs(engine=engine))
