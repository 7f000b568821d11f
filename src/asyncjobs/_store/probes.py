"""Questions to a database that are answered by what it does, not by its name or version."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakSet

import asyncpg

from asyncjobs._store.session import Session
from asyncjobs._store.statements import DEFAULT_SCHEMA, statements

_pooled: WeakSet[Any] = WeakSet()


async def expect_backend(connection: Any) -> bool:
    """Whether the backend that answers over the asyncpg *connection* is the one it was told of when it was opened.

    A pooler, also one with a single connection to the server, tells each of its clients a number of its own. Asked in the
    simple protocol: nothing is prepared, so nothing is left behind.
    """
    query = statements(DEFAULT_SCHEMA)["expect_backend"].replace("$1", str(connection.get_server_pid()))
    try:
        await connection.execute(query)
    except asyncpg.InvalidTextRepresentationError:
        return False
    return True


def mark_pooled(connection: Any) -> None:
    """Remember that somebody stands between *connection* and its server."""
    _pooled.add(connection)


def is_pooled(connection: Any) -> bool:
    """Whether somebody stands between *connection* and its server, as far as it was looked into."""
    return connection in _pooled


class Held(NamedTuple):
    """What a session says that holds the lock of a probe."""

    backend: int
    held: bool
    is_read_only: bool


class Tried(NamedTuple):
    """What another session found."""

    backend: int
    refused: bool
    said: bool  #: else the server's queue of notifications was too full to try


async def hold_probe(session: Session, key: int) -> Held:
    """Hold a lock that another session is to be refused."""
    return Held(*await session.fetchrow("hold_probe", key))


async def release_probe(session: Session, key: int) -> None:
    """Let go of it."""
    await session.fetchval("release_probe", key)


async def try_probe(session: Session, key: int, channel: str) -> Tried:
    """Ask for the lock another session holds, and say something on *channel*."""
    backend, refused, said, _ = await session.fetchrow("try_probe", key, channel)
    return Tried(backend, refused, said)


async def name_backend(session: Session) -> tuple[int, bool]:
    """Which backend answers, and whether it may only be read."""
    backend, is_read_only = await session.fetchrow("name_backend")
    return backend, is_read_only


async def hold_row(session: Session, first: int) -> int | None:
    """Lock a row of the ballast for the transaction; its id, or None when all are locked."""
    row: int | None = await session.fetchval("hold_row", first)
    return row


async def pass_over_row(session: Session, row: int) -> bool:
    """Whether *row*, which another session holds, is passed over."""
    return await session.fetchval("pass_over_row", row) is None
