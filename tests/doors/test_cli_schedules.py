"""`schedules`: what repeats, from the shell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from asyncjobs import Cron, Every, Jobs, job
from tests.command import Shell


@job(kind="test_cli_schedules:sweep")
async def sweep() -> None: ...


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, {"ASYNCJOBS_DSN": dsn})


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    """Two schedules."""
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(Cron("30 3 * * *", sweep, name="nightly", timezone="Europe/Berlin"))
        await jobs.schedules.create(Every(timedelta(hours=6), sweep, name="now and then"))
        yield jobs


async def test_list(shell: Shell, jobs: Jobs) -> None:
    """One line each: when, and what; of those that are paused, that they are. For machines, all that is known."""
    await jobs.schedules.pause("now and then")
    done = await shell("schedules")
    assert done.code == 0
    heading, nightly, other = done.out.splitlines()
    assert heading.split()[:4] == ["name", "when", "next", "last"]
    assert "nightly  " in nightly
    assert "30 3 * * * Europe/Berlin" in nightly
    assert "test_cli_schedules:sweep" in nightly
    assert "every 6 h" in other
    assert "paused" in other
    (tick,) = await jobs.schedules.preview("nightly", 1)  # on its own clock, as the list
    assert tick.isoformat(" ", "seconds") in nightly
    assert "03:30:00+0" in nightly
    data = (await shell("schedules", "list", "nightly", "--json")).data
    assert [each["cron"] for each in data] == ["30 3 * * *"]


async def test_there_are_none(shell: Shell) -> None:
    """It says so, and is no error."""
    done = await shell("schedules")
    assert (done.code, done.out) == (0, "")
    assert "no schedules" in done.err


async def test_preview(shell: Shell, jobs: Jobs) -> None:
    """When it runs next, on its own clock."""
    done = await shell("schedules", "preview", "nightly", "--count", "3")
    assert [line[11:16] for line in done.out.splitlines()] == ["03:30"] * 3
    data = (await shell("schedules", "preview", "nightly", "now and then", "--json")).data
    assert [datetime.fromisoformat(each) for each in data["nightly"]] == await jobs.schedules.preview(
        "nightly"
    )
    assert len(data["now and then"]) == 5


async def test_run_pause_resume_delete(shell: Shell, jobs: Jobs) -> None:
    """Each does what it says, and says so."""
    done = await shell("schedules", "run", "nightly")
    (found,) = await jobs.list_jobs()
    assert done.out == f"nightly: job {found.id}\n"
    assert (await shell("schedules", "pause", "nightly", "now and then")).code == 0
    assert [each.paused_at is not None for each in await jobs.schedules.list()] == [True, True]
    assert (await shell("schedules", "resume", "nightly")).out == "nightly: resumed\n"
    assert [each.paused_at is not None for each in await jobs.schedules.list()] == [False, True]
    assert (await shell("schedules", "delete", "nightly", "--json")).data == {"nightly": "deleted"}
    assert [each.name for each in await jobs.schedules.list()] == ["now and then"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "nope"], 3, "there is no schedule 'nope'. There are none: those of the code are stored"),
        (["pause"], 2, "which schedule?"),
        (["nightly"], 2, "'nightly' is none of list, preview, run, pause, resume, delete"),
    ],
)
async def test_what_is_not_understood(shell: Shell, words: list[str], code: int, said: str) -> None:
    """The exit codes are those of the other verbs."""
    done = await shell("schedules", *words)
    assert done.code == code
    assert said in done.err


@pytest.mark.usefixtures("jobs")
async def test_a_name_that_no_schedule_has(shell: Shell) -> None:
    """The names that there are are said, and the one that was perhaps meant."""
    for words in (["preview", "nigthly"], ["nightly", "nigthly"], ["pause", "nigthly"]):
        done = await shell("schedules", *(["list", *words] if words[0] == "nightly" else words))
        assert (done.code, done.out) == (3, "")
        assert done.err == (
            "Error: there is no schedule 'nigthly'; did you mean 'nightly'? There are nightly, now and then: "
            "`python -m asyncjobs schedules` tells of them\n"
        )
