"""For schedules: what there are, who deals with what is due, and what people say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
import orjson

from asyncjobs._model.job import NewJob
from asyncjobs._model.schedule import NewSchedule, StoredSchedule
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session
from asyncjobs.errors import UndecodableInput

_COLUMNS = [field.name for field in attrs.fields(StoredSchedule)]
_OF_A_JOB = {field.name: field.default for field in attrs.fields(NewJob)}


async def list_schedules(session: Session) -> list[StoredSchedule]:
    """Every schedule, by name."""
    return [_schedule(row) for row in await session.fetch("list_schedules")]


async def get_schedule(session: Session, name: str) -> StoredSchedule | None:
    """One schedule."""
    row = await session.fetchrow("get_schedule", name)
    return row and _schedule(row)


async def take_schedule(session: Session, name: str) -> tuple[StoredSchedule, list[int]] | None:
    """Lock a schedule until the end of the transaction: it, and which of its jobs are live.

    None when somebody else has it, when it is paused, or gone.
    """
    row = await session.fetchrow("take_schedule", name)
    if row is None:
        return None
    *columns, unfinished = row
    return _schedule(columns), list(unfinished)


async def advance_schedule(
    session: Session,
    name: str,
    until: datetime,
    *,
    last_tick: datetime | None,
    last_job: int | None,
    unfinished: Sequence[int],
) -> None:
    """Say that its ticks are dealt with, until then."""
    await session.execute("advance_schedule", name, until, last_tick, last_job, list(unfinished))


async def note_job(session: Session, name: str, job_id: int) -> None:
    """Count a job among those of a schedule."""
    await session.execute("note_job", name, job_id)


async def declare_schedules(
    session: Session, schedules: Iterable[NewSchedule], owner: str
) -> Mapping[str, str]:
    """Make *schedules* those *owner* has: what became of which ('declared', 'dropped', or 'of ' and another owner)."""
    rows = await session.fetch("declare_schedules", _text([_as_json(each) for each in schedules]), owner)
    return {name: outcome for name, outcome, *_ in rows}


async def create_schedule(session: Session, schedule: NewSchedule, *, replace: bool) -> bool:
    """Create it, from now on; False when the name is taken."""
    return await session.fetchval("create_schedule", _text(_as_json(schedule)), replace) is not None


async def pause_schedule(session: Session, name: str) -> bool:
    """Let it tick no more; False when there is none."""
    return await session.fetchval("pause_schedule", name) is not None


async def resume_schedule(session: Session, name: str) -> bool:
    """Let it tick again, from now; False when there is none."""
    return await session.fetchval("resume_schedule", name) is not None


async def delete_schedule(session: Session, name: str) -> bool:
    """Forget one that was created at run time; False when there is none."""
    return await session.fetchval("delete_schedule", name) is not None


def stored_job(schedule: StoredSchedule) -> NewJob:
    """What each tick enqueues. Newer code may have said more of it than is known here. Raises UndecodableInput."""
    stored = from_json(schedule.job)
    known = {name: stored[name] for name in _OF_A_JOB if name in stored} if isinstance(stored, dict) else {}
    missing = [name for name, default in _OF_A_JOB.items() if default is attrs.NOTHING and name not in known]
    if missing or not all(isinstance(known[name], str) for name in ("kind", "queue", "args")):
        raise UndecodableInput(
            f"schedule {schedule.name!r} holds no job, so somebody else has written it"
            + (f": it lacks {', '.join(missing)}" if missing else "")
            + "; delete it, and create it with `jobs.schedules.create`",
            reason="no job",
        )
    return NewJob(**known)


def _schedule(row: Iterable[Any]) -> StoredSchedule:
    return StoredSchedule(**dict(zip(_COLUMNS, row, strict=True)))


def _as_json(schedule: NewSchedule) -> dict[str, Any]:
    job = {
        name: value
        for name, default in _OF_A_JOB.items()
        if (value := getattr(schedule.job, name)) is not default and value != default
    }
    return {**attrs.asdict(schedule, recurse=False), "job": job}


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
