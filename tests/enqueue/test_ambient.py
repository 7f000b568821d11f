"""Which Jobs? Every sentence of north-star's answer."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from asyncjobs import (
    Constant,
    Handle,
    InvalidOption,
    Jobs,
    MisusedJobs,
    WhichJobs,
    WrongConnection,
    current_job,
    job,
)
from tests.connections import KINDS

HERE = "test_ambient"


@job(kind=f"{HERE}:mark")
async def mark(name: str) -> str:
    return name


Script = Callable[[], Awaitable[Any]]
scripts: dict[str, Script] = {}


@job(kind=f"{HERE}:play", max_attempts=1, backoff=Constant(0))
async def play(name: str) -> Any:
    return await scripts[name]()


@pytest.fixture
async def two(databases: Any, migrated: str) -> AsyncIterator[tuple[str, str]]:
    """Two databases, to see which one a job went to."""
    async with databases.clone(migrated) as one, databases.clone(migrated) as other:
        yield one, other


async def marks(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select args->>'name' from asyncjobs.jobs where kind = $1 order by id", mark.kind
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


# `jobs=` of the call …


async def test_jobs_of_the_call_goes_before_everything(two: tuple[str, str]) -> None:
    """Whatever is around it; the connection another Jobs is bound to is not used for it."""
    async with Jobs(two[0]) as one, Jobs(two[1]) as other, KINDS["session"](two[0]) as theirs:  # noqa: SIM117
        async with theirs.begin(), one.on(theirs.on):
            await mark.set(jobs=other).later("other")
            assert await marks(two[1]) == ["other"]  # at once
            await mark.set(jobs=one).later("one")  # named, it is still the bound one
            assert await marks(two[0]) == []
    assert await marks(two[0]) == ["one"]


async def test_what_is_no_jobs_is_refused(dsn: str) -> None:
    """jobs= takes a Jobs."""
    async with Jobs(dsn):
        with pytest.raises(InvalidOption, match="no Jobs"):
            await mark.set(jobs=dsn).later("nowhere")  # type: ignore[arg-type]


async def test_a_jobs_that_is_not_open_is_not_used(dsn: str) -> None:
    """Named or bound, it has to be opened first; and after its end it is not used any more."""
    jobs = Jobs(dsn)
    with pytest.raises(WhichJobs, match="not open"):
        await mark.set(jobs=jobs).later("nowhere")
    async with KINDS["asyncpg"](dsn) as theirs:
        with pytest.raises(WhichJobs, match="not open"):
            async with jobs.on(theirs.on):
                await mark.later("nowhere")
        async with jobs:
            pass
        with pytest.raises(WhichJobs, match="not open"):
            await mark.set(jobs=jobs, on=theirs.on).later("nowhere")
    assert await marks(dsn) == []


# … else the innermost `async with jobs`/`jobs.on(…)` of this task …


async def test_the_innermost_block_is_meant(two: tuple[str, str]) -> None:
    """And after it the one around it."""
    async with Jobs(two[0]), KINDS["session"](two[0]) as theirs:
        await mark.later("outer")
        async with Jobs(two[1]) as inner:
            await mark.later("inner")
            async with theirs.begin(), KINDS["asyncpg"](two[1]) as others:
                async with inner.on(others.on):
                    await mark.later("innermost")
                await mark.later("inner again")
        await mark.later("outer again")
    assert await marks(two[0]) == ["outer", "outer again"]
    assert await marks(two[1]) == ["inner", "innermost", "inner again"]


async def test_blocks_may_nest_over_connections(dsn: str) -> None:
    """`jobs.on(…)` inside `jobs.on(…)` means the inner connection, and then the outer one again."""
    async with Jobs(dsn) as jobs, KINDS["session"](dsn) as theirs, KINDS["asyncpg"](dsn) as others:
        with pytest.raises(KeyError):
            async with theirs.begin(), jobs.on(theirs.on):
                await mark.later("undone")
                async with jobs.on(others.on):
                    await mark.later("kept")
                await mark.later("undone, too")
                raise KeyError
    assert await marks(dsn) == ["kept"]


async def test_blocks_that_end_in_another_order_leave_nothing_behind(two: tuple[str, str]) -> None:
    """Fixtures and exit stacks do not always end inside out; a block that is over is never gone back to."""
    one, other = Jobs(two[0]), Jobs(two[1])
    async with KINDS["asyncpg"](two[0]) as theirs:
        await one.__aenter__()
        first = one.on(theirs.on)
        await first.__aenter__()
        await other.__aenter__()
        await first.__aexit__(None, None, None)
        await mark.later("other")
        await one.__aexit__(None, None, None)
        await mark.later("still other")
        await other.__aexit__(None, None, None)
        with pytest.raises(WhichJobs, match="no Jobs is open"):
            await mark.later("nowhere")
        async with one:
            await mark.later("one")
    assert await marks(two[0]) == ["one"]
    assert await marks(two[1]) == ["other", "still other"]


@pytest.mark.failure_mode("F38")
async def test_a_block_may_be_left_in_another_context(two: tuple[str, str]) -> None:
    """A lifespan or a generator's dependency is, at times: in another task than it was entered in."""
    async with AsyncExitStack() as stack:
        await asyncio.create_task(_enter(stack, Jobs(two[0])))
        await mark.later("the only one")  # not bound in this task, but open
        await asyncio.create_task(stack.aclose())
        with pytest.raises(WhichJobs, match="no Jobs is open"):
            await mark.later("nowhere")
    assert await marks(two[0]) == ["the only one"]


