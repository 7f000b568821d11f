"""What was claimed becomes this runner's: with its locks, with a place in a limited queue, and under its present name.

A job of which this runner is refused the lock waits for it in the store, and is nobody's; one of which it is refused a place
goes back. One with a rate pays for it when it is about to begin, or waits in the store as well. The keeper may give this runner another incarnation while a claim is under way: then what was claimed is brought
over.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from asyncjobs._engine.doubts import Doubts
from asyncjobs._engine.identity import Identity
from asyncjobs._engine.lanes import Lanes
from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.claims import Claim, adopt_jobs
from asyncjobs._store.limits import admit_jobs
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.rates import let_in
from asyncjobs._store.session import Session

ROW_IS_TAKEN = (0.001, 0.004, 0.016)
"""Seconds to wait for who holds the row of a job at this moment, as whoever begins to await its result does. A job that went
back for that would lose its turn at the lock."""


class Grip:
    """Takes hold of claimed jobs."""

    def __init__(
        self,
        identity: Identity,
        lanes: Lanes,
        held: Callable[[Sequence[ClaimedJob]], None],
        release: Callable[[Iterable[ClaimedJob]], None],
    ) -> None:
        self._identity = identity
        self._lanes = lanes
        self._held = held  #: told of every job this runner answers for from now
        self._release = release  #: takes jobs that are not to begin here
        self.begins_at: dict[int, float] = {}  #: jobs that may not before: on the monotonic clock
        self.doubts = Doubts()
        self.rate_due: Callable[[float], None] = (
            _nobody_waits  #: told in how many seconds one that waits for a rate is due
        )
        self.sent = self.answered = 0  #: claims

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Around every claim, from sending it until what it brought is held."""
        self.sent += 1
        try:
            yield
        finally:
            self.answered = self.sent

    async def take(
        self,
        session: Session,
        incarnation: int,
        jobs: Sequence[ClaimedJob],
        *,
        begin: bool = True,
        free: int = 0,
    ) -> list[ClaimedJob]:
        """Those of *jobs* that may begin here: at once, or where there are slots *free* for so many; those with a rate, when
        they have paid (`let_in`).
        """
        keyed = [job for job in jobs if job.lock_key is not None]
        rated = [job for job in jobs if job.rate_key is not None]
        limits = self._lanes.limits
        limited = [job for job in jobs if job.queue in limits and job.rate_key is None] if limits else []
        if not keyed and not limited and not rated:
            return await self._hold(session, incarnation, jobs)
        to_admit = limited + rated
        blocked: frozenset[int] = frozenset()
        back: set[int] = set()
        if keyed:
            acquired = await acquire_locks(session, incarnation, keyed, to_admit)
            for pause in ROW_IS_TAKEN:
                undecided = [job for job in keyed if job.id not in acquired.held | acquired.blocked]
                if not undecided:
                    break
                await asyncio.sleep(pause)
                acquired |= await acquire_locks(session, incarnation, undecided, to_admit)
            self.doubts.add(
                {job.lock_key for job in keyed if job.lock_key is not None and job.id in acquired.doubtful}
            )
            blocked = acquired.blocked
            back = {job.id for job in keyed} - acquired.held - blocked
        asking = [job for job in limited if job.id not in blocked and job.id not in back]
        if asking:
            admitted = await admit_jobs(session, incarnation, asking)
            limits.took(asking, admitted)
            back |= {job.id for job in asking} - admitted
        paying = [job for job in rated if job.id not in blocked and job.id not in back]
        if paying and (begin or len(paying) > free):  # the others pay in a moment
            refused, waiting = await self.let_in(
                session, incarnation, paying, beginning=len(paying) if begin else 0
            )
            blocked |= waiting
            back |= refused
        held = await self._hold(session, incarnation, [job for job in jobs if job.id not in blocked])
        self._release(job for job in held if job.id in back)
        return [job for job in held if job.id not in back]

    async def let_in(
        self, session: Session, incarnation: int, rated: Sequence[ClaimedJob], beginning: int
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Let so many of *rated* pay as are about to begin: which go back, and which wait in line and are nobody's now."""
        came = await let_in(session, incarnation, rated, beginning)
        may = came.held | came.later
        now = time.monotonic()
        self.begins_at.update((job_id, now + wait) for job_id, wait in came.waits.items())
        limits = self._lanes.limits
        if limits:
            limits.took([job for job in rated if job.id not in came.blocked], may)
        if came.due is not None:
            self.rate_due(came.due)
        return frozenset(job.id for job in rated) - may - came.blocked, came.blocked

    async def _hold(self, session: Session, incarnation: int, jobs: Sequence[ClaimedJob]) -> list[ClaimedJob]:
        """Answer for *jobs*, which were claimed under *incarnation*; should the keeper have changed it meanwhile, for those it
        brought over, or that can be brought over still.
        """
        held = list(jobs)
        while not self._identity.hold(incarnation, functools.partial(self._held, held)):
            new = await self._identity.known()
            adopted = await adopt_jobs(session, incarnation, new, [Claim(job.id, job.token) for job in held])
            held = [job for job in held if job.id in adopted]
            incarnation = new
        return held


def _nobody_waits(seconds: float) -> None: ...
