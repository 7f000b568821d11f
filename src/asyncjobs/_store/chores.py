"""For the upkeep: promote what is due, rescue what the dead held, prune what is old, restore what is missing."""

from __future__ import annotations

from typing import NamedTuple

from asyncjobs._model.job import Lane
from asyncjobs._store.session import Session


async def promote_jobs(session: Session, limit: int) -> dict[Lane, int]:
    """Make up to *limit* due jobs available: how many went to which lane."""
    return {Lane(queue, kind): jobs for queue, kind, jobs in await session.fetch("promote_jobs", limit)}


class Rescue(NamedTuple):
    """What became of a dead incarnation's jobs."""

    waiting: int  #: they wait again
    failed: int  #: they killed too many runners
    cancelled: int  #: somebody had asked to stop them
    forgotten: bool  #: the incarnation holds nothing any more, and is off the list
    name: str | None  #: of the runner, as people know it: host and process
    deadly: tuple[tuple[int, str], ...]  #: id and kind of those that failed


async def rescue_jobs(
    session: Session, incarnation: int, *, blame: bool, max_crashes: int, error: str
) -> Rescue:
    """Take back what *incarnation* held; with *blame*, a job it had begun gets a crash on its record."""
    waiting, failed, cancelled, forgotten, name, ids, kinds, *_ = await session.fetchrow(
        "rescue_jobs", incarnation, max_crashes, error, blame
    )
    return Rescue(waiting, failed, cancelled, forgotten, name, tuple(zip(ids, kinds, strict=True)))


async def find_orphans(session: Session) -> list[int]:
    """Incarnations that hold jobs and are on no list."""
    return [row[0] for row in await session.fetch("find_orphans")]


async def prune_jobs(session: Session, keep: float, keep_failed: float, limit: int) -> int:
    """Forget up to *limit* finished jobs older than *keep* seconds, failed ones older than *keep_failed*."""
    pruned: int = await session.fetchval("prune_jobs", keep, keep_failed, limit)
    return pruned


async def prune_windows(session: Session, limit: int) -> int:
    """Forget up to *limit* keys of unique jobs whose window is over."""
    pruned: int = await session.fetchval("prune_windows", limit)
    return pruned


async def restore_ballast(session: Session) -> int:
    """Put the planner's ballast back: how many rows were missing."""
    return len(await session.fetch("restore_ballast"))
