"""A Postgres of one test's own, which may be stopped in its tracks."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import asyncpg
import attrs

from asyncjobs import Jobs
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from asyncjobs.embedded.watch import Postmaster
from tests.waiting import eventually

DURABLE = {**TEST_SETTINGS, "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
FORGETFUL = {**DURABLE, "wal_writer_delay": "10s"}
"""What is committed asynchronously is not written for seconds, unless something else is."""

FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT  # what `pg_ctl stop -m fast` and `-m immediate` send


@attrs.define(eq=False)
class Server:
    """It keeps its data when it is stopped, and forgets what it had not written."""

    embedded: Embedded
    numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def stop(self, how: signal.Signals) -> None:
        postmaster = Postmaster.of(self.embedded.dir)
        assert postmaster is not None
        os.kill(postmaster.pid, how)
        eventually(lambda: not postmaster.lives())

    def start(self) -> None:
        self.embedded.start()

    async def database(self) -> str:
        """The DSN of a migrated database."""
        name = f"faults_{next(self.numbers)}"
        admin = await asyncpg.connect(self.embedded.dsn())
        await admin.execute(f"create database {name}")
        await admin.close()
        dsn = self.embedded.dsn(name)
        await Jobs(dsn).migrate()
        return dsn


def a_server(settings: dict[str, str]) -> Iterator[Server]:
    """For a fixture: runs until the end of it."""
    server = Server(Embedded(settings=settings, keep=False))
    server.start()
    yield server
    server.start()
    server.embedded.stop()
