"""Connections people pass: `on=` an asyncpg connection, a SQLAlchemy session or connection, a psycopg connection.

A library the application has not imported cannot be what it passed, so nothing is imported here to find out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import asyncpg
import attrs
from asyncpg.pool import PoolConnectionProxy

from asyncjobs._store.connection import Connection, PsycopgConnection, SQLAlchemyConnection
from asyncjobs.errors import WrongConnection

TAKES = (
    "pass an asyncpg connection (a pool's too), a SQLAlchemy AsyncSession or AsyncConnection on asyncpg or psycopg, "
    "or a psycopg AsyncConnection"
)


@attrs.frozen
class Joined:
    """Somebody's connection, ready for our statements."""

    connection: Connection
    commits_itself: bool  #: no transaction is open: a statement is its own
    on_end: Callable[[Callable[[], None]], None] | None = None  #: tell us when the transaction is over, where the library can


async def join(on: Any) -> Joined:
    """Find out what *on* is and whether a job can be stored there. Raises WrongConnection, saying why not."""
    if isinstance(on, (asyncpg.Connection, PoolConnectionProxy)):
        return _join_asyncpg(on)
    if isinstance(on, SQLAlchemyConnection):
        return await _join_sqlalchemy(on.connection)
    if isinstance(on, PsycopgConnection):
        return _join_psycopg(on.connection)
    library = type(on).__module__.partition(".")[0]
    if "sqlalchemy.ext.asyncio" in sys.modules and (joined := await _join_sqlalchemy_kind(on)):
        return joined
    if "psycopg" in sys.modules and isinstance(on, sys.modules["psycopg"].AsyncConnection):
        return _join_psycopg(on)
    if isinstance(on, asyncpg.Pool):
        raise WrongConnection("on= got a whole asyncpg pool; acquire a connection, or leave on= out and give pool= to Jobs")
    if library in ("sqlalchemy", "sqlmodel", "psycopg", "psycopg2"):
        raise WrongConnection(f"on= got a {type(on).__name__} of {library} that is not asynchronous; {TAKES}")
    raise WrongConnection(f"on= got {type(on).__qualname__}, which is no connection asyncjobs knows; {TAKES}")


def _join_asyncpg(on: Any) -> Joined:
    try:
        closed = on.is_closed()
    except asyncpg.InterfaceError as error:
        raise WrongConnection("on= got a pool's connection after it was released; enqueue before you release it") from error
    if closed:
        raise WrongConnection("on= got a closed connection; enqueue before it is closed")
    _check_loop(getattr(on, "_loop", None))
    return Joined(on, commits_itself=not on.is_in_transaction())


def _check_loop(loop: object) -> None:
    if loop is not None and loop is not asyncio.get_running_loop():
        raise WrongConnection(
            "on= got a connection of another event loop; open it on the loop (the thread) that enqueues"
        )


async def _join_sqlalchemy_kind(on: Any) -> Joined | None:
    sqlalchemy = sys.modules["sqlalchemy.ext.asyncio"]
    if isinstance(on, sqlalchemy.async_scoped_session):
        on = on()
    if isinstance(on, sqlalchemy.AsyncSession):
        return await _join_session(on)
    if isinstance(on, sqlalchemy.AsyncConnection):
        return await _join_sqlalchemy(on)
    return None


async def _join_session(session: Any) -> Joined:
    if not session.is_active:
        raise WrongConnection("the session's transaction has failed; call `await session.rollback()` before enqueuing")
    connection = await session.connection()
    joined = await _join_sqlalchemy(connection)
    return attrs.evolve(joined, on_end=lambda tell: _tell_when_over(session.sync_session, tell))


async def _join_sqlalchemy(connection: Any) -> Joined:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in ("asyncpg", "psycopg", "psycopg_async"):
        raise WrongConnection(
            f"on= got a SQLAlchemy connection on {dialect.name}+{dialect.driver}; "
            "asyncjobs needs postgresql+asyncpg or postgresql+psycopg"
        )
    if connection.closed or connection.invalidated:
        raise WrongConnection("on= got a closed SQLAlchemy connection; enqueue before it is closed")
    pooled = (await connection.get_raw_connection()).dbapi_connection
    _check_loop(getattr(pooled.driver_connection, "_loop", None))
    if dialect.detect_autocommit_setting(pooled):
        raise WrongConnection(
            "on= got a SQLAlchemy connection in AUTOCOMMIT, where a job would survive the rollback of your data; "
            "use a connection with transactions, or leave on= out"
        )
    return Joined(SQLAlchemyConnection(connection), commits_itself=False)


def _tell_when_over(sync_session: Any, tell: Callable[[], None]) -> None:
    """Call *tell* once when the session's outermost transaction has ended, whichever way: a wake-up too many is harmless."""
    from sqlalchemy import event  # noqa: PLC0415 -- whoever passes a session has it

    def over(_: object, transaction: Any) -> None:
        if transaction.parent is None:
            event.remove(sync_session, "after_transaction_end", over)
            tell()

    event.listen(sync_session, "after_transaction_end", over)


def _join_psycopg(on: Any) -> Joined:
    if on.closed:
        raise WrongConnection("on= got a closed psycopg connection; enqueue before it is closed")
    status = on.info.transaction_status.name
    if status == "INERROR":
        raise WrongConnection("the connection's transaction has failed; roll it back before enqueuing")
    return Joined(PsycopgConnection(on), commits_itself=on.autocommit and status == "IDLE")
