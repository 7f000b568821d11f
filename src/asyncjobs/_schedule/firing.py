"""Deal with what is due of one schedule: its jobs and how far it has come are one transaction."""

from __future__ import annotations

from datetime import datetime

from asyncjobs._define.codec import Codec
from asyncjobs._define.schedules import job_of_tick
from asyncjobs._enqueue.enqueuer import lanes_of
from asyncjobs._model.job import Lane
from asyncjobs._model.schedule import StoredSchedule, due
from asyncjobs._model.ticks import jitter
from asyncjobs._store.intake import insert
from asyncjobs._store.schedules import advance_schedule, stored_job, take_schedule
from asyncjobs._store.session import Session


async def fire(session: Session, name: str, codec: Codec) -> list[Lane]:
    """Store the jobs of the ticks of *name* that are due: the lanes they went to. What is due is judged by the row as it is locked
    and by the database's clock, so that it does not matter who asks, or when.
    """
    async with session.connection.transaction():
        taken = await take_schedule(session, name)
        if taken is None:
            return []
        schedule, unfinished = taken
        found = due(schedule, unfinished)
        if found is None:
            return []
        job = stored_job(schedule)
        jobs = [job_of_tick(codec, job, name, tick, _due_at(schedule, tick)) for tick in found.ticks]
        ids = await insert(session, jobs) if jobs else []
        await advance_schedule(
            session,
            name,
            found.until,
            last_tick=found.ticks[-1] if jobs else None,
            last_job=ids[-1] if ids else None,
            unfinished=[] if schedule.overlap == "allow" else [*unfinished, *ids],
        )
    return lanes_of(jobs)


def _due_at(schedule: StoredSchedule, tick: datetime) -> datetime:
    return tick + jitter(schedule.name, tick, schedule.jitter)
