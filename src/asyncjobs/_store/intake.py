"""For the enqueuer: store new jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import orjson

from asyncjobs._model.job import NewJob
from asyncjobs._model.outcome import Finished, Kept
from asyncjobs._model.words import counted
from asyncjobs._store.faults import is_failed_transaction, is_missing_schema, sqlstate
from asyncjobs._store.session import Session
from asyncjobs.errors import InvalidInput, SchemaMissing, WrongConnection

MOST_JSON = 250_000_000  #: bytes in one statement; Postgres reads no jsonb array much longer


async def insert(session: Session, jobs: Sequence[NewJob], *, wake: bool = True) -> list[int]:
    """Store *jobs* by the cheapest statement that means the same on every driver, whatever codecs its owner set."""
    if len(jobs) == 1:
        (job,) = jobs
        if job.is_plain:
            return [await insert_job(session, job, wake=wake)]
    return await insert_jobs(session, jobs, wake=wake)


async def insert_job(session: Session, job: NewJob, *, wake: bool = True) -> int:
    """Store one job in the caller's transaction; its id. With *wake*, an idle runner is notified when it commits.

    Raises SchemaMissing, and WrongConnection when the transaction cannot take a write.
    """
    options = None if job.options is None else orjson.dumps(job.options).decode()
    try:
        row = await session.fetchrow(
            "insert_job",
            job.queue,
            job.stored_kind,
            job.method,
            job.args,
            job.priority,
            job.max_attempts,
            job.delay,
            job.scheduled_at,
            list(job.tags) if job.tags else None,  # psycopg would write a tuple as a record
            job.meta,
            options,
            wake,
        )
    except Exception as error:
        explain(session, error)
        raise
    job_id: int = row[0]
    return job_id


async def insert_finished(session: Session, job: NewJob, done: Finished) -> int:
    """Store a job that has run already; its id, of which there is no row when nothing of it is kept."""
    kept = done.kept
    try:
        job_id: int = await session.fetchval(
            "insert_finished",
            job.queue,
            job.stored_kind,
            job.method,
            "{}" if kept is Kept.WITHOUT_ARGS else job.args,
            job.priority,
            list(job.tags) if job.tags else None,
            job.meta,
            _options_of(job, kept),
            int(done.state),
            done.elapsed,
            done.result,
            done.result_error,
            done.error,
            None if kept is None else int(kept),
        )
    except Exception as error:
        explain(session, error)
        raise
    return job_id


def _options_of(job: NewJob, kept: Kept | None) -> str | None:
    options = {**(job.options or {}), **({"args": "not kept"} if kept is Kept.WITHOUT_ARGS else {})}
    return orjson.dumps(options).decode() if options else None


async def insert_jobs(session: Session, jobs: Sequence[NewJob], *, wake: bool = True) -> list[int]:
    """Store *jobs* in one statement; their ids in the order given. The rest as `insert_job`."""
    text = orjson.dumps([as_json(job) for job in jobs]).decode()
    if len(text) > MOST_JSON:
        raise InvalidInput(
            f"{counted(len(jobs), 'job')} of {len(text):,} bytes: too much for one statement, which takes {MOST_JSON:,}; "
            "enqueue them in smaller parts of the same transaction"
        )
    try:
        rows = await session.fetch("insert_jobs", text, wake)
    except Exception as error:
        explain(session, error)
        raise
    return [row[0] for row in rows]


def explain(session: Session, error: Exception) -> None:
    """Raise what the caller can act on, where Postgres' own words do not say it."""
    if is_missing_schema(error):
        raise SchemaMissing(session.schema) from error
    if is_failed_transaction(error):
        raise WrongConnection(
            "this transaction has already failed, so nothing more can be stored in it; roll it back first"
        ) from error
    if sqlstate(error) == "25006":
        raise WrongConnection("this connection is read-only; enqueue on one that may write") from error


def as_json(job: NewJob) -> dict[str, Any]:
    """*job* as insert_jobs.sql reads it."""
    stored: dict[str, Any] = {
        "queue": job.queue,
        "kind": job.stored_kind,
        "args": orjson.Fragment(job.args),
        "priority": job.priority,
        "max_attempts": job.max_attempts,
    }
    if job.method is not None:
        stored["method"] = job.method
    if job.delay:
        stored["delay"] = job.delay
    if job.scheduled_at is not None:
        stored["scheduled_at"] = job.scheduled_at.astimezone(UTC).isoformat()  # Postgres reads no odd offsets
    if job.tags:
        stored["tags"] = list(job.tags)
    if job.meta is not None:
        stored["meta"] = orjson.Fragment(job.meta)
    if job.options is not None:
        stored["options"] = job.options
    if job.unique_key is not None:
        stored["unique_key"] = job.unique_key
        stored["unique_to_start"] = job.unique_to_start
    if job.lock_key is not None:
        stored["lock_key"] = job.lock_key
        stored["lock_slots"] = job.lock_slots
    if job.fair_key is not None:
        stored["fair_key"] = job.fair_key
    if job.rate_key is not None:
        stored["rate_key"] = job.rate_key
        stored["rate_weight"] = job.rate_weight
        stored["rate_capacity"] = job.rate_capacity
        stored["rate_per"] = job.rate_per
        stored["rate_window"] = job.rate_window
    return stored
