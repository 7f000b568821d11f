"""Connections people pass: `on=` an asyncpg connection, a SQLAlchemy session or connection, a psycopg connection.

A library the application has not imported cannot be what it passed, so nothing is imported here to find out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import ref

import asyncpg
import attrs
from asyncpg.pool import PoolConnectionProxy

from asyncjobs._store.connection import Connection, PsycopgConnection, SQLAlchemyConnection
from asyncjobs._store.endings import when_committed
from asyncjobs._store.faults import is_failed_transaction, is_lost
from asyncjobs.errors import DatabaseUnavailable, WrongConnection

TAKES = (
    "pass an asyncpg connection (a pool's too), a SQLAlchemy AsyncSession or AsyncConnection on asyncpg or psycopg, "
    "or a psycopg AsyncConnection"
)


@attrs.frozen
class Joined:
    """Somebody's connection, ready for our statements."""

    connection: Connection
    owner: object  #: the driver's own connection: two Joined of one owner are in one transaction
    commits_itself: bool  #: no transaction is open: a statement is its own
    is_open: Callable[[], bool]  #: whether it is in a transaction now
    on_commit: Callable[[Callable[[], None]], None] | None = (
        None  #: tell us after the commit, where the library can
    )
    is_sync: bool = False  #: it is of sync code, and nothing over it suspends

    @property
    def tells_here(self) -> bool:
        """A statement is committed when it returns, on the event loop: a runner of this process can be told right then."""
        return self.commits_itself and not self.is_sync


def is_sync(on: Any) -> bool:
    """Whether *on* is a connection of sync code, joined."""
    return isinstance(on, Joined) and on.is_sync


async def join(on: Any) -> Joined:
    """Find out what *on* is and whether a job can be stored there. Raises WrongConnection, saying why not."""
    if isinstance(on, Joined):
        return on
    if isinstance(on, (asyncpg.Connection, PoolConnectionProxy)):
        return _join_asyncpg(on)
    if isinstance(on, SQLAlchemyConnection):
        return await _join_connection(on.connection)
    if isinstance(on, PsycopgConnection):
        return _join_psycopg(on.connection)
    if "sqlalchemy.ext.asyncio" in sys.modules and (joined := await _join_sqlalchemy(on)):
        return joined
    if "psycopg" in sys.modules and isinstance(on, sys.modules["psycopg"].AsyncConnection):
        return _join_psycopg(on)
    raise _refusal(on)


def _refusal(on: Any) -> WrongConnection:
    name = type(on).__name__
    if isinstance(on, asyncpg.Pool):
        return WrongConnection(
            "on= got a whole asyncpg pool; acquire a connection, or leave on= out and give pool= to Jobs"
        )
    if isinstance(on, type):
        return WrongConnection(f"on= got the class {on.__name__} itself; {TAKES}")
    sync = [
        getattr(sys.modules[module], each)
        for module, each in (
            ("sqlalchemy.orm", "Session"),
            ("sqlalchemy.orm", "scoped_session"),
            ("sqlalchemy", "Connection"),
            ("sqlalchemy", "Engine"),
            ("psycopg", "Connection"),
        )
        if module in sys.modules
    ]
    if isinstance(on, tuple(sync)) or type(on).__module__.startswith("psycopg2"):
        return WrongConnection(
            f"on= got a {name}, which is not asynchronous: enqueue on it with `….later_sync(…, on=…)`, without await; for `later`, {TAKES}"
        )
    return WrongConnection(
        f"on= got {name} ({type(on).__module__}), which is no connection to enqueue on; {TAKES}"
    )


@contextmanager
def explained(joined: Joined, what: str) -> Iterator[None]:
    """Say in our words what goes wrong with a connection that is not ours while *what* is under way."""
    try:
        yield
    except asyncpg.InterfaceError as error:
        if "another operation is in progress" in str(error):
            raise WrongConnection(
                "this connection is in use by another task; a connection is for one task at a time, so wait for the "
                "other's statement, or use a connection of this task's own"
            ) from error
        raise _lost(joined, what, error) from error
    except Exception as error:
        if is_lost(error):
            raise _lost(joined, what, error) from error
        if is_failed_transaction(error):
            raise WrongConnection("this transaction has already failed; roll it back first") from error
        raise


def _lost(joined: Joined, what: str, error: Exception) -> DatabaseUnavailable:
    outcome = (
        "whether it was is not known, so look before you do it again"
        if joined.commits_itself
        else "its transaction is lost, and everything in it"
    )
    return DatabaseUnavailable(
        f"the connection was lost while {what} ({type(error).__name__}: {error}); {outcome}"
    )


