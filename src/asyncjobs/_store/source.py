"""Where connections come from: a DSN, the application's asyncpg pool, or its SQLAlchemy engine.

Statements of short life borrow a connection (`connection()`); what a runner holds for its whole life it opens itself
(`connect()`), with the same parameters, so that it never competes with requests for the application's pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import asyncpg

from asyncjobs._store.connection import Connection, SQLAlchemyConnection
from asyncjobs._store.faults import is_transient
from asyncjobs.errors import DatabaseUnavailable, InvalidOption

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection: a dead network must not hang a request for asyncpg's whole minute."""

Connect = Callable[[], Awaitable[Any]]
"""Opens an asyncpg connection; called for each, so passwords may rotate."""


class Source(Protocol):
    """Where connections come from."""

    linger: float
    """Seconds a borrowed connection may be kept for the next statement; a pool of others' is given back soon."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection on which each statement is its own transaction, unless one is begun."""

    async def connect(self) -> Any:
        """Open an asyncpg connection of one's own."""

    async def close(self) -> None:
        """Close what this source opened; the application's pool and engine are not its to close."""


class DsnSource:
    """A DSN: a small pool of our own, opened when first needed."""

    linger = float("inf")

    def __init__(self, dsn: str, connect: Connect | None = None, *, size: int = 10) -> None:
        self._dsn = plain_dsn(dsn)
        self._connect = connect
        self._size = size
        self._pool: Any = None

    def __repr__(self) -> str:
        return f"at {_shown(self._dsn).partition('?')[0]}"  # what follows may hold a password too

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with _borrow(await self._open()) as connection:
            yield connection

    async def connect(self) -> Any:
        return await connect_with(self._connect or (lambda: open_connection(dsn=self._dsn)))

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _open(self) -> Any:
        if self._pool is None:
            more = {} if self._connect is None else {"connect": lambda *_, **__: self._connect()}  # type: ignore[misc]
            self._pool = asyncpg.create_pool(self._dsn, min_size=0, max_size=self._size, timeout=CONNECT_TIMEOUT, **more)
        if not self._pool._initialized:
            with unavailable():
                await self._pool
        return self._pool


class PoolSource:
    """The application's asyncpg pool."""

    linger = 0.02

    def __init__(self, pool: Any, connect: Connect | None = None) -> None:
        self._pool = pool
        self._connect = connect

    def __repr__(self) -> str:
        return "on an asyncpg pool"

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        return _borrow(self._pool)

    async def connect(self) -> Any:
        # asyncpg keeps what a pool connects with to itself; `connect=` is the way around when it changes.
        args, given = self._pool._connect_args, dict(self._pool._connect_kwargs)
        given.pop("connection_class", None)
        given.pop("record_class", None)
        return await connect_with(self._connect or (lambda: open_connection(*args, **given)))

    async def close(self) -> None:
        pass


class EngineSource:
    """The application's SQLAlchemy engine."""

    linger = 0.02

    def __init__(self, engine: Any, connect: Connect | None = None) -> None:
        if engine.dialect.name != "postgresql":
            raise InvalidOption(f"engine= is for {engine.dialect.name}; asyncjobs needs PostgreSQL")
        self._engine = engine
        self._connect = connect

    def __repr__(self) -> str:
        return f"on an engine for {self._engine.url.host}/{self._engine.url.database}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        with unavailable():
            connection = await self._engine.connect()
        try:
            yield _Engaged(connection)
        finally:
            await connection.close()

    async def connect(self) -> Any:
        url = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await connect_with(self._connect or (lambda: open_connection(dsn=url)))

    async def close(self) -> None:
        pass


class _Engaged(SQLAlchemyConnection):
    """A connection of the engine's, where a statement outside a transaction is its own."""

    async def fetch(self, query: str, *args: Any) -> Any:
        if self.connection.in_transaction():
            return await super().fetch(query, *args)
        async with self.connection.begin():
            return await super().fetch(query, *args)


async def open_connection(*args: Any, **given: Any) -> Any:
    """An asyncpg connection, or an error in good time."""
    given["timeout"] = min(given.get("timeout") or CONNECT_TIMEOUT, CONNECT_TIMEOUT)
    return await asyncpg.connect(*args, **given)


async def connect_with(connect: Connect) -> Any:
    """What *connect* opens. Raises DatabaseUnavailable."""
    with unavailable():
        return await connect()


def plain_dsn(dsn: str) -> str:
    """*dsn* as asyncpg takes it: SQLAlchemy's driver name is taken off."""
    scheme, separator, rest = dsn.partition("://")
    name, _, _ = scheme.partition("+")
    if not separator or name not in ("postgres", "postgresql"):
        raise InvalidOption(
            f"{_shown(dsn)!r} is not the address of a Postgres database; write postgresql://user:password@host:5432/database"
        )
    return f"{name}://{rest}"


def _shown(dsn: object) -> str:
    """A DSN without its password."""
    text = str(dsn)
    return text if "@" not in text else "…@" + text.rpartition("@")[2]


@asynccontextmanager
async def _borrow(pool: Any) -> AsyncIterator[Connection]:
    with unavailable():
        connection = await pool.acquire(timeout=CONNECT_TIMEOUT)
    try:
        yield connection
    finally:
        await pool.release(connection, timeout=CONNECT_TIMEOUT)


class unavailable:  # noqa: N801 -- reads as a word: `with unavailable():`
    """Turns what a failing connect raises into DatabaseUnavailable, with what to do."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
            raise DatabaseUnavailable(f"Postgres refuses the connection: {error}; check the DSN given to Jobs") from error
        if isinstance(error, asyncpg.ClientConfigurationError):
            raise InvalidOption(f"the DSN cannot be used: {error}") from error
        if isinstance(error, Exception) and (is_transient(error) or is_transient(getattr(error, "orig", None) or error)):
            raise DatabaseUnavailable(
                f"Postgres cannot be reached ({type(error).__name__}: {error}); is it running, and is the DSN right?"
            ) from error
