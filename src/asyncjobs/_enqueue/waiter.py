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

import anyio

from asyncjobs._model.job import Job
from asyncjobs._store import views
from asyncjobs._store.listening import FINISHED, channel
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable, JobNotFound

logger = logging.getLogger("asyncjobs")

LOOK_EVERY = 2.0  #: seconds between looks when notifications come
POLL_FROM, POLL_TO = 0.02, 0.5  #: seconds between looks when they do not


class Waiter:
    """Tells who awaits a job that it is final."""

    def __init__(self, source: Source, schema: str, *, listen: bool) -> None:
        self._source = source
        self._schema = schema
        self._listen = listen
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._hears = False
        self.runner_hears = False  #: a runner of this process listens for us

    def tell(self, job_id: int) -> None:
        """The job is final: the database says so."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def wait(self, job_id: int, look: Callable[[], Awaitable[Job | None]]) -> Job:
        """The job once it is final. Raises JobNotFound when there is none."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            return await self._wait(job_id, event, look)
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _wait(
        self, job_id: int, event: asyncio.Event, look: Callable[[], Awaitable[Job | None]]
    ) -> Job:
        pause = POLL_FROM
        marked = False
        while True:
            event.clear()
            if not marked:
                self._ensure_listening()
                marked = await self._mark(job_id)
            job = await look()
            if job is None:
                raise JobNotFound(job_id)
            if job.state.is_final:
                return job
            hears = self._hears or self.runner_hears
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY if hears else pause):
                    await event.wait()
            pause = min(pause * 2, POLL_TO)

    async def _mark(self, job_id: int) -> bool:
        async with self._source.connection() as connection:
            return await views.await_job(Session(connection, self._schema), job_id)

    def _ensure_listening(self) -> None:
        if self._listen and not self.runner_hears and (self._listener is None or self._listener.done()):
            self._listener = asyncio.create_task(self._hear(), name="asyncjobs results")

    async def _hear(self) -> None:
        """Hold a connection that listens, until it breaks: then the next wait opens another."""
        try:
            connection = await self._source.connect()
        except DatabaseUnavailable as error:
            logger.warning("results are polled for: %s", error)
            return
        gone = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(channel(self._schema, FINISHED), self._heard)
            self._hears = True
            await gone.wait()
        finally:
            self._hears = False
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await connection.close()
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        with suppress(ValueError):
            self.tell(int(str(payload)))

    async def close(self) -> None:
        """Stop listening."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
