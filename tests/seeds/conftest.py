"""What the tests of the seeds' checklists share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asyncjobs import Jobs
from tests.kinds import forgotten
from tests.postgres import Databases


@pytest.fixture(scope="module")
async def its_dsn(databases: Databases, migrated: str, anyio_backend: str) -> AsyncIterator[str]:
    """The database of `running`."""
    async with databases.clone(migrated) as dsn:
        yield dsn


@pytest.fixture(scope="module")
async def running(its_dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    """A Jobs that runs jobs, for all tests of a module."""
    async with Jobs(its_dsn).running() as jobs:
        yield jobs


@pytest.fixture
def forgetting() -> Iterator[None]:
    """What the test defines is forgotten at its end: a dependency, for one, is asked of every Jobs that runs."""
    with forgotten():
        yield
