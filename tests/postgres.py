"""Databases for tests: a cluster per session, a template migrated once, a clone of it per test.

A clone is a database nobody has used: its sequences, LISTENs and advisory locks are fresh, for some 10 ms.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol
from urllib.parse import quote, urlsplit

import asyncpg
from anyio import Lock
from attrs import field, frozen

from asyncjobs.embedded import TEST_SETTINGS, Embedded


class Cluster(Protocol):
    """A Postgres server, on which we may create databases."""

    def dsn(self, database: str = ...) -> str: ...


@frozen
class NamedServer:
    """A server somebody else runs, named by the DSN of one of its databases."""

    url: str

    def dsn(self, database: str | None = None) -> str:
        parts = urlsplit(self.url)
        if database is None:
            return self.url
        # Not urlunsplit: it would drop the two slashes of a DSN that names a socket and no host.
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc}/{quote(database, safe='')}{query}"


@contextmanager
def cluster_for_tests() -> Iterator[Cluster]:
    """The server ASYNCJOBS_TEST_DSN names, else an embedded one of major ASYNCJOBS_TEST_PG, gone afterwards."""
    if url := os.environ.get("ASYNCJOBS_TEST_DSN"):
        yield NamedServer(url)
        return
    major = int(os.environ.get("ASYNCJOBS_TEST_PG", "18"))
    embedded = Embedded(settings=TEST_SETTINGS, major=major, keep=False)
    with embedded.running():
        yield embedded


@frozen
class Databases:
    """Creates and drops databases of *cluster* over one connection, kept open: a new one costs half a clone."""

    cluster: Cluster
    admin: asyncpg.Connection
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _one_at_a_time: Lock = field(factory=Lock, init=False)

    @asynccontextmanager
    async def clone(self, template: str = "template0") -> AsyncIterator[str]:
        """The DSN of a fresh database like *template*, dropped afterwards, whoever is still connected."""
        name = await self.create(template)
        try:
            yield self.cluster.dsn(name)
        finally:
            await self.drop(name)

    async def template(self, migrate: Callable[[str], Awaitable[object]]) -> str:
        """The name of a database that *migrate* was called on, ready to be cloned."""
        name = await self.create()
        await migrate(self.cluster.dsn(name))
        # Only a database without sessions can be cloned; this keeps autovacuum's out too.
        await self._execute(f'alter database "{name}" allow_connections false')
        return name

    async def create(self, template: str = "template0") -> str:
        """Create a database like *template* and return its name."""
        name = f"asyncjobs_test_{os.getpid()}_{next(self._numbers)}"
        # Copying the files costs half of copying them through the WAL, the default since there is a choice.
        how = " strategy file_copy" if self.admin.get_server_version().major >= 15 else ""
        await self._execute(f'create database "{name}" template "{template}"{how}')
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f'drop database if exists "{name}" with (force)')

    async def _execute(self, sql: str) -> None:
        async with self._one_at_a_time:
            await self.admin.execute(sql)


@asynccontextmanager
async def databases_of(cluster: Cluster) -> AsyncIterator[Databases]:
    """What makes databases of *cluster*; none it made is left at the end."""
    admin = await asyncpg.connect(cluster.dsn())
    try:
        made = Databases(cluster, admin)
        yield made
        pattern = f"asyncjobs_test_{os.getpid()}_%"
        for row in await admin.fetch("select datname from pg_database where datname like $1", pattern):
            await made.drop(row["datname"])
    finally:
        await admin.close()
