"""The part of a Jobs that stores jobs, looks at them and waits for them: all that `later` and a handle need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from asyncjobs._enqueue.carried import Carried, carried_by_name
from asyncjobs._enqueue.coalescer import Coalescer
from asyncjobs._enqueue.middleware import Layer
from asyncjobs._enqueue.undeclared import Undeclared
from asyncjobs._enqueue.unique import Gate, store_alone
from asyncjobs._enqueue.waiter import Waiter
from asyncjobs._model.job import Job, Lane, NewJob
from asyncjobs._model.options import When
from asyncjobs._model.queues import QueueRegistry, queues
from asyncjobs._store import views
from asyncjobs._store.connection import Connection
from asyncjobs._store.faults import is_lost, is_missing_schema, is_rolled_back
from asyncjobs._store.foreign import explained, join
from asyncjobs._store.intake import insert
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._store.unique import Stored, insert_unique
from asyncjobs.errors import DatabaseUnavailable, SchemaMissing, WhichJobs, WrongConnection

P = ParamSpec("P")
R = TypeVar("R")

TRIES = 5  #: how often a question is asked that Postgres answers with a serialization failure


class LocalRunner(Protocol):
    """A runner in this process, as the enqueuer sees it."""

    def is_hungry(self, lane: Lane) -> bool:
        """It waits for jobs of *lane*, so nobody else need be woken."""

    def wake(self, lanes: Sequence[Lane]) -> None:
        """Jobs were committed to *lanes*."""


class Enqueuer:
    """Stores jobs on the caller's connection, or in a transaction of their own."""

    def __init__(self, source: Source, schema: str, *, payload_limit: int, listen: bool | None) -> None:
        self.schema = schema
        self.payload_limit = payload_limit
        self.runner: LocalRunner | None = None
        self._source = source
        self.registry: QueueRegistry = queues  #: which queues there are
        self._undeclared = Undeclared()
        self.carried: Mapping[str, Carried] = carried_by_name(())  #: the context that travels with jobs
        self.middleware: Sequence[Layer] = ()
        self.transactional = False  #: jobs are stored in transactions of their callers only
        self.run: When | None = None  #: when jobs run of which nothing else was said: later
        self.is_staged = False  #: everything happens on one connection, a test's (`testing.inside`)
        self._closing = False
        self._coalescer = Coalescer(source, schema, self._stored)
        self._gate = Gate()  #: for those who store unique jobs
        self._waiter = Waiter(source, schema, self._look_at_jobs, self._await_job, listen=listen)

    async def store(self, jobs: Sequence[NewJob], on: Any, *, wake: bool = True) -> list[int]:
        """Store *jobs*; their ids in the order given. On *on*, they commit or roll back with everything else there.

        Without *wake* nobody is told: they are found by whoever looks.
        """
        if not jobs:
            return []
        lanes = self._lanes_taken(jobs)
        if on is None:
            ids = await self._coalescer.insert(jobs, wake=wake and not self._serves(lanes))
            if wake:
                self._wake(lanes)
            return ids
        joined = await join(on)
        tell = wake and not (joined.tells_here and self._serves(lanes))
        with explained(joined, "the job was stored"):
            ids = await insert(Session(joined.connection, self.schema), jobs, wake=tell)
        if not wake:
            pass
        elif joined.tells_here:
            self._wake(lanes)
        elif joined.on_commit is not None and self.runner is not None:
            joined.on_commit(lambda: self._wake(lanes))
        return ids

    async def store_unique(self, jobs: Sequence[NewJob], on: Any, *, wake: bool = True) -> list[Stored]:
        """Store *jobs* of which some are unique: each job, and whether it was stored now. Raises DuplicateJob."""
        lanes = self._lanes_taken(jobs)
        if on is None:
            wakes = wake and not self._serves(lanes)
            stored = await store_alone(self._source, self.schema, jobs, self._gate, wake=wakes)
            if wake:
                self._wake(lanes)
            return stored
        joined = await join(on)
        tell = wake and not (joined.tells_here and self._serves(lanes))
        session = Session(joined.connection, self.schema)
        with explained(joined, "the job was stored"):
            stored = await insert_unique(session, jobs, wake=tell, commits_itself=joined.commits_itself)
        if not wake:
            pass
        elif joined.tells_here:
            self._wake(lanes)
        elif joined.on_commit is not None and self.runner is not None:
            joined.on_commit(lambda: self._wake(lanes))
        return stored

    def _lanes_taken(self, jobs: Sequence[NewJob]) -> list[Lane]:
        """The lanes *jobs* go to. Raises WhichJobs when nothing is taken any more."""
        if self._closing:
            raise WhichJobs(
                f"{self!r} is being closed, and stores no more jobs; enqueue before the end of its block"
            )
        lanes = lanes_of(jobs)
        if self.registry:
            self._undeclared.look_at(lanes, self.registry)
        return lanes

    def check_open(self) -> None:
        """Raises WhichJobs where it is not open, and MisusedJobs on another loop or after a fork."""

    async def check_transaction(self, on: Any) -> None:
        """Raises WrongConnection where *on* is no connection with a transaction open."""
        if on is None or (await join(on)).commits_itself:
            raise WrongConnection(
                f"{self!r} stores jobs in transactions of their callers only (transactional=True), and none is open here; "
                "begin one, and pass its connection as on=, or enter `jobs.on(…)`"
            )

    async def run_now(self, job: NewJob, on: Any) -> int:
        """Run *job* at once, here, and store what it came to; its id. Raises what it raises."""
        raise NotImplementedError

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop all this happens on. Raises WhichJobs, and MisusedJobs after a fork."""
        raise NotImplementedError

    def _stored(self, jobs: Sequence[NewJob]) -> None:
        """*jobs* were stored for somebody who has stopped waiting for it."""
        self._wake(lanes_of(jobs))

    def _serves(self, lanes: Sequence[Lane]) -> bool:
        runner = self.runner
        return runner is not None and all(runner.is_hungry(lane) for lane in lanes)

    def _wake(self, lanes: Sequence[Lane]) -> None:
        if self.runner is not None:
            self.runner.wake(lanes)

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection."""
        self._check_taking()
        return self._source.connection()

    async def ask(
        self, question: Callable[Concatenate[Session, P], Awaitable[R]], *args: P.args, **given: P.kwargs
    ) -> R:
        """What *question* of the store answers. Raises DatabaseUnavailable and SchemaMissing."""
        for left in reversed(range(TRIES)):
            try:
                async with self._asking() as session:
                    return await question(session, *args, **given)
            except Exception as error:
                # Where the database prescribes a stricter isolation, whoever came first wins, and the other asks again.
                if not (left and is_rolled_back(error)):
                    raise
        raise AssertionError("the last try returns or raises")

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Session]:
        try:
            async with self.connection() as connection:
                yield Session(connection, self.schema)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            if is_lost(error):
                raise DatabaseUnavailable(
                    f"the connection was lost before Postgres had answered ({type(error).__name__}: {error}); ask again"
                ) from error
            if is_missing_schema(error):
                raise SchemaMissing(self.schema) from error
            raise

    def session(self, connection: Connection) -> Session:
        """*connection*, with the statements of this Jobs' schema."""
        return Session(connection, self.schema)

    def _check_taking(self) -> None:
        if self._closing:
            raise WhichJobs(
                f"{self!r} is being closed, and takes nothing more; do it before the end of its block"
            )

    async def find_job(self, job_id: int) -> Job | None:
        """The job, live or finished; None when there is none to be seen."""
        return await self.ask(views.get_job, job_id)

    async def wait_for_job(self, job_id: int) -> Job:
        """The job once it is final. Raises JobNotFound."""
        return await self._waiter.wait(job_id)

    async def _look_at_jobs(
        self, ids: Collection[int], to_mark: Collection[int]
    ) -> tuple[Mapping[int, Job], Collection[int]]:
        return await self.ask(views.look_at_jobs, ids, to_mark)

    async def _await_job(self, job_id: int) -> bool:
        return await self.ask(views.await_job, job_id)

    async def cancel_job(self, job_id: int) -> Literal["cancelled", "requested"] | None:
        """Cancel the job, or ask its runner to: None when it is final or unknown."""
        return await self.ask(views.cancel_job, job_id)

    def job_finished(self, job_id: int) -> None:
        """A runner of this process heard that the job is final."""
        self._waiter.tell(job_id)

    def hears_results(self, *, hears: bool) -> None:
        """Whether a runner of this process hears when jobs become final."""
        self._waiter.runner_hears = hears

    async def close_enqueuing(self) -> None:
        """Store what was ordered, and close what was opened. Meanwhile nothing more is taken."""
        self._closing = True
        self._gate.close()
        self._gate = Gate()
        try:
            await self._coalescer.close()
            await self._waiter.close()
            await self._source.close()
        finally:
            self._closing = False


def lanes_of(jobs: Sequence[NewJob]) -> list[Lane]:
    """Where *jobs* will wait, each lane once."""
    if len(jobs) == 1:
        return [Lane(jobs[0].queue, jobs[0].stored_kind)]
    return list({Lane(job.queue, job.stored_kind) for job in jobs})
