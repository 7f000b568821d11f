"""Somebody's transaction holds the row of a job, for as long as it likes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from asyncjobs import Handle, Jobs, job
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import Watcher, running, watching
from tests.waiting import eventually_async

ran: Counter[str] = Counter()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global gate
    ran.clear()
    gate = asyncio.Event()
    monkeypatch.setattr("asyncjobs._engine.completer.AGAIN_AFTER", 0.3)


@job(kind="held_rows:work", max_attempts=1)
async def work(name: str) -> str:
    ran[name] += 1
    if name.startswith("held"):
        await gate.wait()
    if name == "held and fails":
        raise ValueError(name)
    return name


@asynccontextmanager
async def held(jobs: Jobs, other: Watcher, name: str) -> AsyncIterator[Handle[str]]:
    """A job that runs, and whose row *other* locks meanwhile."""
    del jobs
    handle = await work.later(name)

    async def begun() -> bool:
        return ran[name] == 1

    await eventually_async(begun)
    async with other.connection.transaction():
        await other.connection.execute("select from asyncjobs.live_jobs where id = $1 for update", handle.id)
        yield handle


@pytest.mark.failure_mode("F83")
@pytest.mark.parametrize("name", ["held", "held and fails"])
async def test_a_row_that_somebody_holds_holds_up_no_other(
    dsn: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it came to is written when it is let go; the others are not delayed by more than one statement's patience."""
    monkeypatch.setattr("asyncjobs._engine.link.ANSWER", 1.0)
    async with running(dsn) as jobs, watching(dsn) as other:
        async with held(jobs, other, name) as handle:
            gate.set()
            for number in range(30):
                assert await (await work.later(f"job {number}")).result(timeout=20) == f"job {number}"
            assert (await handle.status()).value == "running"

        async def finished() -> bool:
            return (await handle.status()).is_final

        await eventually_async(finished)
        done = await handle.job()
        assert (done.attempt, done.crashes) == (1, 0)
        assert done.state.value == ("completed" if name == "held" else "failed")
    assert set(ran.values()) == {1}


@pytest.mark.failure_mode("F83")
async def test_a_runner_whose_jobs_row_is_held_is_not_dead(dsn: str) -> None:
    """Its lock and its lease are not in that row, and a peer that looks for the dead leaves it alone."""
    vigilance = Vigilance(look_every=0.1, settle=0.1, lease=1.0, renew_every=0.1)
    async with running(dsn, vigilance=vigilance, listen=False) as jobs, watching(dsn) as other:
        async with held(jobs, other, "held") as handle, running(dsn, vigilance=vigilance, queues={"none": 1}):
            await asyncio.sleep(1.5)  # longer than the lease
        gate.set()
        assert await handle.result(timeout=10) == "held"
        assert (await handle.job()).crashes == 0
    assert ran["held"] == 1


@pytest.mark.failure_mode("F83")
async def test_a_runner_changes_its_name_while_a_row_is_held(dsn: str) -> None:
    """Its keeper's connection breaks, and it goes on at once: that one job stops, and runs again when its row is let go."""
    vigilance = Vigilance(look_every=0.1, reconcile_every=0.2)
    async with running(dsn, vigilance=vigilance) as jobs, watching(dsn) as other, watching(dsn) as third:
        async with held(jobs, other, "held") as handle:
            await third.connection.execute(
                "select pg_terminate_backend(pid) from pg_locks"
                " where locktype = 'advisory' and classid = 1634364780 and granted"
            )
            assert await (await work.later("other")).result(timeout=15) == "other"
        gate.set()
        assert await handle.result(timeout=20) == "held"
        done = await handle.job()
        assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert ran["held"] >= 2
