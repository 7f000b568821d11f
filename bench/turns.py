"""What turns among keys cost, and how soon a tenant that comes late has its own."""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg

from asyncjobs import Jobs, job
from bench import drain
from bench.server import fresh_database

LINE = """
insert into asyncjobs.live_jobs (queue, kind, args, fair_key, state)
select 'default', $1, '{"tenant": "many"}', 'many', 5 from generate_series(1, $2::integer)
"""

began: list[tuple[str, float]] = []


@job(kind="bench:fair", fair="tenant")
async def fair(tenant: str) -> None:
    began.append((tenant, time.perf_counter()))
    if tenant in ("many", "few"):
        await asyncio.sleep(0.02)


async def beside(dsn: str, jobs: int, slots: int, waiting: int) -> float:
    """Jobs without a key per second, beside so many that wait in line."""
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    await connection.execute(LINE, "bench:of somebody else", waiting, timeout=600)
    await connection.close()
    return await drain.drain(dsn, jobs, slots)


async def late(dsn: str, slots: int, waiting: int) -> tuple[int, float]:
    """Ten of a tenant that comes when so many of another wait: how many others began before the last of them, and after how many seconds."""
    began.clear()
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    await connection.execute(LINE, "bench:fair", waiting, timeout=600)
    await connection.close()
    async with Jobs(dsn, slots=slots).running(standalone=True) as running:
        while len(began) < 5 * slots:
            await asyncio.sleep(0.01)
        since, started = len(began), time.perf_counter()
        handles = await running.enqueue_many(fair.prepare("few") for _ in range(10))
        for handle in handles:
            await handle.result(timeout=600)
    theirs = [(nth, at) for nth, (tenant, at) in enumerate(began) if tenant == "few"]
    return theirs[-1][0] - since - 10, theirs[-1][1] - started


async def drained(dsn: str, jobs: int, slots: int, keys: int) -> float:
    """Jobs in line per second, of so many keys."""
    began.clear()
    enqueuing = Jobs(dsn)
    await enqueuing.migrate()
    async with enqueuing:
        for first in range(0, jobs, 10_000):
            await enqueuing.enqueue_many(
                fair.prepare(f"key {i % keys}") for i in range(first, min(first + 10_000, jobs))
            )
    async with Jobs(dsn, slots=slots).running(standalone=True) as running:
        while not began:
            await asyncio.sleep(0)
        await running.work_off()
        return jobs / (time.perf_counter() - began[0][1])


async def report(dsn: str, pairs: int, jobs: int, slots: int, waiting: int = 100_000) -> None:
    """Print all of it."""
    ratios = []
    for number in range(pairs):
        pair = {}
        for count in (0, waiting) if number % 2 == 0 else (waiting, 0):
            async with fresh_database(dsn) as database:
                pair[count] = await beside(database, jobs, slots, count)
        ratios.append(pair[waiting] / pair[0])
    print(f"{jobs} jobs without a key beside {waiting:,} in line: ratio {_spread(ratios)}", flush=True)
    for keys in (1, 1000):
        ratios = []
        for _ in range(pairs):
            async with fresh_database(dsn) as database:
                plain = await drain.drain(database, jobs, slots)
            async with fresh_database(dsn) as database:
                ratios.append(await drained(database, jobs, slots, keys) / plain)
        print(f"{jobs} jobs in line, {keys} keys, against jobs without: ratio {_spread(ratios)}", flush=True)
    for _ in range(pairs):
        async with fresh_database(dsn) as database:
            others, seconds = await late(database, slots, waiting)
        print(
            f"ten that come when {waiting:,} of another key wait, {slots} slots, jobs of 20 ms: {others} of the others began before "
            f"the last of them, after {1000 * seconds:.0f} ms",
            flush=True,
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