async def _enter(stack: AsyncExitStack, jobs: Jobs) -> None:
    await stack.enter_async_context(jobs)


async def test_a_child_task_inherits_the_jobs_but_not_the_connection(dsn: str) -> None:
    """It gets an error, for a session is not shared between tasks; with on= or a block of its own it goes its own way."""
    said: list[str] = []

    async def child(jobs: Jobs) -> None:
        with pytest.raises(WrongConnection, match="another task") as caught:
            await mark.later("nowhere")
        said.append(str(caught.value))
        async with KINDS["asyncpg"](dsn) as theirs:
            await mark.set(on=theirs.on).later("on=")
            async with jobs.on(theirs.on):
                await mark.later("own block")

    async with Jobs(dsn) as jobs, KINDS["session"](dsn) as theirs:
        await asyncio.create_task(_mark("of the jobs"))  # inherited
        async with theirs.begin(), jobs.on(theirs.on):
            await asyncio.gather(child(jobs))
            async with asyncio.TaskGroup() as group:
                late = group.create_task(child(jobs))
            del late
        # A task that outlives the block does not suddenly enqueue by itself.
        async with jobs.on(theirs.on):
            gate = asyncio.Event()
            outliving = asyncio.create_task(_when(gate))
        gate.set()
        with pytest.raises(WrongConnection, match="another task"):
            await outliving
    assert len(said) == 2
    assert await marks(dsn) == ["of the jobs", "on=", "own block", "on=", "own block"]


async def _mark(name: str) -> None:
    await mark.later(name)


async def _when(gate: asyncio.Event) -> None:
    await gate.wait()
    await mark.later("nowhere")


async def test_many_and_transactions_follow_the_same_rules(dsn: str) -> None:
    """`enqueue_many` and `current_job().transaction()` mean the same Jobs and connection as `later`."""
    async with Jobs(dsn) as jobs, KINDS["session"](dsn) as theirs:
        with pytest.raises(KeyError):
            async with theirs.begin(), jobs.on(theirs.on):
                await jobs.enqueue_many([mark.prepare("undone")])
                async with current_job().transaction():
                    await mark.later("undone")
                raise KeyError
        await jobs.enqueue_many([mark.prepare("kept")])
    assert await marks(dsn) == ["kept"]


# … inside a job, its own …


async def test_inside_a_job_its_own_is_meant(two: tuple[str, str]) -> None:
    """Several are open, and no block is around the job; blocks inside it count."""

    async def script() -> None:
        await mark.later("the job's")
        await asyncio.create_task(_mark("its child's"))
        async with other.on(elsewhere.on):
            await mark.later("the block's")

    scripts["own"] = script
    async with Jobs(two[0]).running() as own, Jobs(two[1]) as other, KINDS["asyncpg"](two[1]) as elsewhere:
        handle: Handle[Any] = await play.set(jobs=own).later("own")
        await handle.result(timeout=10)
    assert await marks(two[0]) == ["the job's", "its child's"]
    assert await marks(two[1]) == ["the block's"]


async def test_a_job_does_not_inherit_the_block_its_runner_was_started_in(two: tuple[str, str]) -> None:
    """Nor the session of whoever opened the runner."""

    async def script() -> None:
        await mark.later("own")

    scripts["not inherited"] = script
    async with Jobs(two[1]) as around, KINDS["asyncpg"](two[1]) as theirs, around.on(theirs.on):  # noqa: SIM117
        async with Jobs(two[0]).running() as own:
            handle = await play.set(jobs=own).later("not inherited")
            await handle.result(timeout=10)
    assert await marks(two[0]) == ["own"]
    assert await marks(two[1]) == []


# … else the one Jobs open on this event loop. None or several: an error that names them and says `jobs=`.


