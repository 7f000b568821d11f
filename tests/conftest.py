"""What every test may ask for."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from asyncjobs import Jobs
from tests.postgres import Cluster, Databases, cluster_for_tests, databases_of

LONGEST_TEARDOWN = 60.0  # seconds
CRASHED = pytest.StashKey[bool]()
STDERR = pytest.StashKey[int]()  # what is said there is seen, whatever of a test's words is captured


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)
    # A shell has its background jobs ignore SIGINT, and so would every process that tests start inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """A test that failed has no timeout any more: tidying up after it might hang the run, and nobody would know where."""
    faulthandler.dump_traceback_later(LONGEST_TEARDOWN, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A process that crashed leaves tests out: that is not the exit code of tests that failed."""
    if error is not None:
        node.config.stash[CRASHED] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(CRASHED, False):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Postgres server, started when the first test needs it."""
    with cluster_for_tests() as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def databases(cluster: Cluster, anyio_backend: str) -> AsyncIterator[Databases]:
    """Makes databases: `async with databases.clone(template) as dsn`."""
    async with databases_of(cluster) as databases:
        yield databases


@pytest.fixture
async def database(databases: Databases, anyio_backend: str) -> AsyncIterator[str]:
    """The DSN of an empty database."""
    async with databases.clone() as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def migrated(databases: Databases, anyio_backend: str) -> str:
    """The name of a database with the schema of asyncjobs, to be cloned."""

    async def migrate(dsn: str) -> None:
        await Jobs(dsn).migrate()

    return await databases.template(migrate)


@pytest.fixture
async def dsn(databases: Databases, migrated: str, anyio_backend: str) -> AsyncIterator[str]:
    """The DSN of a migrated database without jobs."""
    async with databases.clone(migrated) as dsn:
        yield dsn


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test said may hold a lone surrogate, on purpose; no report can be passed between processes with one."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
