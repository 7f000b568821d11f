"""The server under the benchmark: durable, with room for its data, and a fresh database for each run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from asyncjobs.embedded import Embedded

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "10s",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_connections": "100",
}


@contextmanager
def server() -> Iterator[str]:
    """The DSN of a server, gone afterwards."""
    if dsn := os.environ.get("ASYNCJOBS_BENCH_DSN"):
        yield dsn
        return
    with Embedded(
        dir=tempfile.mkdtemp(prefix="asyncjobs-bench-"), settings=SETTINGS, keep=False
    ).running() as dsn:
        yield dsn


@asynccontextmanager
async def fresh_database(dsn: str) -> AsyncIterator[str]:
    """The DSN of a database nobody has used."""
    base, question, query = dsn.partition("?")
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute(f'create database "{name}"')
        try:
            yield f"{base.rpartition('/')[0]}/{name}{question}{query}"
        finally:
            await admin.execute(f'drop database "{name}" with (force)')
    finally:
        await admin.close()


_numbers = iter(range(1_000_000))
