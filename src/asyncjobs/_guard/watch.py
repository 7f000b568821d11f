"""Watches the event loop: jobs give way when it is late, and who blocks it is named while it does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from asyncjobs._engine.throttle import Sample, Throttle
from asyncjobs._guard.blocked import Blocked, Sight, look
from asyncjobs._guard.guard import Guard
from asyncjobs._guard.meter import Meter
from asyncjobs._model.job import ClaimedJob

logger = logging.getLogger("asyncjobs")

KEPT = 20  #: reports
LATELY = 8  #: long jobs that ended, remembered until the next look
ASLEEP = 0.02  #: of the processor: who had less of it than that was stopped, and held nothing


@attrs.frozen(kw_only=True)
class Ward:
    """What is guarded, and what gives way."""

    is_busy: Callable[[], bool]  #: jobs run here
    is_starved: Callable[[], bool]  #: the application's pool has no connection left
    job_of: Callable[[Any, Any], ClaimedJob | None]  #: whose a task is, or a context
    in_threads: Callable[[], list[str]]  #: the sync jobs that run
    open: (
        Callable[[float], None] | None
    )  #: told what share of the slots may be filled; None: nothing gives way


class Watch:
    """From the loop, how late it is; from a thread of its own, what holds it.

    Not the keeper's thread: who blocks the loop may do it inside a log handler, whose lock our warning then waits for.
    """

    def __init__(self, guard: Guard, ward: Ward, reports: deque[Blocked]) -> None:
        self._guard = guard
        self._ward = ward
        self._reports = reports
        self._throttle = Throttle(guard.lag) if ward.open is not None else None
        self._over = threading.Event()
        self._paused = False
        self._lately: deque[tuple[float, ClaimedJob]] = deque(maxlen=LATELY)
        self._telling = threading.Lock()  #: held for an instant: neither thread waits for the other's work
        self._told = 0.0  #: when the timer was due whose lateness was told of last
        #: what holds the loop: since when, what was seen, and which report it is; replaced as a whole, read from both threads
        self._seen: tuple[float, Sight, datetime] | None = None

    async def run(self) -> None:
        """Watch, until cancelled."""
        self._over.clear()
        self._at = (time.monotonic(), time.thread_time())
        meter = Meter(self._guard.blocked / 4, self._is_watchful, self._late)
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        thread = threading.Thread(
            target=self._watch, args=(meter, loop, ident), name="asyncjobs guard", daemon=True
        )
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            meter.stop()
            self._over.set()

    # On the loop.

    def ended(self, job: ClaimedJob, elapsed: float) -> None:
        """*job* took so many seconds: it may be the one that nobody could look at, because it held the interpreter."""
        if elapsed >= self._guard.blocked / 2:
            self._lately.append((time.monotonic(), job))

    def _is_watchful(self) -> bool:
        return self._throttle is not None and (self._ward.is_busy() or self._throttle.share < 1)

    def _late(self, late: float, due: float) -> None:
        passed, worked = self._since_last()
        if self._seen is not None:
            self._has_ended(late)
        elif late >= self._guard.blocked and worked >= late / 4 and self._is_first_to_tell(due):
            self._has_been_missed(late, due)
        throttle = self._throttle
        if throttle is None or self._ward.open is None:
            return
        sample = Sample(late, passed, worked, self._ward.is_starved())
        if throttle.tell(sample):
            self._ward.open(throttle.share)
            if self._paused != (throttle.share == 0):
                self._paused = throttle.share == 0
                logger.info(
                    "the event loop lags: no job begins until it is quick again"
                    if self._paused
                    else "the event loop is quick again: jobs begin"
                )

    def _since_last(self) -> tuple[float, float]:
        """Seconds since this was asked last, and how many of them this thread, the loop's, had the processor."""
        (at, worked), self._at = self._at, (time.monotonic(), time.thread_time())
        return self._at[0] - at, self._at[1] - worked

    def _has_ended(self, late: float) -> None:
        if self._seen is None:
            return
        seen_late, sight, at = self._seen
        self._seen = None
        late = max(late, seen_late)  # seen just when it ended, it is told of by the timer after that
        self._keep(at, late, sight)
        logger.info("%s held the event loop for %.1f s; it is free again", sight.who, late)

    def _has_been_missed(self, late: float, due: float) -> None:
        """The loop was held, and the other thread did not come to look: the interpreter was held, too."""
        sight = self._whose_it_was(
            due, Sight("the application itself, or a job", None, "(it let go before anybody could look)\n")
        )
        self._keep(datetime.now(UTC) - timedelta(seconds=late), late, sight)
        logger.warning(
            "%s held the interpreter, and with it the event loop, for %.1f s; it is free again",
            sight.who,
            late,
            extra=_job_of(sight),
        )

    # In either.

    def _is_first_to_tell(self, due: float) -> bool:
        with self._telling:
            if due <= self._told:
                return False
            self._told = due
            return True

    # In the thread.

    def _watch(self, meter: Meter, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        pause = self._guard.blocked / 4
        used, woke = time.process_time(), time.monotonic()
        while not self._over.wait(pause):
            now, due, before = time.monotonic(), meter.due, used
            used = time.process_time()
            overslept, woke = now - woke - pause, now
            late = now - due
            if late < self._guard.blocked or not self._is_first_to_tell(due):
                continue
            blind = overslept > late / 2
            # Late ourselves, because somebody held the interpreter; or nothing ran, because the process was stopped.
            if blind and used - before < ASLEEP * overslept:
                logger.info("the process stood still for %.1f s", overslept)
                continue
            try:
                sight = look(loop, ident, self._ward.job_of, self._ward.in_threads)
                if blind:
                    sight = self._whose_it_was(due, sight)
                self._report(late, sight)
            except Exception:
                logger.exception(
                    "what blocks the event loop was not found out, which is a fault of asyncjobs"
                )

    def _whose_it_was(self, due: float, sight: Sight) -> Sight:
        """Who held the interpreter let go before we could look, and the loop may be at something else in the same round: then it
        was a job that ended in this round.
        """
        ended = {job.id: job for at, job in self._lately.copy() if at >= due}
        if not ended.keys() - {sight.job and sight.job.id}:
            return sight
        suspects = list((ended if sight.job is None else ended | {sight.job.id: sight.job}).values())
        who = " or ".join(f"job {job.id} ({job.kind})" for job in suspects)
        stack = (
            f"(a job that ended before anybody could look; a moment later the loop was here)\n{sight.stack}"
        )
        return Sight(who, suspects[0] if len(suspects) == 1 else None, stack)

    def _report(self, late: float, sight: Sight) -> None:
        at = datetime.now(UTC) - timedelta(seconds=late)
        self._seen = (late, sight, at)
        self._keep(at, late, sight)
        logger.warning(
            "%s has blocked the event loop for %.1f s: requests and other jobs wait; it is at\n%s",
            sight.who,
            late,
            sight.stack,
            extra=_job_of(sight),
        )

    def _keep(self, at: datetime, late: float, sight: Sight) -> None:
        job = sight.job
        report = Blocked(at, late, job and job.id, job and job.kind, sight.who, sight.stack)
        if self._reports and self._reports[-1].at == at:
            self._reports[-1] = report
        else:
            self._reports.append(report)


def _job_of(sight: Sight) -> dict[str, Any]:
    """For a record of the log."""
    return {} if sight.job is None else {"job_id": sight.job.id, "kind": sight.job.kind}
