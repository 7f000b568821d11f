"""Forget finished jobs that are past their time, and put the planner's ballast back."""

from __future__ import annotations

import random

import anyio
import attrs

from asyncjobs._engine.link import Patience
from asyncjobs._store.chores import prune_jobs, prune_windows, restore_ballast
from asyncjobs._store.rates import prune_rates
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

A_CHUNK = 5000  #: rows one statement deletes: short enough to hold nobody up


@attrs.frozen
class Retention:
    """How long finished jobs are kept, in seconds."""

    finished: float
    failed: float


class Janitor:
    """Does its rounds, for ever."""

    def __init__(self, source: Source, schema: str, retention: Retention, every: float = 60.0) -> None:
        self._source = source
        self._schema = schema
        self._retention = retention
        self._every = every

    async def run(self) -> None:
        """One round after another, not in step with other runners'."""
        patience = Patience("the janitor")
        while True:
            await anyio.sleep(self._every * random.uniform(0.8, 1.2))
            try:
                async with self._source.connection() as connection:
                    await self.round(Session(connection, self._schema))
                patience.succeeded()
            except Exception as error:
                await patience.wait_after(error)

    async def round(self, session: Session) -> int:
        """One round: how many finished jobs were forgotten."""
        await restore_ballast(session)
        forgotten = 0
        while pruned := await prune_jobs(session, self._retention.finished, self._retention.failed, A_CHUNK):
            forgotten += pruned
        while await prune_windows(session, A_CHUNK):
            pass
        while await prune_rates(session, A_CHUNK):
            pass
        return forgotten
