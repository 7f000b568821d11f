"""Who is dead, and who only looks it; and what a runner that changes its name takes along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncjobs import job
from asyncjobs._keeper import keeper as keeper_module
from asyncjobs._keeper.sweep import Sweep
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.runners import hold_lock, list_runners
from tests.engine.running import Watcher, runner_of, running, watching
from tests.store.jobs import RUNNER, claim, enter, live, new_job, store
from tests.waiting import eventually_async

ME = 1
HOLD = "test_keeper:hold"

started: list[str] = []
ended: list[str] = []
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    started.clear()
    ended.clear()
    gate = asyncio.Event()


@job(kind=HOLD)
async def hold(name: str) -> None:
    started.append(name)
    await gate.wait()
    ended.append(name)


# Sweeping.


async def rescued(other: Watcher, job_id: int) -> bool:
    row = await live(other.session, job_id)
    assert row
    return row["runner"] is None


async def a_running_job(other: Watcher, *, lease: float, holds_lock: bool = True) -> int:
    """Held by RUNNER, whose lock nobody holds."""
    await enter(other.session, RUNNER, holds_lock=holds_lock, lease=lease)
    (job_id,) = await store(other.session)
    await claim(other.session)
    return job_id


async def look_for(sweep: Sweep, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await sweep.look(ME)
        await asyncio.sleep(0.01)


async def test_a_free_lock_is_believed_when_it_is_seen_twice(dsn: str) -> None:
    """The first look is a suspicion."""
    vigilance = Vigilance(look_every=0.1, settle=0.0)
    async with watching(dsn) as other:
        job_id = await a_running_job(other, lease=60.0)
        sweep = Sweep(other.session, vigilance)
        await sweep.look(ME)
        assert not await rescued(other, job_id)
        await asyncio.sleep(0.1)
        await sweep.look(ME)
        assert await rescued(other, job_id)


async def test_a_lock_that_is_held_again_clears_its_holder(dsn: str) -> None:
    """A suspicion is forgotten, not kept."""
    vigilance = Vigilance(look_every=0.1, settle=0.0)
    async with watching(dsn) as other, watching(dsn) as theirs:
        job_id = await a_running_job(other, lease=0.0)
        sweep = Sweep(other.session, Vigilance(look_every=0.1, settle=60.0))
        await sweep.look(ME)
        assert await hold_lock(theirs.session, RUNNER)
        await look_for(Sweep(other.session, vigilance), 0.3)
        await look_for(sweep, 0.1)
        assert not await rescued(other, job_id), "its lease is over, but it holds the lock"
        await theirs.connection.execute("select pg_advisory_unlock_all()")
        sweep = Sweep(other.session, vigilance)
        await look_for(sweep, 0.3)
        assert await rescued(other, job_id)


@pytest.mark.failure_mode("F54")
@pytest.mark.parametrize("holds_lock", [True, False])
@pytest.mark.parametrize("lease", [60.0, 0.0])
async def test_nobody_is_declared_dead_just_after_connecting(
    dsn: str, holds_lock: bool, lease: float
) -> None:
    """The server may have been away: all locks are free then, and after a long absence all leases are over."""
    async with watching(dsn) as other:
        job_id = await a_running_job(other, lease=lease, holds_lock=holds_lock)
        sweep = Sweep(other.session, Vigilance(look_every=0.02, settle=0.4))
        await look_for(sweep, 0.3)
        assert not await rescued(other, job_id)
        await look_for(sweep, 0.3)
        assert await rescued(other, job_id) == (holds_lock or lease == 0)


async def test_where_no_lock_is_held_the_lease_decides(dsn: str) -> None:
    """Not before its end, and soon after it."""
    async with watching(dsn) as other:
        job_id = await a_running_job(other, lease=0.5, holds_lock=False)
        sweep = Sweep(other.session, Vigilance(look_every=0.02, settle=0.0))
        await look_for(sweep, 0.2)
        assert not await rescued(other, job_id)
        await look_for(sweep, 0.5)
        assert await rescued(other, job_id)


async def test_the_log_names_who_died_and_which_job_is_failed_for_it(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The process as people know it; of its jobs what became of them, and nothing of what did not happen."""
    async with watching(dsn) as other:
        await a_running_job(other, lease=60.0)
        sweep = Sweep(other.session, Vigilance(look_every=0.02, settle=0.0))
        await look_for(sweep, 0.1)
        await enter(other.session, RUNNER, holds_lock=True)
        await look_for(sweep, 0.1)
        job_id = await a_running_job(other, lease=60.0)
        await other.connection.execute("update asyncjobs.live_jobs set crashes = 2 where id = $1", job_id)
        await look_for(sweep, 0.1)
    said = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "asyncjobs"
    ]
    assert said == [
        ("WARNING", f"runner test:1 ({RUNNER}) died; of its jobs, 1 to run again (one at a time, where they had begun)"),
        ("WARNING", f"runner test:1 ({RUNNER}) died; it held no jobs"),
        ("WARNING", f"runner test:1 ({RUNNER}) died; of its jobs, 1 failed"),
        ("ERROR", f"job {job_id} (k) took 3 runners down and is failed: it runs again only when somebody retries it"),
    ]  # fmt: skip
    assert caplog.records[-1].job_id == job_id  # type: ignore[attr-defined]


