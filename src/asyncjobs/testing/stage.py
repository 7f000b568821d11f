"""Jobs inside one transaction: all that a Jobs does, it does on the one connection that the test has.

Wherever the Jobs would borrow a connection of its own it is given the test's, and what it would commit is a savepoint: the test
sees everything, and everything is gone when the test rolls back. Nothing runs by itself there (`drain`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from asyncjobs._app import Jobs
from asyncjobs._model.job import Job, NewJob
from asyncjobs._store.connection import Connection, SQLAlchemyConnection
from asyncjobs._store.faults import is_failed_transaction
from asyncjobs._store.foreign import join
from asyncjobs._store.intake import insert
from asyncjobs._store.session import Session
from asyncjobs.errors import JobNotFound, MisusedJobs


@asynccontextmanager
async def inside(jobs: Jobs, on: Any) -> AsyncIterator[Jobs]:
    """Within it, *jobs* do everything on *on*, the connection or session of a test, in the transaction that is open there.

    Whatever `on=` takes will do. What would be a transaction of its own is a savepoint, and nothing commits but by the test.
    The Jobs is opened where it is not; its lifespan, entered within, runs nothing, for `drain` does.
    """
    if jobs.is_staged:
        raise MisusedJobs(f"{jobs!r} is inside a test's transaction already; leave that first")
    if jobs._supervisor is not None:
        raise MisusedJobs(
            f"{jobs!r} runs jobs, on connections that see nothing of a test's transaction; enter it with `async with jobs:` at most"
        )
    stage = Stage(on)
    kept = {name: vars(jobs)[name] for name in _SWAPPED if name in vars(jobs)}
    stood_in: dict[str, Any] = {
        "_source": stage,
        "_own_source": stage,
        "_coalescer": Intake(stage, jobs.schema),
        "_waiter": Waiter(jobs.find_job),
    }
    for name in kept:
        delattr(jobs, name)
    vars(jobs).update(stood_in)
    try:
        async with AsyncOpen(jobs):
            await jobs.subscribe_now()
            jobs.is_staged = True
            try:
                yield jobs
            finally:
                jobs.is_staged = False
    finally:
        for name in _SWAPPED:
            vars(jobs).pop(name, None)
        vars(jobs).update(kept)


_SWAPPED = ("_source", "_own_source", "_coalescer", "_waiter", "_registrar")


class AsyncOpen:
    """The Jobs, opened unless it is open."""

    def __init__(self, jobs: Jobs) -> None:
        self._opening = None if jobs._opened is not None else jobs._open()

    async def __aenter__(self) -> None:
        if self._opening is not None:
            await self._opening.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        if self._opening is not None:
            await self._opening.__aexit__(None, None, None)


def stage_of(jobs: Jobs) -> Stage | None:
    """The stage *jobs* are on."""
    source = jobs._source
    return source if isinstance(source, Stage) else None


@attrs.define(eq=False)
class Turn:
    """Somebody has the connection; who is called by them takes it from them."""

    stage: Stage
    around: Turn | None
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    is_over: bool = False


_turn: ContextVar[Turn | None] = ContextVar("asyncjobs_testing_turn", default=None)


class Stage:
    """One connection, as a source of connections."""

    linger = float("inf")

    def __init__(self, on: Any) -> None:
        self.on = on
        self.has_clock = False
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return "inside a test's transaction"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._my_turn():
            joined = await join(self.on)
            if joined.commits_itself:
                yield joined.connection
                return
            async with joined.connection.transaction():
                yield joined.connection

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        """One at a time: of two savepoints on a connection, one is in the other."""
        around = _turn.get()
        while around is not None and (around.is_over or around.stage is not self):
            around = around.around
        async with self._lock if around is None else around.lock:
            mine = Turn(self, around)
            _turn.set(mine)
            try:
                yield
            finally:
                mine.is_over = True
                if _turn.get() is mine:
                    _turn.set(around)

    @asynccontextmanager
    async def around_job(self) -> AsyncIterator[None]:
        """A savepoint, to go back to should the job break the transaction. What it wrote otherwise stays, as it would.

        SQLAlchemy's sessions have savepoints of their own, which are not to be nested in ours: a job may end what was begun
        before it.
        """
        joined = await join(self.on)
        if joined.commits_itself or isinstance(joined.connection, SQLAlchemyConnection):
            yield
            return
        try:
            async with joined.connection.transaction():
                yield
                await joined.connection.execute("select")
        except Exception as error:
            if not is_failed_transaction(error):
                raise

    async def connect(self) -> Any:
        raise MisusedJobs(
            "inside a test's transaction there is but its connection, and nobody runs jobs; `await drain()` does, and what needs "
            "a runner is tested outside"
        )

    def is_exhausted(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class Intake:
    """Stores what is enqueued without a connection, one call after the other."""

    def __init__(self, stage: Stage, schema: str) -> None:
        self._stage = stage
        self._schema = schema

    async def insert(self, jobs: Sequence[NewJob], *, wake: bool) -> list[int]:
        async with self._stage.connection() as connection:
            return await insert(Session(connection, self._schema), jobs, wake=wake)

    async def close(self) -> None:
        pass


class Waiter:
    """Waits for nothing: only the test itself could make a job final."""

    runner_hears = False

    def __init__(self, look: Callable[[int], Awaitable[Job | None]]) -> None:
        self._look = look

    def tell(self, job_id: int) -> None:
        pass

    async def wait(self, job_id: int) -> Job:
        job = await self._look(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if not job.state.is_final:
            raise MisusedJobs(
                f"job {job_id} ({job.name}) is {job.state}, and nothing runs jobs inside a test's transaction; "
                "`await drain()` before its result is asked for, or enqueue it in `with inline():`"
            )
        return job

    async def close(self) -> None:
        pass


def savepoint_of(jobs: Jobs) -> AbstractAsyncContextManager[None]:
    """What is around a job that is drained."""
    stage = stage_of(jobs)
    return _nothing() if stage is None else stage.around_job()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
