"""Keep a runner running next to an application, and the application safe from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from asyncjobs._engine.link import RECONNECT
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._runner.runner import Runner
from asyncjobs._runner.signals import heard_first

logger = logging.getLogger("asyncjobs")

SLACK = 0.5  #: seconds beyond its time after which a runner that does not stop is left


class Supervisor:
    """Runs a runner in a task of its own, so that no scope of ours spans the application's code, and again if it fails."""

    def __init__(self, jobs: Enqueuer, make: Callable[[], Runner], shutdown: float) -> None:
        self._jobs = jobs
        self._shutdown = shutdown
        self._stopping = False
        self._gave_up = False
        self.runner = make()
        self.hurry = anyio.Event()  #: set: cancel what runs instead of waiting for it

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Jobs run while this is entered."""
        self._jobs.runner = self.runner
        owner = asyncio.create_task(self._own(), name="asyncjobs runner")
        with heard_first(self.runner.quiet, self.hurry.set):
            try:
                yield
            finally:
                await self._stop(owner)

    async def _own(self) -> None:
        """Run the runner until it is stopped. Whatever ends it before is a fault of ours, never the application's."""
        failures = 0
        while not self._stopping:
            fault: BaseException | None = None
            try:
                await self.runner.run()
            except BaseException as error:
                fault = error
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                await self._salvage()
                raise asyncio.CancelledError
            if not self._stopping:
                failures += 1
                logger.critical(
                    "the runner failed, which is a fault of asyncjobs; it starts again", exc_info=fault
                )
                await asyncio.sleep(RECONNECT.delay(failures, 0.5).total_seconds())

    async def _salvage(self) -> None:
        """This task was cancelled, and not by us: asyncio.run cancels all there are when a lifespan was skipped."""
        if not self._gave_up:
            self._stopping = True
            try:
                await self.runner.salvage()
            except Exception as error:
                logger.warning("what the jobs came to could not be written; they run again", exc_info=error)

    async def _stop(self, owner: asyncio.Task[None]) -> None:
        """Stop within the time given, also when whoever stops us is being cancelled."""
        stopper = asyncio.create_task(self._stop_runner(owner), name="asyncjobs stops")
        cancelled: asyncio.CancelledError | None = None
        while not stopper.done():
            try:
                await asyncio.wait([stopper])
            except asyncio.CancelledError as error:
                cancelled = error
                self.hurry.set()
        self._jobs.runner = None
        self._jobs.hears_results(hears=False)
        if cancelled is not None:
            raise cancelled

    async def _stop_runner(self, owner: asyncio.Task[None]) -> None:
        self._stopping = True
        try:
            async with asyncio.timeout(self._shutdown + SLACK / 2):
                await self.runner.stop(self.hurry)
        except Exception:
            logger.exception("stopping the runner failed; what it held is rescued by another")
        if not owner.done():
            await asyncio.wait([owner], timeout=SLACK / 2)
        if not owner.done():
            self._gave_up = True
            owner.cancel()
            with suppress(Exception):
                await asyncio.wait([owner], timeout=SLACK / 2)
