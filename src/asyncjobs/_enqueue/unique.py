"""Unique jobs of callers without a transaction: each caller has a connection for itself.

Whether a key is taken is known only when the transaction that has just taken it ends. Whoever waits for that must not hold up
others, so these jobs are not stored together with everybody's (`coalescer`). A duplicate writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asyncjobs._enqueue.coalescer import ANSWER, honest
from asyncjobs._model.job import NewJob
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._store.unique import Stored, insert_unique
from asyncjobs.errors import DatabaseUnavailable, JobsError


async def store_alone(source: Source, schema: str, jobs: Sequence[NewJob], *, wake: bool) -> list[Stored]:
    """Store *jobs* in a transaction of their own. Raises errors that say whether it was done."""
    async with source.connection() as connection:
        try:
            async with asyncio.timeout(ANSWER):
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
