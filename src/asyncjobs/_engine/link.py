"""A connection the runner holds for its whole life, opened again whenever it breaks."""

from __future__ import annotations

import functools
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import anyio

from asyncjobs._model.backoff import Exponential
from asyncjobs._store.faults import is_transient
from asyncjobs._store.probes import is_pooled
from asyncjobs._store.runners import prepare_session
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable

logger = logging.getLogger("asyncjobs")

RECONNECT = Exponential(first=timedelta(milliseconds=100), longest=timedelta(seconds=3), jitter=0.5)


@asynccontextmanager
async def link(
    source: Source, schema: str, *, pooled: bool | None = None, durable: bool = True
) -> AsyncIterator[Session]:
    """A session of the runner's own. Behind a pooler it sets nothing, because the next user would inherit it."""
    connection = await source.connect()
    try:
        session = Session(connection, schema)
        if not (is_pooled(connection) if pooled is None else pooled):
            await prepare_session(session, synchronous_commit=durable)
        yield session
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await connection.close()
    finally:
        if connection in _kept:
            connection._transport.abort()  # not a word: `terminate` would say goodbye
        else:
            connection.terminate()  # never release politely what may be broken: on a dead network that takes minutes


_kept: WeakSet[Any] = WeakSet()


def keep_open(session: Session) -> Callable[[], None]:
    """Keep the server believing in *session* until what is returned is called, or the process ends, whatever becomes of
    its connection and of this loop: a second descriptor keeps the socket open.
    """
    connection: Any = session.connection
    _kept.add(connection)
    theirs = connection._transport.get_extra_info("socket")
    ours = socket.fromfd(theirs.fileno(), theirs.family, theirs.type).detach()
    return functools.partial(socket.close, ours)


class Patience:
    """How long to wait before the next try, and how loudly to complain."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0

    def succeeded(self) -> None:
        """The next failure is the first again."""
        if self._failures:
            logger.info("%s: connected again", self._what)
        self._failures = 0

    async def wait_after(self, error: Exception) -> None:
        """Wait, longer each time. An error that is not the server's is logged with its traceback, always."""
        self._failures += 1
        if not isinstance(error, DatabaseUnavailable) and not is_transient(error):
            logger.error("%s failed, and goes on", self._what, exc_info=error)
        elif self._failures == 1:
            logger.warning("%s lost Postgres and goes on when it is back: %s", self._what, error)
        await anyio.sleep(RECONNECT.delay(self._failures, random.random()).total_seconds())
