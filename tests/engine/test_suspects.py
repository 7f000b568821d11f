"""Jobs that may be what kills runners run alone, one at a time, and nobody waits for them longer than must be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from asyncjobs import JobFailed, Jobs, JobState, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.chores import rescue_jobs
from tests.engine.running import NEVER, Watcher, runner_of, running, watching
from tests.store.jobs import claim, enter, new_job, store
from tests.waiting import eventually_async

pytestmark = pytest.mark.failure_mode("F06")

now_running: list[str] = []
beside: dict[str, set[str]] = {}
begun: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for each in (now_running, beside, begun, gates):
        each.clear()
    yield
    for gate in gates.values():
        gate.set()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Watcher]:
    async with watching(dsn) as other:
        yield other


async def do(name: str, hold: bool) -> None:
    begun.append(name)
    beside[name] = set(now_running)
    for each in now_running:
        beside[each].add(name)
    now_running.append(name)
    try:
        if hold:
            await gates.setdefault(name, asyncio.Event()).wait()
        else:
            await asyncio.sleep(0.002)
    finally:
        now_running.remove(name)


@job(kind="test_suspects:work")
async def work(name: str, hold: bool = False) -> None:
    await do(name, hold)


@job(kind="test_suspects:raises", max_attempts=1)
async def raises(name: str) -> None:
    begun.append(name)
    raise ValueError("no")


async def suspect(
    other: Watcher, name: str, *, kind: str = "work", crashes: int = 1, hold: bool = False
) -> int:
    """A job that was among those of a runner that died; nobody has been told of it."""
    inputs = json.dumps({"name": name, "hold": hold} if kind == "work" else {"name": name})
    (job_id,) = await store(
        other.session, new_job(f"test_suspects:{kind}", "default", args=inputs, delay=3600.0, max_attempts=1)
    )
    await other.connection.execute(
        "update asyncjobs.live_jobs set state = 4, crashes = $2, scheduled_at = now() where id = $1",
        job_id,
        crashes,
    )
    return job_id


async def states(other: Watcher) -> dict[str, str]:
    rows = await other.connection.fetch("select args->>'name' as name, state from asyncjobs.jobs")
    return {row["name"]: row["state"] for row in rows}


async def until_done(other: Watcher, *names: str) -> None:
    async def done() -> bool:
        now = await states(other)
        return all(now[name] == "completed" for name in names)

    await eventually_async(done)


async def until_begun(*names: str) -> None:
    async def all_begun() -> bool:
        return set(names) <= set(begun)

    await eventually_async(all_begun)


@pytest.mark.parametrize("listen", [True, False])
async def test_suspects_run_one_at_a_time_and_nothing_beside_them(
    dsn: str, other: Watcher, listen: bool
) -> None:
    """On a runner that is idle, at once, and jobs that nobody suspects go on before and after; as behind a pooler, too."""
    for number in range(6):
        await suspect(other, f"suspect {number}")
    async with Jobs(dsn):
        for number in range(6):
            await work.later(f"healthy {number}")
    async with running(dsn, listen=listen, rhythm=NEVER if listen else Rhythm()) as jobs:
        await asyncio.wait_for(jobs.work_off(), 20)
        assert set((await states(other)).values()) == {"completed"}
    assert {name: beside[name] for name in begun if name.startswith("suspect")} == {
        f"suspect {number}": set() for number in range(6)
    }


async def test_one_suspect_runs_in_the_whole_fleet(dsn: str, other: Watcher) -> None:
    """The second waits until what came of the first is written, though another runner has nothing to do; other jobs run there."""
    await suspect(other, "first", hold=True)
    await suspect(other, "second")
    async with running(dsn), running(dsn):
        await until_begun("first")
        await store(
            other.session, new_job("test_suspects:work", "default", args='{"name": "healthy", "hold": false}')
        )
        await until_done(other, "healthy")
        assert begun == ["first", "healthy"]
        gates["first"].set()
        await until_done(other, "first", "second")


async def test_what_is_enqueued_beside_a_suspect_begins_elsewhere_at_once(dsn: str, other: Watcher) -> None:
    """Its own process does not promise to take it, and it is not said to be idle: those who are, are woken."""
    await suspect(other, "suspect", hold=True)
    async with running(dsn) as jobs:
        await until_begun("suspect")
        await other.until_idle(0)
        async with running(dsn):
            await other.until_idle(1)
            for number in range(3):
                await work.set(jobs=jobs).later(f"healthy {number}")
                await until_done(other, f"healthy {number}")
            gates["suspect"].set()
            await until_done(other, "suspect")
    assert beside["suspect"] == {
        "healthy 0",
        "healthy 1",
        "healthy 2",
    }  # in this process, but in the other runner


async def test_a_busy_runner_empties_itself_for_a_suspect(dsn: str, other: Watcher) -> None:
    """It takes nothing more; when what it runs has ended, the suspect runs, then the others."""
    async with running(dsn, slots=4, rhythm=Rhythm(poll=0.1)) as jobs:
        await work.later("busy", True)
        await until_begun("busy")
        await suspect(other, "suspect")

        async def is_closed() -> bool:
            return runner_of(jobs)._claimer._solitude.is_closed

        await eventually_async(is_closed)
        await work.later("healthy")
        gates["busy"].set()
        await until_done(other, "busy", "suspect", "healthy")
        assert begun == ["busy", "suspect", "healthy"]
        assert beside["suspect"] == set()


async def test_a_runner_that_cannot_become_empty_opens_again(dsn: str, other: Watcher) -> None:
    """A long job keeps a suspect waiting, and not the other jobs; and each try takes twice as long as the one before."""
    async with running(dsn, slots=4, rhythm=Rhythm(poll=0.1)):
        await work.later("long", True)
        await until_begun("long")
        await other.connection.execute("update asyncjobs.solitude set patience = 0.05")
        await suspect(other, "suspect")

        async def tried() -> bool:
            patience: float = await other.connection.fetchval("select patience from asyncjobs.solitude")
            return patience >= 0.2

        await eventually_async(tried)
        await (await work.later("healthy")).result(timeout=20)
        assert "suspect" not in begun
        gates["long"].set()
        await until_done(other, "suspect")
        assert beside["suspect"] == set()
        assert await other.connection.fetchval("select patience from asyncjobs.solitude") == 2


async def test_a_suspect_that_has_run_alone_for_a_while_lets_others_begin(dsn: str, other: Watcher) -> None:
    """A long innocent job holds up the others no longer than that."""
    await suspect(other, "suspect", hold=True)
    async with running(dsn, vigilance=Vigilance(alone=0.3)):
        await until_begun("suspect")
        await work.later("healthy")
        await until_done(other, "healthy")
        assert beside["healthy"] == {"suspect"}
        gates["suspect"].set()
        await until_done(other, "suspect")


async def test_a_suspect_on_its_last_chance_is_alone_to_the_end(dsn: str, other: Watcher) -> None:
    """The crash that would fail it must be its own beyond doubt."""
    await suspect(other, "suspect", crashes=2, hold=True)
    async with running(dsn, vigilance=Vigilance(alone=0.05)) as jobs:
        await until_begun("suspect")
        await work.later("healthy")
        await asyncio.sleep(0.2)
        assert begun == ["suspect"]
        assert runner_of(jobs).busy == 1
        gates["suspect"].set()
        await until_done(other, "suspect", "healthy")
        assert beside["suspect"] == set()


async def test_an_interrupted_suspect_stays_one(dsn: str, other: Watcher) -> None:
    """Told to stop, a runner gives it back with the crashes it had, and it runs alone elsewhere."""
    job_id = await suspect(other, "suspect", crashes=2, hold=True)
    async with running(dsn, shutdown_timeout=0.4):
        await until_begun("suspect")
    row = await other.connection.fetchrow(
        "select state, crashes, attempt from asyncjobs.live_jobs where id = $1", job_id
    )
    assert tuple(row) == (4, 2, 0)
    gates["suspect"].set()
    async with running(dsn) as jobs:
        await asyncio.wait_for(jobs.work_off(), 20)
    assert await states(other) == {"suspect": "completed"}


async def test_a_suspect_that_raises_is_a_failure_not_a_crash(dsn: str, other: Watcher) -> None:
    """Crashes and failures are counted apart."""
    job_id = await suspect(other, "raises", kind="raises", crashes=2)
    async with running(dsn) as jobs:
        await asyncio.wait_for(jobs.work_off(), 20)
        done = await jobs.get_job(job_id)
    assert done is not None
    assert (done.state, done.attempt, done.crashes) == (JobState.FAILED, 1, 2)


async def test_a_waiter_hears_that_the_job_took_its_runners_down(dsn: str, other: Watcher) -> None:
    """JobFailed says how many."""
    async with running(dsn, queues={"elsewhere": 1}):
        handle = await work.later("poison")
        asked = asyncio.ensure_future(handle.result(timeout=20))
        await enter(other.session)

        async def awaited() -> bool:
            return bool(
                await other.connection.fetchval(
                    "select awaited from asyncjobs.live_jobs where id = $1", handle.id
                )
            )

        await eventually_async(awaited)
        assert len(await claim(other.session, lanes=[("default", "test_suspects:work")])) == 1
        await rescue_jobs(other.session, 7, blame=True, max_crashes=1, error='{"error": "gone"}')
        with pytest.raises(JobFailed, match="took 1 runner down"):
            await asked
