"""Other majors of Postgres than the one the tests run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from asyncjobs import Jobs
from asyncjobs.embedded import TEST_SETTINGS, Embedded, binaries
from tests.features import need
from tests.flows.test_other_loops import afresh, status, stopped_with_a_job_that_clings, story  # noqa: F401 -- a fixture
from tests.store.test_fence import test_any_life_of_jobs_is_as_the_model_says as any_life

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

DEBIANS = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(params=[15, 16, 18])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """A server of each major: 15 is the distribution's, where it has it."""
    if request.param == 15:
        need("PostgreSQL 15", os.access(DEBIANS / "initdb", os.X_OK))
        monkeypatch.setenv(binaries.ENV, str(DEBIANS))
    embedded = Embedded(settings=TEST_SETTINGS, major=request.param, keep=False)
    with embedded.running():
        yield embedded


@pytest.mark.failure_mode("F72")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_jobs_run_on_every_major(server: Embedded) -> None:
    """The same story, and any life of jobs the model can think of, on what each major makes of our SQL."""
    admin = await asyncpg.connect(server.dsn())
    version = admin.get_server_version().major
    await admin.execute("create database story")
    await admin.execute("create database lives")
    await admin.close()
    assert version == server.major
    for name in ("story", "lives"):
        assert await Jobs(server.dsn(name)).migrate()
        assert await Jobs(server.dsn(name)).migrate() == []
    await story(server.dsn("story"))
    job_id = await stopped_with_a_job_that_clings(server.dsn("story"))
    assert await status(server.dsn("story"), job_id) == "available"
    await any_life(server.dsn("lives"))
