"""A machine is gone without a word: a network namespace for a machine, whose cable is pulled."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.running import watching
from tests.faults.cables import Cable, Ends, can_make_namespaces, laid_cable, server_at_the_cable
from tests.faults.processes import ALERT, Processes, fault
from tests.features import need, need_root
from tests.flows.test_crashes import in_thread
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture
def cable() -> Iterator[Cable]:
    need_root()
    need("network namespaces", can_make_namespaces())
    with laid_cable() as cable:
        yield cable


@pytest.fixture
async def ends(cable: Cable) -> AsyncIterator[Ends]:  # noqa: ARG001 -- it must be there first
    async with server_at_the_cable() as ends:
        yield ends


@pytest.fixture
def processes(ends: Ends, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(ends.near, tmp_path / "log")
    yield processes
    processes.end()


def start_over_there(processes: Processes, cable: Cable, ends: Ends, **given: Any) -> Any:
    """A runner on the other machine."""
    there = Processes(ends.far, processes.log, inside=cable.inside)
    process = there.start(**given)
    processes.started.append(process)
    return process


@pytest.mark.failure_mode("F08", "F43")
@pytest.mark.parametrize("what", ["nothing", "a notification"])
async def test_a_lost_machine_is_missed_and_refused_when_it_comes_back(
    cable: Cable, ends: Ends, processes: Processes, what: str
) -> None:
    """Its jobs run elsewhere within 15 s, though the server still has something to send to it; what it writes then is void."""
    lost = await in_thread(start_over_there, processes, cable, ends, slots=1)
    async with watching(ends.near) as other:
        await other.connection.execute("create table effects (name text, pid integer)")
        await store(other.session, fault("write", "job", seconds=25.0))
        await in_thread(processes.wait_for, "WRITTEN", "job", by=lost)
        peer = await in_thread(processes.start, slots=1, vigilance=ALERT)
        cable.pull()
        pulled = time.monotonic()
        if what == "a notification":
            await other.connection.execute("notify \"asyncjobs:ready\", 'default'")
        await in_thread(processes.wait_for, "START", "job", by=peer, within=15 - (time.monotonic() - pulled))
        cable.plug()

        async def done() -> bool:
            return bool(await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs"))

        await in_thread(processes.wait_for, "CANCELLED", "job", by=lost)
        await eventually_async(done, within=60)
        (row,) = await other.connection.fetch("select * from asyncjobs.jobs")
        assert (row["state"], row["attempt"], row["crashes"]) == ("completed", 1, 1)
        assert await other.connection.fetch("select name, pid from effects") == [("job", peer.pid)]
        assert [each.pid for each in processes.said("COMMITTED")] == [peer.pid]
