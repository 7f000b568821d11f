"""Connections of sync code: SQLAlchemy's Session and Connection, psycopg's and psycopg2's, Django's.

They have the face of the async ones, and never suspend: what asyncjobs does over one of them is done when it was begun
(`at_once`), in the caller's thread, with no event loop. So the functions of the store serve both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any, TypeVar

from asyncjobs._store.connection import Foreign, Row, named
from asyncjobs._store.foreign import Joined
from asyncjobs.errors import MisusedJobs, WrongConnection

R = TypeVar("R")

_COMMENT = re.compile(r"--[^\n]*")

TAKES_SYNC = (
    "pass a SQLAlchemy Session or Connection on psycopg, psycopg2 or asyncpg, a psycopg or psycopg2 connection, "
    "or django.db.connection"
)

DRIVERS = ("psycopg", "psycopg2", "asyncpg", "psycopg_async")
"""SQLAlchemy's; the async ones are met inside of `AsyncSession.run_sync`."""


def at_once(work: Coroutine[Any, Any, R]) -> R:
    """What *work* returns, which waits for nothing but a sync connection. Raises MisusedJobs where it would suspend."""
    try:
        work.send(None)
    except StopIteration as done:
        value: R = done.value
        return value
    work.close()
    raise MisusedJobs(
        "something awaited while a job was enqueued on a sync connection, where nothing can: a hook of yours, most likely; "
        "make it a plain function, or enqueue with `await ….later(…)`"
    )


def join_sync(on: Any) -> Joined:
    """Find out what *on* is, in sync code, and whether a job can be stored there. Raises WrongConnection, saying why not."""
    if isinstance(on, Joined) and on.is_sync:
        return on
    joined = _join_sqlalchemy(on) or _join_psycopg(on) or _join_psycopg2(on) or _join_django(on)
    if joined is None:
        name = type(on).__name__
        what = (
            "which is for async code" if "async" in name.lower() else "which is no connection to enqueue on"
        )
        raise WrongConnection(f"later_sync: on= got {name} ({type(on).__module__}), {what}; {TAKES_SYNC}")
    return joined


