"""Sleep until something is due, then deal with it: in every process that runs jobs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from datetime import datetime

import anyio
import attrs

from asyncjobs._define.codec import Codec
from asyncjobs._define.schedules import Repeating
from asyncjobs._engine.link import Patience
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.schedule import StoredSchedule
from asyncjobs._schedule.firing import fire
from asyncjobs._store.connection import is_closed
from asyncjobs._store.faults import discreet, is_transient
from asyncjobs._store.schedules import declare_schedules, list_schedules
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable, InvalidOption

logger = logging.getLogger("asyncjobs")

LOOK_EVERY = 30.0
"""Seconds between looks while nothing is due: the net below the notification that schedules have changed."""

ANSWER = 30.0  #: seconds for one round, of some milliseconds: beyond it the network is dead

LOOK_AGAIN = 1.0  #: seconds until the next look at what is due and waits: for its own job to end, or for another process


@attrs.frozen
class Declared:
    """What the code of an application says of its schedules."""

    schedules: Sequence[Repeating] | None = None  #: None: nothing, and those that are stored stay
    application: str = "default"  #: who says so, where several applications share a database


class Ticker:
    """Deals with the ticks of all schedules, beside others that do the same."""

    def __init__(
        self,
        source: Source,
        jobs: Enqueuer,
        codec: Codec,
        declared: Declared,
    ) -> None:
        self._source = source
        self._jobs = jobs
        self._codec = codec
        self._declared = declared.schedules
        self._application = declared.application
        self._changed = anyio.Event()
        self._broken: set[str] = set()  #: schedules that cannot tick from here, '' for all; each is said once

    def look(self) -> None:
        """Schedules have changed."""
        self._changed.set()

    async def run(self) -> None:
        """One round after another, for ever, and nothing between them."""
        patience = Patience("the schedules")
        while True:
            try:
                self._changed = anyio.Event()
                with anyio.fail_after(ANSWER):
                    async with self._source.connection() as connection:
                        pause = await self.round(Session(connection, self._jobs.schema))
                patience.succeeded()
                self._broken.discard("")
            except Exception as error:
                if is_transient(error) or isinstance(error, DatabaseUnavailable):
                    await patience.wait_after(error)
                else:  # no right to the table, perhaps: jobs run all the same
                    self._say_once("", "schedules do not tick from this process, which tries again", error)
                    await anyio.sleep(LOOK_EVERY)
            else:
                with anyio.move_on_after(pause):
                    await self._changed.wait()

    async def round(self, session: Session) -> float:
        """Deal with what is due: seconds until the next round."""
        if self._declared is not None:
            await self._declare(session, self._declared)
            self._declared = (
                None  # once, at the start: who started last is right, and an older process leaves it at that
            )
        schedules = await list_schedules(session)
        asked = time.monotonic()
        for schedule in filter(self._is_due, schedules):
            await self._deal_with(session, schedule)
        if any(self._is_due(schedule) for schedule in schedules):
            schedules = await list_schedules(session)
            asked = time.monotonic()
        return self._pause(schedules, asked)

    async def _deal_with(self, session: Session, schedule: StoredSchedule) -> None:
        """What goes wrong with one schedule must not keep the others from ticking."""
        try:
            while lanes := await fire(session, schedule.name, self._jobs):
                if self._jobs.runner is not None:
                    self._jobs.runner.wake(lanes)
                if schedule.missed != "all" or schedule.overlap != "allow":
                    break
        except Exception as error:
            if is_transient(error) or is_closed(session.connection):
                raise
            self._say_once(schedule.name, "a tick of schedule %r has no job yet; it is tried again", error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody stops the runner, which this would end: middleware awaited something that was cancelled.
            wrong = RuntimeError("middleware was cancelled, or awaited what was")
            wrong.__cause__ = error
            self._say_once(schedule.name, "a tick of schedule %r has no job yet; it is tried again", wrong)
        else:
            self._broken.discard(schedule.name)

    def _is_due(self, schedule: StoredSchedule) -> bool:
        tick = self._next_tick(schedule)
        return tick is not None and tick <= schedule.now

    def _pause(self, schedules: Sequence[StoredSchedule], asked: float) -> float:
        """Seconds until something is due, by the clock the rows came with."""
        pause = LOOK_EVERY * random.uniform(0.8, 1.2)
        passed = time.monotonic() - asked
        for schedule in schedules:
            tick = self._next_tick(schedule)
            if tick is not None:
                left = (tick - schedule.now).total_seconds()
                pause = min(pause, LOOK_AGAIN if left <= 0 else max(left - passed, 0))
        return pause

    def _next_tick(self, schedule: StoredSchedule) -> datetime | None:
        try:
            return schedule.next_tick
        except InvalidOption as error:
            self._say_once(schedule.name, "schedule %r does not tick from this process", error)
            return None

    def _say_once(self, name: str, words: str, error: Exception) -> None:
        if name not in self._broken:
            self._broken.add(name)
            logger.error(words, *filter(None, [name]), exc_info=discreet(error))

    async def _declare(self, session: Session, declared: Sequence[Repeating]) -> None:
        outcomes = await declare_schedules(
            session,
            [each.new_schedule(self._codec, self._jobs.registry) for each in declared],
            self._application,
        )
        for name, outcome in sorted(outcomes.items()):
            if outcome.startswith("of "):
                logger.error(
                    "schedule %r is not declared here: it belongs to the application %r on the same database; give it another name",
                    name,
                    outcome[3:],
                )
            else:
                logger.info("schedule %r is %s", name, outcome)
