"""The jobs in the slots: begun, awaited to their very end, and told to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, KeysView
from contextlib import suppress
from contextvars import Context
from typing import Any

from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.context import enter, job_in
from asyncjobs._engine.slots import Pool
from asyncjobs._engine.telling import error_json
from asyncjobs._engine.turnstile import Turnstile
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Outcome, Returned
from asyncjobs._model.states import LiveState

logger = logging.getLogger("asyncjobs")


class Attempts:
    """Those that run here, by the id of their job."""

    def __init__(
        self,
        make: Callable[[ClaimedJob, float], Attempt],
        turnstile: Turnstile | None,
        *,
        ended: Callable[[Attempt, Outcome | None], None],
        freed: Callable[[], None],
    ) -> None:
        self._make = make
        self._turnstile = turnstile
        self._ended = ended  #: told what each came to; None: others write it, or nobody may
        self._freed = freed  #: told that a job may begin
        self.begins_at: dict[int, float] = {}  #: jobs that may not begin before
        self._attempts: dict[int, Attempt] = {}
        self._owner: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Attempt]:
        """Of a copy: any of them may end meanwhile."""
        return iter(list(self._attempts.values()))

    def __len__(self) -> int:
        return len(self._attempts)

    def ids(self) -> KeysView[int]:
        """Of their jobs."""
        return self._attempts.keys()

    def of(self, job_id: int) -> Attempt | None:
        """The attempt at that job, if it runs here."""
        return self._attempts.get(job_id)

    def belong_to(self, owner: asyncio.Task[None] | None) -> None:
        """They run as long as *owner* is not cancelled."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()

    @property
    def is_torn_down(self) -> bool:
        """Somebody cancels every task of the loop, as asyncio.run does at its end."""
        return self._owner is not None and self._owner.cancelling() > 0

    def begin(self, job: ClaimedJob, pool: Pool) -> None:
        """Begin *job* in a free slot, as an asyncio task of its own: what it raises, cancels or leaves in its context ends
        with it, and what ends the runner's task group does not end the job. (As anyio's child it would cost 18 to 34 µs, not 4.)
        """
        attempt = self._make(job, time.perf_counter())
        earlier = self._attempts.get(job.id)
        if earlier is not None:  # under a claim that is over, or there would not be this one
            earlier.stop("lost")
        self._attempts[job.id] = attempt
        pool.occupied += 1
        pool.entering += 1
        try:
            attempt.task = self._loop.create_task(self._run(attempt, pool))
        except BaseException:
            pool.occupied -= 1
            pool.entering -= 1
            del self._attempts[job.id]
            raise

    async def _run(self, attempt: Attempt, pool: Pool) -> None:
        job = attempt.job
        outcome: Outcome | None
        try:
            enter(attempt.running)
            # The job is awaited here, by the outermost coroutine of its task: when that is closed (`Attempt.close`), those
            # below it are too, and what they would have returned is lost.
            try:
                await self._enter(attempt, pool)
                outcome = await attempt.run()
            except BaseException as error:
                if self.is_torn_down:
                    attempt.stop("shutdown")
                outcome = attempt.came_to(error)
            if attempt.thread is not None or attempt.running.awaits_commit:
                with suppress(GeneratorExit):  # closed: nothing is awaited any more
                    await self._what_is_left_of(attempt)
                if attempt.running.awaits_commit:
                    outcome = None  # to be written it would have to wait for that transaction, and all others with it
        except Exception as error:
            logger.critical(
                "what job %s (%s) came to was not found out, which is a fault of asyncjobs; it is tried again",
                job.id,
                job.kind,
                exc_info=error,
            )
            outcome = Returned(job, LiveState.RETRYABLE, delay=1.0, error=error_json(job, error))
        pool.occupied -= 1
        if attempt.thread is None:
            if self._attempts.get(job.id) is attempt:  # else it was rescued from us, and is ours again
                del self._attempts[job.id]
            self._ended(attempt, outcome)
        self._freed()

    async def _enter(self, attempt: Attempt, pool: Pool) -> None:
        """Wait for the attempt's turn to enter the event loop."""
        try:
            attempt.wake()
            if self.begins_at and (begins_at := self.begins_at.pop(attempt.job.id, None)) is not None:
                await asyncio.sleep(begins_at - time.monotonic())
                attempt.started = attempt.running.started = time.perf_counter()
            if self._turnstile is not None and (ticket := self._turnstile.enter()) is not None:
                await ticket
                attempt.started = attempt.running.started = time.perf_counter()
        finally:
            pool.entering -= 1
            if pool.entering == pool.most_entering - 1:
                self._freed()

    async def _what_is_left_of(self, attempt: Attempt) -> None:
        """Wait for the thread that outlived its task, whoever cancelled that, and for the transaction it was completed in."""
        while attempt.thread is not None and not self._leaves(attempt):
            with suppress(asyncio.CancelledError):
                await attempt.thread.over()
        if attempt.running.awaits_commit:
            await self._commit_of(attempt)

    async def _commit_of(self, attempt: Attempt) -> None:
        """Wait for the end of the transaction that *attempt* completed the job in, which others may end after the job."""
        pause, asked = 0.001, time.monotonic()
        while (
            attempt.running.awaits_commit
            and not self._leaves(attempt)
            and "shutdown" not in attempt.stopped_for
        ):
            # The job is over: only the end of the process is worth leaving for.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(pause)
            if pause < 1 <= time.monotonic() - asked:
                logger.warning(
                    "job %s (%s) has ended, and the transaction it was completed in is still open; commit or roll it back",
                    attempt.job.id,
                    attempt.job.kind,
                )
                pause = 1.0
            elif pause < 1:
                pause = min(pause * 2, 0.1)

    def _leaves(self, attempt: Attempt) -> bool:
        return "abandoned" in attempt.stopped_for or self.is_torn_down

    # What the guard asks, from its thread too.

    def job_of(self, task: asyncio.Task[Any] | None, context: Context | None) -> ClaimedJob | None:
        """The job that *task* runs, or that *context* is of."""
        for attempt in self:
            if task is not None and attempt.task is task:
                return attempt.job
        return None if context is None else job_in(context)

    def in_threads(self) -> list[str]:
        """The jobs that run in a thread, in words."""
        return [f"{each.job.id} ({each.job.kind})" for each in self if each.thread is not None]
