"""Old and new code of an application side by side, in real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncjobs import Jobs
from tests.command import Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

OLD = """
import os
import attrs
from asyncjobs import Jobs, Later

jobs = Jobs(os.environ["DEPOT_DSN"])


@attrs.frozen
class Bill(Later, kind="depot:Bill"):
    kronor: float

    async def call(self) -> str:
        return f"old code: {self.kronor} kronor"
"""

NEW = """
import os
import attrs
from asyncjobs import Jobs, Later

jobs = Jobs(os.environ["DEPOT_DSN"])


@attrs.frozen
class Invoice(
    Later,
    kind="depot:Invoice",
    aliases=["depot:Bill"],
    renamed={"call": "charge"},
    version=2,
    upcasters={1: lambda stored: {"aurar": round(stored["kronor"] * 100)}},
):
    aurar: int

    async def charge(self) -> str:
        return f"new code: {self.aurar} aurar"
"""


@pytest.fixture
def depot(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, {"DEPOT_DSN": dsn})


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


@pytest.mark.failure_mode("F93", "F94")
async def test_a_rolling_deployment_and_its_rollback(depot: Shell, jobs: Jobs) -> None:
    """Two versions of an application in real processes: each runs what it can read, no attempt is burnt, nothing fails."""
    depot.write("depot/old.py", OLD)
    depot.write("depot/new.py", NEW)
    old, new = "depot.old:jobs", "depot.new:jobs"
    for price in (1.5, 2.5):
        assert (await depot("enqueue", old, "Bill", f"kronor={price}")).code == 0
    assert (await depot("check", new)).code == 0
    assert (await depot("enqueue", new, "Invoice", "aurar=700")).code == 0
    # Old processes are still there, and take turns with new ones.
    assert (await depot("work-off", old, "--queues", "elsewhere")).code == 0
    assert (await jobs.list_jobs(states=["completed"])) == []
    done = await depot("work-off", old)
    assert "jobs of kind 'depot:Invoice@2' wait in queue 'default'" in done.err
    assert (await depot("enqueue", old, "Bill", "kronor=3.5")).code == 0
    # A rollback would leave a job that waits; the check says so.
    done = await depot("check", old)
    assert (done.code, "1 job of depot:Invoice, stored at version 2 (3)" in done.out) == (1, True), done.out
    assert (await depot("work-off", new)).code == 0
    found = {job.id: (job.result, job.attempt, job.version) for job in await jobs.list_jobs()}
    assert found == {
        1: ("old code: 1.5 kronor", 1, 1),
        2: ("old code: 2.5 kronor", 1, 1),
        3: ("new code: 700 aurar", 1, 2),
        4: ("new code: 350 aurar", 1, 1),
    }
