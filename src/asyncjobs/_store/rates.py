"""Rates by key: of the jobs that are alike, so many begin in a time (0008_rates.sql)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._store.session import Session


class LetIn(NamedTuple):
    """What became of claimed jobs that have a rate."""

    held: frozenset[int]  #: they have paid, and begin
    later: frozenset[int]  #: they have not, and might
    blocked: frozenset[int]  #: they wait in line, and are nobody's now
    waits: dict[int, float]  #: those who do not begin at once: in how many seconds they do
    due: float | None  #: seconds until one of the line may have its tokens; None: nobody waits


async def let_in(
    session: Session, incarnation: int, jobs: Iterable[ClaimedJob], beginning: int | None = None
) -> LetIn:
    """Let *jobs* begin that can pay, at most so many, and wait in line that cannot. Those in no set go back."""
    ordered = sorted(jobs, key=lambda job: job.id)
    rows = await session.fetch(
        "let_in",
        [job.id for job in ordered],
        [job.token for job in ordered],
        incarnation,
        len(ordered) if beginning is None else beginning,
    )
    held, later, blocked = (
        frozenset(row[0] for row in rows if row[1] == verdict) for verdict in ("held", "later", "blocked")
    )
    return LetIn(
        held,
        later,
        blocked,
        {row[0]: row[2] for row in rows[:-1] if row[2] is not None and row[1] == "held"},
        rows[-1][2],
    )


async def promote_rates(session: Session, limit: int) -> tuple[set[Lane], float | None]:
    """Make ready who waits for a rate and has its tokens now: the lanes, and in how many seconds to look again, if at all."""
    queues, kinds, due = await session.fetchrow("promote_rates", limit)
    return {Lane(*lane) for lane in zip(queues, kinds, strict=True)}, due


async def sweep_rates(session: Session) -> int:
    """See to lines that nobody was to look at: how many there were."""
    swept: int = await session.fetchval("sweep_rates")
    return swept


async def prune_rates(session: Session, limit: int) -> int:
    """Forget up to *limit* rates of which nothing is used: how many went."""
    pruned: int = await session.fetchval("prune_rates", limit)
    return pruned


class RateWait(NamedTuple):
    """What a job waits for that is in the line of its rate."""

    weight: int  #: tokens it takes
    capacity: int  #: the most there are …
    seconds: float  #: … in so many seconds
    window: str  #: 'bucket', 'sliding' or 'fixed'
    tokens_left: int
    before: int  #: jobs that wait for the same rate and come first
    due: float | None  #: seconds until the first of them may begin


async def find_rate(session: Session, job_id: int) -> RateWait | None:
    """What that job waits for; None where it is in no line."""
    row = await session.fetchrow("find_rate", job_id)
    return RateWait(*row) if row else None
