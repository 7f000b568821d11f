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


class Supervisor:
    """Runs one runner after another in a task of its own, so that no scope of ours spans the application's code."""

    def __init__(self, jobs: Enqueuer, make: Callable[[], Runner], shutdown: float) -> None:
        self._jobs = jobs
        self._make = make
        self._shutdown = shutdown
        self._quiet = False
        self.runner = make()
        self.hurry = anyio.Event()  #: set: cancel what runs instead of waiting for it

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Jobs run while this is entered."""
        owner = asyncio.create_task(self._own(), name="asyncjobs runner")
        try:
            with heard_first(self.quiet):
                yield
        finally:
            await self._stop(owner)

    def quiet(self) -> None:
        """Claim nothing more."""
        self._quiet = True
        self.runner.quiet()

    async def _own(self) -> None:
        failures = 0
        while True:
            self._jobs.runner = self.runner
            try:
                await self.runner.run()
            except Exception as error:
                failures += 1
                logger.critical("the runner failed, which is a fault of asyncjobs; it starts again", exc_info=error)
                await asyncio.sleep(RECONNECT.delay(failures, 0.5).total_seconds())
                self.runner = self._make()
                if self._quiet:
                    self.runner.quiet()
            else:
                return

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
        try:
            async with asyncio.timeout(self._shutdown):
                await self.runner.stop(self.hurry)
        except Exception as error:
            logger.error("stopping the runner failed; what it held is rescued by another", exc_info=error)
        if not owner.done():
            await asyncio.wait([owner], timeout=0.5)
        if not owner.done():
            owner.cancel()
            with suppress(Exception):
                await asyncio.wait([owner], timeout=0.5)
