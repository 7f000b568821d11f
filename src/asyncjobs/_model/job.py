"""Jobs as values: before they are stored, when they are claimed, and as people see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from asyncjobs._model.states import JobState
from asyncjobs._model.versions import stored_name


@attrs.frozen(kw_only=True)
class NewJob:
    """A job that is about to be stored."""

    kind: str
    method: str | None
    args: str  #: JSON text
    queue: str
    priority: int
    max_attempts: int
    delay: float | None = None  #: seconds from the database's now
    scheduled_at: datetime | None = None
    tags: Sequence[str] | None = None
    meta: str | None = None  #: JSON text
    options: Mapping[str, Any] | None = None  #: timeout and backoff, when given for this one job
    unique_key: str | None = None  #: at most one live job has it
    unique_to_start: bool = False  #: until it is claimed; else until it is final
    unique_window: float | None = None  #: seconds for which its key is taken in any case
    on_conflict: Sequence[str] = ()  #: what becomes of the one that has the key
    fair_key: str | None = None  #: jobs that have it share a turn in their queue
    lock_key: str | None = None  #: at most *lock_slots* running jobs have it
    lock_slots: int = 1
    rate_key: str | None = None  #: jobs that have it take their tokens from one rate …
    rate_weight: int = 1  #: … it so many …
    rate_capacity: int = 1  #: … of at most so many …
    rate_per: float = 1.0  #: … in so many seconds
    rate_window: int = 0  #: a bucket, a sliding window, or a fixed one
    version: int = 1  #: of the shape of its inputs

    @property
    def stored_kind(self) -> str:
        """The name it is stored under."""
        return self.kind if self.version == 1 else stored_name(self.kind, self.version)

    @property
    def is_plain(self) -> bool:
        """It has nothing but text and small numbers, and is stored by the cheapest statement."""
        return (
            self.delay is None
            and self.scheduled_at is None
            and not self.tags
            and self.unique_key is None
            and self.lock_key is None
            and self.fair_key is None
            and self.rate_key is None
        )


class Lane(NamedTuple):
    """The jobs of one kind in one queue: what a claim walks along, in order."""

    queue: str
    kind: str


class ClaimedJob(NamedTuple):
    """A job this runner holds, until it says what came of it or is rescued. A row of claim_jobs.sql."""

    id: int
    token: int
    attempt: int
    max_attempts: int
    priority: int
    queue: str
    kind: str
    method: str | None
    args: str
    meta: str | None
    tags: Sequence[str] | None
    options: str | None
    scheduled_at: datetime
    lock_key: str | None = None
    rate_key: str | None = None


@attrs.frozen
class AttemptError:
    """What went wrong in one attempt."""

    attempt: int
    at: datetime
    error: str
    traceback: str | None = None


@attrs.frozen(kw_only=True)
class Job:
    """A job as people see it, live or finished. Times are aware; `args`, `meta` and `result` are plain JSON data."""

    id: int
    kind: str
    method: str | None
    queue: str
    state: JobState
    priority: int
    attempt: int
    max_attempts: int
    crashes: int
    args: dict[str, Any]
    meta: dict[str, Any] | None
    tags: tuple[str, ...]
    created_at: datetime
    scheduled_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    runner: int | None
    result: Any
    result_error: str | None
    errors: tuple[AttemptError, ...]
    version: int = 1  #: of the shape its inputs were stored in

    @property
    def name(self) -> str:
        """What runs, for people: `ExportStations.call`, `send_welcome`; of a job nobody here can decode, too."""
        short = self.kind.rpartition(":")[2]
        return short if self.method is None else f"{short}.{self.method}"
