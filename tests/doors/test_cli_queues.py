"""Queues, priorities, pools and names on the command line; `check` and `clear`."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncjobs import Jobs, JobState
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._store.clearing import find_overdue
from tests.command import Shell, open_shop
from tests.waiting import eventually_async

APP = "shop.main:jobs"
LIVES = """
insert into asyncjobs.runners (incarnation, lock_key, holds_lock, lease, name, version)
values (7, 7, false, '1 hour', 'somebody', '0')"""


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shell:
    return open_shop(tmp_path, dsn)


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def store(jobs: Jobs, queue: str = "default", priority: int = 0, **columns: Any) -> int:
    """A job of the shop's, as another process would have stored it."""
    async with jobs.connection() as connection:
        job_id = await connection.fetchval(
            "insert into asyncjobs.live_jobs (queue, priority, kind, args) values ($1, $2, 'shop.main:send', '{\"user_id\": 1}') "
            "returning id",
            queue,
            priority,
        )
        for name, value in columns.items():
            await connection.execute(f"update asyncjobs.live_jobs set {name} = {value} where id = {job_id}")
    return int(job_id)


async def states(jobs: Jobs) -> dict[int, str]:
    return {job.id: job.state.value for job in await jobs.list_jobs()}


@pytest.mark.seed("D13", "D7")
async def test_work_off_takes_a_range_of_priorities(shop: Shell, jobs: Jobs) -> None:
    """D13: "`run`, `workoff` (`--exit-when-empty`)", "`--min-priority/--max-priority`", "env variables": a runner leaves the others
    to others.
    """
    ids = {priority: await store(jobs, priority=priority) for priority in (-20, -10, 0, 10, 20)}
    done = await shop("work-off", APP, "--min-priority", "-10", "--max-priority", "0")
    assert done.code == 0, done.err
    assert "20 slots for every queue (priority -10 to 0)" in done.err
    assert {p for p, each in ids.items() if (await states(jobs))[each] == "completed"} == {-10, 0}
    done = await shop("work-off", APP, ASYNCJOBS_MIN_PRIORITY="1", ASYNCJOBS_MAX_PRIORITY="15")
    assert "(priority 1 to 15)" in done.err
    assert (await states(jobs))[ids[10]] == "completed"
    done = await shop("run", APP, "--exit-when-empty")
    assert (done.code, set((await states(jobs)).values())) == (0, {"completed"})


@pytest.mark.seed("D13", "Q17")
async def test_pools_and_slots_are_said_at_the_start(shop: Shell, jobs: Jobs) -> None:
    """D13: "`--queues`, `--pool a,b:2`, `-n`"; Q17: "CLI flags' equals and startup banner": with slots and queues."""
    await store(jobs, "mail")
    done = await shop("work-off", APP, "--pool", "exports,mail:2", "--pool", "*", "--pool", "bulk")
    assert done.code == 0, done.err
    assert "in 2 slots for exports, mail, 1 slot for every queue, 1 slot for bulk; asyncjobs" in done.err
    assert set((await states(jobs)).values()) == {"completed"}
    done = await shop("work-off", APP, ASYNCJOBS_POOLS="a,b:3 :2")
    assert "in 3 slots for a, b, 2 slots for every queue; asyncjobs" in done.err
    done = await shop("work-off", APP, "-n", "10,30,any,any")
    assert (
        "in 1 slot for every queue (priority up to 10), 1 slot for every queue (priority up to 30), "
        "2 slots for every queue;" in done.err
    )
    done = await shop("work-off", APP, ASYNCJOBS_QUEUE="mail", ASYNCJOBS_SLOTS="3")
    assert "in 3 slots for mail;" in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pool", "a:none"], "is written QUEUE,QUEUE:SLOTS"),
        (["--pool", "a,,b:2"], "names queues as in exports,mail:2"),
        (
            ["--pool", "charges:2,mails:1"],
            "said once, at the end, as in exports,mail:2; slots of its own for each are said with --queues exports:2,mail:1",
        ),
        (["--queues", "charges:two"], "it is written exports,mail or exports:4,mail"),
        (["--pool", "a:0"], "is not a number of slots"),
        (["--slots", "10,soon"], "neither a number of slots nor thresholds"),
        (["--min-priority", "5", "--max-priority", "4"], "min_priority=5 is above max_priority=4"),
        (["--min-priority", "99999"], "99999 is not in the range"),
        (["--poll", "0"], "poll=0"),
        (["--log-format", "%(nothing"], "no format of a log line"),
        (["--prefix", "\t"], "is not a name"),
    ],
)
async def test_options_that_make_no_sense(shop: Shell, options: list[str], says: str) -> None:
    """They end the command with 2 and a sentence."""
    done = await shop("run", APP, *options)
    assert (done.code, says in done.err, "Traceback" in done.err) == (2, True, False), done.err


