"""For monitors and for a clean slate: which jobs are late, and away with those nobody runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asyncjobs._store.session import Session

CHUNK = 10_000  #: jobs one statement deletes


class Overdue(NamedTuple):
    """Jobs of one queue that have been due for long, and nobody runs."""

    queue: str
    jobs: int
    oldest: float  #: seconds since the oldest of them was due
    is_paused: bool  #: the queue is: they wait for somebody


async def find_overdue(session: Session, age: float) -> list[Overdue]:
    """By queue: what has been due for *age* seconds."""
    return [Overdue(*row) for row in await session.fetch("find_overdue", age)]


async def clear_jobs(
    session: Session, queues: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> int:
    """Delete up to a chunk of the jobs nobody runs; how many went."""
    return int((await session.fetchrow("clear_jobs", queues, kinds, CHUNK))[0])


async def clear_finished(
    session: Session, queues: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> int:
    """Delete up to a chunk of the jobs that are final; how many went."""
    return int(await session.fetchval("clear_finished", queues, kinds, CHUNK))
