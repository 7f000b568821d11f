"""What becomes of a job, said in a transaction of its own: with its data, or not at all."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from asyncjobs import (
    AlreadyCompleted,
    Cancel,
    Discard,
    Fail,
    Finish,
    Handle,
    InvalidOption,
    JobCancelled,
    JobFailed,
    JobNotFound,
    Jobs,
    JobSkipped,
    Missing,
    Requeue,
    Retry,
    Snooze,
    Verb,
    WrongConnection,
    current_job,
    job,
)
from tests.connections import KINDS

VERBS: dict[str, Verb] = {
    "finish": Finish(7),
    "destroy": Discard(),
    "expire": Fail("too late"),
    "retry_in": Retry(0.05, "not yet"),
    "snooze": Snooze(0.05),
    "requeue": Requeue(0.05),
    "cancel": Cancel("never"),
    "missing": Missing("it is gone"),
}

ran: list[int] = []


async def ends_so(handle: Handle[int], word: str) -> None:
    """The job ended as *word* says; those that run again return 8 then."""
    match word:
        case "finish":
            assert await handle.result(timeout=10) == 7
        case "destroy":
            with pytest.raises(JobNotFound):
                await handle.result(timeout=10)
        case "expire":
            with pytest.raises(JobFailed, match="too late"):
                await handle.result(timeout=10)
        case "cancel":
            with pytest.raises(JobCancelled):
                await handle.result(timeout=10)
        case "missing":
            with pytest.raises(JobSkipped, match="it is gone"):
                await handle.result(timeout=10)
        case _:
            assert await handle.result(timeout=10) == 8
            assert ran == ([1, 2] if word == "retry_in" else [1, 1])
            errors = (await handle.job()).errors
            assert ["not yet" in error.error for error in errors] == [True] * (word == "retry_in")
    if word not in ("retry_in", "snooze", "requeue"):
        assert ran == [1]


async def writes(connection: Any, handle_id: int | None) -> None:
    await connection.run(f"insert into done values ({handle_id})")


dsn_of_database: list[str] = []


@job(kind="seeds.settles", max_attempts=3)
async def settles(word: str, kind: str, undone: bool = False) -> int:
    me = current_job()
    ran.append(me.attempt)
    if len(ran) > 1:
        return 8
    async with KINDS[kind](dsn_of_database[-1]) as theirs:
        try:
            async with theirs.begin():
                await writes(theirs, me.id)
                await me.settle(VERBS[word], on=theirs.on)
                if undone:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return 9
    return 3  # not heard: it was settled


async def prepared(jobs: Jobs, dsn: str) -> None:
    ran.clear()
    dsn_of_database.append(dsn)
    async with jobs.connection() as connection:
        await connection.execute("create table if not exists done (id bigint); truncate done")


async def done(jobs: Jobs) -> list[int]:
    async with jobs.connection() as connection:
        return [row[0] for row in await connection.fetch("select id from done")]


@pytest.fixture
async def here(running: Jobs, its_dsn: str) -> Jobs:
    await prepared(running, its_dsn)
    return running


@pytest.mark.seed("Q2")
@pytest.mark.parametrize("word", VERBS)
async def test_a_job_is_settled_with_its_data(
    here: Jobs, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    """Q2 `job.finish()/destroy()/expire()/retry_in()` inside the caller's tx, fenced by attempt."""
    handle = await settles.later(word, "asyncpg")
    await ends_so(handle, word)
    assert await done(here) == [handle.id]
    assert "were taken from this runner" not in caplog.text


@pytest.mark.seed("Q2")
@pytest.mark.parametrize("kind", ["psycopg", "session", "sqlalchemy connection"])
@pytest.mark.parametrize("word", ["destroy", "retry_in"])
async def test_on_whatever_connection(here: Jobs, word: str, kind: str) -> None:
    """Q2 … inside the caller's tx, of every driver."""
    handle = await settles.later(word, kind)
    await ends_so(handle, word)
    assert await done(here) == [handle.id]


@pytest.mark.seed("Q2")
@pytest.mark.parametrize("word", ["destroy", "retry_in", "finish"])
async def test_undone_with_its_data(here: Jobs, word: str) -> None:
    """Q2 … inside the caller's tx: rolled back, the job was not settled, and the attempt has failed."""
    handle = await settles.set(max_attempts=1).later(word, "asyncpg", undone=True)
    with pytest.raises(JobFailed, match="the transaction that settled the job was rolled back"):
        await handle.result(timeout=10)
    assert await done(here) == []


@job(kind="seeds.says_its_result", max_attempts=3)
async def says_its_result(word: str) -> int:
    ran.append(current_job().attempt)
    if len(ran) > 1:
        return 8
    async with current_job().transaction() as connection:
        await connection.execute("insert into done values ($1)", current_job().id)
        current_job().result = VERBS[word]
    return 3


@pytest.mark.seed("Q2")
@pytest.mark.parametrize("word", VERBS)
async def test_the_short_form_takes_verbs_too(here: Jobs, word: str) -> None:
    """Q2 … inside the caller's tx: `current_job().result` is what the job would have returned."""
    handle = await says_its_result.later(word)
    await ends_so(handle, word)
    assert await done(here) == [handle.id]


@job(kind="seeds.settles_twice", max_attempts=1)
async def settles_twice(first: str, second: str) -> str:
    connection = await asyncpg.connect(dsn_of_database[-1])
    try:
        async with connection.transaction():
            await current_job().settle(VERBS[first], on=connection)
            with pytest.raises(AlreadyCompleted):
                await current_job().settle(VERBS[second], on=connection)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    finally:
        await connection.close()
    with pytest.raises(WrongConnection, match=r"settle\(on=…\) needs an open transaction"):
        async with current_job().transaction():
            connection = await asyncpg.connect(dsn_of_database[-1])
            try:
                await current_job().settle(Discard(), on=connection)
            finally:
                await connection.close()
    with pytest.raises(InvalidOption, match=r"settle\(\) got 3; pass a verb"):
        await current_job().settle(3, on=None)  # type: ignore[arg-type]
    async with current_job().transaction():
        current_job().result = "done"
    return ""


@pytest.mark.seed("Q2")
@pytest.mark.parametrize(
    ("first", "second"), [("destroy", "finish"), ("retry_in", "finish"), ("finish", "retry_in")]
)
async def test_a_job_is_settled_once(here: Jobs, first: str, second: str) -> None:
    """Q2 … fenced: a second word is refused, and so is one without a transaction."""
    assert await (await settles_twice.later(first, second)).result(timeout=10) == "done"


async def test_called_now_there_is_nothing_to_settle() -> None:
    """The same method runs both ways."""
    await current_job().settle(Discard(), on=None)
    assert current_job().args == {}
