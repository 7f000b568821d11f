"""How a runner ends: the time it has, and what becomes of the jobs that do not end in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import anyio

from asyncjobs._engine.completer import Completer
from asyncjobs._engine.identity import Identity
from asyncjobs._keeper.thread import KeeperThread
from asyncjobs._model.words import counted
from asyncjobs._runner.attempts import Attempts
from asyncjobs._store.claims import Claim, absolve_jobs

logger = logging.getLogger("asyncjobs")

HURRIED = 1.0  #: seconds for writing what jobs came to, when the runner stops in a hurry


class Stopping:
    """Ends the jobs of a runner that claims nothing more."""

    def __init__(
        self,
        attempts: Attempts,
        completer: Completer,
        keeper: KeeperThread,
        identity: Identity,
        *,
        shutdown: float,
    ) -> None:
        self._attempts = attempts
        self._completer = completer
        self._keeper = keeper
        self._identity = identity
        self._eighth = shutdown / 8  #: seconds

    async def stop(self, hurry: anyio.Event | None, claim_is_under_way: Callable[[], bool]) -> None:
        """Five eighths of the time jobs may go on, two eighths they have to clean up when cancelled, the rest is for writing.

        *hurry* set, they are cancelled at once. What a claim brings that is under way is given back as well: its answer left
        unheard, it would be nobody's until somebody rescues it.
        """
        started = time.monotonic()
        with anyio.move_on_after(self._eighth / 2):
            while claim_is_under_way():  # noqa: ASYNC110 -- rare, and short
                await asyncio.sleep(0.002)
        await self._wait(started + 5 * self._eighth - time.monotonic(), hurry)
        for attempt in self._attempts:
            attempt.stop("shutdown")
        await self._wait(2 * self._eighth, None, but_threads=True)
        self._close()
        in_a_hurry = hurry is not None and hurry.is_set()
        left = 7.7 * self._eighth - (time.monotonic() - started)
        with anyio.move_on_after(min(left, HURRIED) if in_a_hurry else left):
            await self._completer.flush()
        if self._completer.unwritten:
            logger.warning(
                "what %s came to could not be written, and will be run again",
                counted(self._completer.unwritten, "job"),
            )
        await self._absolve_threads()
        for attempt in self._attempts:
            if attempt.thread is not None:
                let_go = await self._keeper.outlive()
                if attempt.thread is not None:
                    attempt.thread.when_over(let_go)
                else:  # it ended meanwhile
                    let_go()
            attempt.abandon()
        if not self._attempts and self._identity.current is not None:
            with anyio.move_on_after(self._eighth * 0.3):
                await self._keeper.leave()

    async def salvage(self) -> None:
        """Say what came of the jobs, now that everything of this runner was cancelled at once, by somebody in a hurry."""
        await self._wait(HURRIED, None, but_threads=True)
        with anyio.move_on_after(HURRIED):
            await self._completer.write_once()

    async def _wait(self, limit: float, hurry: anyio.Event | None, *, but_threads: bool = False) -> None:
        """Wait for the jobs to end, at most *limit* seconds."""
        deadline = time.monotonic() + limit
        while (hurry is None or not hurry.is_set()) and (left := deadline - time.monotonic()) > 0:
            tasks = [
                attempt.task
                for attempt in self._attempts
                if attempt.task is not None and not (but_threads and attempt.thread is not None)
            ]
            if not tasks:
                return
            await asyncio.wait(tasks, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED)

    def _close(self) -> None:
        """The time of the cancelled is over."""
        for attempt in self._attempts:
            what = attempt.job.id, attempt.job.kind
            if attempt.thread is not None:
                logger.warning(
                    "job %s (%s) goes on in its thread: it runs again when that, or this process, has ended",
                    *what,
                )
            else:
                logger.warning(
                    "job %s (%s) does not end though it was cancelled: it is closed, and given back", *what
                )
                attempt.close()

    async def _absolve_threads(self) -> None:
        """Who is told to stop is no victim: the end of this process is not the fault of the jobs that outlive the runner."""
        jobs = [attempt.job for attempt in self._attempts if attempt.thread is not None]
        claims = [Claim(job.id, job.token) for job in jobs]
        if not jobs or self._identity.current is None:
            return
        try:
            with anyio.move_on_after(self._eighth * 0.3):
                await self._keeper.see_to(lambda session, name: absolve_jobs(session, name, claims))
        except Exception as error:
            logger.warning(
                "jobs %s will be suspected of ending this process: %s", [job.id for job in jobs], error
            )