# asyncpg.


def _join_asyncpg(on: Any) -> Joined:
    try:
        closed = on.is_closed()
    except asyncpg.InterfaceError as error:
        raise WrongConnection(
            "on= got a pool's connection that was released (or closed by the server); enqueue before you release it"
        ) from error
    if closed:
        raise WrongConnection(
            "on= got a closed connection (or the server closed it); enqueue before it is closed"
        )
    _check_loop(on)
    return Joined(on, on, commits_itself=not on.is_in_transaction(), is_open=lambda: _asyncpg_is_open(on))


def _asyncpg_is_open(on: Any) -> bool:
    try:
        return not on.is_closed() and bool(on.is_in_transaction())
    except asyncpg.InterfaceError:  # released
        return False


def _check_loop(driver_connection: Any) -> None:
    # Only asyncpg's connections belong to a loop; psycopg's are waited for on whichever loop uses them.
    loop = getattr(driver_connection, "_loop", None) if isinstance(driver_connection, _ASYNCPG) else None
    if loop is not None and loop is not asyncio.get_running_loop():
        raise WrongConnection(
            "on= got a connection of another event loop; open it on the loop (the thread) that enqueues"
        )


_ASYNCPG = (asyncpg.Connection, PoolConnectionProxy)


# SQLAlchemy.


async def _join_sqlalchemy(on: Any) -> Joined | None:
    sqlalchemy = sys.modules["sqlalchemy.ext.asyncio"]
    if isinstance(on, sqlalchemy.async_scoped_session):
        on = on()
    if isinstance(on, sqlalchemy.AsyncSession):
        return await _join_session(on)
    if isinstance(on, sqlalchemy.AsyncConnection):
        return await _join_connection(on)
    return None


async def _join_session(session: Any) -> Joined:
    from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError  # noqa: PLC0415 -- who passes a session has it

    try:
        connection = await session.connection()
    except UnboundExecutionError as error:
        raise WrongConnection(
            "the session does not say which engine is meant; pass on=await session.connection(bind_arguments=…)"
        ) from error
    except InvalidRequestError as error:  # failed, not begun, closed for good, in another task's hands …
        raise WrongConnection(f"the session cannot take a job now: {error}") from error
    joined = await _join_connection(connection)
    return attrs.evolve(joined, on_commit=lambda tell: when_committed(session.sync_session, tell))


async def _join_connection(connection: Any) -> Joined:
    if connection.sync_connection is None:
        raise WrongConnection(
            "on= got a SQLAlchemy connection that has not been opened; write `async with engine.connect()`"
        )
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in ("asyncpg", "psycopg", "psycopg_async"):
        raise WrongConnection(
            f"on= got a SQLAlchemy connection on {dialect.name}+{dialect.driver}; "
            "asyncjobs needs postgresql+asyncpg or postgresql+psycopg"
        )
    if connection.closed or connection.invalidated:
        raise WrongConnection("on= got a closed SQLAlchemy connection; enqueue before it is closed")
    pooled = (await connection.get_raw_connection()).dbapi_connection
    _check_loop(pooled.driver_connection)
    if pooled.autocommit:
        raise WrongConnection(
            "on= got a SQLAlchemy connection in AUTOCOMMIT, where a job would survive the rollback of your data; "
            "use a connection with transactions, or leave on= out"
        )
    return Joined(
        SQLAlchemyConnection(connection),
        connection.sync_connection,
        commits_itself=False,  # SQLAlchemy begins a transaction with the first statement
        is_open=partial(_sqlalchemy_is_open, ref(connection.sync_connection)),
    )


def _sqlalchemy_is_open(connection: ref[Any]) -> bool:
    """Weakly, for SQLAlchemy ends the transaction of a connection that was forgotten."""
    kept = connection()
    return kept is not None and not kept.closed and bool(kept.in_transaction())


# psycopg.


def _join_psycopg(on: Any) -> Joined:
    if on.closed:
        raise WrongConnection("on= got a closed psycopg connection; enqueue before it is closed")
    status = on.info.transaction_status.name
    if status == "INERROR":
        raise WrongConnection("the connection's transaction has failed; roll it back before enqueuing")
    return Joined(
        PsycopgConnection(on),
        on,
        commits_itself=on.autocommit and status == "IDLE",
        is_open=lambda: not on.closed and on.info.transaction_status.name != "IDLE",
    )
