"""For the enqueuer: store new jobs of which some are unique."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import orjson

from asyncjobs._model.job import NewJob
from asyncjobs._store.faults import is_rolled_back
from asyncjobs._store.intake import as_json, explain
from asyncjobs._store.session import Session
from asyncjobs.errors import DatabaseUnavailable, DuplicateJob

ROUNDS = 100  #: in which a key is taken when it is to be had, and free when its job is looked for
TRIES = 5  #: of a transaction of its own that Postgres rolls back in favour of another


class Stored(NamedTuple):
    """A job, and whether it was stored just now; else it is another one with the same key."""

    id: int
    created: bool


Left = Sequence[tuple[int, NewJob]]  #: jobs that have not been stored, and which of those given each is


async def insert_unique(
    session: Session, jobs: Sequence[NewJob], *, wake: bool, commits_itself: bool
) -> list[Stored]:
    """Store *jobs*, all or none, except for those whose key is taken: what is stored now, or was, in the order given.

    In somebody's transaction a waiting job that is met is kept from being claimed until that ends, so that whoever runs it sees
    all that was done there. Raises DuplicateJob where one was to be rejected: then nothing is stored, and the transaction goes on.
    """
    several = len(jobs) > 1
    parts = several and any("reject" in job.on_conflict for job in jobs)
    parts = parts or (commits_itself and (several or any(job.unique_window is not None for job in jobs)))
    tries = TRIES if commits_itself else 1
    while True:
        tries -= 1
        try:
            async with AsyncExitStack() as stack:
                if parts:
                    await stack.enter_async_context(session.connection.transaction())
                return await _insert(session, jobs, wake=wake, keep=not commits_itself)
        except Exception as error:
            if not (tries and is_rolled_back(error)):
                explain(session, error)
                raise


async def _insert(session: Session, jobs: Sequence[NewJob], *, wake: bool, keep: bool) -> list[Stored]:
    stored: dict[int, Stored] = {}
    left: Left = list(enumerate(jobs))
    for _ in range(ROUNDS):
        met = await _insert_new(session, left, stored, wake=wake)
        left = await _meet(session, met, stored, keep=keep) if met else met
        if not left:
            return [stored[nth] for nth in range(len(jobs))]
    raise DatabaseUnavailable(
        f"the unique key of a {left[0][1].kind} was taken and free again {ROUNDS} times in a row; the job was not stored, try again"
    )


async def _insert_new(session: Session, left: Left, stored: dict[int, Stored], *, wake: bool) -> Left:
    """Store what can be; what is left has a key that is taken."""
    rows = await insert_unique_jobs(session, [job for _, job in left], wake=wake)
    plain = iter([job_id for job_id, key in rows if key is None])
    keyed = {key: job_id for job_id, key in rows if key is not None}
    windows = {}
    met = []
    for nth, job in left:
        if job.unique_key is None:
            stored[nth] = Stored(next(plain), True)
        elif job.unique_key in keyed:
            stored[nth] = Stored(keyed.pop(job.unique_key), True)
            if job.unique_window is not None:
                windows[job.unique_key] = stored[nth].id
        else:
            met.append((nth, job))
    if windows:
        await name_windows(session, windows)
    return met


async def _meet(session: Session, met: Left, stored: dict[int, Stored], *, keep: bool) -> Left:
    """Find those that have the keys; what is left was not found, and has its key free by now."""
    jobs = [job for _, job in met]
    changes = [job for job in jobs if _words(job)]
    found = await change_duplicates(session, changes) if changes else {}
    if len(found) < len({job.unique_key for job in jobs}):
        found |= await meet_duplicates(
            session, [job for job in jobs if job.unique_key not in found], keep=keep
        )
    for nth, job in met:
        if job.unique_key in found:
            if "reject" in job.on_conflict:
                raise DuplicateJob(found[job.unique_key], job.kind)
            stored[nth] = Stored(found[job.unique_key], False)
    return [(nth, job) for nth, job in met if nth not in stored]


async def insert_unique_jobs(
    session: Session, jobs: Sequence[NewJob], *, wake: bool
) -> list[tuple[int, str | None]]:
    """Store those of *jobs* whose key is free: their ids and keys."""
    rows = await session.fetch(
        "insert_unique_jobs", orjson.dumps([_as_json(job) for job in jobs]).decode(), wake
    )
    return [(row[0], row[1]) for row in rows]


async def change_duplicates(session: Session, jobs: Sequence[NewJob]) -> dict[str | None, int]:
    """Change those that wait and have the keys of *jobs* as these say: ids by key."""
    rows = await session.fetch("change_duplicates", orjson.dumps([_as_json(job) for job in jobs]).decode())
    return {row[0]: row[1] for row in rows}


async def meet_duplicates(session: Session, jobs: Sequence[NewJob], *, keep: bool) -> dict[str | None, int]:
    """Find those that have the keys of *jobs*: ids by key. One that was to be changed is found only when it runs.

    With *keep*, those that wait are kept from being claimed until the transaction ends.
    """
    rows = await session.fetch(
        "meet_duplicates",
        [job.unique_key for job in jobs if not _words(job)],
        keep,
        [job.unique_key for job in jobs if _words(job)],
        [job.unique_key for job in jobs if job.unique_window is not None],
    )
    return {row[0]: row[1] for row in rows}


async def name_windows(session: Session, windows: dict[str, int]) -> None:
    """Say which jobs have taken keys for a while."""
    await session.execute("name_windows", list(windows), list(windows.values()))


def _as_json(job: NewJob) -> dict[str, Any]:
    stored = as_json(job)
    if job.unique_window is not None:
        stored["window"] = job.unique_window
    stored.update(dict.fromkeys(_words(job), True))
    return stored


def _words(job: NewJob) -> list[str]:
    """What of the one that waits *job* changes."""
    return [word for word in job.on_conflict if word in ("replace", "reschedule")]
