"""Deal with what is due of one schedule: its jobs and how far it has come are one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from asyncjobs._define.enqueueing import codec_of
from asyncjobs._define.schedules import job_of_tick
from asyncjobs._enqueue.carried import stamped
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._enqueue.middleware import around_enqueue
from asyncjobs._model.job import Lane, NewJob
from asyncjobs._model.schedule import StoredSchedule, due
from asyncjobs._model.ticks import jitter
from asyncjobs._store.intake import insert
from asyncjobs._store.schedules import advance_schedule, stored_job, take_schedule
from asyncjobs._store.session import Session
from asyncjobs._store.unique import Stored, insert_unique
from asyncjobs.errors import DuplicateJob


async def fire(session: Session, name: str, jobs: Enqueuer) -> list[Lane]:
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
        new = [job_of(jobs, schedule, tick, _due_at(schedule, tick)) for tick in found.ticks]
        ids = [stored.id for stored in await store(session, jobs, new)] if new else []
        await advance_schedule(
            session,
            name,
            found.until,
            last_tick=found.ticks[-1] if new else None,
            last_job=ids[-1] if ids else None,
            unfinished=[] if schedule.overlap == "allow" else [*unfinished, *ids],
        )
    return jobs._lanes_taken(new) if new else []


def job_of(jobs: Enqueuer, schedule: StoredSchedule, tick: datetime, due: datetime) -> NewJob:
    """The job of one tick. Raises InvalidInput."""
    return job_of_tick(codec_of(jobs), stored_job(schedule), schedule.name, tick, due)


async def store(session: Session, jobs: Enqueuer, new: Sequence[NewJob]) -> Sequence[Stored]:
    """Store the jobs of ticks in this transaction, as any job is: with the context and the middleware of this process."""
    stored: Sequence[Stored] = await around_enqueue(jobs.middleware, partial(_insert, session))(
        stamped(new, jobs.carried)
    )
    return stored


async def _insert(session: Session, new: Sequence[NewJob]) -> Sequence[Stored]:
    if all(job.unique_key is None for job in new):
        return [Stored(job_id, created=True) for job_id in await insert(session, new)]
    return [await _insert_unique(session, job) for job in new]


async def _insert_unique(session: Session, job: NewJob) -> Stored:
    try:
        (stored,) = await insert_unique(session, [job], wake=True, commits_itself=False)
    except (
        DuplicateJob
    ) as duplicate:  # nobody is there to be told: the tick has the job that is there already
        return Stored(duplicate.job_id, created=False)
    return stored


def _due_at(schedule: StoredSchedule, tick: datetime) -> datetime:
    return tick + jitter(schedule.name, tick, schedule.jitter)
