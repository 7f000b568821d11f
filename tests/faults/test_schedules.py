"""Schedules in real processes that are killed and stopped."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

from asyncjobs import Every, Jobs, job
from tests.faults.processes import Process, Processes
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

INTERVAL = timedelta(milliseconds=100)


@job(kind="fault:sleep")
async def sleep(name: str, seconds: float = 0.0) -> str: ...  # type: ignore[empty-body]  # that of program.py


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


async def ticks(jobs: Jobs) -> Counter[datetime]:
    """How many jobs each tick has."""
    async with jobs.connection() as connection:
        rows = await connection.fetch(
            "select meta ->> 'tick' as tick from asyncjobs.jobs where meta ? 'schedule'"
        )
    return Counter(datetime.fromisoformat(row["tick"]) for row in rows)


@pytest.mark.failure_mode("F106")
@pytest.mark.seed("Q18")
async def test_kills_neither_lose_nor_double_a_tick(dsn: str, processes: Processes) -> None:
    """Q18 scheduler semantics: "exactly once per tick". Processes are killed and frozen at any moment, and others take over: every
    tick of the whole time has one job, none two.
    """
    dice = random.Random(18)
    living: list[Process] = [processes.start(ready=False) for _ in range(3)]
    for process in living:
        processes.wait_for("READY", by=process)
    async with Jobs(dsn) as jobs:
        await jobs.schedules.create(
            Every(INTERVAL, sleep.prepare("tick"), name="tick", missed="all", window=timedelta(minutes=2))
        )
        for round_ in range(12):
            before = len(await ticks(jobs))

            async def more(before: int = before) -> bool:
                return len(await ticks(jobs)) > before + dice.randrange(1, 8)

            await eventually_async(more)
            victim = living.pop(dice.randrange(len(living)))
            if round_ % 3 == 2:
                victim.freeze()
                await anyio.sleep(dice.random())
                victim.thaw()
                living.append(victim)
            else:
                victim.kill()
                living.append(processes.start(ready=False))

        await jobs.schedules.pause("tick")
        found = await ticks(jobs)
    assert set(found.values()) == {1}
    assert {later - earlier for earlier, later in itertools.pairwise(sorted(found))} == {INTERVAL}
