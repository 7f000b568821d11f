"""Limits of queues: how many jobs of one run at a time, and how often one begins (0003_locks.sql, 0008_rates.sql)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.limits import WINDOWS, QueueLimit, Rate, stored_rate
from asyncjobs._store.session import Session

_KINDS = {number: window for window, number in WINDOWS.items()}


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
    window = WINDOWS[rate.window if rate is not None else None]
    await session.fetch("limit_queue", queue, concurrency, every, burst, window)


async def list_limits(session: Session) -> dict[str, QueueLimit]:
    """The limits of queues."""
    return {
        queue: QueueLimit(
            concurrency, None if every is None else stored_rate(every, burst, _KINDS[window]), running
        )
        for queue, concurrency, every, burst, window, running in await session.fetch("list_limits")
    }