async def test_the_one_open_on_this_loop_is_meant_where_no_block_is(dsn: str) -> None:
    """As in a request handler, whose task does not descend from the lifespan's."""
    handler = contextvars.copy_context()
    async with Jobs(dsn):
        await asyncio.get_running_loop().create_task(_mark("handled"), context=handler)
    assert await marks(dsn) == ["handled"]


async def test_none_is_an_error(dsn: str) -> None:
    """That says what to do."""
    with pytest.raises(WhichJobs, match="no Jobs is open.*async with jobs.*jobs="):
        await mark.later("nowhere")


async def test_several_are_an_error_that_names_them(two: tuple[str, str]) -> None:
    """By their databases, without their passwords."""
    handler = contextvars.copy_context()
    async with Jobs(two[0]), Jobs(two[1], schema="asyncjobs"):
        with pytest.raises(WhichJobs) as caught:
            await asyncio.get_running_loop().create_task(_mark("nowhere"), context=handler)
    names = [dsn.rpartition("/asyncjobs_test")[2].partition("?")[0] for dsn in two]
    assert all(name in str(caught.value) for name in names), caught.value
    assert "jobs=" in str(caught.value)


@pytest.mark.failure_mode("F27")
async def test_one_open_on_another_loop_is_not_meant(dsn: str) -> None:
    """Each loop has its own."""
    opened, done = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with Jobs(dsn):
            opened.set()
            await asyncio.to_thread(done.wait, 10)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    try:
        await asyncio.to_thread(opened.wait, 10)
        with pytest.raises(WhichJobs, match="no Jobs is open on this event loop"):
            await mark.later("nowhere")
    finally:
        done.set()
        await asyncio.to_thread(thread.join)


# Opening a Jobs twice, on a second loop or after a fork is an error.


async def test_opening_twice_is_an_error_and_harms_nothing(dsn: str) -> None:
    """However it is opened; the first goes on, and can be closed and opened again."""
    jobs = Jobs(dsn)
    async with jobs:
        for opening in (jobs, jobs.running(), jobs.lifespan(None)):
            with pytest.raises(MisusedJobs, match="open already"):
                await opening.__aenter__()
        await mark.later("first")
    with pytest.raises(WhichJobs):
        await mark.later("nowhere")
    async with jobs.running():
        with pytest.raises(MisusedJobs, match="open already"):
            await jobs.__aenter__()
        await (await mark.later("again")).result(timeout=10)
    async with jobs:
        await mark.later("and again")
    assert await marks(dsn) == ["first", "again", "and again"]


@pytest.mark.failure_mode("F27")
async def test_a_second_loop_is_an_error(dsn: str) -> None:
    """To open it there, and to enqueue from there."""
    async with Jobs(dsn) as jobs:

        async def elsewhere() -> None:
            with pytest.raises(MisusedJobs, match="another event loop"):
                await jobs.__aenter__()
            with pytest.raises(MisusedJobs, match="another event loop"):
                await mark.set(jobs=jobs).later("nowhere")
            with pytest.raises(MisusedJobs, match="another event loop"):
                await jobs.list_jobs()

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        await mark.later("here")
    assert await marks(dsn) == ["here"]


def test_one_loop_after_the_other_is_none(dsn_for_loops: str) -> None:
    """Scripts and tests run several; what was closed may be opened on the next."""
    jobs = Jobs(dsn_for_loops)

    async def use(number: int) -> None:
        async with jobs:
            await asyncio.gather(*(mark.later(f"{number}") for _ in range(3)))
            await asyncio.sleep(0.01)
            await mark.later(f"{number}")
        async with jobs.running():
            assert await (await mark.later("run")).result(timeout=10) == "run"

    for number in range(3):
        asyncio.run(use(number))


@pytest.fixture
async def dsn_for_loops(dsn: str) -> str:
    return dsn


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # since 3.12, where threads of other tests still wait
async def test_a_forked_process_must_open_its_own(dsn: str) -> None:
    """The connections are its parent's; it is told so, and the parent is not harmed."""
    read, write = os.pipe()
    async with Jobs(dsn) as jobs:
        await mark.later("parent")
        pid = os.fork()
        if pid == 0:  # the child: it has this very loop, in the middle of this test
            said = ""
            try:
                for attempt in (
                    mark.later("child"),
                    jobs.__aenter__(),
                    jobs.list_jobs(),
                    jobs.running().__aenter__(),
                ):
                    try:
                        attempt.send(None)
                    except MisusedJobs as error:
                        said += f"{error}\n"
            finally:
                os.write(write, said.encode())
                os._exit(0)
        os.close(write)
        await asyncio.to_thread(os.waitpid, pid, 0)
        with os.fdopen(read) as heard:
            said = heard.read()
        assert said.count("forked") == 4
        await mark.later("parent again")
    assert await marks(dsn) == ["parent", "parent again"]
