"""What was claimed becomes this runner's: with its locks, with a place in a limited queue, and under its present name.

A job of which this runner is refused the lock waits for it in the store, and is nobody's; one of which it is refused a place
goes back. The keeper may give this runner another incarnation while a claim is under way: then what was claimed is brought
over.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from asyncjobs._engine.doubts import Doubts
from asyncjobs._engine.identity import Identity
from asyncjobs._engine.lanes import Lanes
from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.claims import Claim, adopt_jobs
from asyncjobs._store.limits import admit_jobs
from asyncjobs._store.locks import acquire_locks
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
        self.doubts = Doubts()
        self.sent = self.answered = 0  #: claims

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Around every claim, from sending it until what it brought is held."""
        self.sent += 1
        try:
            yield
        finally:
            self.answered = self.sent

    async def take(self, session: Session, incarnation: int, jobs: Sequence[ClaimedJob]) -> list[ClaimedJob]:
        """Those of *jobs* that may begin here."""
        keyed = [job for job in jobs if job.lock_key is not None]
        limits = self._lanes.limits
        limited = [job for job in jobs if job.queue in limits] if limits else ()
        if not keyed and not limited:
            return await self._hold(session, incarnation, jobs)
        blocked: frozenset[int] = frozenset()
        back: set[int] = set()
        if keyed:
            acquired = await acquire_locks(session, incarnation, keyed, limited)
            for pause in ROW_IS_TAKEN:
                undecided = [job for job in keyed if job.id not in acquired.held | acquired.blocked]
                if not undecided:
                    break
                await asyncio.sleep(pause)
                acquired |= await acquire_locks(session, incarnation, undecided, limited)
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
        held = await self._hold(session, incarnation, [job for job in jobs if job.id not in blocked])
        self._release(job for job in held if job.id in back)
        return [job for job in held if job.id not in back]

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
