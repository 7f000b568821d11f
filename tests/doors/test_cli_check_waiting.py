"""`check`, before a deployment: every job that waits, decoded with the code of this checkout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncjobs import Every, Jobs, job
from tests.command import Shell

APP = "depot.main:jobs"

DEPOT = """
import os
import attrs
from asyncjobs import Jobs, Later, job

jobs = Jobs(os.environ["DEPOT_DSN"])


@attrs.frozen
class Parcel(Later, kind="depot:Parcel", version=2, upcasters={1: lambda stored: {"to": stored["city"]}}):
    to: str
    weight: int

    async def call(self) -> None:
        raise SystemExit("a check runs nothing")


@job(kind="depot:sweep", aliases=["depot:clean"])
async def sweep() -> None: ...
"""


@pytest.fixture
def depot(tmp_path: Path, dsn: str) -> Shell:
    shell = Shell(tmp_path, {"DEPOT_DSN": dsn})
    shell.write("depot/main.py", DEPOT)
    return shell


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def enqueue(jobs: Jobs, kind: str, args: dict[str, Any], **options: Any) -> int:
    async with jobs.connection() as connection:
        return int(
            await connection.fetchval(
                "select asyncjobs.enqueue($1, $2::text::jsonb, $3::text::jsonb)",
                kind,
                orjson.dumps(args).decode(),
                orjson.dumps(options).decode(),
            )
        )


@pytest.mark.failure_mode("F94")
async def test_check_says_which_jobs_this_code_could_not_run(depot: Shell, jobs: Jobs) -> None:
    """By kind, version and reason, the most numerous first, with ids: 1 while there is one, 0 when there is none."""
    await enqueue(jobs, "depot:Parcel@2", {"to": "Höfn", "weight": 3}, method="call")
    await enqueue(jobs, "depot:clean", {}, at="2099-01-01T00:00:00Z")
    old = [
        await enqueue(jobs, "depot:Parcel", {"city": "Höfn"}, method="call", queue="post") for _ in range(6)
    ]
    newer = await enqueue(jobs, "depot:Parcel@3", {"to": "Höfn"}, method="call")
    done = await depot("check", APP)
    assert done.code == 1
    first, second = done.out.splitlines()
    assert first == (
        f"6 jobs of depot:Parcel.call, stored at version 1 ({', '.join(map(str, old[:5]))}, …): Parcel.call needs 'weight', "
        "which this job was stored without; give it a default for jobs enqueued before it"
    )
    assert second == (
        f"1 job of depot:Parcel, stored at version 3 ({newer}): 'depot:Parcel@3' was stored by newer code: its inputs are of "
        "version 3, and this process knows version 2"
    )
    done = await depot("check", APP, "--queue", "post", "--json")
    assert done.code == 1
    (finding,) = done.data["findings"]
    assert finding.pop("says").startswith("Parcel.call needs 'weight'")
    assert finding == {
        "reason": "missing input",
        "kind": "depot:Parcel",
        "version": 1,
        "method": "call",
        "input": "weight",
        "jobs": 6,
        "ids": old[:5],
    }
    assert (done.data["checked"], len(done.data["problems"])) == (6, 1)


async def test_check_leaves_other_applications_alone(depot: Shell, jobs: Jobs) -> None:
    """With --foreign-kinds: kinds of theirs are no mistake, and nothing else is forgiven."""

    @job(kind="test_cli_check:theirs")
    async def theirs(number: int) -> None: ...

    await theirs.later(1)
    await jobs.schedules.create(Every(3600, theirs.prepare(2), name="hourly"))
    done = await depot("check", APP)
    assert (done.code, done.out.count("no job is defined as 'test_cli_check:theirs'")) == (1, 2)
    assert "schedule 'hourly' of test_cli_check:theirs: " in done.out
    done = await depot("check", APP, "--foreign-kinds")
    assert (done.code, done.out) == (0, "all is well\n")
    await enqueue(jobs, "depot:sweep@2", {})
    assert (await depot("check", APP, "--foreign-kinds")).code == 1


async def test_check_without_code_says_so(depot: Shell, jobs: Jobs, dsn: str) -> None:
    """Of a bare database nothing can be decoded, and that is not all being well in silence."""
    await enqueue(jobs, "depot:gone", {})
    done = await depot("check", ASYNCJOBS_DSN=dsn)
    assert (done.code, done.out) == (0, "all is well\n")
    assert "the jobs that wait were not decoded; name your Jobs" in done.err


async def test_check_needs_the_schema_of_this_code(depot: Shell, jobs: Jobs) -> None:
    """Before a deployment whose migration was forgotten: 4."""
    async with jobs.connection() as connection:
        await connection.execute(
            "delete from asyncjobs.migrations where version = (select max(version) from asyncjobs.migrations)"
        )
    done = await depot("check", APP)
    assert (done.code, "needs" in done.err) == (4, True), done.err
