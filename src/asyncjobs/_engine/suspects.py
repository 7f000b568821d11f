"""Claims a suspect, and sees to it that it runs alone. When that may be, `solitude` decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from asyncjobs._engine.grip import Grip
from asyncjobs._engine.slots import Pool
from asyncjobs._engine.solitude import LONGEST, Solitude
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.urgency import Urgency
from asyncjobs._model.words import counted
from asyncjobs._store.claims import Suspect, claim_suspect, seek_suspect, take_turn
from asyncjobs._store.session import Session

logger = logging.getLogger("asyncjobs")


class Suspects:
    """Jobs that may be what kills runners, as far as this runner could run one."""

    def __init__(
        self,
        pools: Sequence[Pool],
        solitude: Solitude,
        grip: Grip,
        *,
        kinds: Callable[[], frozenset[str]],
        urgency: Urgency,
        begin: Callable[[ClaimedJob], None],
        release: Callable[[Iterable[ClaimedJob]], None],
        wake: Callable[[], None],
        is_quiet: Callable[[], bool],
    ) -> None:
        self._pools = pools
        self._solitude = solitude
        self._grip = grip
        self._kinds = kinds
        self._urgency = urgency
        self._begin = begin
        self._release = release
        self._wake = wake  #: the claimer has something to do
        self._is_quiet = is_quiet

    async def keep_others_away(self, session: Session, incarnation: int) -> bool:
        """Run a suspect alone, if it can be; True while this runner takes no other job."""
        solitude = self._solitude
        now = time.monotonic()
        if solitude.suspect is not None:
            if not solitude.is_empty():
                if solitude.is_closed and solitude.may_share(now):
                    self._open()
                return solitude.is_closed
            solitude.ended()
            if not solitude.is_closed or solitude.has_been_closed_for_long(now):
                self._open()
                return False
        if not solitude.is_closed and not solitude.is_empty() and solitude.is_patient(now):
            solitude.later(now)
            return False
        queues = sorted({queue for pool in self._pools if pool.open for queue in pool.queues})
        kinds = sorted(self._kinds())
        solitude.waits = await seek_suspect(session, queues, kinds, solitude.caution, self._urgency)
        if not solitude.waits:
            self._open(stay=0.0)
            solitude.later(now)
            return False
        if solitude.is_empty():
            with self._grip.awaited():
                found = await claim_suspect(
                    session, incarnation, queues, kinds, solitude.caution, urgency=self._urgency
                )
                taken = await self._grip.take(session, incarnation, [found.job] if found else [])
            return self._begin_alone(found if taken else None)
        if solitude.is_closed:
            if solitude.is_in_vain(now):
                self._open(stay=3.0)
            return solitude.is_closed
        return await self._close(session, now)

    async def _close(self, session: Session, now: float) -> bool:
        """Become empty, if it is this runner's turn among those that are busy."""
        seconds = await take_turn(session, LONGEST)
        if seconds is None:
            self._solitude.later(now)
            return False
        logger.info(
            "no jobs begin here for up to %.0f s, so that one can run alone that may be what kills runners",
            seconds,
        )
        self._release(self._solitude.close(now, seconds))
        self._wake()
        return True

    def _begin_alone(self, suspect: Suspect | None) -> bool:
        solitude = self._solitude
        now = time.monotonic()
        if suspect is None:  # another runner was faster
            self._open()
            solitude.later(now)
            return False
        if self._is_quiet():  # told so while this claim was under way
            self._release([suspect.job])
            return True
        logger.info(
            "job %s (%s) was running when %s died: it runs alone",
            suspect.job.id,
            suspect.job.kind,
            counted(suspect.crashes, "runner"),
        )
        solitude.close(now)
        solitude.begins(now, suspect)
        self._wake()  # others must hear of what this runner had promised to take
        self._begin(suspect.job)
        return True

    def _open(self, *, stay: float = 1.0) -> None:
        if self._solitude.is_closed:
            self._solitude.open(time.monotonic(), stay=stay)
            self._wake()
