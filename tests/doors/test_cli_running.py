"""`run` and `work-off`: a runner in a process of its own, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncjobs import Job, Jobs, JobState, job
from tests.command import Shell, appears, open_shop
from tests.waiting import eventually_async

APP = "shop.main:jobs"

at_once = 0
most_at_once = 0


@job(kind="test_cli_running:count")
async def count() -> None:
    global at_once, most_at_once
    at_once += 1
    most_at_once = max(at_once, most_at_once)
    await asyncio.sleep(0.01)
    at_once -= 1


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shell:
    return open_shop(tmp_path, dsn)


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def enqueue(shop: Shell, *words: object) -> int:
    done = await shop("enqueue", APP, *words, "--json")
    assert done.code == 0, done.err
    return int(done.data["id"])


async def get(jobs: Jobs, job_id: int) -> Job:
    job = await jobs.get_job(job_id)
    assert job is not None
    return job


async def test_work_off_runs_what_is_due_and_exits(shop: Shell, jobs: Jobs) -> None:
    """Due jobs run, also those enqueued by them; later ones are left; a failing job does not change the exit code."""
    chain = await enqueue(shop, "chain", "user_id=7")
    failing = await enqueue(shop, "ExportStations.fail", "tenant=x")
    later = await enqueue(shop, "send", "user_id=1", "--delay", "1h")
    done = await shop("work-off", APP)
    assert done.code == 0
    assert f"job {failing} (shop.main:ExportStations) failed at attempt 1 of 1, its last" in done.err
    assert {job.id: job.state for job in await jobs.list_jobs()} == {
        chain: JobState.COMPLETED,
        failing: JobState.FAILED,
        later: JobState.SCHEDULED,
        later + 1: JobState.COMPLETED,
    }


async def test_work_off_with_nothing_to_do(shop: Shell) -> None:
    """An empty queue is worked off at once."""
    assert (await shop("work-off", APP)).code == 0


async def test_only_the_queues_that_are_named_are_served(shop: Shell, jobs: Jobs) -> None:
    """--queues limits a runner; what is in other queues waits."""
    mail = await enqueue(shop, "send", "user_id=1")
    exports = await enqueue(shop, "ExportStations", "tenant=x")
    done = await shop("work-off", APP, "--queues", "mail,bulk:2", "--slots", "7")
    assert done.code == 0
    assert "2 slots for bulk, 7 slots for mail" in done.err
    assert (await get(jobs, mail)).state is JobState.COMPLETED
    assert (await get(jobs, exports)).state is JobState.AVAILABLE
    done = await shop("work-off", APP, ASYNCJOBS_QUEUES="bulk:2,exports", ASYNCJOBS_SLOTS="3")
    assert (done.code, "2 slots for bulk, 3 slots for exports" in done.err) == (0, True)
    assert (await get(jobs, exports)).state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--queues", "mail:0"], "queues['mail']=0 is not a number of slots"),
        (["--queues", "mail,mail"], "queue 'mail' is named twice"),
        (["--queues", "mail:3", "--slots", "5"], "leave slots= out"),
        (["--slots", "0"], "'--slots'"),
    ],
)
async def test_slots_that_make_no_sense(shop: Shell, options: list[str], says: str) -> None:
    """They end the command with 2 before anything runs."""
    done = await shop("run", APP, *options)
    assert (done.code, says in done.err, "Traceback" in done.err) == (2, True, False), done.err


async def test_queues_may_share_slots(dsn: str) -> None:
    """Two queues on one slot: never two jobs at once, and both are served."""
    global most_at_once
    most_at_once = 0
    async with Jobs(dsn, queues={"elsewhere": 3}).running(queues={"a": None, "b": None}, slots=1):
        handles = [await count.set(queue=queue).later() for queue in "aabbab"]
        left = await count.set(queue="elsewhere").later()
        for handle in handles:
            await handle.result(timeout=20)
        assert await left.status() is JobState.AVAILABLE
    assert most_at_once == 1


async def test_the_slots_of_the_jobs_stand_where_nothing_else_is_said(dsn: str) -> None:
    """`running(slots=…)` keeps the queues of the Jobs, `running(queues=…)` its slots."""
    mine = Jobs(dsn, queues={"a": 3, "b": 4})

    def pools(queues: dict[str, int | None] | None = None, slots: int | None = None) -> list[str]:
        return [str(pool) for pool in mine._settings_for(queues, slots).pools()]

    assert pools() == ["<3 slots for a>", "<4 slots for b>"]
    assert pools(slots=9) == ["<9 slots for a, b>"]
    assert pools(queues={"a": None}) == ["<3 slots for a>"]
    assert pools(queues={"a": None, "c": None}) == ["<3 slots for a>", "<20 slots for c>"]
    assert pools(queues={"a": None, "c": 2}, slots=9) == ["<2 slots for c>", "<9 slots for a>"]


@pytest.mark.failure_mode("F30")
async def test_a_stop_hands_running_jobs_back_unburnt(shop: Shell, jobs: Jobs, tmp_path: Path) -> None:
    """SIGTERM: nothing more is claimed; a job that does not end in time goes back as if it had never begun."""
    async with shop.going("run", APP, SHOP_TIMEOUT="2") as runner:
        sleeping = await enqueue(shop, "sleep", f"mark={tmp_path / 'mark'}")
        await appears(tmp_path / "mark")
        assert (await get(jobs, sleeping)).state is JobState.RUNNING
        runner.signal(signal.SIGTERM)
        await runner.says("SIGTERM: claiming nothing more")
        assert await runner.ended() == 0
    job = await get(jobs, sleeping)
    assert (job.state, job.attempt, job.runner, job.errors) == (JobState.AVAILABLE, 0, None, ())


@pytest.mark.failure_mode("F31")
async def test_a_second_signal_cancels_at_once(shop: Shell, jobs: Jobs, tmp_path: Path) -> None:
    """SIGINT twice: the runner does not wait for its jobs, and they go back all the same."""
    async with shop.going("run", APP, SHOP_TIMEOUT="600") as runner:
        sleeping = await enqueue(shop, "sleep", f"mark={tmp_path / 'mark'}")
        await appears(tmp_path / "mark")
        runner.signal(signal.SIGINT)
        await runner.says("SIGINT: claiming nothing more")
        assert (await get(jobs, sleeping)).state is JobState.RUNNING
        runner.signal(signal.SIGINT)
        assert await runner.ended() == 0
        assert "SIGINT again" in runner.err
    job = await get(jobs, sleeping)
    assert (job.state, job.attempt) == (JobState.AVAILABLE, 0)


async def test_a_running_job_may_end_while_stopping(shop: Shell, jobs: Jobs, tmp_path: Path) -> None:
    """Within the shutdown timeout a job ends as it would have."""
    async with shop.going("run", APP, SHOP_TIMEOUT="600") as runner:
        waiting = await enqueue(shop, "wait_for", f"mark={tmp_path / 'mark'}", f"end={tmp_path / 'end'}")
        await appears(tmp_path / "mark")
        runner.signal(signal.SIGTERM)
        await runner.says("SIGTERM")
        (tmp_path / "end").touch()
        assert await runner.ended() == 0
    assert (await get(jobs, waiting)).state is JobState.COMPLETED


@pytest.mark.failure_mode("F18")
@pytest.mark.parametrize("name", ["sleep_in_a_thread", "sleep_in_a_thread_of_others"])
async def test_a_thread_does_not_keep_the_process_alive(shop: Shell, tmp_path: Path, name: str) -> None:
    """A sync job's thread, and one a job has started, end with the process, soon after the deadline."""
    async with shop.going("run", APP, SHOP_TIMEOUT="1") as runner:
        await enqueue(shop, name, f"mark={tmp_path / 'mark'}")
        await appears(tmp_path / "mark")
        runner.signal(signal.SIGTERM)
        assert await runner.ended() == 0
        assert "stopped" in runner.err