@pytest.mark.seed("D13", "Q16")
async def test_runners_have_names(shop: Shell, jobs: Jobs) -> None:
    """D13: "`--identifier/--prefix`": host:pid, unless said otherwise. Q16: "TERM: stop claiming … wait with a limit"."""
    host = socket.gethostname()

    async def names() -> set[str]:
        async with jobs.connection() as connection:
            return {row[0] for row in await connection.fetch("select name from asyncjobs.runners")}

    async def named(name: str) -> None:
        async def it_is() -> bool:
            return await names() == {name}

        await eventually_async(it_is)

    async with shop.going("run", APP, "--poll", "1m") as runner:
        await named(f"{host}:{runner.process.pid}")
        runner.signal(signal.SIGTERM)
        await runner.says("SIGTERM: claiming nothing more")
        assert await runner.ended() == 0
    async with shop.going("run", APP, "-i", "blue", ASYNCJOBS_PREFIX="mail ") as runner:
        await named(f"mail {host}:blue")
        runner.signal(signal.SIGTERM)
        assert await runner.ended() == 0


@pytest.mark.seed("D17", "Q17", "D2")
async def test_log_lines_have_a_level_and_a_format(shop: Shell) -> None:
    """D17: "log line formats configurable with level"; D2: default_log_level; Q17: "startup banner; `--log-internals`", which is the
    level debug.
    """
    done = await shop("work-off", APP, "--log-format", "%(levelname)s|%(message)s")
    assert "INFO|stopped\n" in done.err
    done = await shop("work-off", APP, "--log-level", "WARNING")
    assert (done.code, done.err) == (0, "")
    done = await shop(
        "work-off", APP, ASYNCJOBS_LOG_LEVEL="debug", ASYNCJOBS_LOG_FORMAT="%(name)s> %(message)s"
    )
    assert "asyncjobs> stopped" in done.err


# check


DECLARED = """
import asyncjobs, os
from asyncjobs import Jobs, job
asyncjobs.queues.register("shop", default=200, bulk=-5)
asyncjobs.queues.register().queue("mail")

@job(queue="bulk", app="shop")
async def sweep() -> None: ...

jobs = Jobs(os.environ["SHOP_DSN"], queues={"exports": 1, "*": 3})
"""


@pytest.mark.seed("T3")
async def test_check_fails_for_an_undeclared_queue(shop: Shell, jobs: Jobs) -> None:
    """T3: "undeclared queue ⇒ … `asyncjobs check` exit code ≠ 0": of a definition, and of jobs that wait."""
    shop.write("shop/declared.py", DECLARED)
    done = await shop("check", "shop.declared:jobs")
    assert (done.code, done.out) == (0, "all is well\n"), done.err
    await store(jobs, "tpyo")
    done = await shop("check", "shop.declared:jobs")
    assert done.code == 1
    assert "queue 'tpyo' is registered by no part of the application, and has 1 job;" in done.out
    await jobs.cancel(1)
    shop.write(
        "shop/more.py", "from shop.declared import *\n@job(queue='lost')\nasync def find() -> None: ...\n"
    )
    done = await shop("check", "shop.more:jobs", "--json")
    assert done.code == 1
    (problem,) = done.data["problems"]
    assert "queue 'lost' is registered by no part of the application, and has shop.more:find" in problem


