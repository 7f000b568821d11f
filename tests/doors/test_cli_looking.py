"""`list`, `show`, `count`, `retry`, `cancel`, `pause`, `resume`, `migrate`, and the help of every verb."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import shlex
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import anyio
import asyncpg
import click
import pytest

from asyncjobs import Jobs, JobState, Rate, job
from asyncjobs._store.chores import rescue_jobs
from asyncjobs.cli.main import asyncjobs
from asyncjobs.cli.output import when
from tests.command import Shell, appears, open_shop
from tests.features import need
from tests.store.jobs import RUNNER, enter, session_of
from tests.waiting import DEADLINE, eventually_async


@job(kind="test_cli_looking:greet", queue="mail", max_attempts=2)
async def greet(name: str) -> str:
    if name == "nobody":
        raise LookupError("there is nobody")
    return f"hello {name}"


@job(kind="test_cli_looking:Other.greet")
async def other() -> None: ...


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, {"ASYNCJOBS_DSN": dsn})


async def test_show_says_what_a_job_in_the_line_of_its_rate_waits_for(dsn: str, shell: Shell) -> None:
    """How many tokens, how many are left, how many jobs come first, and when it is looked at again."""
    hourly = greet.set(rate=Rate(3, per=3600, window="sliding", weight=2))
    async with Jobs(dsn).running(queues={"mail": None}) as jobs:
        await (await hourly.later("Ada")).result(timeout=20)
        await hourly.later("Bob")
        last = await hourly.later("Cy")

        async def waits() -> bool:
            found = await jobs.get_job(last.id)
            return found is not None and found.state is JobState.BLOCKED

        await eventually_async(waits)
        done = await shell("show", str(last.id))
    assert (
        "waits for 2 tokens of its rate: 1 left of 3 in 3600 s, a sliding window; 1 job before it; looked at again in"
        in done.out
    )


@pytest.fixture
async def four(dsn: str, anyio_backend: str) -> list[int]:
    """A completed job, a retryable one, a scheduled one and one that waits."""
    async with Jobs(dsn).running(queues={"mail": None}) as jobs:
        done = await greet.set(tags=["a"], meta={"by": "me"}).later("Ada")
        assert await done.result(timeout=20) == "hello Ada"
        tried = await greet.later("nobody")
        await jobs.work_off()
        scheduled = await greet.set(delay=3600).later("Bob")
        waiting = await other.later()
    return [done.id, tried.id, scheduled.id, waiting.id]


async def test_list_shows_the_newest_first(shell: Shell, four: list[int]) -> None:
    """One line each, with what became of it."""
    done = await shell("list")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].split()[:3] == ["id", "state", "queue"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["4", "available"], ["3", "scheduled"], ["2", "retryable"], ["1", "completed"],
    ]  # fmt: skip
    assert lines[3].split(maxsplit=4)[2:4] == ["mail", "1/2"]
    assert lines[3].endswith("  LookupError: there is nobody")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--state", "completed", "--state", "scheduled"], [3, 1]),
        (["--queue", "mail", "--kind", "test_cli_looking:greet"], [3, 2, 1]),
        (["--kind", "greet", "--before", str(2**70)], [4, 3, 2, 1]),
        (["--kind", "Other.greet", "--kind", "reet"], [4]),
        (["--before", "3", "--limit", "1"], [2]),
        (["--tag", "a"], [1]),
        (["--tag", "a", "--tag", "b"], []),
    ],
)
async def test_list_filters(shell: Shell, four: list[int], options: list[str], ids: list[int]) -> None:
    """By state, queue, kind (any ending), tags and id; machines get one array of objects."""
    done = await shell("list", *options, "--json")
    assert (done.code, [job["id"] for job in done.data]) == (0, ids)


async def test_list_says_how_to_page_on_and_when_there_is_nothing(shell: Shell, four: list[int]) -> None:
    """Hints go to stderr, so that stdout is only what was asked for."""
    assert "more with --before 3" in (await shell("list", "--limit", "2")).err
    nothing = await shell("list", "--state", "failed")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no jobs\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (24 * 3600 - 1, "in 24 h"),  # as somebody said a second ago
        (47 * 3600 + 3590, "in 48 h"),
        (48 * 3600, "in 2 d"),
        (119 * 60, "in 119 min"),
        (119, "in 119 s"),
        (0, "0 s ago"),
        (-7199, "120 min ago"),
        (-9000.1, "3 h ago"),
    ],
)
async def test_when_is_said_to_the_nearest(dsn: str, seconds: float, words: str) -> None:
    """A job that was put off for a day a moment ago is due in 24 hours, not in 23."""
    async with Jobs(dsn):
        found = await (await other.later()).job()
    assert when(found, found.scheduled_at - timedelta(seconds=seconds)) == words


async def test_list_refuses_an_unknown_state(shell: Shell) -> None:
    """A mistyped state is not an empty list."""
    done = await shell("list", "--state", "lost")
    assert (done.code, "'lost' is not one of 'scheduled'" in done.err) == (2, True)


async def test_list_on_a_terminal(shell: Shell, four: list[int]) -> None:
    """Where rich is installed a terminal gets its table."""
    need("rich", importlib.util.find_spec("rich"))
    leader, follower = pty.openpty()
    env = {**os.environ, **shell.env, "COLUMNS": "200", "TERM": "xterm"}
    await anyio.run_process([sys.executable, "-m", "asyncjobs", "list"], stdout=follower, env=env)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert "\x1b[1m" in shown
    assert re.search(r"2\s+retryable\s+mail\s+1/2\s+.*test_cli_looking:greet", shown)


async def test_show_tells_everything(shell: Shell, four: list[int]) -> None:
    """For people: arguments, result, and each failed attempt with its traceback."""
    done = await shell("show", "1")
    assert done.code == 0
    for words in (
        "job 1  test_cli_looking:greet",
        "completed, ",
        '"name": "Ada"',
        '"hello Ada"',
        '"by": "me"',
        "tags      a",
    ):
        assert words in done.out
    tried = await shell("show", "2")
    assert "attempt   1 of 2" in tried.out
    assert "LookupError: there is nobody" in tried.out
    assert 'raise LookupError("there is nobody")' in tried.out


async def test_show_for_machines(shell: Shell, four: list[int]) -> None:
    """One object with the names of the documentation."""
    data = (await shell("show", "2", "--json")).data
    assert (data["state"], data["attempt"], data["args"]) == ("retryable", 1, {"name": "nobody"})
    (error,) = data["errors"]
    assert (error["attempt"], error["error"]) == (1, "LookupError: there is nobody")
    assert "raise LookupError" in error["traceback"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "99"], 3, "no job 99 can be seen"),
        (["show", str(2**63)], 2, "is not the id of a job"),
        (["retry", "1", "x"], 2, "'x' is not the id of a job"),
        (["pause", "a\nb"], 2, "is not a name"),
        (["frobnicate"], 2, "No such command"),
    ],
)
async def test_what_is_not_there_or_not_understood(
    shell: Shell, words: list[str], code: int, says: str
) -> None:
    """3 for what does not exist, 2 for what cannot be meant."""
    done = await shell(*words)
    assert (done.code, says in done.err, done.out) == (code, True, ""), done.err


async def test_count(shell: Shell, four: list[int]) -> None:
    """By queue and state, as a table or an object."""
    assert (await shell("count", "--json")).data == {
        "default": {"available": 1},
        "mail": {"scheduled": 1, "retryable": 1, "completed": 1},
    }
    table = (await shell("count")).out.splitlines()
    assert table[0].split() == ["queue", "scheduled", "available", "retryable", "completed"]
    assert table[1].split() == ["default", "0", "1", "0", "0"]


@pytest.mark.failure_mode("F06")
async def test_jobs_that_took_their_process_down_are_told_of(shell: Shell, dsn: str, four: list[int]) -> None:
    """Why one is failed and stays, and that another is to run alone; `cancel` lets go of what is kept."""
    async with session_of(dsn) as session:
        await enter(session)
        for job_id, crashes in ((3, 2), (4, 0)):
            await session.connection.execute(
                "update asyncjobs.live_jobs set state = 0, runner = $1, started_at = now(), attempt = 1, crashes = $2 "
                "where id = $3",
                RUNNER,
                crashes,
                job_id,
            )
            await rescue_jobs(
                session, RUNNER, blame=True, max_crashes=3, error='{"error": "RunnerLost: gone"}'
            )
    listed = (await shell("list")).out.splitlines()
    assert "RunnerLost: it took 3 runners down" in listed[2]
    counted = await shell("count")
    assert "1 job running when the process died: to run alone" in counted.err
    assert "1 job failed after taking a process down again and again" in counted.err
    assert "0 of 10, 1 crash" in (shown := await shell("show", "4")).out
    assert "to run alone" in shown.out
    assert "runs again only when somebody retries it" in (await shell("show", "3")).out
    assert (await shell("cancel", "3")).code == 0
    assert "wait for retry" not in (await shell("count")).err


async def test_retry_and_cancel(shell: Shell, jobs: Jobs, four: list[int]) -> None:
    """Each id gets its answer; what is refused ends with 1, what is not there with 3; the rest is done all the same."""
    refused = await shell("retry", "1")
    assert (refused.code, refused.err) == (
        1,
        "job 1 is completed: what it did would be done once more; --completed runs it again\n",
    )
    assert [job.id for job in await jobs.list_jobs(states=["completed"])] == [1]
    done = await shell("retry", "1", "3", "4", "--completed", "--json")
    assert (done.code, done.data) == (
        1,
        [{"id": 1, "outcome": "retried"}, {"id": 3, "outcome": "retried"}, {"id": 4, "outcome": "refused"}],
    )
    assert {job.id: job.state for job in await jobs.list_jobs(states=["available"])}.keys() == {1, 3, 4}
    done = await shell("cancel", "1", "99", "2")
    assert (done.code, done.out.splitlines()) == (3, ["job 1 is cancelled", "job 2 is cancelled"])
    assert "job 99 is not found" in done.err
    again = await shell("cancel", "1")
    assert (again.code, again.err) == (1, "job 1 is cancelled: left as it is\n")


async def test_cancel_asks_the_runner_of_a_running_job(tmp_path: Path, dsn: str) -> None:
    """A running job is stopped by its runner, in another process."""
    shop = open_shop(tmp_path, dsn)
    mark = tmp_path / "mark"
    async with shop.going("run", "shop.main:jobs") as runner:
        await runner.says("running")
        assert (await shop("enqueue", "shop.main:jobs", "sleep", f"mark={mark}")).code == 0
        async with Jobs(dsn) as jobs:
            await appears(mark)
            done = await shop("cancel", "shop.main:jobs", "1", "--json")
            assert (done.code, done.data) == (0, [{"id": 1, "outcome": "requested"}])
            with anyio.fail_after(DEADLINE):
                assert (await jobs.wait_for_job(1)).state is JobState.CANCELLED


async def test_pause_and_resume(shell: Shell, dsn: str) -> None:
    """A paused queue is marked so for every process, and unmarked again."""
    connection = await asyncpg.connect(dsn)
    paused = "select array_agg(name order by name) from asyncjobs.queues where paused_at is not null"
    try:
        assert (await shell("pause", "exports", "mail")).out == "paused exports, mail\n"
        assert await connection.fetchval(paused) == ["exports", "mail"]
        assert (await shell("resume", "mail", "--json")).data == {"resumed": ["mail"]}
        assert await connection.fetchval(paused) == ["exports"]
    finally:
        await connection.close()


async def test_migrate(tmp_path: Path, database: str) -> None:
    """Migrating twice is harmless, and says what was done."""
    shell = Shell(tmp_path, {"ASYNCJOBS_DSN": database})
    first = await shell("migrate", "--json")
    assert (first.code, first.data["schema"], bool(first.data["applied"])) == (0, "asyncjobs", True)
    second = await shell("migrate")
    assert (second.code, "nothing to do" in second.out) == (0, True)
    assert (await shell("list")).code == 0


async def test_migrate_prints_what_it_would_run(tmp_path: Path, database: str) -> None:
    """--sql needs no connection, and what it prints makes a database the other verbs can use."""
    shell = Shell(tmp_path)
    printed = await shell("migrate", "--sql", "--schema", "my jobs")
    assert (printed.code, printed.err) == (0, "")
    assert (await shell("migrate", "--sql", "--schema", "my jobs", "--json")).data[
        "sql"
    ].strip() == printed.out.strip()
    connection = await asyncpg.connect(database)
    await connection.execute(printed.out)
    await connection.close()
    assert (await shell("count", "--dsn", database, "--schema", "my jobs")).code == 0


async def test_migrate_without_the_right_to(tmp_path: Path, database: str) -> None:
    """A role that may not create the schema is told so, in one sentence."""
    connection = await asyncpg.connect(database)
    role = f"poor_of_cli_{os.getpid()}"  # roles are the server's, not the database's
    await connection.execute(f"create role {role} login")
    try:
        poor = re.sub(r"//[^@/]*@", f"//{role}@", database)
        assert poor != database
        done = await Shell(tmp_path)("migrate", "--dsn", poor)
        assert (done.code, "Postgres refuses: permission denied" in done.err) == (1, True)
        assert "Traceback" not in done.err
    finally:
        await connection.execute(f"drop role {role}")
        await connection.close()


@pytest.mark.parametrize("verb", [None, *asyncjobs.commands])
def test_help_shows_examples_that_are_understood(verb: str | None) -> None:
    """Every verb says what it is for, with examples; each example parses."""
    command: click.Command = asyncjobs if verb is None else asyncjobs.commands[verb]
    text = command.get_help(click.Context(command))
    examples = re.findall(r"python -m asyncjobs (.*)", text)
    assert examples
    for example in examples:
        words = shlex.split(example, comments=False)
        words = words[: words.index(">")] if ">" in words else words
        called = asyncjobs.commands[words[0]]
        called.make_context(words[0], [word for word in words[1:] if word != "--json"])


def test_the_exit_codes_are_documented() -> None:
    """They stand in the help of the command."""
    text = asyncjobs.get_help(click.Context(asyncjobs))
    for code in ("0  done", "1  failed", "2  not understood", "3  not found", "4  no database"):
        assert code in text
