"""Runners that deal turns are killed: who waits in line has a turn all the same, and none is lost."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.engine.running import Watcher, watching
from tests.faults.processes import ALERT, Processes, fault
from tests.flows.test_crashes import in_thread
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


async def test_turns_go_on_when_those_who_deal_are_killed(dsn: str, tmp_path: Path) -> None:
    """Of a tenant with many and one with few everything runs, and the few do not wait for the many."""
    processes = Processes(dsn, tmp_path / "log")
    vigilance = {**ALERT, "max_crashes": 1000}
    try:
        runners = [await in_thread(processes.start, vigilance=vigilance, slots=3) for _ in range(3)]
        many, few = (
            [
                attrs.evolve(fault("sleep", f"{key}{number}", seconds=0.05), fair_key=key)
                for number in range(count)
            ]
            for key, count in (("many", 300), ("few", 10))
        )
        async with watching(dsn) as other:
            await store(other.session, *many)
            await eventually_async(lambda: done(other, 20))
            await in_thread(runners[0].kill)
            await store(other.session, *few)
            await in_thread(runners[1].kill)
            for _ in range(2):
                await in_thread(processes.start, vigilance=vigilance, slots=3)
            await eventually_async(lambda: done(other, len(many) + len(few)), within=90)
            behind: int = await other.connection.fetchval(
                "select count(*) from asyncjobs.finished_jobs where finished_at > (select finished_at"
                " from asyncjobs.finished_jobs where args::text like '%\"few%' order by finished_at offset 4 limit 1)"
            )
    finally:
        processes.end()
    assert (
        behind > 50
    )  # behind half of the few; those that were running when their runner was killed run alone, later


async def done(other: Watcher, count: int) -> bool:
    finished: int = await other.connection.fetchval(
        "select count(*) from asyncjobs.finished_jobs where state = 10"
    )
    return finished >= count
