"""What stands where: rows of the views `job_stats` and `job_states`."""

from __future__ import annotations

from datetime import datetime

import attrs


@attrs.frozen(kw_only=True)
class JobStats:
    """The jobs of one kind in one queue that are not final."""

    queue: str
    kind: str
    count: int
    count_working: int  #: a runner holds them
    count_errored: int  #: an attempt of theirs has failed
    highest_error_count: int  #: attempts that failed, of the job with the most
    oldest_run_at: datetime

    def merged(self, other: JobStats) -> JobStats:
        """Of both: the same kind, at two versions."""
        return JobStats(
            queue=self.queue,
            kind=self.kind,
            count=self.count + other.count,
            count_working=self.count_working + other.count_working,
            count_errored=self.count_errored + other.count_errored,
            highest_error_count=max(self.highest_error_count, other.highest_error_count),
            oldest_run_at=min(self.oldest_run_at, other.oldest_run_at),
        )


@attrs.frozen(kw_only=True)
class HeldJob:
    """A job that a runner holds, and who that is."""

    id: int
    kind: str
    method: str | None
    queue: str
    priority: int
    attempt: int
    max_attempts: int
    tags: tuple[str, ...]
    started_at: datetime | None  #: None: fetched ahead, so that only its runner knows when it began
    cancel_requested: bool
    runner: int
    runner_name: str | None  #: None: the runner is gone, and its jobs are about to be taken back
    runner_host: str | None
    runner_pid: int | None
    runner_seen_at: datetime | None
