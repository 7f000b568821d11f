"""Limits of queues: how many jobs of one run at a time, and how often one begins (0003_locks.sql)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.limits import QueueLimit, Rate, rate_of
from asyncjobs._store.session import Session


class Allowance(NamedTuple):
    """How many jobs of a limited queue may begin."""

    queue: str
    jobs: int  #: now
    seconds: float | None  #: until one more may; None: somebody who ends says so


async def find_limits(session: Session) -> list[Allowance]:
    """What may begin in each limited queue."""
    return [Allowance(*row) for row in await session.fetch("find_limits")]


async def admit_jobs(session: Session, incarnation: int, jobs: Iterable[ClaimedJob]) -> set[int]:
    """Which of *jobs*, claimed from limited queues, may run; the others go back."""
    ordered = sorted(jobs, key=lambda job: job.id)
    rows = await session.fetch(
        "admit_jobs", [job.id for job in ordered], [job.token for job in ordered], incarnation
    )
    return {row[0] for row in rows}


async def limit_queue(session: Session, queue: str, concurrency: int | None, rate: Rate | None) -> None:
    """Limit *queue*, in all processes; with neither, no longer."""
    every, burst = (None, None) if rate is None else (rate.every, rate.burst)
    await session.fetch("limit_queue", queue, concurrency, every, burst)


async def list_limits(session: Session) -> dict[str, QueueLimit]:
    """The limits of queues."""
    return {
        queue: QueueLimit(concurrency, None if every is None else rate_of(every, burst), running)
        for queue, concurrency, every, burst, running in await session.fetch("list_limits")
    }
