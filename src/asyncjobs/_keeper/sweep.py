"""Look for incarnations whose process is dead, and take back what they held."""

from __future__ import annotations

import logging
from collections.abc import Collection

import anyio
import orjson

from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.chores import find_orphans, rescue_jobs
from asyncjobs._store.faults import discreet, is_transient, sqlstate
from asyncjobs._store.locks import sweep_locks
from asyncjobs._store.runners import find_suspects
from asyncjobs._store.session import Session

logger = logging.getLogger("asyncjobs")

ORPHANS_EVERY = 60.0  #: seconds; looking for them reads every claimed job
LOCKS_EVERY = 2.0
HANDED_OVER = 60.0  #: seconds a job has to be claimed in once a lock was handed over to it; then it is the next one's


class Sweep:
    """Suspects, over the life of one session."""

    def __init__(self, session: Session, vigilance: Vigilance) -> None:
        self._session = session
        self._vigilance = vigilance
        self._began_at = anyio.current_time()
        self._suspected_at: dict[int, float] = {}
        self._orphans_at = self._locks_at = self._began_at

    async def look(self, incarnation: int, ours: Collection[int] = ()) -> None:
        """One look; rescues whoever is dead beyond doubt. Locks of *ours* look free to the session that holds them."""
        now = anyio.current_time()
        suspects = [
            suspect
            for suspect in await find_suspects(self._session, incarnation)
            if suspect.incarnation not in ours
        ]
        self._suspected_at = {
            suspect.incarnation: self._suspected_at.get(suspect.incarnation, now) for suspect in suspects
        }
        settled = now - self._began_at >= self._vigilance.settle
        for suspect in suspects:
            suspected_for = now - self._suspected_at[suspect.incarnation]
            if settled and (suspect.lease_over or suspected_for >= self._vigilance.look_every * 0.9):
                await self._rescue(suspect.incarnation)
        if now - self._locks_at >= LOCKS_EVERY:
            self._locks_at = now
            await self._sweep_locks()
        if now - self._orphans_at >= ORPHANS_EVERY:
            self._orphans_at = now
            for orphan in await find_orphans(self._session):
                await self._rescue(orphan)

    async def _sweep_locks(self) -> None:
        try:
            swept = await sweep_locks(self._session, HANDED_OVER)
        except Exception as refusal:
            if is_transient(refusal) or sqlstate(refusal) is None:
                raise
            logger.error("locks cannot be looked after: %s", discreet(refusal))  # noqa: TRY400
            return
        if swept.freed:
            logger.warning("%s locks were held by jobs that are gone, or did not begin", swept.freed)

    async def _rescue(self, incarnation: int) -> None:
        error = orjson.dumps({"error": "RunnerLost: the process that ran this attempt is gone"}).decode()
        try:
            rescue = await rescue_jobs(
                self._session, incarnation, blame=True, max_crashes=self._vigilance.max_crashes, error=error
            )
        except Exception as refusal:
            if is_transient(refusal) or sqlstate(refusal) is None:
                raise
            logger.error(  # noqa: TRY400 -- the server's words say it all
                "runner %s is dead, and its jobs cannot be taken back: %s", incarnation, discreet(refusal)
            )
            return
        if any(rescue):  # not when another sweep was faster, or when everything is locked
            logger.warning(
                "runner %s is dead: %s of its jobs wait again, %s failed because they took %s runners down, "
                "%s are cancelled as somebody had asked",
                incarnation,
                rescue.waiting,
                rescue.failed,
                self._vigilance.max_crashes,
                rescue.cancelled,
            )