@pytest.mark.failure_mode("F18")
async def test_a_sync_job_that_did_not_end_is_not_handed_back_while_it_runs(
    shop: Shell, jobs: Jobs, dsn: str, tmp_path: Path
) -> None:
    """Only when the process is gone may another run it: its row says so until then."""
    async with shop.going("run", APP, SHOP_TIMEOUT="1") as runner:
        sleeping = await enqueue(shop, "sleep_in_a_thread", f"mark={tmp_path / 'mark'}")
        await appears(tmp_path / "mark")
        runner.signal(signal.SIGTERM)
        assert await runner.ended() == 0
        assert "goes on in its thread" in runner.err
    assert (await get(jobs, sleeping)).state is JobState.RUNNING
    async with Jobs(dsn).running() as other:  # it knows no such kind, and rescues what the dead one held

        async def rescued() -> bool:
            return (await get(other, sleeping)).state is not JobState.RUNNING

        await eventually_async(rescued, within=40)


async def test_work_off_that_is_stopped_says_so(shop: Shell, jobs: Jobs, tmp_path: Path) -> None:
    """It ends with 1: not everything due has run."""
    await enqueue(shop, "sleep", f"mark={tmp_path / 'mark'}")
    async with shop.going("work-off", APP, SHOP_TIMEOUT="1") as runner:
        await appears(tmp_path / "mark")
        runner.signal(signal.SIGTERM)
        assert await runner.ended() == 1
        assert "stopped by SIGTERM" in runner.err


@pytest.mark.failure_mode("F35")
async def test_run_starts_without_postgres(shop: Shell, dsn: str) -> None:
    """A runner may start before its database, says so, and still stops when told."""
    async with shop.going("run", APP, SHOP_DSN="postgresql://127.0.0.1:1/nowhere") as runner:
        await runner.says("starting without Postgres")
        await runner.says("running")
        runner.signal(signal.SIGTERM)
        assert await runner.ended() == 0


async def test_run_uses_the_logging_of_the_application(shop: Shell) -> None:
    """Where the application has set up logging, `run` leaves it alone; else it logs to stderr with time and level."""
    shop.write("shop/logs.py", "import logging\nlogging.basicConfig(format='MINE %(message)s', level='INFO')\n"
                               "from shop.main import jobs\n")  # fmt: skip
    assert "MINE running" in (await shop("work-off", "shop.logs:jobs")).err
    assert " INFO     asyncjobs: running" in (await shop("work-off", APP)).err


async def test_an_application_that_defines_no_job_is_told(shop: Shell) -> None:
    """Where the modules with the jobs are not imported, what is wrong is said: what asyncjobs defines itself is not counted."""
    shop.write(
        "shop/empty.py", "import os\nfrom asyncjobs import Jobs\njobs = Jobs(os.environ['SHOP_DSN'])\n"
    )
    must_import = "the module of your Jobs must import the modules that define jobs"
    worked_off = await shop("work-off", "shop.empty:jobs")
    assert "running 0 kinds of jobs" in worked_off.err
    assert f"no job is defined here; {must_import}" in worked_off.err
    enqueued = await shop("enqueue", "shop.empty:jobs", "ExportStations")
    assert f"no job is defined as 'ExportStations'; {must_import}" in enqueued.err
    assert "no job is defined here" not in (await shop("work-off", APP)).err
