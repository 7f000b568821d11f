"""`jobs.schedules`: what repeats, looked at and changed at run time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from asyncjobs._define.enqueueing import codec_of
from asyncjobs._define.handle import Handle, reader_by_kind
from asyncjobs._define.schedules import Repeating
from asyncjobs._enqueue.enqueuer import Enqueuer, lanes_of
from asyncjobs._model.job import NewJob
from asyncjobs._model.schedule import Schedule, StoredSchedule
from asyncjobs._model.ticks import next_ticks
from asyncjobs._schedule.firing import job_of
from asyncjobs._schedule.firing import store as store_jobs
from asyncjobs._store import schedules as store
from asyncjobs._store.foreign import explained, join
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session
from asyncjobs._store.unique import Stored
from asyncjobs.errors import InvalidOption, ScheduleExists, ScheduleNotFound, UndecodableInput

logger = logging.getLogger("asyncjobs")

All = list[Schedule]  # where `list` is a method
Times = list[datetime]


class Schedules:
    """The schedules of one database: those declared in code, and those created here."""

    def __init__(self, jobs: Enqueuer, changed: Callable[[], None]) -> None:
        self._jobs = jobs
        self._changed = changed  #: tells the runner of this process, which may not hear of it otherwise

    async def list(self) -> All:
        """Every schedule, by name. One that holds no job, as somebody else has written it, is logged and left out."""
        shown = []
        for each in await self._jobs.ask(store.list_schedules):
            try:
                shown.append(_shown(each))
            except UndecodableInput as error:
                logger.warning("%s", error)
        return shown

    async def get(self, name: str) -> Schedule:
        """One schedule. Raises ScheduleNotFound, and UndecodableInput for one that holds no job."""
        return _shown(await self._stored(name))

    async def create(self, schedule: Repeating, *, on: Any = None, replace: bool = False) -> None:
        """Store *schedule*, which ticks from now on, until it is deleted. With *on*, when that transaction commits.

        Raises ScheduleExists when the name is taken; with *replace*, only when code declares it.
        """
        if not isinstance(schedule, Repeating):
            raise InvalidOption(f"create takes Cron(…) or Every(…), not {schedule!r:.120}")
        new = schedule.new_schedule(codec_of(self._jobs), self._jobs.registry)
        if on is None:
            created = await self._jobs.ask(store.create_schedule, new, replace=replace)
            self._changed()
        else:
            joined = await join(on)
            with explained(joined, "the schedule was stored"):
                created = await store.create_schedule(
                    self._jobs.session(joined.connection), new, replace=replace
                )
        if not created:
            raise ScheduleExists(new.name)

    async def pause(self, name: str) -> None:
        """Let it tick no more, in any process, until `resume`. Raises ScheduleNotFound."""
        _check(name, found=await self._jobs.ask(store.pause_schedule, _name(name)))

    async def resume(self, name: str) -> None:
        """Let it tick again, from now: nothing it did not do while it was paused was missed. Raises ScheduleNotFound."""
        _check(name, found=await self._jobs.ask(store.resume_schedule, _name(name)))
        self._changed()

    async def delete(self, name: str) -> None:
        """Forget one that was created at run time; its jobs stay. Raises ScheduleNotFound, and InvalidOption for one that code
        declares, which would come back.
        """
        if not await self._jobs.ask(store.delete_schedule, _name(name)):
            await self._stored(name)
            raise InvalidOption(
                f"schedule {name!r} is declared in code, and would be back at the next start; take it out there, or pause it"
            )

    async def run_now(self, name: str) -> Handle[Any]:
        """Enqueue its job at once, whether or not something is due or it is paused: its tick is now. Raises ScheduleNotFound."""
        stored, job = await self._jobs.ask(_run_now, _name(name), self._jobs)
        if self._jobs.runner is not None:
            self._jobs.runner.wake(lanes_of([job]))
        return Handle(stored.id, stored.created, self._jobs, reader_by_kind(codec_of(self._jobs)))

    async def preview(self, name: str, count: int = 5) -> Times:
        """When it ticks next, on the clock of its time zone. Raises ScheduleNotFound."""
        schedule = await self._stored(name)
        zone = ZoneInfo(schedule.timezone)
        return [tick.astimezone(zone) for tick in next_ticks(schedule.timing, schedule.now, count)]

    async def _stored(self, name: str) -> StoredSchedule:
        found = await self._jobs.ask(store.get_schedule, _name(name))
        if found is None:
            raise ScheduleNotFound(name)
        return found


async def _run_now(session: Session, name: str, jobs: Enqueuer) -> tuple[Stored, NewJob]:
    async with session.connection.transaction():
        schedule = await store.get_schedule(session, name)
        if schedule is None:
            raise ScheduleNotFound(name)
        job = job_of(jobs, schedule, schedule.now, schedule.now)
        (stored,) = await store_jobs(session, jobs, [job])
        await store.note_job(session, name, stored.id)
    return stored, job


def _name(given: object) -> str:
    """What may be the name of a stored schedule, whoever named it. Raises InvalidOption."""
    if isinstance(given, str) and "\0" not in given:
        with suppress(UnicodeEncodeError):
            given.encode()
            return given
    raise InvalidOption(f"name={given!r:.160} is no name of a schedule; use text that Postgres can store")


def _check(name: str, *, found: bool) -> None:
    if not found:
        raise ScheduleNotFound(name)


def _shown(stored: StoredSchedule) -> Schedule:
    job = store.stored_job(stored)
    try:
        next_tick = stored.next_tick
    except InvalidOption:  # its time zone is not known here
        next_tick = None
    return Schedule(
        name=stored.name,
        owner=stored.owner,
        cron=stored.cron,
        timezone=stored.timezone,
        every=_span(stored.every),
        kind=job.kind,
        method=job.method,
        queue=job.queue,
        args=from_json(job.args),
        missed=stored.missed,
        missed_within=_span(stored.missed_within),
        overlap=stored.overlap,
        jitter=timedelta(seconds=stored.jitter),
        created_at=stored.created_at,
        paused_at=stored.paused_at,
        last_tick=stored.last_tick,
        last_job=stored.last_job,
        next_tick=next_tick,
    )


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
