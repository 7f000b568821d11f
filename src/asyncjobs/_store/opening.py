"""Opening a connection: in good time, with a word on what to do where it fails, and knowing who answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from asyncjobs._store.faults import is_transient, sqlstate
from asyncjobs._store.probes import expect_backend, is_pooled, mark_pooled
from asyncjobs.errors import DatabaseUnavailable, InvalidOption

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection: a dead network must not hang a request for asyncpg's whole minute."""

Connect = Callable[[], Awaitable[Any]]
"""Opens an asyncpg connection; called for each, so passwords may rotate."""


async def open_connection(*args: Any, **given: Any) -> Any:
    """An asyncpg connection, or an error in good time."""
    given["timeout"] = in_good_time(given.get("timeout"))
    return await asyncpg.connect(*args, **given)


async def looked_into(connection: Any, pooled: bool | None) -> Any:
    """*connection*, of which is known from now whether it leads to a server or to a pooler: *pooled*, or what it shows."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            if pooled is None:
                pooled = not await expect_backend(connection)
    except BaseException:
        connection.terminate()
        raise
    if pooled:
        mark_pooled(connection)
    return connection


class Caching:
    """Whether connections of ours keep prepared statements: a pooler may give the next one to a server without them."""

    def __init__(self) -> None:
        self._is_wrong = False

    async def open(self, dial: Callable[..., Awaitable[Any]], pooled: bool | None) -> Any:
        """A connection of *dial*, which takes asyncpg's keywords, looked into; behind a pooler it prepares nothing."""
        caches = not (pooled or self._is_wrong)
        connection = await looked_into(await (dial() if caches else dial(statement_cache_size=0)), pooled)
        if caches and is_pooled(connection):
            self._is_wrong = True
            await connection.close()
            connection = await looked_into(await dial(statement_cache_size=0), pooled)
        return connection


def in_good_time(timeout: float | None) -> float:
    """Seconds to wait for a connection, of *timeout*, which somebody chose or did not."""
    return min(timeout or CONNECT_TIMEOUT, CONNECT_TIMEOUT)


async def connect_with(connect: Connect) -> Any:
    """What *connect* opens. Raises DatabaseUnavailable."""
    with unavailable():
        return await connect()


class unavailable:  # noqa: N801 -- reads as a word: `with unavailable():`
    """Turns what a failing connect raises into DatabaseUnavailable, with what to do."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, DatabaseUnavailable):
            return
        if (sqlstate(error) or "").startswith(
            ("28", "3D000")
        ):  # who may come in, and the name of the database
            raise DatabaseUnavailable(
                f"Postgres refuses the connection: {error}; check the DSN given to Jobs"
            ) from error
        unknown_setting = isinstance(error, asyncpg.UndefinedObjectError | asyncpg.InvalidParameterValueError)
        if isinstance(error, asyncpg.ClientConfigurationError) or unknown_setting:
            raise InvalidOption(f"the DSN cannot be used: {error}") from error
        if isinstance(error, Exception) and is_transient(error):
            raise DatabaseUnavailable(
                f"Postgres cannot be reached ({type(error).__name__}: {error}); is it running, and is the DSN right?"
            ) from error
