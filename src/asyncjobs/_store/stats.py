"""For people: how many jobs stand where, and who holds them."""

from __future__ import annotations

from asyncjobs._model.stats import HeldJob, JobStats
from asyncjobs._model.versions import name_and_version
from asyncjobs._store.session import Session


async def list_stats(session: Session) -> list[JobStats]:
    """How the jobs of each kind in each queue stand, of whatever version, the most numerous first."""
    found: dict[tuple[str, str], JobStats] = {}
    for row in await session.fetch("list_stats"):
        stats = JobStats(
            queue=row[0],
            kind=name_and_version(row[1])[0],
            count=row[2],
            count_working=row[3],
            count_errored=row[4],
            highest_error_count=row[5],
            oldest_run_at=row[6],
        )
        lane = stats.queue, stats.kind
        found[lane] = found[lane].merged(stats) if lane in found else stats
    return sorted(found.values(), key=lambda each: (-each.count, each.queue, each.kind))


async def list_held(session: Session) -> list[HeldJob]:
    """The jobs that runners hold, and who holds each."""
    return [
        HeldJob(
            id=row[0],
            kind=name_and_version(row[1])[0],
            method=row[2],
            queue=row[3],
            priority=row[4],
            attempt=row[5],
            max_attempts=row[6],
            tags=tuple(row[7] or ()),
            started_at=row[8],
            cancel_requested=row[9],
            runner=row[10],
            runner_name=row[11],
            runner_host=row[12],
            runner_pid=row[13],
            runner_seen_at=row[14],
        )
        for row in await session.fetch("list_held")
    ]
