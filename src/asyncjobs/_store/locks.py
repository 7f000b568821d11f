"""Locks: of the jobs with one key, so many run at a time (0003_locks.sql)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.session import Session


class Acquired(NamedTuple):
    """What became of claimed jobs that have a lock."""

    held: frozenset[int]  #: they may run
    blocked: frozenset[int]  #: they wait, and are nobody's now
    doubtful: frozenset[int]  #: those of them whose lock may have become free at this very moment

    def __or__(self, more: Acquired) -> Acquired:
        return Acquired(self.held | more.held, self.blocked | more.blocked, self.doubtful | more.doubtful)


async def acquire_locks(
    session: Session, incarnation: int, jobs: Iterable[ClaimedJob], limited: Iterable[ClaimedJob] = ()
) -> Acquired:
    """Take the locks of *jobs*, or let them wait. Those in neither set could not be decided upon, and go back.

    Those that are *limited*, too, have yet to be let in, and keep their unique keys until then.
    """
    ordered = sorted(jobs, key=lambda job: job.id)
    rows = await session.fetch(
        "acquire_locks",
        [job.id for job in ordered],
        [job.token for job in ordered],
        incarnation,
        [job.id for job in limited],
    )
    verdicts = {job_id: verdict for job_id, verdict, _ in rows}
    return Acquired(
        frozenset(job_id for job_id, verdict in verdicts.items() if verdict == "held"),
        frozenset(job_id for job_id, verdict in verdicts.items() if verdict != "held"),
        frozenset(job_id for job_id, verdict in verdicts.items() if verdict == "doubt"),
    )


async def settle_locks(session: Session, keys: Sequence[str]) -> int:
    """Give free slots of *keys* to the jobs that wait for them: how many."""
    handed: int = await session.fetchval("settle_locks", keys)
    return handed


class Swept(NamedTuple):
    """What a sweep put right."""

    freed: int  #: locks whose holder is gone, or did not come
    handed: int  #: slots that were free while somebody waited


async def sweep_locks(session: Session, patience: float, patience_if_closed: float = 1.0) -> Swept:
    """Put right what a crash or a race left; a job that a lock was handed to may take *patience* seconds to be claimed."""
    return Swept(*await session.fetchrow("sweep_locks", patience, patience_if_closed))


class HeldLock(NamedTuple):
    """A lock, and who has it."""

    key: str
    slot: int
    job: int
    token: int
    since: datetime
    kind: str | None  #: as it is stored; None: the job is gone
    method: str | None


async def list_locks(session: Session) -> list[HeldLock]:
    """Every lock that is held."""
    return [HeldLock(*row) for row in await session.fetch("list_locks")]


class Blocked(NamedTuple):
    """Jobs that wait for one lock."""

    jobs: int
    kind: str  #: of one of them, as it is stored


async def count_blocked(session: Session) -> dict[str, Blocked]:
    """How many jobs wait for each lock, by its key."""
    return {key: Blocked(jobs, kind) for key, jobs, kind in await session.fetch("count_blocked")}
