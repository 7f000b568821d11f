"""Runners that hold locks are killed: nobody runs beside another, nobody waits for the dead, and nothing is left."""

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

KEYS = ("a", "b", "c")


async def test_a_killed_holder_is_followed_by_the_next(dsn: str, tmp_path: Path) -> None:
    """T5: "holder identity fenced; freed on crash within rescue time"."""
    processes = Processes(dsn, tmp_path / "log")
    vigilance = {**ALERT, "max_crashes": 1000}
    try:
        runners = [await in_thread(processes.start, vigilance=vigilance, slots=5) for _ in range(3)]
        jobs = [
            attrs.evolve(fault("sleep", f"{key}{number}", seconds=0.1), lock_key=key, lock_slots=1)
            for number in range(10)
            for key in KEYS
        ]
        async with watching(dsn) as other:
            await store(other.session, *jobs)
            for runner in runners[:2]:
                await asyncio.sleep(0.5)
                await in_thread(runner.kill)
                await in_thread(processes.start, vigilance=vigilance, slots=5)

            async def all_done() -> bool:
                count: int = await other.connection.fetchval(
                    "select count(*) from asyncjobs.finished_jobs where state = 10"
                )
                return count == len(jobs)

            await eventually_async(all_done, within=60)
            assert await other.connection.fetchval("select count(*) from asyncjobs.locks") == 0
    finally:
        processes.end()
    for key in KEYS:
        said = [
            each for each in processes.said() if each.name.startswith(key) and each.word in ("START", "END")
        ]
        for begin, end in zip(said, said[1:], strict=False):
            if end.word == "END":
                assert (begin.word, begin.name, begin.pid) == (
                    "START",
                    end.name,
                    end.pid,
                )  # nobody in between
