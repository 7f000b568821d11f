"""A network that is slow, and takes its time now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.running import watching
from tests.faults.processes import Processes, fault
from tests.flows.test_crashes import in_thread
from tests.network import network
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


@pytest.mark.failure_mode("F53")
@pytest.mark.parametrize("listen", [True, False], ids=["lock", "lease"])
async def test_nobody_is_declared_dead_for_being_far_away(
    dsn: str, processes: Processes, listen: bool
) -> None:
    """200 ms each way, and up to a second more now and then: every job runs once, on nobody's record is a crash."""
    dice = random.Random(7)
    async with network(dsn) as way, watching(dsn) as other:
        way.lag = lambda: 0.2 + (dice.random() if dice.random() < 0.2 else 0.0)
        far = Processes(way.dsn, processes.log)
        processes.started.append(await in_thread(far.start, vigilance={}, slots=4, listen=listen))
        await in_thread(processes.start, vigilance={}, slots=1, listen=listen)
        names = [f"job {number}" for number in range(24)]
        await store(other.session, *(fault("sleep", name, seconds=3.0) for name in names[:12]))
        await asyncio.sleep(12)  # the near one has settled by now, and looks for the dead
        await store(other.session, *(fault("sleep", name, seconds=3.0) for name in names[12:]))

        async def all_done() -> bool:
            count: int = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
            return count == len(names)

        await eventually_async(all_done, within=90)
        rows = await other.connection.fetch("select distinct state, attempt, crashes from asyncjobs.jobs")
        assert [tuple(row) for row in rows] == [("completed", 1, 0)]
        assert set(processes.counts("START").values()) == {1}
        assert {each.pid for each in processes.said("END")} == {each.pid for each in processes.started}
