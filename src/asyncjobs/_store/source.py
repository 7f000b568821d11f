"""Where connections come from: a DSN, the application's asyncpg pool, or its SQLAlchemy engine.

Statements of short life borrow a connection (`connection()`); what a runner holds for its whole life it opens itself
(`connect()`), with the same parameters, so that it never competes with requests for the application's pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlencode

import anyio
import asyncpg

from asyncjobs._store import opening
from asyncjobs._store.connection import Connection, SQLAlchemyConnection, is_ended
from asyncjobs._store.dsn import named, place, plain_dsn, shown
from asyncjobs._store.faults import is_read_only
from asyncjobs._store.hosts import Host, Hosts, says_which
from asyncjobs._store.opening import Caching, Connect, connect_with, looked_into, open_connection, unavailable
from asyncjobs.errors import DatabaseUnavailable, InvalidOption

CLOSE_TIMEOUT = 0.5
"""Seconds to wait for borrowed connections to come back, before they are closed under those who hold them."""

RELEASE_TIMEOUT = 1.0
"""Seconds the server has to tidy up a connection that is given back: what is slower is not worth keeping."""


class Source(Protocol):
    """Where connections come from."""

    linger: float
    """Seconds a borrowed connection may be kept for the next statement; a pool of others' is given back soon."""

    @property
    def place(self) -> str:
        """Its database, in words."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection on which each statement is its own transaction, unless one is begun."""

    async def connect(self) -> Any:
        """Open an asyncpg connection of one's own."""

    def is_exhausted(self) -> bool:
        """Whoever wants to borrow a connection now has to wait for one."""

    async def close(self) -> None:
        """Close what this source opened; the application's pool and engine are not its to close."""


class DsnSource:
    """A DSN: a small pool of our own, opened when first needed."""

    linger = float("inf")

    def __init__(
        self, dsn: str, connect: Connect | None = None, *, pooled: bool | None = None, size: int = 10
    ) -> None:
        self._dsn = plain_dsn(dsn)
        self._hosts = Hosts(self._dsn)
        self._pooled = pooled
        self._caching = Caching()
        self._connect = connect
        self._size = size
        self._pool: Any = None

    def __repr__(self) -> str:
        return f"on {shown(self._dsn)}"

    @property
    def place(self) -> str:
        """Its database, in words."""
        return place(self._dsn)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with _borrow(await self._open()) as connection:
            yield connection

    async def connect(self) -> Any:
        return await connect_with(self._open_one)

    async def _open_one(self, *_: Any, **__: Any) -> Any:
        if self._connect is not None:
            return await looked_into(await self._connect(), self._pooled)
        return await self._caching.open(self._dial, self._pooled)

    async def _dial(self, **given: Any) -> Any:
        if not self._hosts:
            return await open_connection(dsn=self._dsn, **given)
        if not says_which(self._dsn):  # of several hosts one is meant that can be written to
            given["target_session_attrs"] = "read-write"

        def dial(host: Host) -> Awaitable[Any]:
            port = int(host.port) if host.port and host.port.isdigit() else host.port
            return open_connection(dsn=self._dsn, host=host.name, port=port, **given)

        return await self._hosts.connect(dial)

    def is_exhausted(self) -> bool:
        return self._pool is not None and _is_exhausted(self._pool)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await pool.close()
        except TimeoutError:  # somebody has not given a connection back, or the network is gone
            pool.terminate()

    async def _open(self) -> Any:
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._size,
                timeout=opening.CONNECT_TIMEOUT,
                connect=self._open_one,
            )
        if not self._pool._initialized:
            with unavailable():
                await self._pool
        return self._pool


class PoolSource:
    """The application's asyncpg pool."""

    linger = 0.02

    def __init__(self, pool: Any, connect: Connect | None = None, *, pooled: bool | None = None) -> None:
        if not isinstance(pool, asyncpg.Pool):
            raise InvalidOption(
                f"pool= got {type(pool).__qualname__}; it takes an asyncpg pool, of `await asyncpg.create_pool(…)`"
            )
        self._pool: Any = pool
        self._connect = connect
        self._pooled = pooled

    def __repr__(self) -> str:
        return "on a pool"

    @property
    def place(self) -> str:
        """Its database, in words."""
        return "the database of its pool"

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        return _borrow(self._pool)

    async def connect(self) -> Any:
        return await connect_with(self._open_one)

    async def _open_one(self) -> Any:
        return await looked_into(await (self._connect or self._open_like_the_pool)(), self._pooled)

    async def _open_like_the_pool(self) -> Any:
        # asyncpg keeps what a pool connects with to itself; `connect=` is the way around should that change. Codecs and
        # settings of its `init=` are the application's, and are not wanted here.
        pool = self._pool
        given = {**pool._connect_kwargs, "timeout": opening.in_good_time(pool._connect_kwargs.get("timeout"))}
        return await pool._connect(*pool._connect_args, **given)

    def is_exhausted(self) -> bool:
        return _is_exhausted(self._pool)

    async def close(self) -> None:
        pass


