"""Connections as asyncjobs sees them: one small protocol, whatever driver is below.

The same `$n` SQL runs on asyncpg as it is, on psycopg through its raw cursor, and on SQLAlchemy through
`exec_driver_sql`: always through SQLAlchemy's own execution, because on asyncpg it sends its BEGIN with its first
statement, so a statement on the unwrapped driver connection would survive the session's rollback.
SQLAlchemy and psycopg are known when the application has imported them, and never imported here.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol, SupportsIndex, overload

import asyncpg


class Record(Protocol):
    """A row: its values in order, each also by position or by name."""

    def __iter__(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __len__(self) -> int: ...


class Connection(Protocol):
    """What `transaction()` yields and every statement runs on. Parameters are written `$1`, `$2`, …"""

    async def execute(self, query: str, *args: Any) -> Any: ...
    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    def transaction(self) -> AbstractAsyncContextManager[Any]: ...


class Row(tuple[Any, ...]):  # noqa: SLOT001 -- a tuple has no room for slots
    """A row of another driver, with asyncpg's manners."""

    names: Sequence[str]

    @classmethod
    def of(cls, names: Sequence[str], values: Iterable[Any]) -> Row:
        row = cls(values)
        row.names = names
        return row

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Any: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(key)
            key = self.names.index(key)
        return super().__getitem__(key)

    def keys(self) -> Sequence[str]:
        """The names of the columns, so that `dict(row)` works."""
        return self.names


class Foreign:
    """The parts of the protocol that follow from `fetch`."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        raise NotImplementedError

    async def execute(self, query: str, *args: Any) -> None:
        await self.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Row | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return row[0] if row else None


_PARAMETER = re.compile(r"\$(\d+)")


def named(query: str, args: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """*query* and its parameters, as psycopg takes them by name."""
    given = {f"p{number}": value for number, value in enumerate(args, 1)}
    return _PARAMETER.sub(r"%(p\1)s", query.replace("%", "%%")), given


class SQLAlchemyConnection(Foreign):
    """A SQLAlchemy `AsyncConnection` on asyncpg or psycopg."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._numbered = connection.dialect.driver == "asyncpg"

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        if self._numbered:
            result = await self.connection.exec_driver_sql(query, args)
        else:
            result = await self.connection.exec_driver_sql(*named(query, args))
        if not result.returns_rows:
            return []
        names = tuple(result.keys())
        return [Row.of(names, values) for values in result]

    def is_closed(self) -> bool:
        """Whether the driver knows that nothing more can be sent."""
        if self.connection.closed or self.connection.invalidated:
            return True
        return is_ended(self.connection.sync_connection.connection.driver_connection)

    async def invalidate(self) -> None:
        """Leave what is below to nobody."""
        if not self.connection.closed and not self.connection.invalidated:
            await self.connection.invalidate()

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint where a transaction is open, else a transaction."""
        if self.connection.in_transaction():
            return self.connection.begin_nested()  # type: ignore[no-any-return]
        return self.connection.begin()  # type: ignore[no-any-return]


class PsycopgConnection(Foreign):
    """A psycopg `AsyncConnection`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        import psycopg.rows  # noqa: PLC0415 -- an application that passes a psycopg connection has it

        async with psycopg.AsyncRawCursor(self.connection, row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(query, args)
            piped = (
                cursor.pgresult is None
            )  # inside `pipeline()` nothing has been answered until it is fetched
            if not piped and cursor.description is None:
                return []
            try:
                rows = await cursor.fetchall()
            except psycopg.ProgrammingError as error:
                if not piped or error.sqlstate is not None:
                    raise
                return []  # the driver's own error: the statement gives no rows
            names = tuple(column.name for column in cursor.description or ())
            return [Row.of(names, values) for values in rows]

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint where a transaction is open, else a transaction."""
        return self.connection.transaction()  # type: ignore[no-any-return]


def is_closed(connection: Connection) -> bool:
    """Whether the driver knows that nothing more can be sent over *connection*."""
    closed = getattr(connection, "is_closed", None)
    try:
        return closed is not None and bool(closed())
    except asyncpg.InterfaceError:  # the pool took it back: the server closed it
        return True


def is_ended(driver: Any) -> bool:
    """Whether the server ended *driver*, an unwrapped connection on which no statement is under way."""
    if isinstance(driver, asyncpg.Connection):
        return driver.is_closed()
    # psycopg learns of it at the next statement. Nobody has asked anything: what there is to read is the end, or a notice.
    # Not select(): it takes no descriptor above 1023, and a web server has many.
    if driver.closed:
        return True
    socket = select.poll()
    socket.register(driver.fileno(), select.POLLIN)
    return bool(socket.poll(0))


async def abandon(connection: Connection) -> None:
    """Close *connection* without a word to the server, which may not be there to hear it; its pool opens another."""
    terminate = getattr(connection, "terminate", None)
    if terminate is not None:
        with suppress(asyncpg.InterfaceError):
            terminate()
    elif isinstance(connection, SQLAlchemyConnection):
        await connection.invalidate()
