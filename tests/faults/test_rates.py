"""Runners of jobs with a rate are killed: no window is exceeded, nobody waits for the dead, nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs
import pytest

from tests.engine.running import watching
from tests.faults.processes import ALERT, Processes, fault
from tests.flows.test_crashes import in_thread
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

COUNT, PER = 30, 1.0
LATE = 0.05  #: seconds between a payment and the first line of a job, on a machine that is busy


async def test_kills_exceed_no_rate_and_leave_nobody_waiting(dsn: str, tmp_path: Path) -> None:
    """Between claim and payment, between payment and start, while it runs: read from what the jobs themselves said."""
    processes = Processes(dsn, tmp_path / "log")
    vigilance = {**ALERT, "max_crashes": 1000}
    try:
        runners = [await in_thread(processes.start, vigilance=vigilance, slots=5) for _ in range(3)]
        jobs = [
            attrs.evolve(
                fault("sleep", f"r{number}", seconds=0.02),
                rate_key="r",
                rate_capacity=COUNT,
                rate_per=PER,
                rate_window=1,
            )
            for number in range(150)
        ]
        async with watching(dsn) as other:
            await store(other.session, *jobs)
            for runner in [*runners, *[None] * 3]:
                await asyncio.sleep(0.5)
                if runner is not None:
                    await in_thread(runner.kill)
                    await in_thread(processes.start, vigilance=vigilance, slots=5)

            async def all_done() -> bool:
                count: int = await other.connection.fetchval(
                    "select count(*) from asyncjobs.finished_jobs where state = 10"
                )
                return count == len(jobs)

            await eventually_async(all_done, within=60)
            told = [
                row["started_at"].timestamp()
                for row in await other.connection.fetch(
                    "select started_at from asyncjobs.finished_jobs order by started_at"
                )
            ]
            assert (
                await other.connection.fetchval(
                    "select count(*) from asyncjobs.rates where due_at is not null"
                )
                == 0
            )
    finally:
        processes.end()
    for first, start in enumerate(told):
        assert sum(at - start < PER - 0.000_003 for at in told[first:]) <= COUNT
    begun = sorted(each.at for each in processes.said() if each.word == "START" and each.name.startswith("r"))
    assert len(begun) >= len(jobs)
    for first, start in enumerate(begun):
        assert sum(at - start < PER - LATE for at in begun[first:]) <= COUNT
