"""Says in the database what an application's code subscribes to, at its start and as long as it runs.

A start writes its subscriptions over what stands there. One that no process of the application has declared for an hour goes,
if one ran all that time that declares others: so an old version beside a new one keeps its own and changes none of the new
one's, a restart loses nothing, and of an application that is down everything stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import anyio

from asyncjobs._engine.link import Patience
from asyncjobs._model.events import Subscription
from asyncjobs._store.bus import declare_subscriptions, drop_subscriptions, renew_subscriptions
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

logger = logging.getLogger("asyncjobs")

EVERY = 60.0  #: seconds between two times it is said
FORGOTTEN_AFTER = 3600.0  #: seconds in which nobody says it


class Registrar:
    """What one process says."""

    def __init__(
        self, source: Source, schema: str, app: str, subscriptions: Callable[[], Sequence[Subscription]]
    ) -> None:
        self._source = source
        self._schema = schema
        self._app = app
        self._subscriptions = subscriptions
        self._since: float | None = None  #: when it was said first

    async def run(self) -> None:
        """Say it, for ever."""
        patience = Patience("the message bus")
        while self._subscriptions():
            try:
                await self.round()
                patience.succeeded()
            except Exception as error:
                await patience.wait_after(error)
            else:
                await anyio.sleep(EVERY)

    async def round(self) -> None:
        """Say it once."""
        if self._since is None:
            await self.declare()
            return
        said = self._subscriptions()
        async with self._source.connection() as connection:
            session = Session(connection, self._schema)
            await renew_subscriptions(session, self._app, said, EVERY / 2)
            if time.monotonic() - self._since > FORGOTTEN_AFTER:
                await self._drop(session, said, FORGOTTEN_AFTER)

    async def declare(self, *, only: bool = False) -> None:
        """Say it as one that starts; *only* this, and all else goes now."""
        said = self._subscriptions()
        if said or only:
            async with self._source.connection() as connection, connection.transaction():
                session = Session(connection, self._schema)
                await declare_subscriptions(session, self._app, said)
                if only:
                    await self._drop(session, said, 0.0)
        self._since = time.monotonic()

    async def _drop(self, session: Session, said: Sequence[Subscription], undeclared_for: float) -> None:
        dropped = await drop_subscriptions(session, self._app, [each.name for each in said], undeclared_for)
        if dropped:
            logger.info("%s subscribes no more: %s", self._app, ", ".join(dropped))
