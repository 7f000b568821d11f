"""`retry` and `cancel` of many jobs, by what they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncjobs import Jobs
from tests.command import Shell, open_shop

APP = "shop.main:jobs"


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shell:
    return open_shop(tmp_path, dsn)


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def store(jobs: Jobs, kind: str, *tags: str) -> None:
    """A job that waits for its time."""
    async with jobs.connection() as connection:
        await connection.execute(
            "insert into asyncjobs.live_jobs (queue, kind, args, tags, state, scheduled_at) "
            "values ('mail', $1, '{}', $2, 1, now() + interval '1 hour')",
            kind,
            list(tags),
        )


async def states(jobs: Jobs) -> list[str]:
    return [job.state.value for job in reversed(await jobs.list_jobs())]


async def test_many_are_cancelled_and_run_again(shop: Shell, jobs: Jobs) -> None:
    """After asking, unless --yes; failed ones where no --state is said."""
    await store(jobs, "shop.main:send", "outage")
    await store(jobs, "shop.main:send")
    await store(jobs, "shop.main:ExportStations", "outage")

    asked = await shop("cancel", APP, "--kind", "send")
    assert asked.code == 1
    assert asked.err.startswith("cancel all jobs with kinds send, in database '")
    assert ", schema 'asyncjobs'? [y/N]" in asked.err
    assert await states(jobs) == ["scheduled"] * 3

    done = await shop("cancel", APP, "--kind", "send", "--queue", "mail", "--yes")
    assert (done.code, done.out.splitlines()[-1]) == (0, "cancelled 2 jobs"), done.err
    assert await states(jobs) == ["cancelled", "cancelled", "scheduled"]

    done = await shop("retry", APP, "--tag", "outage", "--yes", "--json")
    assert (done.code, done.data) == (0, {"retried": 0})
    done = await shop("retry", APP, "--tag", "outage", "--state", "cancelled", "--state", "scheduled", "-y")
    assert (done.code, done.out.splitlines()[-1]) == (0, "2 jobs run again")
    assert await states(jobs) == ["available", "cancelled", "available"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retry", APP, "42", "--state", "failed"], "name jobs by their ids, or choose them"),
        (["cancel", APP, "--state", "scheduled"], "Say --queue, --kind or --tag, too"),
        (["retry", APP, "--state", "completed"], "'completed' is not one of"),
        (["retry", APP], "which job?"),
    ],
)
async def test_what_is_not_meant_is_refused(shop: Shell, words: list[str], message: str) -> None:
    """Ids and a choice together; everything there is; what is done already."""
    done = await shop(*words)
    assert done.code == 2
    assert message in done.err


async def test_what_runs_is_asked_to_stop(shop: Shell, jobs: Jobs) -> None:
    """And it says of how many."""
    await store(jobs, "shop.main:send")
    async with jobs.connection() as connection:
        await connection.execute(
            "update asyncjobs.live_jobs set state = 0, runner = 7, started_at = now() where id > 0"
        )
    done: Any = await shop("cancel", APP, "--queue", "mail", "--yes")
    assert (done.code, done.out.splitlines()[-1]) == (
        0,
        "cancelled 0 jobs; the runners of 1 job are asked to stop",
    )