def _named(query: str, args: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """A statement of ours and its parameters by name.

    Without its comments, which name parameters too: psycopg2 writes values into the text, and a line break in one would end
    the comment it stands in.
    """
    return named(_uncommented(query), args)


@cache
def _uncommented(query: str) -> str:
    return _COMMENT.sub("", query)


# SQLAlchemy.


class _SQLAlchemy(Foreign):
    """A sync SQLAlchemy `Connection`. Inside of `run_sync`, SQLAlchemy itself waits for its asyncpg below."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._numbered = connection.dialect.driver == "asyncpg"

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        text, given = (query, args) if self._numbered else _named(query, args)
        result = self.connection.exec_driver_sql(text, given)
        if not result.returns_rows:
            return []
        names = tuple(result.keys())
        return [Row.of(names, values) for values in result]

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint where a transaction is open, else a transaction."""
        begun = self.connection.begin_nested if self.connection.in_transaction() else self.connection.begin
        return _entered(begun)


def _join_sqlalchemy(on: Any) -> Joined | None:
    if "sqlalchemy" not in sys.modules:
        return None
    import sqlalchemy  # noqa: PLC0415 -- it is there, and so is the application's

    if "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import Session, scoped_session  # noqa: PLC0415

        if isinstance(on, scoped_session):
            on = on()
        if isinstance(on, Session):
            return _join_connection(_connection_of(on))
    if isinstance(on, sqlalchemy.Engine):
        raise WrongConnection(
            "later_sync: on= got a whole Engine; pass the Session or Connection of your transaction"
        )
    return _join_connection(on) if isinstance(on, sqlalchemy.Connection) else None


def _connection_of(session: Any) -> Any:
    from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError  # noqa: PLC0415 -- whoever has a session has it

    try:
        return session.connection()
    except UnboundExecutionError as error:
        raise WrongConnection(
            "the session does not say which engine is meant; pass on=session.connection(bind_arguments=…)"
        ) from error
    except InvalidRequestError as error:  # failed, closed for good …
        raise WrongConnection(f"the session cannot take a job now: {error}") from error


def _join_connection(connection: Any) -> Joined:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in DRIVERS:
        raise WrongConnection(
            f"on= got a SQLAlchemy connection on {dialect.name}+{dialect.driver}; asyncjobs needs postgresql+psycopg, "
            "postgresql+psycopg2 or postgresql+asyncpg"
        )
    if connection.closed or connection.invalidated:
        raise WrongConnection("on= got a closed SQLAlchemy connection; enqueue before it is closed")
    if connection.connection.dbapi_connection.autocommit:
        raise WrongConnection(
            "on= got a SQLAlchemy connection in AUTOCOMMIT, where a job would survive the rollback of your data; "
            "use a connection with transactions, or leave on= out"
        )
    return _joined(
        _SQLAlchemy(connection), connection, lambda: not connection.closed and connection.in_transaction()
    )


# psycopg.


class _Psycopg(Foreign):
    """A psycopg `Connection`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        import psycopg.rows  # noqa: PLC0415 -- an application that passes a psycopg connection has it

        with psycopg.RawCursor(self.connection, row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(query, args)
            piped = (
                cursor.pgresult is None
            )  # inside `pipeline()` nothing has been answered until it is fetched
            if not piped and cursor.description is None:
                return []
            try:
                rows = cursor.fetchall()
            except psycopg.ProgrammingError as error:
                if not piped or error.sqlstate is not None:
                    raise
                return []  # the driver's own error: the statement gives no rows
            names = tuple(column.name for column in cursor.description or ())
            return [Row.of(names, values) for values in rows]

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint where a transaction is open, else a transaction."""
        return _entered(self.connection.transaction)


def _join_psycopg(on: Any) -> Joined | None:
    if "psycopg" not in sys.modules or not isinstance(on, sys.modules["psycopg"].Connection):
        return None
    if on.closed:
        raise WrongConnection("on= got a closed psycopg connection; enqueue before it is closed")
    status = on.info.transaction_status.name
    if status == "INERROR":
        raise WrongConnection("the connection's transaction has failed; roll it back before enqueuing")
    return _joined(
        _Psycopg(on),
        on,
        lambda: not on.closed and on.info.transaction_status.name != "IDLE",
        commits_itself=on.autocommit and status == "IDLE",
    )


# Those that have a cursor and take parameters by name.


class _ByCursor(Foreign):
    """A psycopg2 connection, or Django's."""

    def __init__(self, connection: Any, *, is_open: bool) -> None:
        self.connection = connection
        self._is_open = is_open  #: it is in a transaction, or begins one by itself

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        with self.connection.cursor() as cursor:
            cursor.execute(*_named(query, args))
            if cursor.description is None:
                return []
            names = tuple(column[0] for column in cursor.description)
            return [Row.of(names, values) for values in cursor.fetchall()]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A savepoint where a transaction is open, else a transaction."""
        savepoint = ("savepoint asyncjobs", "rollback to savepoint asyncjobs", "release savepoint asyncjobs")
        begin, undo, end = savepoint if self._is_open else ("begin", "rollback", "commit")
        await self.execute(begin)
        try:
            yield
        except BaseException:
            await self.execute(undo)
            raise
        await self.execute(end)


def _join_psycopg2(on: Any) -> Joined | None:
    if "psycopg2" not in sys.modules or not isinstance(on, sys.modules["psycopg2"].extensions.connection):
        return None
    if on.closed:
        raise WrongConnection("on= got a closed psycopg2 connection; enqueue before it is closed")
    idle = sys.modules["psycopg2"].extensions.TRANSACTION_STATUS_IDLE
    commits_itself = on.autocommit and on.info.transaction_status == idle
    return _joined(
        _ByCursor(on, is_open=not commits_itself),
        on,
        lambda: not on.closed and on.info.transaction_status != idle,
        commits_itself=commits_itself,
    )


def _join_django(on: Any) -> Joined | None:
    # `django.db.connection` is a proxy of the thread's own connection: told by its manners, which are documented.
    if "django.db" not in sys.modules or not hasattr(on, "in_atomic_block"):
        return None
    if on.vendor != "postgresql":
        raise WrongConnection(f"on= got Django's connection to {on.vendor}; asyncjobs needs PostgreSQL")
    if on.needs_rollback:
        raise WrongConnection("this transaction has already failed; enqueue outside of its atomic block")
    commits_itself = not on.in_atomic_block and on.get_autocommit()
    return _joined(
        _ByCursor(on, is_open=not commits_itself),
        on,
        lambda: bool(on.in_atomic_block),
        commits_itself=commits_itself,
    )


def _joined(
    connection: Any, owner: object, is_open: Callable[[], bool], *, commits_itself: bool = False
) -> Joined:
    return Joined(connection, owner, commits_itself=commits_itself, is_open=is_open, is_sync=True)


@asynccontextmanager
async def _entered(begin: Callable[[], Any]) -> AsyncIterator[None]:
    with begin():
        yield
