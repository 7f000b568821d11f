"""For the upkeep: promote what is due, rescue what the dead held, prune what is old, restore what is missing."""

from __future__ import annotations

from asyncjobs._model.job import Lane
from asyncjobs._store.session import Session


async def promote_jobs(session: Session, limit: int) -> dict[Lane, int]:
    """Make up to *limit* due jobs available: how many went to which lane."""
    return {Lane(queue, kind): jobs for queue, kind, jobs in await session.fetch("promote_jobs", limit)}


async def next_due(session: Session) -> float | None:
    """Seconds until the next scheduled or retryable job is due."""
    due: float | None = await session.fetchval("next_due")
    return due


async def rescue_jobs(session: Session, incarnation: int, max_crashes: int, error: str) -> tuple[int, int]:
    """Take back what a dead incarnation held: how many jobs wait again, how many were failed as killers."""
    rescued, failed, *_ = await session.fetchrow("rescue_jobs", incarnation, max_crashes, error)
    return rescued, failed


async def prune_jobs(session: Session, keep: float, keep_failed: float, limit: int) -> int:
    """Forget up to *limit* finished jobs older than *keep* seconds, failed ones older than *keep_failed*."""
    pruned: int = await session.fetchval("prune_jobs", keep, keep_failed, limit)
    return pruned


async def restore_ballast(session: Session) -> int:
    """Put the planner's ballast back: how many rows were missing."""
    return len(await session.fetch("restore_ballast"))
