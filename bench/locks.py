"""What jobs that wait for a lock, or for a rate, cost the others, and how long a lock takes from one job to the next."""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg

from asyncjobs import Jobs, Lock, job
from bench import drain
from bench.server import fresh_database

HOLDER = """
with holder as (
  insert into asyncjobs.live_jobs (queue, kind, args, lock_key, lock_slots, runner, token, attempt, started_at)
  values ('default', 'bench:locked', '{}', 'bench', 1, 1, 1, 1, now()) returning id
), listed as (
  insert into asyncjobs.runners (incarnation, lock_key, holds_lock, lease, name, version)
  values (1, 1, false, interval '1 day', 'bench', '0')
)
insert into asyncjobs.locks (key, slot, job, token) select 'bench', 1, id, 1 from holder
"""
WAITERS = """
insert into asyncjobs.live_jobs (queue, kind, args, lock_key, lock_slots, state, token)
select 'default', 'bench:locked', '{}', 'bench', 1, 3, 1 from generate_series(1, $1::integer)
"""

RATE = """
insert into asyncjobs.rates (key, capacity, per, "window", said_by, due_at) values ('bench', 50, 1, 0, 0, now())
"""
IN_LINE = """
insert into asyncjobs.live_jobs (queue, kind, args, rate_key, rate_weight, rate_capacity, rate_per, rate_window, state, token)
select 'default', 'bench:rated', '{}', 'bench', 1, 50, 1, 0, 6, 1 from generate_series(1, $1::integer)
"""

ended: list[float] = []
began: list[float] = []


@job(kind="bench:locked", lock=Lock(key="hot"))
async def locked() -> None:
    began.append(time.perf_counter())
    await asyncio.sleep(0)
    ended.append(time.perf_counter())


@job(kind="bench:rated")
async def rated() -> None: ...


async def blocked_beside(dsn: str, jobs: int, slots: int, waiters: int, *, rate: bool = False) -> float:
    """Jobs without a lock or a rate per second, beside so many that wait for one; of the rate, fifty begin in a second."""
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    if waiters:
        await connection.execute(RATE if rate else HOLDER)
        await connection.execute(IN_LINE if rate else WAITERS, waiters, timeout=600)
    await connection.close()
    return await drain.drain(dsn, jobs, slots)


async def handovers(dsn: str, jobs: int, slots: int) -> list[float]:
    """Milliseconds from the end of one job to the start of the next, of jobs that all want one lock."""
    began.clear()
    ended.clear()
    await Jobs(dsn).migrate()
    async with Jobs(dsn, slots=slots).running(standalone=True) as running:
        await running.enqueue_many(locked.prepare() for _ in range(jobs))
        await running.work_off()
        while len(ended) < jobs:
            await asyncio.sleep(0.01)
    return [1000 * (start - end) for end, start in zip(ended, began[1:], strict=False)]


async def report(dsn: str, pairs: int, jobs: int, slots: int, waiters: int = 100_000) -> None:
    """Print them."""
    for what, rate in (("blocked on one key", False), ("waiting for one rate of 50 a second", True)):
        ratios = []
        for number in range(pairs):
            pair = {}
            for count in (0, waiters) if number % 2 == 0 else (waiters, 0):
                async with fresh_database(dsn) as database:
                    pair[count] = await blocked_beside(database, jobs, slots, count, rate=rate)
            ratios.append(pair[waiters] / pair[0])
            print(
                f"  {pair[0]:,.0f} jobs/s alone, {pair[waiters]:,.0f} beside {waiters:,} {what}", flush=True
            )
        print(
            f"{jobs} jobs without a lock or a rate beside {waiters:,} {what}: ratio {statistics.median(ratios):.2f}"
            f"  ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    times = []
    for _ in range(pairs):
        async with fresh_database(dsn) as database:
            times += await handovers(database, 300, slots)
    times.sort()
    print(
        f"a hot key, end of one job to start of the next, ms: p50 {times[len(times) // 2]:.1f}, "
        f"p99 {times[int(len(times) * 0.99)]:.1f}, n {len(times)}"
    )
