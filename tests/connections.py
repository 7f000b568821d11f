"""The connections people have: each kind with its transactions and savepoints, behind one face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import asyncpg
import psycopg
import psycopg.rows
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)


def sqlalchemy_url(dsn: str, driver: str = "asyncpg") -> str:
    """*dsn* as SQLAlchemy takes it."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@asynccontextmanager
async def engine_on(dsn: str, driver: str = "asyncpg", **given: Any) -> AsyncIterator[AsyncEngine]:
    """An engine, disposed of afterwards."""
    engine = create_async_engine(sqlalchemy_url(dsn, driver), **given)
    try:
        yield engine
    finally:
        await engine.dispose()


class SecondSession(AsyncSession):
    """A session class of an application's own, as SQLModel's is."""


class Theirs(Protocol):
    """Somebody's connection: what is passed as `on=`, and how its owner works with it."""

    on: Any

    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A transaction: committed at the end, rolled back when something is raised."""

    def nest(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint: released at the end, rolled back to when something is raised."""

    async def run(self, sql: str) -> None:
        """Run *sql* as the owner does."""


Opens = Callable[[str], AbstractAsyncContextManager[Theirs]]
"""Opens a connection of one kind to a DSN."""


class OnAsyncpg:
    def __init__(self, on: asyncpg.Connection | PoolConnectionProxy) -> None:
        self.on = on

    def begin(self) -> AbstractAsyncContextManager[Any]:
        return self.on.transaction()

    nest = begin

    async def run(self, sql: str) -> None:
        await self.on.execute(sql)


class OnPsycopg:
    def __init__(self, on: psycopg.AsyncConnection[Any]) -> None:
        self.on = on

    def begin(self) -> AbstractAsyncContextManager[Any]:
        return self.on.transaction()

    nest = begin

    async def run(self, sql: str) -> None:
        await self.on.execute(sql)


class OnPlainPsycopg(OnPsycopg):
    """The transaction psycopg opens by itself, ended with commit() or rollback()."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self.on.rollback()
            raise
        await self.on.commit()

    @asynccontextmanager
    async def nest(self) -> AsyncIterator[None]:
        await self.on.execute(
            "select"
        )  # else this would be the outermost transaction, and psycopg would commit it
        async with self.on.transaction():
            yield


class OnSQLAlchemy:
    def __init__(self, on: AsyncSession | AsyncConnection) -> None:
        self.on = on

    def begin(self) -> AbstractAsyncContextManager[Any]:
        return self.on.begin()

    def nest(self) -> AbstractAsyncContextManager[Any]:
        return self.on.begin_nested()

    async def run(self, sql: str) -> None:
        from sqlalchemy import text

        await self.on.execute(text(sql))


class OnAutobegun(OnSQLAlchemy):
    """The transaction SQLAlchemy begins by itself, ended with commit() or rollback()."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self.on.rollback()
            raise
        await self.on.commit()


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[Theirs]:
    connection = await asyncpg.connect(dsn)
    try:
        yield OnAsyncpg(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Theirs]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool, pool.acquire() as connection:
        yield OnAsyncpg(connection)


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[Theirs]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield OnPlainPsycopg(connection)


@asynccontextmanager
async def psycopg_autocommit(dsn: str) -> AsyncIterator[Theirs]:
    connect = psycopg.AsyncConnection.connect
    async with await connect(dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        yield OnPsycopg(connection)


def _session(driver: str, face: type[OnSQLAlchemy], made: type[AsyncSession] = AsyncSession) -> Opens:
    @asynccontextmanager
    async def open_one(dsn: str) -> AsyncIterator[Theirs]:
        async with engine_on(dsn, driver) as engine, async_sessionmaker(engine, class_=made)() as session:
            yield face(session)

    return open_one


def _connection(driver: str, face: type[OnSQLAlchemy]) -> Opens:
    @asynccontextmanager
    async def open_one(dsn: str) -> AsyncIterator[Theirs]:
        async with engine_on(dsn, driver) as engine, engine.connect() as connection:
            yield face(connection)

    return open_one


@asynccontextmanager
async def scoped_session(dsn: str) -> AsyncIterator[Theirs]:
    async with engine_on(dsn) as engine:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: None)
        try:
            yield OnSQLAlchemy(scoped)  # type: ignore[arg-type]
        finally:
            await scoped.remove()


@asynccontextmanager
async def session_on_connection(dsn: str) -> AsyncIterator[Theirs]:
    """A session bound to a connection, as some dependencies make them."""
    async with engine_on(dsn) as engine, engine.connect() as connection, AsyncSession(connection) as session:
        yield OnAutobegun(session)


SESSIONS: dict[str, Opens] = {
    "session": _session("asyncpg", OnSQLAlchemy),
    "session, autobegun": _session("asyncpg", OnAutobegun, SecondSession),
    "session on psycopg": _session("psycopg", OnSQLAlchemy),
    "scoped session": scoped_session,
    "session on a connection": session_on_connection,
}

KINDS: dict[str, Opens] = {
    "asyncpg": asyncpg_connection,
    "asyncpg pool": asyncpg_pool,
    "psycopg": psycopg_connection,
    "psycopg autocommit": psycopg_autocommit,
    **SESSIONS,
    "sqlalchemy connection": _connection("asyncpg", OnSQLAlchemy),
    "sqlalchemy connection, autobegun": _connection("asyncpg", OnAutobegun),
    "sqlalchemy connection on psycopg": _connection("psycopg", OnAutobegun),
}
