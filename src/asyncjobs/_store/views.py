"""For people: look at jobs and queues, and say what should become of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs._store import rows
from asyncjobs._store.faults import is_taken
from asyncjobs._store.session import Session


async def get_job(session: Session, job_id: int) -> Job | None:
    """One job, live or finished."""
    row = await session.fetchrow("get_job", job_id)
    return rows.job(row) if row else None


async def get_jobs(session: Session, ids: Collection[int]) -> dict[int, Job]:
    """Those of these jobs that exist, live or finished, by id."""
    found = [rows.job(row) for row in await session.fetch("get_jobs", sorted(ids))]
    return {job.id: job for job in found}


class Keys(NamedTuple):
    """What a job is known by among others, and who is in its way."""

    unique_key: str | None
    has_unique: bool  #: no other live job may have that key
    lock_key: str | None
    lock_slots: int | None
    fair_key: str | None
    holders: Sequence[int]  #: the jobs that hold its lock; it may be one of them
    ahead: int | None  #: of a blocked job: how many wait before it


async def find_keys(session: Session, job_id: int) -> Keys | None:
    """The keys of a job, live or finished."""
    row = await session.fetchrow("find_keys", job_id)
    return Keys(*row) if row else None


async def list_jobs(
    session: Session,
    *,
    states: Sequence[JobState] | None = None,
    queues: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Job]:
    """Jobs, newest first."""
    words = None if states is None else [state.value for state in states]
    return [
        rows.job(row) for row in await session.fetch("list_jobs", words, queues, kinds, before, limit, tags)
    ]


class WaitingJob(NamedTuple):
    """What must be known of a job to decode it."""

    id: int
    queue: str
    kind: str  #: as it is stored
    method: str | None
    args: str  #: JSON text


async def walk_jobs(
    session: Session, after: int, limit: int, queues: Sequence[str] | None = None
) -> list[WaitingJob]:
    """Jobs that are not final, by id, from the one behind *after* on."""
    return [WaitingJob(*row) for row in await session.fetch("walk_jobs", after, limit, queues)]


async def count_jobs(session: Session) -> dict[str, dict[JobState, int]]:
    """How many jobs stand where: by queue, by state."""
    counts: dict[str, dict[JobState, int]] = {}
    for queue, state, jobs in await session.fetch("count_jobs"):
        counts.setdefault(queue, {})[JobState(state)] = jobs
    return counts


class Suspects(NamedTuple):
    """How many jobs are suspected of killing the runners they run in."""

    waiting: int  #: they wait to run alone
    failed: int  #: they took too many runners down, and are kept until somebody decides


async def count_suspects(session: Session) -> Suspects:
    """How many jobs are suspected of killing runners."""
    return Suspects(*await session.fetchrow("count_suspects"))


async def await_job(session: Session, job_id: int) -> bool:
    """Say that somebody awaits the job; False when it is not live."""
    return await session.fetchval("await_job", job_id) is not None


async def await_jobs(session: Session, ids: Collection[int]) -> set[int]:
    """Say that somebody awaits these jobs: which of them are live, and were not taken by somebody else just now."""
    return {row[0] for row in await session.fetch("await_jobs", sorted(ids))}


async def look_at_jobs(
    session: Session, ids: Collection[int], to_mark: Collection[int]
) -> tuple[dict[int, Job], set[int]]:
    """Where these jobs stand, and which of those *to_mark* will tell of their end (`get_jobs`, `await_jobs`)."""
    marked = await await_jobs(session, to_mark) if to_mark else set()
    return await get_jobs(session, ids), marked


async def cancel_job(session: Session, job_id: int) -> Literal["cancelled", "requested"] | None:
    """Cancel a waiting job, or ask the runner of a running one; None when it is final or unknown."""
    answer: Literal["cancelled", "requested"] | None = await session.fetchval("cancel_job", job_id)
    return answer


async def retry_job(session: Session, job_id: int, *, completed: bool = True) -> str | None:
    """Let a finished or waiting job run now: its queue; None when it is running, ready or unknown, or unless *completed* so."""
    while True:
        try:
            queue: str | None = await session.fetchval("retry_job", job_id, completed)
        except Exception as error:
            if not is_taken(error):
                raise
        else:
            return queue


async def pause_queue(session: Session, queue: str) -> None:
    """Claim no more jobs of *queue*, in any process."""
    await session.fetch("pause_queue", queue)


async def resume_queue(session: Session, queue: str) -> bool:
    """Claim jobs of *queue* again; whether it was paused."""
    return bool(await session.fetch("resume_queue", queue))


async def paused_queues(session: Session) -> set[str]:
    """The queues nobody may claim from now."""
    return {row[0] for row in await session.fetch("paused_queues")}
