"""Unique jobs of callers without a transaction: each caller has a connection for itself.

Whether a key is taken is known only when the transaction that has just taken it ends. Whoever waits for that must not hold up
others, so these jobs are not stored together with everybody's (`coalescer`), and only a few hold connections for it, of those
with one key fewer still; the others wait here. A duplicate writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from asyncjobs._enqueue.coalescer import ANSWER, honest
from asyncjobs._model.job import NewJob
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._store.unique import Stored, insert_unique
from asyncjobs.errors import DatabaseUnavailable, JobsError, WhichJobs

AT_ONCE = 5  #: connections: half of our own pool, and few of the application's …
WITH_ONE_KEY = 3  #: … of which some are left when somebody holds a key for long


class Gate:
    """Who may ask for a key."""

    def __init__(self) -> None:
        self._few = asyncio.Semaphore(AT_ONCE)
        self._by_key: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._is_closed = False

    def close(self) -> None:
        """Nobody who waits may ask any more."""
        self._is_closed = True

    @asynccontextmanager
    async def turn(self, jobs: Sequence[NewJob]) -> AsyncIterator[None]:
        """Wait for one. Raises WhichJobs when it came too late."""
        async with AsyncExitStack() as stack:
            if len(jobs) == 1 and (key := jobs[0].unique_key) is not None:
                await stack.enter_async_context(self._by_key.setdefault(key, asyncio.Semaphore(WITH_ONE_KEY)))
            await stack.enter_async_context(self._few)
            if self._is_closed:
                raise WhichJobs("its Jobs was closed before the job could be stored")
            yield


async def store_alone(
    source: Source, schema: str, jobs: Sequence[NewJob], gate: Gate, *, wake: bool
) -> list[Stored]:
    """Store *jobs* in a transaction of their own. Raises errors that say whether it was done."""
    try:
        async with asyncio.timeout(ANSWER), gate.turn(jobs), source.connection() as connection:
            return await insert_unique(Session(connection, schema), jobs, wake=wake, commits_itself=True)
    except TimeoutError as error:
        raise DatabaseUnavailable(
            f"no answer within {ANSWER:g} s, so the job was not stored, as far as can be known; perhaps an open transaction has "
            "just taken its key: keep transactions that enqueue unique jobs short"
        ) from error
    except JobsError:
        raise
    except Exception as error:
        told = honest(error)
        if told is error:
            raise
        raise told from error
