"""Where connections come from: a DSN, the application's asyncpg pool, or its SQLAlchemy engine.

Statements of short life borrow a connection (`connection()`); what a runner holds for its whole life it opens itself
(`connect()`), with the same parameters, so that it never competes with requests for the application's pool.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import asyncpg

from asyncjobs._store.connection import Connection, SQLAlchemyConnection
from asyncjobs._store.faults import is_read_only, is_transient, sqlstate
from asyncjobs._store.hosts import Host, Hosts, says_which
from asyncjobs._store.probes import expect_backend, is_pooled, mark_pooled
from asyncjobs.errors import DatabaseUnavailable, InvalidOption

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection: a dead network must not hang a request for asyncpg's whole minute."""

CLOSE_TIMEOUT = 1.0
"""Seconds to wait for borrowed connections to come back, before they are closed under those who hold them."""

RELEASE_TIMEOUT = 1.0
"""Seconds the server has to tidy up a connection that is given back: what is slower is not worth keeping."""

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
        # A pooler may give the next statement to a server that has not prepared it.
        self._given: dict[str, Any] = {"statement_cache_size": 0} if pooled else {}
        self._connect = connect
        self._size = size
        self._pool: Any = None

    def __repr__(self) -> str:
        return f"on {_shown(self._dsn)}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with _borrow(await self._open()) as connection:
            yield connection

    async def connect(self) -> Any:
        return await connect_with(self._open_one)

    async def _open_one(self, *_: Any, **__: Any) -> Any:
        if self._connect is not None:
            return await looked_into(await self._connect(), self._pooled)
        connection = await looked_into(await self._dial(), self._pooled)
        if is_pooled(connection) and not self._given:
            await connection.close()
            self._given = {"statement_cache_size": 0}
            connection = await looked_into(await self._dial(), self._pooled)
        return connection

    async def _dial(self) -> Any:
        if not self._hosts:
            return await open_connection(dsn=self._dsn, **self._given)
        # Of several hosts one is meant that can be written to, unless the DSN says otherwise.
        given = (
            self._given if says_which(self._dsn) else {**self._given, "target_session_attrs": "read-write"}
        )

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
                self._dsn, min_size=0, max_size=self._size, timeout=CONNECT_TIMEOUT, connect=self._open_one
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
        given = {**pool._connect_kwargs, "timeout": _in_good_time(pool._connect_kwargs.get("timeout"))}
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

    def __repr__(self) -> str:
        return f"on {self._engine.url!r}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        with unavailable():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = await self._check_out()
            except TimeoutError as error:
                raise DatabaseUnavailable(
                    f"the engine gave no connection within {CONNECT_TIMEOUT:g} s ({self._engine.pool.status()}); "
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
            if _is_stale(pooled.driver_connection):
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
        return await looked_into(await (self._connect or self._open_like_the_engine)(), self._pooled)

    async def _open_like_the_engine(self) -> Any:
        """Through a pool of our own with the engine's arguments and events, whatever they are: requests need theirs."""
        from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415 -- whoever passes an engine has it

        pool = self._engine.sync_engine.pool.recreate()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            pooled = await greenlet_spawn(pool.connect)
            driver: Any = pooled.driver_connection
            pooled.detach()
            if isinstance(driver, asyncpg.Connection):
                return driver
            # psycopg: what it was told to connect with, for a driver that can listen.
            given = _as_for_asyncpg(driver.info)
            await driver.close()
        return await open_connection(**given)

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


def _is_stale(driver: Any) -> bool:
    """Whether the server closed *driver* while the pool had it. SQLAlchemy does not look, unless told to ping."""
    if isinstance(driver, asyncpg.Connection):
        return driver.is_closed()
    # psycopg learns of it at the next statement. Nobody has asked anything: what there is to read is the end, or a notice.
    return bool(driver.closed or select.select([driver.fileno()], [], [], 0)[0])


class _Engaged(SQLAlchemyConnection):
    """A connection of the engine's, where a statement outside a transaction is its own."""

    async def fetch(self, query: str, *args: Any) -> Any:
        if self.connection.in_transaction():
            return await super().fetch(query, *args)
        async with self.connection.begin():
            return await super().fetch(query, *args)


async def open_connection(*args: Any, **given: Any) -> Any:
    """An asyncpg connection, or an error in good time."""
    given["timeout"] = _in_good_time(given.get("timeout"))
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


def _in_good_time(timeout: float | None) -> float:
    return min(timeout or CONNECT_TIMEOUT, CONNECT_TIMEOUT)


async def connect_with(connect: Connect) -> Any:
    """What *connect* opens. Raises DatabaseUnavailable."""
    with unavailable():
        return await connect()


def plain_dsn(dsn: str) -> str:
    """*dsn* as asyncpg takes it: SQLAlchemy's name of a driver, and what only that driver knows, is taken off."""
    if not isinstance(dsn, str):
        raise InvalidOption(
            f"the DSN is {type(dsn).__qualname__}, not text; pass engine= for an engine, pool= for a pool"
        )
    scheme, separator, rest = dsn.partition("://")
    name, _, driver = scheme.partition("+")
    if not separator or name not in ("postgres", "postgresql"):
        raise InvalidOption(
            f"{_shown(dsn)} is not the address of a Postgres database; write postgresql://user:password@host:5432/database"
        )
    _check_readable(rest)
    if driver:
        rest, mark, query = rest.partition("?")
        kept = [
            ("sslmode" if word == "ssl" else word, value)
            for word, value in parse_qsl(query)
            if word not in _SQLALCHEMYS
        ]
        rest += mark + urlencode(kept)
    return f"{name}://{rest}"


_SQLALCHEMYS = ("async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func")


def _check_readable(rest: str) -> None:
    """Refuse what cannot be read, without a word of it: where a password is cut in two, half of it stands in the rest."""
    try:
        parts = urlsplit(f"postgresql://{rest}")
        readable = not parts.fragment and all(map(_is_port, _ports(parts.netloc)))
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        readable = False
    if not readable:
        raise InvalidOption(
            "the DSN cannot be read; a user or password with one of / ? # @ : [ ] % in it, and the value of a parameter, are "
            "written percent-encoded, as by urllib.parse.quote(…, safe='')"
        )


def _ports(netloc: str) -> list[str]:
    """The ports of the hosts, where they are given; a colon within brackets is the host's own."""
    hosts = [host.rpartition("]")[2] for host in netloc.rpartition("@")[2].split(",")]
    return [host.rpartition(":")[2] for host in hosts if ":" in host]


def _is_port(word: str) -> bool:
    return not word or (word.isdecimal() and int(word) < 65536)


def has_password(dsn: str) -> bool:
    """Whether a password stands in *dsn*."""
    try:
        parts = urlsplit(dsn)
    except ValueError:  # it cannot be read; who opens it says so
        return False
    return ":" in parts.netloc.rpartition("@")[0] or "password" in dict(parse_qsl(parts.query))


def _shown(dsn: str) -> str:
    """A DSN without anything that may be secret: its user, password and parameters."""
    scheme, separator, rest = dsn.partition("://")
    if not separator:
        return "the DSN"  # it may be a password, or libpq's `password=…`
    where = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}://…@{where}" if "@" in rest else f"{scheme}://{where}"


@asynccontextmanager
async def _borrow(pool: Any) -> AsyncIterator[Connection]:
    with unavailable():
        try:
            connection = await pool.acquire(timeout=CONNECT_TIMEOUT)
        except TimeoutError as error:
            if pool.get_size() >= pool.get_max_size() and pool.get_idle_size() == 0:
                raise DatabaseUnavailable(
                    f"all {pool.get_max_size()} connections of the pool were in use for {CONNECT_TIMEOUT:g} s; "
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
        if isinstance(error, asyncpg.ClientConfigurationError):
            raise InvalidOption(f"the DSN cannot be used: {error}") from error
        if isinstance(error, Exception) and is_transient(error):
            raise DatabaseUnavailable(
                f"Postgres cannot be reached ({type(error).__name__}: {error}); is it running, and is the DSN right?"
            ) from error
