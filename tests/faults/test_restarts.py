"""Postgres goes and comes back under several runners: nothing runs twice, and nothing is blamed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.running import watching
from tests.faults.processes import Processes, fault
from tests.faults.servers import DURABLE, FAST, IMMEDIATE, Server, a_server
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from a_server(DURABLE)


@pytest.fixture
async def processes(server: Server, tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(await server.database(), tmp_path / "log")
    yield processes
    processes.end()


async def in_thread(act: Any, *args: Any, **given: Any) -> Any:
    return await asyncio.to_thread(act, *args, **given)


@pytest.mark.failure_mode("F54", "F55")
@pytest.mark.parametrize("listen", [True, False])
@pytest.mark.parametrize("how", [FAST, IMMEDIATE])
@pytest.mark.parametrize("away", [0.0, 6.0])
async def test_a_restart_runs_nothing_twice(
    server: Server, processes: Processes, how: signal.Signals, away: float, listen: bool
) -> None:
    """All locks were free at once, and all leases are over when it was away for long; who was cut off goes on.

    Without a lock, and cut off for longer than the lease, it has stopped its jobs first: they run again, unburnt.
    """
    vigilance = {"look_every": 0.2, "settle": 5.0, "lease": 4.0, "renew_every": 0.5}
    for _ in range(3):
        await in_thread(processes.start, vigilance=vigilance, slots=5, listen=listen)
    names = [f"job {number}" for number in range(15)]
    async with watching(processes.dsn) as other:
        await store(other.session, *(fault("sleep", name, seconds=14.0) for name in names))
        await in_thread(processes.wait_for, "START", *names)
    await asyncio.sleep(1.0)  # the claims are committed asynchronously
    await in_thread(server.stop, how)
    await asyncio.sleep(away)
    await in_thread(server.start)
    async with watching(processes.dsn) as other:

        async def all_done() -> bool:
            count: int = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
            return count == len(names)

        await eventually_async(all_done, within=60)
        rows = await other.connection.fetch("select distinct state, attempt, crashes from asyncjobs.jobs")
        assert [tuple(row) for row in rows] == [("completed", 1, 0)]
    are_stopped = not listen and away > vigilance["lease"]
    assert set(processes.counts("START").values()) == {2 if are_stopped else 1}
    assert set(processes.counts("END").values()) == {1}
    stopped = {said.name: said.at for said in processes.said("CANCELLED")}
    assert set(stopped) == (set(names) if are_stopped else set())
    for name, at in stopped.items():
        first, second = (said.at for said in processes.said("START", name))
        assert first < at < second


@pytest.mark.failure_mode("F01")
async def test_a_killed_process_is_missed_in_good_time(server: Server, processes: Processes) -> None:
    """With a keeper's own times: by a runner that is there in seconds, by one that must be started within half a minute."""
    del server
    dying = await in_thread(processes.start, vigilance={}, slots=1)
    async with watching(processes.dsn) as other:
        await store(other.session, fault("sleep", "job", seconds=600.0))
        await in_thread(processes.wait_for, "START", "job")
        dying.kill()
        killed = time.monotonic()
        await in_thread(processes.start, vigilance={}, slots=1)
        await eventually_async(lambda: twice(processes, "job"), within=30)
        assert time.monotonic() - killed < 30
        second = processes.started[-1]
        third = await in_thread(processes.start, vigilance={}, slots=1)
        await asyncio.sleep(10.5)  # it has settled
        second.kill()
        killed = time.monotonic()
        await in_thread(processes.wait_for, "START", "job", by=third, within=10)
        assert time.monotonic() - killed < 5


async def twice(processes: Processes, name: str) -> bool:
    return processes.counts("START")[name] == 2
