"""What every way of working keeps: liveness by lock or lease, woken or looking, on asyncpg or through SQLAlchemy.

The same small set of flows in each combination, with the times of the protocol at a tenth. `-m faults` has them again through
a real pooler in transaction mode, where the combination is found out and not given.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncjobs import Constant, JobCancelled, JobFailed, Jobs, JobState, current_job, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.modes import Modes
from tests.engine.running import runner_of
from tests.faults.poolers import pgbouncer
from tests.waiting import eventually_async

ROOT = Path(__file__).parents[2]

ran: Counter[Any] = Counter()
by: dict[Any, set[int]] = {}
gate: asyncio.Event

ALERT = Vigilance(look_every=0.05, lease=1.5, renew_every=0.2, settle=0.3)
WAYS = list(itertools.product(("lock", "lease"), ("notify", "poll"), ("asyncpg", "sqlalchemy")))
NAMES = ["-".join(way) for way in WAYS]
LIVING = [
    way for way in WAYS if way[2] == "asyncpg"
]  # who notices a death has connections of its own, by no driver but asyncpg


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    ran.clear()
    gate = asyncio.Event()


@job(kind="conformance:double")
async def double(number: int) -> int:
    ran[number] += 1
    await asyncio.sleep(0.001)
    return number * 2


@job(kind="conformance:fails", max_attempts=3, backoff=Constant(0.02))
async def fails() -> None:
    ran["fails"] += 1
    raise ValueError("as ever")


@job(kind="conformance:hold")
async def hold(name: str) -> str:
    ran[name] += 1
    await gate.wait()
    return name


@job(kind="conformance:writes")
async def writes(name: str) -> None:
    async with current_job().transaction() as connection:
        await connection.execute("insert into effects values ($1)", name)
        if name == "undone" and not ran[name]:
            ran[name] += 1
            raise ValueError("the first time")


def address(dsn: str) -> str:
    """As SQLAlchemy takes it."""
    return dsn.replace("postgresql://", "postgresql+asyncpg://", 1)


@asynccontextmanager
async def made(dsn: str, driver: str, **given: Any) -> AsyncIterator[Jobs]:
    """A Jobs, and the engine below it."""
    if driver == "asyncpg":
        yield Jobs(dsn, vigilance=ALERT, **given)
        return
    engine = create_async_engine(address(dsn), pool_size=5)
    try:
        yield Jobs(engine=engine, vigilance=ALERT, **given)
    finally:
        await engine.dispose()


def works_as(jobs: Jobs, modes: Modes | None) -> Jobs:
    """*jobs*, working in this way, whatever would be found out; None finds it out."""
    jobs._settings = attrs.evolve(jobs._settings, modes=modes, rhythm=Rhythm(poll=1.0))
    if modes is not None:
        jobs._waiter._listen = modes.hears
    return jobs


Some = Callable[[], Awaitable[Jobs]]


async def flows(first: Jobs, second: Jobs, third: Jobs, effects: asyncpg.Connection) -> None:
    """Two runners, and a third who only enqueues."""
    # Enqueued anywhere, run once by one of those who run, and its result comes back.
    handles = await asyncio.gather(*(double.set(jobs=third).later(number) for number in range(60)))
    results = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
    assert results == [number * 2 for number in range(60)]
    assert set(ran.values()) == {1}

    # Both take their share of what is there: neither can hold all of it.
    held = [await hold.set(jobs=third).later(f"held {number}") for number in range(8)]
    await eventually_async(lambda: are_held(8))
    assert [runner_of(each).busy for each in (first, second)] == [4, 4]

    # A running job is cancelled from outside; the others go on.
    assert await held[0].cancel() == "requested"
    with pytest.raises(JobCancelled):
        await held[0].result(timeout=20)
    gate.set()
    assert await held[1].result(timeout=20) == "held 1"

    # Tried again, up to the last time.
    failing = await fails.set(jobs=third).later()
    with pytest.raises(JobFailed, match="as ever"):
        await failing.result(timeout=20)
    assert ran["fails"] == 3

    # A delay is kept.
    loop = asyncio.get_running_loop()
    enqueued = loop.time()
    assert await (await double.set(jobs=third, delay=0.3).later(100)).result(timeout=20) == 200
    assert loop.time() - enqueued >= 0.29

    # Completed together with one's own writes, or not at all.
    for name in ("done", "undone"):
        await (await writes.set(jobs=third, backoff=Constant(0.02)).later(name)).result(timeout=20)
    assert sorted(row[0] for row in await effects.fetch("select name from effects")) == ["done", "undone"]

    # A pause is heard of by all.
    await third.pause("default")
    await eventually_async(lambda: knows_of_the_pause(first, second))
    paused = await double.set(jobs=third).later(1000)
    await asyncio.sleep(0.1)
    assert await paused.status() is JobState.AVAILABLE
    await third.resume("default")
    assert await paused.result(timeout=20) == 2000
    kept = await effects.fetch(
        "select distinct attempt, crashes from asyncjobs.finished_jobs where kind = 'conformance:double'"
    )
    assert [tuple(row) for row in kept] == [(1, 0)]


async def are_held(count: int) -> bool:
    return sum(number for name, number in ran.items() if str(name).startswith("held")) == count


async def knows_of_the_pause(*running: Jobs) -> bool:
    return all("default" in runner_of(each)._claimer._lanes.paused for each in running)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
async def test_all_flows_work(dsn: str, way: tuple[str, str, str]) -> None:
    """Results, sharing, cancelling, retries, delays, own transactions and pauses, with two runners."""
    liveness, wake, driver = way
    modes = Modes(liveness, wake)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        effects = await asyncpg.connect(dsn)
        stack.push_async_callback(effects.close)
        await effects.execute("create table effects (name text)")
        three = [
            works_as(await stack.enter_async_context(made(dsn, driver, slots=4)), modes) for _ in range(3)
        ]
        for each in three[:2]:
            await stack.enter_async_context(each.running())
            await runner_of(each).connected()
        await stack.enter_async_context(three[2])
        await flows(three[0], three[1], three[2], effects)


async def test_what_a_killed_runner_held_runs_elsewhere(dsn: str, tmp_path: Path) -> None:
    """In each combination: one process holds a job in each of four schemas and is killed; in each another one has it soon,
    with one crash on its record."""
    async with AsyncExitStack() as stack:
        victim = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "tests.flows.test_conformance", dsn],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))},
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        assert victim.stdout is not None
        stack.callback(victim.stdout.close)
        said = await asyncio.to_thread(victim.stdout.readline)
        assert said.strip() == "HOLDS", said
        admin = await asyncpg.connect(dsn)
        stack.push_async_callback(admin.close)
        survivors = []
        for liveness, wake, driver in LIVING:
            jobs = works_as(
                await stack.enter_async_context(made(dsn, driver, schema=f"{liveness}-{wake}")),
                Modes(liveness, wake),  # type: ignore[arg-type]
            )
            await stack.enter_async_context(jobs.running())
            await runner_of(jobs).connected()
            survivors.append(jobs)
        gate.set()
        victim.send_signal(signal.SIGKILL)
        for jobs in survivors:
            (held,) = await jobs.list_jobs()
            assert await jobs.handle(held.id).result(timeout=20) == "held by the victim"
            after = await jobs.get_job(held.id)
            assert after is not None
            assert (after.attempt, after.crashes) == (1, 1), jobs.schema


@pytest.mark.faults
@pytest.mark.failure_mode("F48")
@pytest.mark.parametrize(("mode", "size", "expected"), [
    ("transaction", 1, Modes("lease", "poll")),
    ("transaction", 4, Modes("lease", "poll")),
    ("session", 40, Modes("lease", "notify")),
])  # fmt: skip
async def test_all_flows_work_through_a_pooler(dsn: str, mode: str, size: int, expected: Modes) -> None:
    """What can be relied on is found out."""
    async with AsyncExitStack() as stack:
        effects = await asyncpg.connect(dsn)
        stack.push_async_callback(effects.close)
        await effects.execute("create table effects (name text)")
        through = await stack.enter_async_context(pgbouncer(dsn, mode=mode, size=size))
        three = [works_as(Jobs(through, slots=4, vigilance=ALERT), None) for _ in range(3)]
        for each in three[:2]:
            await stack.enter_async_context(each.running())
            await runner_of(each).connected()
            assert each.modes == expected
        await stack.enter_async_context(three[2])
        await flows(three[0], three[1], three[2], effects)


async def victim(dsn: str) -> None:
    """Holds a job in each schema until it is killed."""
    global gate
    gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        for liveness, wake, driver in LIVING:
            jobs = works_as(
                await stack.enter_async_context(made(dsn, driver, schema=f"{liveness}-{wake}")),
                Modes(liveness, wake),  # type: ignore[arg-type]
            )
            await jobs.migrate()
            await stack.enter_async_context(jobs.running())
            await hold.set(jobs=jobs).later("held by the victim")

        async def all_held() -> bool:
            return ran["held by the victim"] == len(LIVING)

        await eventually_async(all_held)
        print("HOLDS", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(victim(sys.argv[1]))
