"""Rows into values: the one place that knows in which order columns come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from operator import itemgetter
from typing import Any

import orjson

from asyncjobs._model.job import AttemptError, ClaimedJob, Job
from asyncjobs._model.states import JobState


def claimed_job(row: Iterable[Any]) -> ClaimedJob:
    """A row of claim_jobs.sql."""
    return ClaimedJob._make(row)


#: Where a job stands in its lane (priority, scheduled_at, id); the claim returns rows in no order.
claim_order = itemgetter(*map(ClaimedJob._fields.index, ("priority", "scheduled_at", "id")))


def job(row: Iterable[Any]) -> Job:
    """A row of get_job.sql or list_jobs.sql."""
    (
        id_, kind, method, queue, state, priority, attempt, max_attempts, crashes, args, meta, tags,
        created_at, scheduled_at, started_at, finished_at, runner, result, result_error, errors,
    ) = row  # fmt: skip
    return Job(
        id=id_,
        kind=kind,
        method=method,
        queue=queue,
        state=JobState(state),
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
        crashes=crashes,
        args=from_json(args),
        meta=from_json(meta),
        tags=tuple(tags or ()),
        created_at=created_at,
        scheduled_at=scheduled_at,
        started_at=started_at,
        finished_at=finished_at,
        runner=runner,
        result=from_json(result),
        result_error=result_error,
        errors=tuple(attempt_error(error) for error in from_json(errors) or ()),
    )


def attempt_error(stored: dict[str, Any]) -> AttemptError:
    """One entry of the errors column."""
    return AttemptError(
        attempt=stored["attempt"],
        at=datetime.fromisoformat(stored["at"]),
        error=stored["error"],
        traceback=stored.get("traceback"),
    )


def from_json(text: str | None) -> Any:
    """What jsonb printed. Numbers beyond 64 bits are legal there, and orjson refuses them."""
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        import json  # noqa: PLC0415 -- the rare road

        return json.loads(text)
