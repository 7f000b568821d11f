"""Programs that end without a word: in the middle of main, by an error, by running off their end."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from asyncjobs import Job, Jobs, JobState
from asyncjobs._keeper.vigilance import Vigilance
from tests.faults.processes import ALERT
from tests.waiting import eventually_async

S = JobState

PROGRAM = '''
import asyncio, atexit, os, sys
from asyncjobs import Jobs, job

@job(kind="endings:hold", max_attempts=1)
async def hold() -> None:
    await asyncio.sleep(3600)

jobs = Jobs(sys.argv[1], shutdown_timeout=0.4)

async def begun():
    handle = await hold.later()
    while await handle.status() != "running":
        await asyncio.sleep(0.01)
    print(handle.id, flush=True)

async def inside():
    async with jobs.running():
        await begun()
        end()

async def beside():
    """The block is never left in order: the loop is over, and it with it."""
    running = jobs.running()
    await running.__aenter__()
    await begun()
    end()

def end():
    match sys.argv[3]:
        case "sys.exit": sys.exit(3)
        case "an error": raise ValueError("of the application")
        case "the last line": return
        case "os._exit": os._exit(4)

main = globals()[sys.argv[2]]
if sys.argv[3] == "no more loop":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
else:
    asyncio.run(main())
'''


async def run(dsn: str, *words: str) -> tuple[int, int, str]:
    """Its exit code, the job it ran, and what it said of its end."""
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, dsn, *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return process.returncode, int(process.stdout), process.stderr


async def look_at(dsn: str, job_id: int) -> Job:
    async with Jobs(dsn) as jobs:
        return await jobs.handle(job_id).job()


@pytest.mark.failure_mode("F10")
@pytest.mark.parametrize(
    ("where", "how", "code"),
    [
        ("inside", "sys.exit", 3),
        ("beside", "sys.exit", 3),
        pytest.param("beside", "an error", 1, marks=pytest.mark.faults),
        pytest.param("beside", "the last line", 0, marks=pytest.mark.faults),
    ],
)
async def test_a_program_that_just_ends_gives_its_jobs_back(
    dsn: str, where: str, how: str, code: int
) -> None:
    """Inside of the block, and where nobody leaves it because the program ends first: no attempt is lost, none is blamed."""
    returned, job_id, said = await run(dsn, where, how)
    assert returned == code, said
    job = await look_at(dsn, job_id)
    assert (job.state, job.attempt, job.crashes, job.errors) == (S.AVAILABLE, 0, 0, ())
    assert "Task was destroyed" not in said
    assert "never retrieved" not in said


@pytest.mark.failure_mode("F10")
@pytest.mark.parametrize("how", ["os._exit", pytest.param("no more loop", marks=pytest.mark.faults)])
async def test_a_program_that_tells_nobody_is_rescued(dsn: str, how: str) -> None:
    """It ends at once, or after its loop has stopped for good: as if it had been killed, its jobs are run elsewhere."""
    _, job_id, _ = await run(dsn, "beside", how)
    assert (await look_at(dsn, job_id)).state is S.RUNNING
    async with Jobs(dsn, vigilance=Vigilance(**ALERT), queues={"none": 1}).running():

        async def is_back() -> bool:
            job = await look_at(dsn, job_id)
            return (job.state, job.attempt, job.crashes) == (S.AVAILABLE, 0, 1)

        await eventually_async(is_back)
