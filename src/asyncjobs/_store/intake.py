"""For the enqueuer: store new jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from asyncjobs._model.job import NewJob
from asyncjobs._store.faults import is_failed_transaction, is_missing_schema, sqlstate
from asyncjobs._store.session import Session
from asyncjobs.errors import SchemaMissing, WrongConnection


async def insert_jobs(session: Session, jobs: Sequence[NewJob], *, wake: bool = True) -> list[int]:
    """Store *jobs* in one statement, in the caller's transaction; their ids in the order given.

    With *wake*, an idle runner is notified when the transaction commits.
    Raises SchemaMissing, and WrongConnection when the transaction cannot take a write.
    """
    text = orjson.dumps([_as_json(job) for job in jobs]).decode()
    try:
        rows = await session.fetch("insert_jobs", text, wake)
    except Exception as error:
        if is_missing_schema(error):
            raise SchemaMissing(session.schema) from error
        if is_failed_transaction(error):
            raise WrongConnection(
                "this transaction has already failed, so nothing more can be stored in it; roll it back first"
            ) from error
        if sqlstate(error) == "25006":
            raise WrongConnection("this connection is read-only; enqueue on one that may write") from error
        raise
    return [row[0] for row in rows]


def _as_json(job: NewJob) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "queue": job.queue,
        "kind": job.kind,
        "args": orjson.Fragment(job.args),
        "priority": job.priority,
        "max_attempts": job.max_attempts,
    }
    if job.method is not None:
        stored["method"] = job.method
    if job.delay:
        stored["delay"] = job.delay
    if job.scheduled_at is not None:
        stored["scheduled_at"] = job.scheduled_at.isoformat()
    if job.tags:
        stored["tags"] = list(job.tags)
    if job.meta is not None:
        stored["meta"] = orjson.Fragment(job.meta)
    if job.options is not None:
        stored["options"] = job.options
    return stored
