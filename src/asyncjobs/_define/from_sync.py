"""`later_sync`: `later` for code that cannot await, in a thread or on a sync connection.

On a sync connection (`on=`) everything happens here and now, in the caller's thread and transaction: no event loop is needed, and
the commit wakes idle runners as any other does. Without one, the call is handed to the loop on which the Jobs is open, with the
context of this thread, and waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import attrs

from asyncjobs._define.enqueueing import Prepared, enqueue
from asyncjobs._define.handle import Handle
from asyncjobs._enqueue.ambient import which_from_sync
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._store.synchronous import at_once, join_sync
from asyncjobs.errors import DatabaseUnavailable, MisusedJobs

R = TypeVar("R")
T = TypeVar("T")

LOOK_EVERY = 1.0  #: seconds between looks whether the loop that should answer still runs


def enqueue_sync(prepared: Prepared[R]) -> Handle[R]:
    """Store one call. Raises what `later` raises, and MisusedJobs where waiting would stop an event loop."""
    jobs, on = which_from_sync(prepared.call.get("jobs"), prepared.call.get("on"))
    if on is not None:
        here = attrs.evolve(prepared, call={**prepared.call, "jobs": jobs, "on": join_sync(on)})
        return at_once(enqueue(here))
    there = attrs.evolve(prepared, call={**prepared.call, "jobs": jobs})
    return on_its_loop(jobs, lambda: enqueue(there))


def on_its_loop(jobs: Enqueuer, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What *work* returns, on the loop of *jobs*, in a copy of this thread's context. Blocks this thread, which runs no loop."""
    if asyncio._get_running_loop() is not None:
        raise MisusedJobs(
            "this thread runs an event loop, and `later_sync` would stop it while it waits for the commit; write "
            "`await ….later(…)`, or pass on= a sync connection"
        )
    loop, answer = jobs.loop(), Future[T]()

    def begin() -> None:
        if answer.set_running_or_notify_cancel():
            task = asyncio.ensure_future(work())
            task.add_done_callback(lambda _: _hand_over(task, answer))

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:  # closed
        raise _ended(jobs, "so nothing was stored") from None
    while True:
        try:
            return answer.result(LOOK_EVERY)
        except TimeoutError:
            if answer.done():
                raise  # its own
            if not loop.is_running():
                begun = not answer.cancel()
                raise _ended(
                    jobs,
                    "and whether the job was stored is not known; look before you enqueue it again"
                    if begun
                    else "so nothing was stored",
                ) from None


def _hand_over(task: asyncio.Future[T], answer: Future[T]) -> None:
    if task.cancelled():
        answer.set_exception(
            DatabaseUnavailable("the event loop ended; whether the job was stored by then is not known")
        )
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def _ended(jobs: Enqueuer, so: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the event loop of {jobs!r} has ended, {so}")
