"""A connection the runner holds for its whole life, opened again whenever it breaks."""

from __future__ import annotations

import functools
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import anyio
import attrs

from asyncjobs._model.backoff import Exponential
from asyncjobs._store.faults import discreet, is_transient
from asyncjobs._store.probes import is_pooled
from asyncjobs._store.runners import prepare_session
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._store.statements import statements
from asyncjobs.errors import DatabaseUnavailable

logger = logging.getLogger("asyncjobs")

RECONNECT = Exponential(first=timedelta(milliseconds=100), longest=timedelta(seconds=2), jitter=0.5)

ANSWER = 5.0
"""Seconds a statement may take before the connection is given up: its answer may have been lost on the way. A server may also
be slow, so each time this happens the next connection is given twice as long."""

LONGEST_ANSWER = 300.0
SLOW_FOR = 600.0  #: seconds after which the server is believed quick again

_open: WeakSet[Any] = WeakSet()  #: every connection of a link
_kept: WeakSet[Any] = WeakSet()  #: those the server is to believe in
_descriptors: set[int] = set()  #: what keeps them open


@asynccontextmanager
async def link(
    source: Source, schema: str, *, durable: bool = True, answer: float = ANSWER
) -> AsyncIterator[Session]:
    """A session of the runner's own, each of whose statements is answered within *answer* seconds or raises.

    Behind a pooler it sets nothing, because the next user would inherit it.
    """
    connection = await source.connect()
    try:
        _open.add(connection)
        _notice_a_dead_network(connection)
        session = _Answered(connection, schema, answer)
        if not is_pooled(connection):
            await prepare_session(session, synchronous_commit=durable)
        yield session
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await connection.close()
    finally:
        _open.discard(connection)
        if connection in _kept:
            connection._transport.abort()  # not a word: `terminate` would say goodbye
        else:
            connection.terminate()  # never release politely what may be broken: on a dead network that takes minutes


@attrs.frozen
class _Answered(Session):
    """Of a connection of asyncpg's, which a link's always is."""

    answer: float

    async def fetch(self, statement: str, *args: Any) -> Sequence[Any]:
        return await self._driver.fetch(statements(self.schema)[statement], *args, timeout=self.answer)  # type: ignore[no-any-return]

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        return await self._driver.fetchrow(statements(self.schema)[statement], *args, timeout=self.answer)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        return await self._driver.fetchval(statements(self.schema)[statement], *args, timeout=self.answer)

    async def execute(self, statement: str, *args: Any) -> None:
        await self._driver.execute(statements(self.schema)[statement], *args, timeout=self.answer)

    @property
    def _driver(self) -> Any:
        return self.connection


def _notice_a_dead_network(connection: Any) -> None:
    """What the server does for its end (prepare_session.sql), for ours: the kernel's own times are hours."""
    theirs = connection._transport.get_extra_info("socket")
    if theirs.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError), socket.fromfd(theirs.fileno(), theirs.family, theirs.type) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 2),
            ("TCP_KEEPINTVL", 1),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 6_000),
        ):
            if hasattr(socket, option):  # not on every system
                ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def keep_open(session: Session) -> Callable[[], None]:
    """Keep the server believing in *session* until what is returned is called, or the process ends, whatever becomes of
    its connection and of this loop: a second descriptor keeps the socket open.
    """
    connection: Any = session.connection
    _kept.add(connection)
    theirs = connection._transport.get_extra_info("socket")
    ours = socket.fromfd(theirs.fileno(), theirs.family, theirs.type).detach()
    _descriptors.add(ours)
    return functools.partial(_let_go, ours)


def _let_go(descriptor: int) -> None:
    if descriptor in _descriptors:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _forget_in_child() -> None:
    """A process that was forked holds the sockets of its parent, and would keep the server believing in a parent that is dead.

    They become nothing, under the same numbers: objects that know those numbers will close them.
    """
    descriptors = list(_descriptors)
    for connection in list(_open):
        with suppress(Exception):
            descriptors.append(connection._transport.get_extra_info("socket").fileno())
    for descriptor in descriptors:
        with suppress(OSError):
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_forget_in_child)


class UnfitServer(DatabaseUnavailable):
    """A server that answers, and cannot be used."""


class Patience:
    """How long to wait before the next try, and how loudly to complain."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0
        self._is_unfit = False  #: and that was said
        self._answer = ANSWER
        self._slow_until = 0.0

    @property
    def answer(self) -> float:
        """Seconds to give a statement on the next connection."""
        return self._answer if time.monotonic() < self._slow_until else ANSWER

    def succeeded(self) -> None:
        """The next failure is the first again."""
        if self._failures:
            logger.info("%s: connected again", self._what)
        self._failures = 0
        self._is_unfit = False

    def excuse(self) -> None:
        """The server is quick: a statement waited for something else."""
        self._slow_until = 0.0

    async def wait_after(self, error: Exception) -> None:
        """Wait, longer each time. An error that is not the server's is logged with its traceback, always."""
        self._failures += 1
        reason = str(error) or f"no answer within {self.answer:g} s"  # a TimeoutError says nothing
        if isinstance(error, TimeoutError):
            self._answer = min(self.answer * 2, LONGEST_ANSWER)
            self._slow_until = time.monotonic() + SLOW_FOR
        if not isinstance(error, DatabaseUnavailable) and not is_transient(error):
            logger.error("%s failed, and goes on", self._what, exc_info=discreet(error))
        elif self._failures == 1 or (isinstance(error, UnfitServer) and not self._is_unfit):
            self._is_unfit = isinstance(error, UnfitServer)
            logger.warning("%s lost Postgres and goes on when it is back: %s", self._what, reason)
        await anyio.sleep(RECONNECT.delay(self._failures, random.random()).total_seconds())
