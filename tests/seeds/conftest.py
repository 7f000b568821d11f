"""What the tests of the seeds' checklists share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asyncjobs import Jobs
from tests.kinds import forgotten
from tests.postgres import Databases


@pytest.fixture(scope="module")
async def running(databases: Databases, migrated: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    """A Jobs that runs jobs, for all tests of a module."""
    async with databases.clone(migrated) as dsn, Jobs(dsn).running() as jobs:
        yield jobs


@pytest.fixture
def forgetting() -> Iterator[None]:
    """What the test defines is forgotten at its end: a dependency, for one, is asked of every Jobs that runs."""
    with forgotten():
        yield
