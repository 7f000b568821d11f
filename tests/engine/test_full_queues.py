"""What waits because its queue is full begins as soon as a slot is free, however idle the other queues are."""

from __future__ import annotations

import asyncio
import time

from asyncjobs import Jobs, job

began: list[float] = []


@job(kind="test_full_queues:brief", queue="full")
async def brief() -> None:
    began.append(time.monotonic())
    await asyncio.sleep(0.03)


async def test_a_free_slot_is_taken_at_once_by_what_waited_for_it(dsn: str) -> None:
    """The runner does not take the emptiness of its other queues for its own, and sleep until it looks again."""
    async with Jobs(dsn, queues={"full": 1, "other": 1}).running() as jobs:
        await jobs.work_off()
        for _ in range(3):
            began.clear()
            await asyncio.sleep(0.2)
            await jobs.enqueue_many([brief.prepare() for _ in range(3)])
            await jobs.work_off()
            assert len(began) == 3
            assert began[-1] - began[0] < 1


async def test_it_is_not_idle_while_a_job_waits_for_a_slot(dsn: str) -> None:
    """`work_off` waits for what a full queue still holds."""
    async with Jobs(dsn, queues={"full": 1, "other": 5}, listen=False).running() as jobs:
        await jobs.work_off()
        began.clear()
        await jobs.enqueue_many([brief.prepare() for _ in range(5)])
        await jobs.work_off()
        assert len(began) == 5
