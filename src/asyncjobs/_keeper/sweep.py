"""Look for incarnations whose process is dead, and take back what they held."""

from __future__ import annotations

import logging
from collections.abc import Collection

import anyio
import orjson

from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.words import counted
from asyncjobs._store.chores import Rescue, find_orphans, rescue_jobs
from asyncjobs._store.faults import discreet, is_transient, sqlstate
from asyncjobs._store.locks import sweep_locks
from asyncjobs._store.rates import sweep_rates
from asyncjobs._store.runners import end_frozen, find_suspects
from asyncjobs._store.session import Session

logger = logging.getLogger("asyncjobs")

ORPHANS_EVERY = 60.0  #: seconds; looking for them reads every claimed job
LOCKS_EVERY = 2.0
RATES_EVERY = 30.0  #: a step for each key that somebody waits for
HANDED_OVER = (
    60.0  #: seconds a job has to be claimed in once a lock was handed over to it; then it is the next one's
)


class Sweep:
    """Suspects, over the life of one session."""

    def __init__(self, session: Session, vigilance: Vigilance) -> None:
        self._session = session
        self._vigilance = vigilance
        self._began_at = anyio.current_time()
        self._suspected_at: dict[int, float] = {}
        self._orphans_at = self._frozen_at = self._locks_at = self._rates_at = self._began_at

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
        if now - self._rates_at >= RATES_EVERY:
            self._rates_at = now
            await self._sweep_rates()
        if now - self._orphans_at >= ORPHANS_EVERY:
            self._orphans_at = now
            for orphan in await find_orphans(self._session):
                await self._rescue(orphan)
        if settled and now - self._frozen_at >= self._vigilance.frozen / 10:
            self._frozen_at = now
            await self._end_frozen(incarnation)

    async def _end_frozen(self, incarnation: int) -> None:
        """Of those that stand still the lock is freed; a later look finds them dead."""
        try:
            ended = await end_frozen(self._session, incarnation, self._vigilance.frozen)
        except Exception as refusal:
            if is_transient(refusal) or sqlstate(refusal) is None:
                raise
            logger.error(  # noqa: TRY400 -- the server's words say it all
                "a runner stands still and keeps its jobs, and its session cannot be ended: %s; kill its process, or let this "
                "role end its sessions (grant pg_signal_backend)",
                discreet(refusal),
            )
            return
        for frozen in ended:
            logger.warning(
                "runner %s has said nothing for more than %g s and holds its lock: its session is ended, and its jobs run again",
                frozen,
                self._vigilance.frozen,
            )

    async def _sweep_locks(self) -> None:
        try:
            swept = await sweep_locks(self._session, HANDED_OVER)
        except Exception as refusal:
            if is_transient(refusal) or sqlstate(refusal) is None:
                raise
            logger.error("locks cannot be looked after: %s", discreet(refusal))  # noqa: TRY400
            return
        if swept.freed:
            logger.warning(
                "%s freed: held by jobs that are gone, or did not begin", counted(swept.freed, "lock")
            )

    async def _sweep_rates(self) -> None:
        try:
            await sweep_rates(self._session)
        except Exception as refusal:
            if is_transient(refusal) or sqlstate(refusal) is None:
                raise
            logger.error("rates cannot be looked after: %s", discreet(refusal))  # noqa: TRY400

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
        if any(rescue[:4]):  # not when another sweep was faster, or when everything is locked
            _tell(incarnation, rescue, self._vigilance.max_crashes)


def _tell(incarnation: int, rescue: Rescue, max_crashes: int) -> None:
    """One line for the runner, and one for each job that will not run again by itself."""
    came = {
        "to run again (one at a time, where they had begun)": rescue.waiting,
        "failed": rescue.failed,
        "cancelled, as somebody had asked": rescue.cancelled,
    }
    told = ", ".join(f"{count} {what}" for what, count in came.items() if count)
    logger.warning(
        "runner %s (%s) died; %s",
        rescue.name or "that is on no list",
        incarnation,
        f"of its jobs, {told}" if told else "it held no jobs",
    )
    for job_id, kind in rescue.deadly:
        logger.error(
            "job %s (%s) took %s down and is failed: it runs again only when somebody retries it",
            job_id,
            kind,
            counted(max_crashes, "runner"),
            extra={"job_id": job_id, "kind": kind},
        )
