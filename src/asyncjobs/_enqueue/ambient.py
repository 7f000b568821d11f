"""Which Jobs a call of `later` means, and on which connection.

The call's own `jobs=` and `on=`; else the innermost `async with jobs` or `jobs.on(…)` around this code; inside a job, its
own Jobs; else the one Jobs that is open on this event loop. None or several is an error that names them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._store.connection import Connection, abandon
from asyncjobs._store.foreign import Joined
from asyncjobs.errors import WhichJobs, WrongConnection

UNDONE_WITHIN = 0.5  #: seconds the server has to undo a transaction over the connection it was made on


@attrs.define(eq=False)
class Binding:
    """Code that runs below an `async with` of a Jobs."""

    jobs: Enqueuer
    on: Any = None
    #: who entered `jobs.on(…)`, a task or (by its number) a thread: a session is never shared with another
    task: Any = None
    around: Binding | None = None  #: the block this one is in
    is_over: bool = False


_binding: ContextVar[Binding | None] = ContextVar("asyncjobs_binding", default=None)
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Enqueuer]] = WeakKeyDictionary()


@contextmanager
def bound(jobs: Enqueuer, on: Any = None) -> Iterator[None]:
    """Within it, `later` means *jobs*, and *on* unless told otherwise."""
    around = _binding.get()
    binding = Binding(jobs, on, _who() if on is not None else None, around)
    _binding.set(binding)
    try:
        yield
    finally:
        # Not a token: a lifespan or a dependency may be left in another context than it was entered in, and after one that
        # was entered later. Whose block it is by then is not touched, and blocks that are over are not gone back to.
        binding.is_over = True
        if _binding.get() is binding:
            while around is not None and around.is_over:
                around = around.around
            _binding.set(around)


def _who() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return threading.get_ident()


@asynccontextmanager
async def transaction(jobs: Enqueuer, *when_committed: Callable[[], None]) -> AsyncIterator[Joined]:
    """A transaction on a connection of *jobs*', which `later` without `on=` joins below it.

    What *when_committed* names is called once it has committed, before anything else can happen to this task.
    """
    told = list(when_committed)
    async with jobs.connection() as connection:
        async with _undone_in_time(connection):
            joined = Joined(
                connection, connection, commits_itself=False, is_open=lambda: True, on_commit=told.append
            )
            with bound(jobs, on=joined):
                yield joined
        for tell in told:
            tell()


@asynccontextmanager
async def _undone_in_time(connection: Connection) -> AsyncIterator[None]:
    """A transaction of *connection*. When undoing it gets no answer, as on a dead network, the connection is abandoned: the
    server undoes it by itself.
    """
    transaction = connection.transaction()
    await transaction.__aenter__()
    try:
        yield
    except GeneratorExit as error:  # closed by another task, whose time this is
        await transaction.__aexit__(GeneratorExit, error, error.__traceback__)
        raise
    except BaseException as error:
        try:
            async with asyncio.timeout(UNDONE_WITHIN):
                await transaction.__aexit__(type(error), error, error.__traceback__)
        except TimeoutError:
            await abandon(connection)
        raise
    await transaction.__aexit__(None, None, None)


def bind(jobs: Enqueuer) -> None:
    """From here on, in this task's context, `later` means *jobs*."""
    _binding.set(Binding(jobs))


def opened(jobs: Enqueuer) -> None:
    """*jobs* serves this event loop from now."""
    _open.setdefault(asyncio.get_running_loop(), []).append(jobs)


def closed(jobs: Enqueuer) -> None:
    """*jobs* serves this event loop no more."""
    here = _open.get(asyncio.get_running_loop(), [])
    if jobs in here:
        here.remove(jobs)


def which(given: Enqueuer | None = None, on: Any = None) -> tuple[Enqueuer, Any]:
    """The Jobs and the connection a call means. Raises WhichJobs, or WrongConnection for another task's session."""
    binding = _binding.get()
    jobs = given or (binding.jobs if binding else None) or _the_one_open()
    if on is None and binding is not None and binding.on is not None and binding.jobs is jobs:
        if binding.task is not asyncio.current_task():
            raise WrongConnection(
                "`jobs.on(…)` was entered by another task, and a session is not shared between tasks; "
                "pass on= here, or enter `jobs.on(…)` in this task"
            )
        on = binding.on
    return jobs, on


def which_from_sync(given: Enqueuer | None = None, on: Any = None) -> tuple[Enqueuer, Any]:
    """`which`, for sync code: in a thread, or on a sync connection. There, one that is open on whichever loop is meant."""
    binding = _binding.get()
    jobs = given or (binding.jobs if binding else None) or _the_one_open_anywhere()
    if on is None and binding is not None and binding.on is not None and binding.jobs is jobs:
        if binding.task != _who():
            raise WrongConnection(
                "`jobs.on(…)` was entered by an async task or another thread, which its connection belongs to; pass on= a sync "
                "connection of this thread here, or enter `with jobs.on(…)` in it"
            )
        on = binding.on
    return jobs, on


def _the_one_open_anywhere() -> Enqueuer:
    loops = [loop() for loop in _open.keyrefs()]  # in one step, whatever other threads open and close
    here = asyncio._get_running_loop()
    if here is not None and _open.get(here):
        loops = [here]
    found = [jobs for loop in loops if loop is not None for jobs in _open.get(loop, ())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise WhichJobs(
            "no Jobs is open in this process; run the application's lifespan first, or pass jobs= to later_sync: with on= a sync "
            "connection it need not be open"
        )
    raise WhichJobs(
        f"{len(found)} Jobs are open in this process ({', '.join(map(repr, found))}); say which with jobs="
    )


def _the_one_open() -> Enqueuer:
    here = _open.get(asyncio.get_running_loop(), [])
    if len(here) == 1:
        return here[0]
    if not here:
        raise WhichJobs(
            "no Jobs is open on this event loop; enter `async with jobs:` or run the application's lifespan first, "
            "or pass jobs= to later"
        )
    raise WhichJobs(
        f"{len(here)} Jobs are open on this event loop ({', '.join(map(repr, here))}); say which with jobs="
    )
