"""The statements of unique jobs, broken on purpose: a story of `test_unique_keys` or one below notices each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from asyncjobs._store.session import Session
from asyncjobs._store.unique import Stored, insert_unique
from asyncjobs.errors import DatabaseUnavailable
from tests.machine.mutants import Mutant, mutant
from tests.store import test_unique_keys as stories
from tests.store.jobs import claim, live, session_of
from tests.store.test_unique_keys import enqueue, unique_job

Story = Callable[[str], Awaitable[None]]


async def meeting(dsn: str) -> None:
    """In an open transaction a job that is met waits, and others can be met and claimed."""
    async with session_of(dsn) as session, session_of(dsn) as mine, session_of(dsn) as other:
        (first,) = await enqueue(session, unique_job("key"))
        async with mine.connection.transaction(), other.connection.transaction():
            for each in (mine, other):
                assert await _met(each) == [Stored(first.id, False)]
            (second,) = await enqueue(session, unique_job("other"))
            assert [job.id for job in await claim(session)] == [second.id]
        assert [job.id for job in await claim(session)] == [first.id]
        assert await enqueue(session, unique_job("key")) != [Stored(first.id, False)]


async def _met(session: Session) -> list[Stored]:
    await session.connection.execute("set local lock_timeout = '2 s'")
    return await insert_unique(session, [unique_job("key")], wake=False, commits_itself=False)


async def many(dsn: str) -> None:
    """Of those with one key the first is stored; they run in the order given."""
    async with session_of(dsn) as session:
        keys = ["c", "a", "c", "d", "b", "a", "e", "f"]
        stored = await enqueue(
            session, *(unique_job(key, args=f'{{"n": {n}}}') for n, key in enumerate(keys))
        )
        assert [each.created for each in stored] == [keys.index(key) == n for n, key in enumerate(keys)]
        claimed = await claim(session)
        assert [job.args for job in claimed] == [
            f'{{"n": {n}}}' for n, key in enumerate(keys) if keys.index(key) == n
        ]


async def last_word(dsn: str) -> None:
    """Of several that replace one, the last counts; its place stays."""
    async with session_of(dsn) as session:
        (first,) = await enqueue(session, unique_job("key"))
        before = await live(session, first.id)
        changes = [
            unique_job("key", on_conflict=("replace",), args=f'{{"n": {n}}}', delay=9.0) for n in range(3)
        ]
        assert await enqueue(session, *changes) == [Stored(first.id, False)] * 3
        after = await live(session, first.id)
        assert before is not None
        assert after == {**before, "args": '{"n": 2}'}
        change = unique_job("key", on_conflict=("reschedule",), delay=9.0)
        await enqueue(session, change)
        moved = await live(session, first.id)
        assert moved is not None
        assert (moved["state"], moved["args"]) == (1, '{"n": 2}')
        assert moved["scheduled_at"] > before["scheduled_at"]


async def throttle(dsn: str) -> None:
    """In a window the handle is that of the job that took it, though it started long since."""
    async with session_of(dsn) as session:
        (first,) = await enqueue(session, unique_job("key", unique_window=100.0))
        assert await claim(session)
        assert await enqueue(session, unique_job("key", unique_window=100.0)) == [Stored(first.id, False)]


STORIES: dict[str, Story] = {
    "meeting": meeting,
    "many": many,
    "last word": last_word,
    "throttle": throttle,
    "running": stories.test_a_job_that_runs_is_left_as_it_is,
    "lock": stories.test_a_job_that_waits_for_its_lock_when_it_was_claimed_is_taken_back,
    "window": stories.test_a_window_ends_and_is_forgotten,
    "second": stories.test_who_comes_second_takes_no_window,
    "many in a window": lambda dsn: stories.test_duplicates_in_a_window_do_not_wait_for_one_another(
        dsn, True
    ),
    "put off": stories.test_who_is_put_off_lets_go_of_the_lock_it_was_handed,
    "suspect": lambda dsn: stories.test_a_suspect_that_waits_can_be_met(dsn, "end"),
}

CHANGE, MEET, INSERT = "change_duplicates", "meet_duplicates", "insert_unique_jobs"

MUTANTS: list[tuple[str, Mutant]] = [
    ("meeting", mutant("what is met is not kept", MEET, "\n     for share", "")),
    ("meeting", mutant("who meets it waits for others", MEET, "for share", "for update")),
    ("meeting", mutant("a claim does not free it", "claim_jobs", "case when unique_to_start and lock_key is null", "case when false")),
    ("many", mutant("they run in any order", INSERT, "(new.nth - 1)::float8", "0::float8")),
    ("many", mutant("the last of those alike is stored", INSERT, "order by nth)", "order by nth desc)")),
    ("last word", mutant("the first one counts", CHANGE, "new.nth desc", "new.nth")),
    ("last word", mutant("a replaced one moves", CHANGE, "case when reschedule then timed.due", "case when true then timed.due")),
    ("last word", mutant("a replaced one is put off", CHANGE, "case when reschedule and timed.later", "case when timed.later")),
    ("last word", mutant("a rescheduled one is replaced", CHANGE, "args = case when replace", "args = case when true")),
    ("running", mutant("one that runs is changed", CHANGE, "and (runner is null or unique_to_start)", "")),
    ("lock", mutant("it stays with its runner", CHANGE, "runner = null, started_at = null, attempt =", "attempt =")),
    ("lock", mutant("it keeps the attempt", CHANGE, "then 0 else 1 end", "then 0 else 0 end")),
    ("lock", mutant("claimed, it is no more unique", "claim_jobs", "and lock_key is null and rate_key", "and rate_key")),
    ("window", mutant("a window is not looked at", INSERT, "new.unique_key in (select unique_key from taken)", "true")),
    ("window", mutant("a window is never over", INSERT, "where known.expires_at <= statement_timestamp()", "where false")),
    ("window", mutant("a window is over at once", INSERT, "where known.expires_at <= statement_timestamp()", "where true", "open.expires_at >", "open.expires_at <")),
    ("throttle", mutant("nobody knows whose window it is", "name_windows", "set job = named.id", "set job = -named.id")),
    ("second", mutant("a window that is nobody's is kept", INSERT, " or known.job is null", "")),
    ("many in a window", mutant("who meets it in a window waits for others", INSERT, "open.expires_at >", "open.expires_at <")),
    ("put off", mutant("who is put off keeps its lock", CHANGE, "or held.lock_key is not null and changed.state = 1", "")),
    ("window", mutant("pruned early", "prune_windows", "where expires_at < now()", "where true")),
    ("suspect", mutant("a suspect waits among others", CHANGE, "case when live.crashes > 0 then 4\n", "case when false then 4\n")),
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
async def test_the_story_is_true(dsn: str, story: str) -> None:
    """Unbroken statements pass."""
    await STORIES[story](dsn)


@pytest.mark.parametrize(("story", "broken"), MUTANTS, ids=[broken.name for _, broken in MUTANTS])
async def test_no_mutant_gets_through(dsn: str, story: str, broken: Mutant) -> None:
    """The story fails with the statement broken."""
    with broken.at_large(), pytest.raises((AssertionError, asyncpg.PostgresError, DatabaseUnavailable)):
        await STORIES[story](dsn)
