"""The primary is gone, and its standby takes its place. Replication is asynchronous: what it had not sent is lost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from asyncjobs import DatabaseUnavailable, Jobs, job
from tests.engine.running import watching
from tests.faults.pairs import Node, a_pair, caught_up, fall_behind, several
from tests.faults.processes import Processes, fault
from tests.flows.test_crashes import in_thread
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

DEFAULTS: dict[str, float] = {}


@job(kind="failover:nothing")
async def nothing() -> None: ...


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    with a_pair() as pair:
        yield pair


@pytest.fixture
async def processes(pair: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[Processes]:
    primary, standby = pair
    await Jobs(primary.dsn()).migrate()
    admin = await asyncpg.connect(primary.dsn())
    await admin.execute("create table effects (name text, pid integer)")
    await admin.close()
    processes = Processes(several(primary, standby), tmp_path / "log")
    try:
        yield processes
    finally:
        processes.end()


async def enqueue(node: Node, *jobs: object) -> None:
    async with watching(node.dsn()) as other:
        await store(other.session, *jobs)  # type: ignore[arg-type]


@pytest.mark.failure_mode("F56", "F57")
@pytest.mark.parametrize("away", [0.0, 10.0])
async def test_jobs_go_on_after_a_promotion(
    pair: tuple[Node, Node], processes: Processes, away: float, record_property: pytest.FixtureRequest
) -> None:
    """The runner finds the new primary among the hosts of its DSN. The first job starts within 3 s of the promotion; what ran
    through it ends once, and no attempt is burnt."""
    primary, standby = pair
    await in_thread(processes.start, vigilance=DEFAULTS)
    await enqueue(primary, fault("sleep", "through", seconds=away + 5), fault("sleep", "later", seconds=0))
    await in_thread(processes.wait_for, "END", "later")
    async with watching(primary.dsn()) as other:

        async def is_stored() -> bool:
            stored: int = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
            return stored == 1

        await eventually_async(is_stored)
    await caught_up(primary)
    await in_thread(primary.stop, "immediate")
    await asyncio.sleep(away)
    await in_thread(standby.promote)
    promoted = time.monotonic()
    await enqueue(standby, fault("sleep", "after"))
    await in_thread(processes.wait_for, "START", "after")
    took = processes.said("START", "after")[0].at - promoted
    print(f"\nfailover after {away:g} s: first job {took:.2f} s after the promotion")
    assert took < 3 or os.getloadavg()[0] > 3, took
    await in_thread(processes.wait_for, "END", "through")
    async with watching(standby.dsn()) as other:

        async def all_done() -> bool:
            return not await other.connection.fetchval(
                "select count(*) from asyncjobs.live_jobs where id > 0"
            )

        await eventually_async(all_done)
        rows = await other.connection.fetch(
            "select distinct state, attempt, crashes from asyncjobs.finished_jobs"
        )
        assert [tuple(row) for row in rows] == [(10, 1, 0)]
    assert processes.counts("START") == {"through": 1, "later": 1, "after": 1}


@pytest.mark.failure_mode("F56")
async def test_jobs_and_data_are_lost_together(pair: tuple[Node, Node], processes: Processes) -> None:
    """What the primary had acknowledged and not sent is gone: rows of the application and its jobs alike. A job that had
    completed with its effects runs again, because both are gone; they are there once."""
    primary, standby = pair
    await in_thread(processes.start, vigilance=DEFAULTS)
    await enqueue(primary, fault("sleep", "before"))
    await in_thread(processes.wait_for, "END", "before")
    async with watching(primary.dsn()) as other:
        await store(other.session, fault("write", "again", seconds=3))
        await in_thread(processes.wait_for, "START", "again")
        await caught_up(primary)
        await fall_behind(standby)
        async with other.connection.transaction():
            await other.connection.execute("insert into effects values ('lost', 0)")
            await store(other.session, fault("sleep", "lost"))
        await in_thread(processes.wait_for, "COMMITTED", "again")
        await in_thread(processes.wait_for, "END", "lost")
        old = set(await other.connection.fetch("select incarnation from asyncjobs.runners"))
    await in_thread(primary.stop, "immediate")
    await in_thread(standby.promote)

    async with watching(standby.dsn()) as other:

        async def all_done() -> bool:
            return (
                not await other.connection.fetchval("select count(*) from asyncjobs.live_jobs where id > 0")
                and processes.counts("COMMITTED")["again"] == 2
            )

        await eventually_async(all_done, within=60)
        effects = await other.connection.fetch("select name from effects")
        assert [row[0] for row in effects] == ["again"]
        names = await other.connection.fetch(
            "select args ->> 'name' from asyncjobs.finished_jobs order by id"
        )
        assert [row[0] for row in names] == ["before", "again"]
        new = set(await other.connection.fetch("select incarnation from asyncjobs.runners"))
        assert old and new and not old & new


@pytest.mark.failure_mode("F56")
async def test_an_incarnation_never_comes_back(pair: tuple[Node, Node], processes: Processes) -> None:
    """A claim and its runner's entry are lost with the primary. Job, token and sequence are given out again; the incarnation is
    not, so what the first attempt says later is refused."""
    primary, standby = pair
    await enqueue(primary, fault("sleep", "held", seconds=8))
    await caught_up(primary)
    await fall_behind(standby)
    first = await in_thread(processes.start, vigilance=DEFAULTS)
    await in_thread(processes.wait_for, "START", "held")
    async with watching(primary.dsn()) as other:
        claim = await other.connection.fetchrow(
            "select id, token, runner from asyncjobs.live_jobs where id > 0"
        )
    await in_thread(primary.stop, "immediate")
    await in_thread(standby.promote)
    second = await in_thread(processes.start, vigilance=DEFAULTS)
    await in_thread(processes.wait_for, "CANCELLED", "held", by=first)
    async with watching(standby.dsn()) as other:

        async def claimed() -> object:
            return await other.connection.fetchrow(
                "select id, token, runner from asyncjobs.live_jobs where runner is not null and id > 0"
            )

        again = await eventually_async(claimed)
        assert claim is not None
        assert (again["id"], again["token"]) == (claim["id"], claim["token"])  # type: ignore[index]
        assert again["runner"] != claim["runner"]  # type: ignore[index]

        async def ended() -> bool:
            return bool(await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs"))

        await eventually_async(ended, within=40)
    assert sum(len(processes.said("END", "held", by=each)) for each in (first, second)) == 1


@pytest.mark.failure_mode("F57")
async def test_a_primary_that_became_a_standby_is_left(pair: tuple[Node, Node], processes: Processes) -> None:
    """Roles change places, and back: each time everything moves to the one that takes writes."""
    here, there = pair
    await in_thread(processes.start, vigilance=DEFAULTS)
    async with Jobs(several(here, there)) as jobs:
        for number in range(3):
            while True:
                try:
                    await nothing.set(jobs=jobs).later()
                    break
                except DatabaseUnavailable:
                    await asyncio.sleep(0.1)
            await enqueue(here, fault("sleep", f"job {number}"))
            await in_thread(processes.wait_for, "END", f"job {number}")
            await caught_up(here)
            await in_thread(here.stop)
            await in_thread(there.promote)
            await in_thread(here.follow, there)
            here, there = there, here
    async with watching(here.dsn()) as other:
        assert (
            await other.connection.fetchval(
                "select count(*) from asyncjobs.jobs where kind = 'failover:nothing'"
            )
            == 3
        )


@pytest.mark.failure_mode("F57")
async def test_a_standby_alone_is_waited_for_aloud(
    pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    """Named alone, it can run nothing: that is said, with what to do; promoted, it is used at once."""
    primary, standby = pair
    await Jobs(primary.dsn()).migrate()
    await caught_up(primary)
    async with Jobs(standby.dsn()).running() as jobs:

        async def said() -> bool:
            return "takes no writes" in caplog.text

        await eventually_async(said)
        assert jobs.is_degraded
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            await nothing.set(jobs=jobs).later()
        await in_thread(primary.stop, "immediate")
        await in_thread(standby.promote)
        handle = None
        while handle is None:
            try:
                handle = await nothing.set(jobs=jobs).later()
            except DatabaseUnavailable:
                await asyncio.sleep(0.1)
        await handle.result(timeout=20)


@pytest.mark.failure_mode("F57")
async def test_a_primary_that_hangs_is_left_for_the_new_one(
    pair: tuple[Node, Node], processes: Processes
) -> None:
    """It accepts connections, and answers nothing: the other host is tried beside it."""
    primary, standby = pair
    await in_thread(processes.start, vigilance=DEFAULTS)
    await enqueue(primary, fault("sleep", "before"))
    await in_thread(processes.wait_for, "END", "before")
    await caught_up(primary)
    primary.freeze()
    try:
        await in_thread(standby.promote)
        await enqueue(standby, fault("sleep", "after"))
        await in_thread(processes.wait_for, "END", "after")
        async with Jobs(several(primary, standby)) as jobs:
            await nothing.set(jobs=jobs).later()
    finally:
        primary.thaw()


@pytest.mark.failure_mode("F58")
async def test_of_two_primaries_a_runner_stays_with_the_one_it_knows(
    pair: tuple[Node, Node], processes: Processes
) -> None:
    """The standby was promoted, and the primary is still there: nobody can see that from inside. A job of either database runs
    once, that of the other one when the first is gone."""
    here, there = pair
    await in_thread(processes.start, vigilance=DEFAULTS)
    await enqueue(here, fault("sleep", "before"))
    await in_thread(processes.wait_for, "END", "before")
    await caught_up(here)
    await in_thread(there.promote)
    await enqueue(there, fault("sleep", "there"))
    await enqueue(here, fault("sleep", "here"))
    await in_thread(processes.wait_for, "END", "here")
    assert processes.counts("START")["there"] == 0
    await in_thread(here.stop, "immediate")
    await in_thread(processes.wait_for, "END", "there")
    assert set(processes.counts("START").values()) == {1}
