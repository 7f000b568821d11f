"""A claim is committed asynchronously, so a server that crashes may forget it, and give its token out again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from asyncjobs import job
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.outcome import Finished
from asyncjobs._model.states import FinalState
from asyncjobs._store.claims import finish_jobs
from tests.engine.running import runner_of, running, watching
from tests.faults.servers import FORGETFUL, IMMEDIATE, Server, a_server
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, finished, live, session_of, store
from tests.waiting import eventually_async

started: Counter[str] = Counter()
ended: Counter[str] = Counter()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    started.clear()
    ended.clear()
    gate = asyncio.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from a_server(FORGETFUL)


@pytest.fixture
async def forgetful(server: Server) -> AsyncIterator[str]:
    """The DSN of a database on a server that may crash."""
    yield await server.database()


@job(kind="lost_claims:hold")
async def hold(name: str) -> str:
    started[name] += 1
    await gate.wait()
    ended[name] += 1
    return name


@pytest.mark.failure_mode("F54", "F75")
async def test_a_zombie_of_a_forgotten_claim_is_refused(server: Server, forgetful: str) -> None:
    """Its token was given out again, and its incarnation was not."""
    async with session_of(forgetful) as session:
        await enter(session)
        (job_id,) = await store(session)
    async with session_of(forgetful, synchronous_commit="off") as session:
        (forgotten,) = await claim(session)
        await asyncio.to_thread(server.stop, IMMEDIATE)
    await asyncio.to_thread(server.start)
    async with session_of(forgetful) as session:
        row = await live(session, job_id)
        assert row
        assert (row["runner"], row["token"]) == (None, 0), "the server did not forget: nothing is shown"
        await enter(session, SOMEBODY_ELSE)
        (again,) = await claim(session, SOMEBODY_ELSE)
        assert (again.id, again.token) == (forgotten.id, forgotten.token)
        zombie = Finished(forgotten, FinalState.FAILED, 0.1, error='{"attempt": 1}')
        assert await finish_jobs(session, RUNNER, [zombie]) == set()
        assert await finish_jobs(session, SOMEBODY_ELSE, [Finished(again, FinalState.COMPLETED, 0.1)]) == {
            job_id
        }
        row = await finished(session, job_id)
        assert row
        assert row["state"] == FinalState.COMPLETED


@pytest.mark.failure_mode("F54")
@pytest.mark.timeout(120)
async def test_a_runner_whose_claim_was_forgotten_starts_afresh(server: Server, forgetful: str) -> None:
    """It takes a new name before it claims, stops the job it no longer holds, and runs it once more to its end."""
    async with running(forgetful, vigilance=Vigilance(renew_every=3600.0)) as jobs:
        runner = runner_of(jobs)
        async with watching(forgetful) as other:
            await other.until_idle()
        before = runner._identity.current
        handle = await hold.later("job")

        async def runs(times: int) -> bool:
            return started["job"] == times

        await eventually_async(lambda: runs(1))
        await asyncio.to_thread(server.stop, IMMEDIATE)
        await asyncio.to_thread(server.start)
        await eventually_async(lambda: runs(2))
        assert runner._identity.current not in (None, before)

        async with session_of(forgetful) as again:
            row = await live(again, handle.id)
            assert row
            assert (row["runner"], row["token"], row["attempt"]) == (runner._identity.current, 1, 1)
        gate.set()
        assert await handle.result(timeout=20) == "job"
        assert (started["job"], ended["job"]) == (2, 1)
