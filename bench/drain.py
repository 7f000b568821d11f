"""Drain no-op jobs by one process: history kept, durable commits, every job a task of its own."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from asyncjobs import Jobs, job

ran: list[tuple[int, float]] = []


@job(kind="bench:noop")
async def noop(i: int) -> None:
    ran.append((i, time.monotonic()))


async def drain(dsn: str, jobs: int, slots: int) -> float:
    """Jobs per second, from the start of the runner's work to the last finish in the database."""
    ran.clear()
    enqueuing = Jobs(dsn)
    await enqueuing.migrate()
    async with enqueuing:
        for first in range(0, jobs, 10_000):
            await enqueuing.enqueue_many(noop.prepare(i) for i in range(first, min(first + 10_000, jobs)))
    watcher = await asyncpg.connect(dsn)
    await watcher.execute("vacuum analyze asyncjobs.live_jobs")
    await watcher.execute("checkpoint")
    async with Jobs(dsn, slots=slots).running(standalone=True) as running:
        while not ran:
            await asyncio.sleep(0)
        started = ran[0][1]
        await running.work_off()
        rate = jobs / (time.monotonic() - started)
    finished = await watcher.fetchval(
        "select count(*) from asyncjobs.jobs where state = 'completed' and kind = 'bench:noop'"
    )
    assert finished == jobs == len({i for i, _ in ran}), f"{finished} finished, {len(ran)} ran, of {jobs}"
    await watcher.close()
    return rate
