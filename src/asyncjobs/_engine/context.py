"""`current_job()`: what a job may ask and do about itself while it runs.

Outside a runner it answers too, with `id` None and a plain transaction, so that the same method runs both ways.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from contextvars import Context, ContextVar
from datetime import datetime
from typing import Any, Protocol

from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._engine.verdict import ended, outcome_of
from asyncjobs._enqueue.ambient import transaction, which
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.schedule import tick_of
from asyncjobs._model.states import FinalState, JobState
from asyncjobs._model.verbs import Finish, Verb, as_said, says_verb
from asyncjobs._store import views
from asyncjobs._store.connection import Connection
from asyncjobs._store.foreign import Joined, explained, join
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session
from asyncjobs.errors import (
    AlreadyCompleted,
    DatabaseUnavailable,
    InvalidInput,
    InvalidOption,
    LeaseLost,
    WrongConnection,
)

logger = logging.getLogger("asyncjobs")


class CurrentJob(Protocol):
    """The job that is running here; outside a runner, none."""

    @property
    def id(self) -> int | None:
        """None outside a runner."""

    @property
    def kind(self) -> str | None:
        """What runs: `module:Class` or `module:function`, unless it was named."""

    @property
    def queue(self) -> str | None:
        """The queue it was claimed from."""

    @property
    def attempt(self) -> int:
        """1 at the first."""
        ...

    @property
    def max_attempts(self) -> int:
        """The last attempt there will be."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """What was enqueued with it, besides its inputs."""
        ...

    @property
    def tags(self) -> Sequence[str]:
        """Its labels."""
        ...

    @property
    def scheduled_at(self) -> datetime | None:
        """When it was due."""

    @property
    def tick(self) -> datetime | None:
        """The tick of a schedule it was enqueued for, which may have been missed; None where there was none."""

    @property
    def args(self) -> Mapping[str, Any]:
        """Its inputs as JSON data, in the shape of today: after upcasters. A copy, which may be changed to no effect."""
        ...

    result: Any  #: what `transaction()` completes the job with; a verb, as `Snooze(60)`, settles it as returning that would

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction that commits what is written in it and the job's completion, or neither.

        Set `result` before its end. Raises LeaseLost at its end when another runner holds the job by now, and AlreadyCompleted
        when the job was completed inside it or before; then everything written in it is rolled back. In `needed()` it is a
        plain one: there is nothing to complete yet. Raises DatabaseUnavailable when it cannot be begun; a job that lets it pass
        runs again, and the attempt does not count.
        """

    async def complete(self, *, on: Any, result: Any = None) -> None:
        """Complete the job on *on*, a session or connection with an open transaction, as its last statement.

        When that transaction is rolled back after all, the job may be completed again, in another; else it failed.
        Raises LeaseLost, AlreadyCompleted and WrongConnection.
        """

    async def settle(self, verb: Verb | type[Verb], *, on: Any) -> None:
        """Say what becomes of the job on *on*, as its last statement: `settle(Retry(60), on=session)`.

        It commits with what is written there, or rolls back with it; for the rest it is as `complete`.
        """


class RolledBack(Exception):
    """`complete(on=…)` was undone by its transaction's owner."""


