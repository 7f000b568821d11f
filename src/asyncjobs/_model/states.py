"""The life of a job, as one table.

People see the nine words of `JobState`. Stored are numbers: a live job is *ready*, *scheduled*, *retryable*,
*blocked*, *in line* or *rated* (`LiveState`), and a ready job that a runner holds is what people call running. That the claim changes
no stored state is deliberate: a state in an index predicate would make every claim rewrite every index.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """Where a job stands. The last four are final."""

    SCHEDULED = "scheduled"  #: due later
    AVAILABLE = "available"  #: may be claimed now
    RUNNING = "running"  #: a runner holds it
    RETRYABLE = "retryable"  #: an attempt failed; the next is due later
    BLOCKED = "blocked"  #: waits for another job
    COMPLETED = "completed"  #: done
    SKIPPED = "skipped"  #: there was nothing left to do
    CANCELLED = "cancelled"  #: somebody said stop
    FAILED = "failed"  #: no attempts left, or not to be retried

    @property
    def is_final(self) -> bool:
        """No runner will touch the job again unless somebody asks."""
        return self in FINAL


FINAL = frozenset({JobState.COMPLETED, JobState.SKIPPED, JobState.CANCELLED, JobState.FAILED})


class LiveState(IntEnum):
    """What `live_jobs.state` says; a ready job with a runner is running."""

    READY = 0
    SCHEDULED = 1
    RETRYABLE = 2
    BLOCKED = 3
    SUSPECTED = 4  #: ready, and to run alone: it may be what kills runners
    IN_LINE = 5  #: ready when its key has its turn
    RATED = 6  #: ready when its rate has the tokens


class FinalState(IntEnum):
    """What `finished_jobs.state` says of what an attempt came to; 14 says that a job failed because it took runners down."""

    COMPLETED = 10
    SKIPPED = 11
    CANCELLED = 12
    FAILED = 13

    @property
    def public(self) -> JobState:
        """The word people see."""
        return JobState(self.name.lower())


_S = JobState

#: From each state, the states a job may go to next. The docs' diagram and the laws read this table.
TRANSITIONS = MappingProxyType(
    {
        _S.SCHEDULED: frozenset({_S.AVAILABLE, _S.CANCELLED}),
        _S.AVAILABLE: frozenset({_S.RUNNING, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.AVAILABLE, _S.SCHEDULED, _S.RETRYABLE, _S.BLOCKED, *FINAL}),
        _S.RETRYABLE: frozenset({_S.AVAILABLE, _S.CANCELLED}),
        _S.BLOCKED: frozenset({_S.AVAILABLE, _S.CANCELLED}),
        _S.COMPLETED: frozenset({_S.AVAILABLE}),  # only by `retry`, as those below
        _S.SKIPPED: frozenset({_S.AVAILABLE}),
        _S.CANCELLED: frozenset({_S.AVAILABLE}),
        # Cancelled when it took runners down, and is kept until somebody decides.
        _S.FAILED: frozenset({_S.AVAILABLE, _S.CANCELLED}),
    }
)
