"""Enqueue in a transaction of one's own, one job at a time, against the same INSERT by hand: same table, same indexes.

A runner listens; the queue is paused on both sides, so that draining does not eat the cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from asyncjobs import Jobs
from bench.drain import noop

INSERT = "insert into asyncjobs.live_jobs (queue, kind, args) values ('bench', 'bench:noop', $1)"


@asynccontextmanager
async def paused_runner(dsn: str) -> AsyncIterator[None]:
    async with Jobs(dsn, queues={"bench": 20}).running() as jobs:
        await jobs.pause("bench")
        yield


async def closed_loop(callers: int, seconds: float, call: Callable[[int, int], Awaitable[object]]) -> float:
    """Calls per second of so many callers, each calling again as soon as it has its answer."""
    count = 0

    async def caller(number: int, until: float) -> None:
        nonlocal count
        i = 0
        while time.perf_counter() < until:
            await call(number, i)
            count += 1
            i += 1

    await asyncio.gather(*(caller(number, time.perf_counter() + 0.3) for number in range(callers)))
    count, started = 0, time.perf_counter()
    await asyncio.gather(*(caller(number, started + seconds) for number in range(callers)))
    return count / (time.perf_counter() - started)


async def ours(dsn: str, callers: int, seconds: float) -> float:
    """`await noop.later(i)` in a process that only enqueues."""
    await Jobs(dsn).migrate()
    async with paused_runner(dsn), Jobs(dsn) as jobs:
        paused = noop.set(queue="bench", jobs=jobs)
        return await closed_loop(callers, seconds, lambda _, i: paused.later(i))


async def raw(dsn: str, callers: int, seconds: float) -> float:
    """The INSERT alone, on as many held connections as there are callers."""
    await Jobs(dsn).migrate()
    async with paused_runner(dsn):
        connections = [await asyncpg.connect(dsn) for _ in range(callers)]
        rate = await closed_loop(
            callers, seconds, lambda number, i: connections[number].execute(INSERT, f'{{"i": {i}}}')
        )
        for connection in connections:
            await connection.close()
    return rate