@pytest.mark.failure_mode("F83")
async def test_one_who_cannot_be_rescued_yet_holds_up_nobody(dsn: str) -> None:
    """A job that is locked is left for the next look, and the others are rescued."""
    async with watching(dsn) as other, watching(dsn) as third:
        locked = await a_running_job(other, lease=60.0)
        await enter(other.session, 9, holds_lock=True)
        (free,) = await store(other.session)
        await claim(other.session, 9)
        sweep = Sweep(other.session, Vigilance(look_every=0.02, settle=0.0))
        async with third.connection.transaction():
            await third.connection.execute("select from asyncjobs.live_jobs where id = $1 for update", locked)
            await look_for(sweep, 0.1)
            assert await rescued(other, free)
            assert not await rescued(other, locked)
        await look_for(sweep, 0.1)
        assert await rescued(other, locked)


async def test_a_lost_claim_of_nobody_is_found(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was committed after its incarnation had been taken off the list."""
    monkeypatch.setattr("asyncjobs._keeper.sweep.ORPHANS_EVERY", 0.05)
    async with watching(dsn) as other:
        (job_id,) = await store(other.session)
        await claim(other.session, 12345)
        await look_for(Sweep(other.session, Vigilance(look_every=0.02, settle=0.0)), 0.2)
        assert await rescued(other, job_id)


# A new name.


async def test_a_runner_that_changes_its_name_keeps_its_jobs(dsn: str) -> None:
    """They run on, once, and are finished under the new one; the old one is off the list, its lock free."""
    async with running(dsn) as jobs, watching(dsn) as other:
        handles = [await hold.later(str(number)) for number in range(3)]
        await eventually_async(lambda: is_true(len(started) == 3))
        runner = runner_of(jobs)
        names = {runner._identity.current}
        for _ in range(3):
            runner._identity.doubt()
            await runner.connected()
            names.add(runner._identity.current)
        assert len(names) == 4
        gate.set()
        for handle in handles:
            await handle.result(timeout=10)
        assert (sorted(started), sorted(ended)) == (["0", "1", "2"], ["0", "1", "2"])
        assert [row["incarnation"] for row in await list_runners(other.session)] == [runner._identity.current]
        locks = (
            "select count(*) from pg_locks where locktype = 'advisory' and classid = 1634364780 and granted"
        )
        assert await other.connection.fetchval(locks) == 1


@pytest.mark.parametrize("at", ["adopt_jobs", "rescue_jobs"])
async def test_a_change_of_name_that_is_interrupted_is_made_good(
    dsn: str, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The connection may break at any step of it: what was brought over as far as the first new name is brought on."""
    async with running(dsn) as jobs, watching(dsn) as other:
        handles = [await hold.later(str(number)) for number in range(3)]
        await eventually_async(lambda: is_true(len(started) == 3))
        original: Any = getattr(keeper_module, at)
        failures = 2

        async def fail_afterwards(*args: Any, **given: Any) -> Any:
            nonlocal failures
            result = await original(*args, **given)
            if failures:
                failures -= 1
                raise ConnectionResetError("the network")
            return result

        monkeypatch.setattr(keeper_module, at, fail_afterwards)
        runner = runner_of(jobs)
        before = runner._identity.current
        runner._identity.doubt()

        async def renamed() -> bool:
            return failures == 0 and runner._identity.current not in (None, before)

        await eventually_async(renamed)
        gate.set()
        for handle in handles:
            await handle.result(timeout=10)
        assert (sorted(started), sorted(ended)) == (["0", "1", "2"], ["0", "1", "2"])
        assert [row["incarnation"] for row in await list_runners(other.session)] == [runner._identity.current]


async def test_a_job_that_is_not_brought_over_is_stopped(dsn: str) -> None:
    """Its claim is gone with the server, so somebody else may hold it by now."""
    async with running(dsn) as jobs, watching(dsn) as other:
        handle = await hold.later("gone")
        await hold.later("stays")
        await eventually_async(lambda: is_true(len(started) == 2))
        await (
            other.until_idle()
        )  # or it would be claimed again under the same name, which no lost server allows
        await other.connection.execute(
            "update asyncjobs.live_jobs set runner = null, token = token - 1, started_at = null where id = $1",
            handle.id,
        )
        runner_of(jobs)._identity.doubt()
        await eventually_async(lambda: is_true(started.count("gone") == 2))  # claimed again, by ourselves
        assert started.count("stays") == 1
        gate.set()
        await handle.result(timeout=10)
        assert sorted(ended) == ["gone", "stays"]


@pytest.mark.failure_mode("F07")
async def test_a_runner_that_was_declared_dead_stops_what_it_ran(dsn: str) -> None:
    """At its next beat it hears of it, takes a new name, and stops the jobs it no longer holds."""
    async with (
        running(dsn, vigilance=Vigilance(look_every=0.05, renew_every=0.05)) as jobs,
        watching(dsn) as other,
    ):
        handle = await hold.later("mine")
        await eventually_async(lambda: is_true(len(started) == 1))
        before = runner_of(jobs)._identity.current
        assert before is not None
        await rescue_jobs(other.session, before, blame=True, max_crashes=9, error='{"error": "gone"}')
        await eventually_async(lambda: is_true(started == ["mine", "mine"]))
        gate.set()
        await handle.result(timeout=10)
        assert ended == ["mine"]
        (job_row,) = await jobs.list_jobs()
        assert (job_row.crashes, job_row.attempt) == (1, 1)


@pytest.mark.failure_mode("F45")
async def test_a_claim_whose_reply_was_lost_runs_again_soon_and_unburnt(dsn: str) -> None:
    """Committed by the server, unknown to the runner: its connection breaks, and a new name brings the job back."""
    async with running(dsn) as jobs, watching(dsn) as other:
        runner = runner_of(jobs)
        (job_id,) = await store(other.session, new_job("test_keeper:unknown"))  # nobody here claims it
        assert runner._identity.current is not None
        await claim(
            other.session, runner._identity.current, lanes=[("q", "test_keeper:unknown")]
        )  # behind its back
        row = await live(other.session, job_id)
        assert row
        assert row["attempt"] == 1
        claimers = """
            select pid from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and query ilike '%with recursive lanes%'"""
        for pid in await other.connection.fetch(claimers):
            await other.connection.execute("select pg_terminate_backend($1)", pid[0])

        async def back() -> bool:
            row = await live(other.session, job_id)
            return row is not None and row["runner"] is None

        await eventually_async(back, within=5)
        row = await live(other.session, job_id)
        assert row
        assert (row["attempt"], row["crashes"], row["token"], row["errors"]) == (0, 0, 1, None)


async def is_true(fact: bool) -> bool:
    return fact


@pytest.mark.failure_mode("F45")
async def test_a_job_that_cannot_be_given_back_yet_is_not_blamed(dsn: str) -> None:
    """Somebody holds its row while this runner changes its name: the old one keeps its lock until the job is free."""
    vigilance = Vigilance(look_every=0.05, settle=0.0, reconcile_every=0.1)
    async with (
        running(dsn, vigilance=vigilance) as jobs,
        running(dsn, vigilance=vigilance),
        watching(dsn) as other,
    ):
        runner = runner_of(jobs)
        before = runner._identity.current
        assert before is not None
        (job_id,) = await store(other.session, new_job("test_keeper:unknown"))  # nobody here claims it
        async with watching(dsn) as third, third.connection.transaction():
            await claim(other.session, before, lanes=[("q", "test_keeper:unknown")])  # behind its back
            await third.connection.execute("select from asyncjobs.live_jobs where id = $1 for update", job_id)
            runner._identity.doubt()
            await runner.connected()
            await asyncio.sleep(vigilance.look_every * 6)  # peers look
            row = await live(other.session, job_id)
            assert row
            assert row["runner"] == before

        async def back() -> bool:
            row = await live(other.session, job_id)
            return row is not None and row["runner"] is None

        await eventually_async(back)
        row = await live(other.session, job_id)
        assert row
        assert (row["attempt"], row["crashes"], row["errors"]) == (0, 0, None)

        async def forgotten() -> bool:
            return before not in {row["incarnation"] for row in await list_runners(other.session)}

        await eventually_async(forgotten)
