"""Wait for jobs to become final, woken by the database.

Everybody who awaits a result in this process shares one LISTEN connection: a running runner's, or one opened for the
purpose when the first result is awaited. A job somebody awaits is marked in its row, and only finishing a marked job
notifies. Notifications can be lost with their connection, so a look now and then is the safety net, and the only way
where a pooler leaves no LISTEN.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio

from asyncjobs._enqueue.looking import Ask, Looking
from asyncjobs._model.job import Job
from asyncjobs._store.listening import FINISHED, channel
from asyncjobs._store.probes import is_pooled
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable, JobNotFound

logger = logging.getLogger("asyncjobs")

LOOK_EVERY = 2.0  #: seconds between looks when notifications come
POLL_FROM, POLL_TO = 0.02, 0.5  #: seconds between looks when they do not


Mark = Callable[[int], Awaitable[bool]]


class Waiter:
    """Tells who awaits a job that it is final."""

    def __init__(self, source: Source, schema: str, look: Ask, mark: Mark, *, listen: bool | None) -> None:
        self._source = source
        self._schema = schema
        self._listen = listen is not False
        self._by_hand = listen is True
        self._looking = Looking(look)
        self._mark = mark  #: one whose row is taken, for which nobody else is to wait
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._hears = False
        self._life = 0  #: rises whenever it is closed
        self.runner_hears = False  #: a runner of this process listens for us

    def tell(self, job_id: int) -> None:
        """The job is final: the database says so."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def wait(self, job_id: int) -> Job:
        """The job once it is final. Raises JobNotFound.

        Raises DatabaseUnavailable when Postgres is away to begin with; later it is waited for.
        """
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            return await self._wait(job_id, event)
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _wait(self, job_id: int, event: asyncio.Event) -> Job:
        pause, life = POLL_FROM, self._life
        found = marked = False
        while True:
            event.clear()
            # Asked before looking: what comes after the look is then heard.
            hears = self._hears or self.runner_hears
            try:
                job, was_marked = await self._looking.look(job_id, mark=not marked)
                if job is not None and job.state.is_final:
                    return job
                if job is None:
                    raise JobNotFound(job_id)
                found = True
                if not (marked or was_marked):
                    # Somebody is at it: finishing it, or in a transaction of theirs.
                    await self._mark(job_id)
                    continue
                if not marked and life == self._life:  # else we were closed meanwhile
                    self._ensure_listening()
                marked = True
            except DatabaseUnavailable:
                if not found:
                    raise
                hears = False  # Postgres is away, and with it whoever heard; the job is not
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY if hears else pause):
                    await event.wait()
            pause = min(pause * 2, POLL_TO)

    def _ensure_listening(self) -> None:
        if self._listen and not self.runner_hears and (self._listener is None or self._listener.done()):
            self._listener = asyncio.create_task(self._hear(), name="asyncjobs results")

    async def _hear(self) -> None:
        """Hold a connection that listens, until it breaks: then the next wait opens another."""
        try:
            connection = await self._source.connect()
            try:
                if is_pooled(connection) and not self._by_hand:
                    self._listen = False  # nobody says whether it would be heard
                else:
                    await self._hear_over(connection)
            finally:
                self._hears = False
                with anyio.CancelScope(shield=True), anyio.move_on_after(1), suppress(Exception):
                    await connection.close()
                connection.terminate()
        except Exception as error:
            logger.warning("results are polled for: %s", error)
        for job_id in self._waiting:
            self.tell(job_id)  # to look, and to look more often

    async def _hear_over(self, connection: Any) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel(self._schema, FINISHED), self._heard)
        self._hears = True
        await gone.wait()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        with suppress(ValueError):
            self.tell(int(str(payload)))

    async def close(self) -> None:
        """Stop listening. Who still waits finds out when looking."""
        self._life += 1
        for job_id in self._waiting:
            self.tell(job_id)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