class RunningJob:
    """A job in its slot."""

    # What most jobs never change is the class's: this is made for every job.
    result: Any = None
    result_type: Any = Any
    todays_args: str | None = None  #: its inputs after upcasters, where it was stored at an earlier version
    is_asked = False  #: `needed()` looks whether there is something to do: nothing can be completed yet
    completed = False  #: by a transaction that is known to be committed
    handed_over = False  #: by `complete`, in a transaction somebody else ends
    cut_off: Exception | None = None  #: why a transaction of its own could not be begun
    said: Sequence[
        Any
    ] = ()  #: what it was settled with, in transactions of its own: a verb, or a result; the last counts
    outcome: Outcome | None = None  #: what that makes of it
    _settled_at = 0.0  #: on the performance counter
    _owner = 0  #: the id of that transaction's connection, which is not kept alive
    _is_open: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(
        self,
        job: ClaimedJob,
        jobs: Enqueuer,
        codec: Codec,
        write: Callable[[Session, Outcome], Any],
        started: float,
    ) -> None:
        self._job = job
        self._jobs = jobs
        self._codec = codec
        self._write = write
        self.started = started  #: on the performance counter

    @property
    def id(self) -> int | None:
        return self._job.id

    @property
    def kind(self) -> str | None:
        return registry.todays_name(self._job.kind)

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
        meta = from_json(self._job.meta)
        return meta if isinstance(meta, dict) else {}  # somebody else may have written it

    @property
    def tick(self) -> datetime | None:
        return tick_of(self.meta)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        if self.is_asked:
            async with transaction(self._jobs) as joined:
                yield joined.connection
            return
        self._check_open(None)
        async with AsyncExitStack() as stack:
            try:
                joined = await stack.enter_async_context(transaction(self._jobs, self._has_committed))
            except DatabaseUnavailable as error:
                self.cut_off = error
                raise
            yield joined.connection
            await self._settle(joined, self.result)

    @property
    def args(self) -> Mapping[str, Any]:
        args = from_json(self._job.args if self.todays_args is None else self.todays_args)
        return args if isinstance(args, dict) else {}

    async def complete(self, *, on: Any, result: Any = None) -> None:
        await self._settle_on(on, result, "complete")

    async def settle(self, verb: Verb | type[Verb], *, on: Any) -> None:
        if not says_verb(verb):
            raise InvalidOption(
                f"settle() got {verb!r:.160}; pass a verb, as in settle(Retry(60), on=session)"
            )
        await self._settle_on(on, verb, "settle")

    async def _settle_on(self, on: Any, result: Any, word: str) -> None:
        joined = await join(on)
        if joined.commits_itself:
            raise WrongConnection(
                f"{word}(on=…) needs an open transaction, so that the job and its data commit together; begin one first"
            )
        await self._settle(joined, result)
        self.handed_over, self._owner, self._is_open = True, id(joined.owner), joined.is_open

    @property
    def awaits_commit(self) -> bool:
        """It was completed in a transaction that is still open."""
        return self.handed_over and self._is_open()

    def _has_committed(self) -> None:
        self.completed = True

    async def find_out(self) -> None:
        """Ask what became of the transaction it was settled in by `complete`, before anybody is told what became of the job.

        Raises RolledBack. What is open still, or cannot be asked, stays unknown.
        """
        if self.completed or self._is_open() or self.outcome is None:
            return
        try:
            job = await self._jobs.find_job(self._job.id)
        except Exception:  # the fence will know
            return
        if job is None or job.state is not JobState.RUNNING:
            self._has_committed()
        elif isinstance(self.outcome, Finished) or self._is_not_due_again():
            self.said, self.outcome = (), None
            raise RolledBack("the transaction that settled the job was rolled back")

    def _is_not_due_again(self) -> bool:
        """What was given back could not be claimed again by now: a job that runs was not given back, then."""
        assert isinstance(self.outcome, Returned)
        return time.perf_counter() < self._settled_at + (self.outcome.delay or 0)

    def _check_open(self, joined: Joined | None) -> None:
        """Refuse what is known to be a second completion.

        Nobody tells us whether the transaction `complete` was called in is committed. While it is open, another one would
        wait for it, for ever when both are this task's; after it, and inside it, the fence knows.
        """
        if self.completed:
            raise AlreadyCompleted(self._job.id)
        if self.awaits_commit and (joined is None or self._owner != id(joined.owner)):
            raise AlreadyCompleted(self._job.id)

    async def _settle(self, joined: Joined, result: Any) -> None:
        self._check_open(joined)
        result = as_said(result)
        session = Session(joined.connection, self._jobs.schema)
        with explained(joined, "the job was completed"):
            outcome, self._settled_at = self._outcome(result), time.perf_counter()
            if await self._write(session, outcome):
                self.outcome, self.said = outcome, (*self.said, result)
                return
            if self.handed_over:
                job = await views.get_job(session, self._job.id)
                if job is None or job.state is not JobState.RUNNING:
                    raise AlreadyCompleted(self._job.id)
        raise LeaseLost(self._job.id)

    def _outcome(self, result: Any) -> Outcome:
        """What becomes of the job that ends with *result*, a verb or what it would return."""
        elapsed = time.perf_counter() - self.started
        options = registry.find(self._job.kind).options_of(self._job.method)
        if issubclass(type(result), Verb) and not isinstance(result, Finish):
            return outcome_of(result, self._job, elapsed, options)
        finished = ended(self._job, FinalState.COMPLETED, elapsed, options)
        result = result.result if isinstance(result, Finish) else result
        try:
            finished.result = self._codec.encode_value(
                result, self.result_type, what=f"the result of job {self.id}"
            )
        except InvalidInput as error:
            finished.result_error = (
                f"{error}; current_job().result must be what the method is declared to return"
            )
            logger.warning(  # not with the reason, which shows what cannot be stored
                "job %s (%s) completes, but its result is not kept; its result_error says why",
                self.id,
                self.kind,
            )
        return finished


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
    tick: datetime | None = None
    args: Mapping[str, Any] = {}

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
        async with transaction(jobs) as joined:
            yield joined.connection

    async def complete(self, *, on: Any, result: Any = None) -> None:
        """Nothing to complete; the transaction is its owner's."""

    async def settle(self, verb: Verb | type[Verb], *, on: Any) -> None:
        """Nothing to settle."""


_current: ContextVar[CurrentJob | None] = ContextVar("asyncjobs_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that is running here. Outside a runner: one with `id` None, whose `transaction()` is a plain one."""
    return _current.get() or NoJob()


def job_in(context: Context) -> ClaimedJob | None:
    """The job on whose behalf something runs in *context*."""
    current = context.get(_current)
    return current._job if isinstance(current, RunningJob) else None


@contextmanager
def entered(job: CurrentJob) -> Iterator[None]:
    """Within it, *job* is the current one."""
    token = _current.set(job)
    try:
        yield
    finally:
        with suppress(ValueError):  # closed, from another context
            _current.reset(token)


def enter(job: CurrentJob) -> None:
    """From here on, in this task's context, *job* is the current one."""
    _current.set(job)
