"""`current_job()`: what a job may ask and do about itself while it runs.

Outside a runner it answers too, with `id` None and a plain transaction, so that the same method runs both ways.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

from asyncjobs._define.codec import Codec
from asyncjobs._enqueue.ambient import bound, which
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.connection import Connection
from asyncjobs._store.foreign import join
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session
from asyncjobs.errors import AlreadyCompleted, LeaseLost, WrongConnection


class CurrentJob(Protocol):
    """The job that is running here; outside a runner, none."""

    @property
    def id(self) -> int | None: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def queue(self) -> str | None: ...
    @property
    def attempt(self) -> int: ...  # 1 at the first
    @property
    def max_attempts(self) -> int: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...
    @property
    def tags(self) -> Sequence[str]: ...
    @property
    def scheduled_at(self) -> datetime | None: ...

    result: Any  #: what `transaction()` completes the job with

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction that commits what is written in it and the job's completion, or neither.

        Set `result` before its end. Raises LeaseLost at its end when another runner holds the job by now, and everything
        written in it is rolled back.
        """

    async def complete(self, *, on: Any, result: Any = None) -> None:
        """Complete the job on *on*, a session or connection with an open transaction, as its last statement.

        Raises LeaseLost, AlreadyCompleted, WrongConnection, and InvalidInput for a result that cannot be stored.
        """


class RunningJob:
    """A job in its slot."""

    def __init__(
        self,
        job: ClaimedJob,
        jobs: Enqueuer,
        codec: Codec,
        finish: Callable[[Session, Finished], Any],
        started: float,
    ) -> None:
        self.result: Any = None
        self.result_type: Any = Any
        self.completed = False  #: by a transaction that is known to be committed
        self.handed_over = False  #: by `complete`, in a transaction somebody else ends
        self._job = job
        self._jobs = jobs
        self._codec = codec
        self._finish = finish
        self._started = started  #: on the performance counter

    @property
    def id(self) -> int | None:
        return self._job.id

    @property
    def kind(self) -> str | None:
        return self._job.kind

    @property
    def queue(self) -> str | None:
        return self._job.queue

    @property
    def attempt(self) -> int:
        return self._job.attempt

    @property
    def max_attempts(self) -> int:
        return self._job.max_attempts

    @property
    def tags(self) -> Sequence[str]:
        return self._job.tags or ()

    @property
    def scheduled_at(self) -> datetime | None:
        return self._job.scheduled_at

    @property
    def meta(self) -> Mapping[str, Any]:
        """What was enqueued with the job, for the eyes of people and middleware."""
        return from_json(self._job.meta) or {}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        self._check_open()
        async with self._jobs.connection() as connection:
            async with connection.transaction():
                with bound(self._jobs, on=connection):
                    yield connection
                self._check_open()
                await self._write(Session(connection, self._jobs.schema), self.result)
            self.completed = True

    async def complete(self, *, on: Any, result: Any = None) -> None:
        self._check_open()
        joined = await join(on)
        if joined.commits_itself:
            raise WrongConnection(
                "complete(on=…) needs an open transaction, so that the job and its data commit together; begin one first"
            )
        await self._write(Session(joined.connection, self._jobs.schema), result)
        self.handed_over = True

    def _check_open(self) -> None:
        if self.completed or self.handed_over:
            raise AlreadyCompleted(self._job.id)

    async def _write(self, session: Session, result: Any) -> None:
        text = self._codec.encode_value(result, self.result_type, what=f"the result of job {self.id}")
        finished = Finished(self._job, FinalState.COMPLETED, time.perf_counter() - self._started, result=text)
        if not await self._finish(session, finished):
            raise LeaseLost(self._job.id)


class NoJob:
    """Outside a runner: the same method, called now."""

    id: int | None = None
    kind: str | None = None
    queue: str | None = None
    attempt = 1
    max_attempts = 1
    meta: Mapping[str, Any] = {}
    tags: Sequence[str] = ()
    scheduled_at: datetime | None = None

    def __init__(self) -> None:
        self.result: Any = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        jobs, on = which()
        if on is not None:  # inside `jobs.on(session)`: the same transaction, to which this is a savepoint
            joined = await join(on)
            async with joined.connection.transaction():
                yield joined.connection
            return
        async with jobs.connection() as connection, connection.transaction():
            with bound(jobs, on=connection):
                yield connection

    async def complete(self, *, on: Any, result: Any = None) -> None:
        """Nothing to complete; the transaction is its owner's."""


_current: ContextVar[CurrentJob | None] = ContextVar("asyncjobs_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that is running here. Outside a runner: one with `id` None, whose `transaction()` is a plain one."""
    return _current.get() or NoJob()


def enter(job: CurrentJob) -> None:
    """From here on, in this task's context, *job* is the current one."""
    _current.set(job)
