"""Jobs in bulk and one by one, for tests of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from asyncjobs._model.job import ClaimedJob, Lane, NewJob
from asyncjobs._store.claims import LaneRequest, claim_jobs
from asyncjobs._store.intake import insert_jobs
from asyncjobs._store.runners import register_runner
from asyncjobs._store.session import Session

RUNNER = 7
SOMEBODY_ELSE = 8


@asynccontextmanager
async def session_of(dsn: str, schema: str = "asyncjobs", **settings: str) -> AsyncIterator[Session]:
    """A session of the store on a connection of its own."""
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield Session(connection, schema)
    finally:
        await connection.close(timeout=5)


def new_job(kind: str = "k", queue: str = "q", **given: Any) -> NewJob:
    """A job to store."""
    return NewJob(
        **{
            "kind": kind,
            "method": None,
            "args": "{}",
            "queue": queue,
            "priority": 0,
            "max_attempts": 10,
            **given,
        }
    )


async def store(session: Session, *jobs: NewJob) -> list[int]:
    """Store jobs (one of kind `k` in queue `q` when none is given); their ids."""
    return await insert_jobs(session, jobs or [new_job()])


def requests(
    lanes: Iterable[tuple[str, str]] = (("q", "k"),), room: int = 100, *, shared: bool = False
) -> list[LaneRequest]:
    """A claim of up to *room* jobs of each lane, or of all of them when they share a pool."""
    return [
        LaneRequest(Lane(queue, kind), 0 if shared else number, room, not shared)
        for number, (queue, kind) in enumerate(lanes)
    ]


async def claim(
    session: Session,
    runner: int = RUNNER,
    *,
    lanes: Sequence[tuple[str, str]] = (("q", "k"),),
    room: int = 100,
    begin: bool = True,
    shared: bool = False,
) -> list[ClaimedJob]:
    """Claim jobs for *runner*."""
    return await claim_jobs(session, requests(lanes, room, shared=shared), runner, begin=begin)


async def enter(
    session: Session, runner: int = RUNNER, *, holds_lock: bool = False, lease: float = 20
) -> None:
    """Put *runner* on the list."""
    await register_runner(
        session,
        incarnation=runner,
        lock_key=runner % 2**31,
        holds_lock=holds_lock,
        lease=lease,
        name="test:1",
        version="0",
        info="{}",
    )


async def live(session: Session, job_id: int) -> dict[str, Any] | None:
    """The live row of a job."""
    row = await session.connection.fetchrow("select * from asyncjobs.live_jobs where id = $1", job_id)
    return None if row is None else dict(row)


async def finished(session: Session, job_id: int) -> dict[str, Any] | None:
    """The finished row of a job."""
    row = await session.connection.fetchrow("select * from asyncjobs.finished_jobs where id = $1", job_id)
    return None if row is None else dict(row)
