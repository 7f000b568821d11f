"""Rows into values: the one place that knows in which order columns come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from operator import itemgetter
from typing import Any

import orjson

from asyncjobs._model.job import AttemptError, ClaimedJob, Job
from asyncjobs._model.states import JobState
from asyncjobs._model.versions import name_and_version


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
    kind, version = name_and_version(kind)
    return Job(
        id=id_,
        kind=kind,
        version=version,
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


def attempt_error(stored: Any) -> AttemptError:
    """One entry of the errors column. Somebody else may have written it: then as much as can be read."""
    try:
        return AttemptError(
            attempt=stored["attempt"],
            at=datetime.fromisoformat(stored["at"]),
            error=str(stored["error"]),
            traceback=stored.get("traceback"),
        )
    except (TypeError, KeyError, ValueError):
        return AttemptError(attempt=0, at=_UNKNOWN, error=str(stored))


_UNKNOWN = datetime.fromtimestamp(0, UTC)


def from_json(text: str | None) -> Any:
    """What jsonb printed, whoever stored it. Numbers beyond 64 bits are legal there, and orjson refuses them.

    What Python cannot read at all is given as its text, so that one row does not hide the others.
    """
    if text is None:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        import json  # noqa: PLC0415 -- the rare road

        try:
            value = json.loads(text, parse_float=_number)
        except (ValueError, RecursionError):  # thousands of digits, or of levels
            return text
    return text if text.count("[") + text.count("{") > DEEPEST and _is_too_deep(value) else value


DEEPEST = 250
"""Levels somebody may walk through, for whom Python's stack is deep enough; asyncjobs itself stores no more."""


def _is_too_deep(value: Any) -> bool:
    try:
        orjson.dumps(value, default=str)  # which stops at 254
    except orjson.JSONEncodeError:
        return True
    return False


def _number(digits: str) -> float | Decimal:
    number = float(digits)
    return number if isfinite(number) else Decimal(digits)