class EngineSource:
    """The application's SQLAlchemy engine."""

    linger = 0.02

    def __init__(self, engine: Any, connect: Connect | None = None, *, pooled: bool | None = None) -> None:
        dialect = getattr(engine, "dialect", None)
        if not hasattr(engine, "sync_engine") or dialect is None:
            raise InvalidOption(
                f"engine= got {type(engine).__qualname__}; it takes an AsyncEngine, of `create_async_engine(…)`"
            )
        if dialect.name != "postgresql" or dialect.driver not in ("asyncpg", "psycopg", "psycopg_async"):
            raise InvalidOption(
                f"engine= is for {dialect.name}+{dialect.driver}; asyncjobs needs postgresql+asyncpg or postgresql+psycopg"
            )
        self._engine = engine
        self._connect = connect
        self._pooled = pooled
        self._caching = Caching()

    def __repr__(self) -> str:
        return f"on {self._engine.url!r}"

    @property
    def place(self) -> str:
        """Its database, in words."""
        return named(self._engine.url.database, self._engine.url.host)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        with unavailable():
            try:
                async with asyncio.timeout(opening.CONNECT_TIMEOUT):
                    connection = await self._check_out()
            except TimeoutError as error:
                raise DatabaseUnavailable(
                    f"the engine gave no connection within {opening.CONNECT_TIMEOUT:g} s ({self._engine.pool.status()}); "
                    "is Postgres running, and is the pool large enough?"
                ) from error
        try:
            yield _Engaged(connection)
        except Exception as error:
            if is_read_only(error):
                await connection.invalidate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()

    async def _check_out(self) -> Any:
        connection = await self._engine.connect()
        try:
            pooled = connection.sync_connection.connection
            while is_ended(pooled.driver_connection):  # SQLAlchemy does not look, unless told to ping
                await connection.invalidate()
                await connection.close()
                connection = await self._engine.connect()
                pooled = connection.sync_connection.connection
            if pooled.dbapi_connection.autocommit:
                # Of an engine in AUTOCOMMIT a transaction would be none. The pool puts it back.
                await connection.execution_options(isolation_level="READ COMMITTED")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.close()
            raise
        return connection

    async def connect(self) -> Any:
        return await connect_with(self._open_one)

    async def _open_one(self) -> Any:
        if self._connect is not None:
            return await looked_into(await self._connect(), self._pooled)
        if self._engine.dialect.driver == "asyncpg":
            return await looked_into(await self._open_like_the_engine(), self._pooled)
        return await self._caching.open(self._open_as_psycopg_would, self._pooled)

    async def _open_as_psycopg_would(self, **given: Any) -> Any:
        """A driver that can listen, connected with what psycopg was told to connect with."""
        theirs = await self._open_like_the_engine()
        told = _as_for_asyncpg(theirs.info)
        await theirs.close()
        return await open_connection(**told, **given)

    async def _open_like_the_engine(self) -> Any:
        """Through a pool of our own with the engine's arguments and events, whatever they are: requests need theirs."""
        from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415 -- whoever passes an engine has it

        pool = self._engine.sync_engine.pool.recreate()
        async with asyncio.timeout(opening.CONNECT_TIMEOUT):
            pooled = await greenlet_spawn(pool.connect)
            driver: Any = pooled.driver_connection
            pooled.detach()
            return driver

    def is_exhausted(self) -> bool:
        pool = self._engine.sync_engine.pool
        # Of a pool that is not SQLAlchemy's usual one nothing is known: NullPool has no end.
        most = getattr(pool, "_max_overflow", -1)
        return most >= 0 and pool.checkedout() >= pool.size() + most

    async def close(self) -> None:
        pass


def _is_exhausted(pool: Any) -> bool:
    return bool(pool.get_size() >= pool.get_max_size() and pool.get_idle_size() == 0)


def _as_for_asyncpg(info: Any) -> dict[str, Any]:
    parameters = info.get_parameters()
    ssl = {name: parameters[name] for name in _SSL if name in parameters}
    settings = {name: parameters[name] for name in ("application_name", "options") if parameters.get(name)}
    return {
        "dsn": "postgresql:///?" + urlencode(ssl),
        "host": info.host or None,
        "port": info.port,
        "user": info.user,
        "password": info.password or None,
        "database": info.dbname,
        "server_settings": settings,
    }


_SSL = ("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "ssl_min_protocol_version")


class _Engaged(SQLAlchemyConnection):
    """A connection of the engine's, where a statement outside a transaction is its own."""

    async def fetch(self, query: str, *args: Any) -> Any:
        if self.connection.in_transaction():
            return await super().fetch(query, *args)
        async with self.connection.begin():
            return await super().fetch(query, *args)


@asynccontextmanager
async def _borrow(pool: Any) -> AsyncIterator[Connection]:
    with unavailable():
        try:
            connection = await pool.acquire(timeout=opening.CONNECT_TIMEOUT)
        except TimeoutError as error:
            if pool.get_size() >= pool.get_max_size() and pool.get_idle_size() == 0:
                raise DatabaseUnavailable(
                    f"all {pool.get_max_size()} connections of the pool were in use for {opening.CONNECT_TIMEOUT:g} s; "
                    "pass on= where you hold one, or make the pool larger"
                ) from error
            raise
    try:
        yield connection
    except Exception as error:
        if is_read_only(error):  # a primary no more: this connection, and those opened like it, are of no use
            await pool.expire_connections()
        raise
    finally:
        with suppress(
            Exception
        ):  # then asyncpg has ended it, and what it was borrowed for is done all the same
            await pool.release(connection, timeout=RELEASE_TIMEOUT)