async def test_a_queue_that_is_perhaps_mistyped(shop: Shell, jobs: Jobs) -> None:
    """Where queues are registered, one that nobody knows is warned of, with the one that is near; it is done all the same."""
    shop.write("shop/declared.py", DECLARED)
    for words in (["--pool", "shop_defualt:2"], ["--queues", "mail,shop_defualt"]):
        done = await shop("work-off", "shop.declared:jobs", *words)
        assert done.code == 0, done.err
        assert done.err.count("did you mean") == 1
        assert (
            "registered queue 'shop_defualt', and no job goes there; did you mean 'shop_default'?" in done.err
        )
    done = await shop("pause", "shop.declared:jobs", "mial", "mail")
    assert (done.code, done.out) == (0, "paused mial, mail\n")
    assert done.err == (
        "no part of the application has registered queue 'mial', and no job goes there; did you mean 'mail'? If not, "
        "asyncjobs.queues.register().queue('mial') registers it\n"
    )
    done = await shop("resume", "shop.declared:jobs", "mial", "shop_bulk")
    assert (done.code, done.out, done.err) == (0, "resumed mial\n", "queue 'shop_bulk' was not paused\n")


async def test_a_queue_that_jobs_are_in_is_no_slip(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Registered, served, of a kind, or with jobs in it: nothing is said of such a queue; nor where none is registered."""
    registry = QueueRegistry()
    async with Jobs(dsn, queues={"served": 1}) as jobs:
        jobs.registry = registry
        await jobs.limit("mials", concurrency=1)
        registry.register(None, mails=1)
        await store(jobs, "stored")
        for queue in ("mails", "served", "stored"):
            await jobs.limit(queue, concurrency=1)
            await jobs.pause(queue)
            assert await jobs.resume(queue)
        assert caplog.messages == []
        await jobs.limit("mials", concurrency=1)
        (said,) = caplog.messages
        assert "queue 'mials', and no job goes there; did you mean 'mails'?" in said
        assert not await jobs.resume("mails")


async def test_check_where_nobody_registers_queues(shop: Shell, jobs: Jobs) -> None:
    """Queues need no declaration."""
    await store(jobs, "anything")
    done = await shop("check", APP)
    assert (done.code, done.out) == (0, "the shop opens\nall is well\n"), done.err


@pytest.mark.seed("D13")
async def test_check_max_age(shop: Shell, jobs: Jobs) -> None:
    """D13: "`check --max-age` with exit code": fails when a job has been due for longer and nobody runs it."""
    ago = "now() - interval '10 minutes'"
    async with jobs.connection() as connection:
        await connection.execute(LIVES)
    await store(jobs, "running", scheduled_at=ago, runner=7)
    await store(jobs, "later", scheduled_at="now() + interval '1 day'", state=1)
    await store(jobs, "blocked", scheduled_at=ago, state=3)
    await store(jobs, "fresh")
    env = {"ASYNCJOBS_DSN": shop.env["SHOP_DSN"]}
    done = await shop("check", "--max-age", "5m", **env)
    assert (done.code, done.out) == (0, "all is well\n"), done.err
    await store(jobs, "slow", scheduled_at=ago)
    await store(jobs, "slow", scheduled_at="now() - interval '7 minutes'", state=2)
    await jobs.pause("slow")
    assert (await shop("check", "--max-age", "300", "--queue", "fresh", "--queue", "x", **env)).code == 0
    done = await shop("check", "--max-age", "300", "--queue", "slow", **env)
    assert done.code == 1
    assert "2 jobs of queue 'slow'" in done.out
    done = await shop("check", "--max-age", "300", **env)
    assert done.code == 1
    assert "2 jobs of queue 'slow' due for more than 300 s, the oldest for 60" in done.out
    assert "the queue is paused" in done.out
    assert (await shop("check", **env, ASYNCJOBS_MAX_AGE="11m")).code == 0


async def test_check_max_age_where_nobody_lives(jobs: Jobs) -> None:
    """Who waits for a lock is late when no living runner has the job that holds it, and so is that job: nobody else would say so."""
    ago = "now() - interval '10 minutes'"
    async with jobs.connection() as connection:
        await connection.execute(LIVES)
        for key, runner in (("'lived'", 7), ("'died'", 8)):
            named = {"lock_key": key, "lock_slots": 1, "scheduled_at": ago}
            holder = await store(jobs, f"holds {key}", runner=runner)
            await connection.execute(
                f"update asyncjobs.live_jobs set lock_key = {key}, lock_slots = 1, scheduled_at = {ago} where id = {holder}"
            )
            await connection.execute(
                f"insert into asyncjobs.locks (key, slot, job, token) values ({key}, 1, {holder}, 0)"
            )
            waiting = await store(jobs, f"waits {key}")
            settings = ", ".join(f"{name} = {value}" for name, value in named.items())
            await connection.execute(
                f"update asyncjobs.live_jobs set {settings}, state = 3 where id = {waiting}"
            )
    assert [late.queue for late in await jobs.ask(find_overdue, 300.0)] == ["holds 'died'", "waits 'died'"]
    async with jobs.connection() as connection:
        await connection.execute("update asyncjobs.runners set seen_at = now() - interval '1 hour'")
    assert len(await jobs.ask(find_overdue, 300.0)) == 4


# clear


@pytest.mark.seed("D13")
async def test_clear_deletes_what_waits(shop: Shell, jobs: Jobs) -> None:
    """D13: "`clear`, `check --max-age` with exit code": asked for first; what runs, and what is final, stays unless it is said."""
    env = {"ASYNCJOBS_DSN": shop.env["SHOP_DSN"]}
    running = await store(jobs, runner=7)
    mail = await store(jobs, "mail")
    await store(jobs, "exports")
    await store(jobs, "exports", scheduled_at="now() + interval '1 day'", state=1)
    done = await shop("clear", "--yes", **env)
    assert (done.code, "which jobs?" in done.err) == (2, True)
    done = await shop("clear", "--all", **env)
    assert (done.code, len(await states(jobs))) == (1, 4)
    name, host = re.fullmatch(r".*/(\w+)\?host=([^&]+)&.*", shop.env["SHOP_DSN"]).groups()  # type: ignore[union-attr]
    asked = f"delete all jobs that wait, in database '{name}' on {host}, schema 'asyncjobs'? [y/N]"
    assert done.err.startswith(asked)
    done = await shop("clear", "--queue", "mail", "--kind", "x", "--finished", **env)
    assert done.err.startswith("delete all jobs of mail, x that wait, and all that are final, in database ")
    done = await shop("clear", "--queue", "exports", "--yes", **env)
    assert (done.code, done.out) == (0, "deleted 2 jobs\n"), done.err
    await jobs.cancel(mail)
    done = await shop("clear", "-y", "--all", "--json", **env)
    assert (done.code, done.data) == (0, {"deleted": 0})
    assert await states(jobs) == {running: "running", mail: "cancelled"}
    await store(jobs, "exports")
    assert (await shop("clear", "-y", "--queue", "exports", **env)).out == "deleted 1 job\n"
    done = await shop("clear", "-y", "--finished", "--kind", "send", **env)
    assert (done.code, await states(jobs)) == (0, {running: JobState.RUNNING}), done.err
    async with jobs.connection() as connection:
        assert await connection.fetchval("select count(*) from asyncjobs.live_jobs where id < 0") == 1400
