"""One job that takes its process down, among fifty that do not: how many processes die until it is failed, and who else suffers.

Two processes at asyncjobs' own default times, each started again as soon as it is dead. Each innocent job takes 0.2 s.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import asyncpg

from asyncjobs import Jobs, job
from bench.server import fresh_database

INNOCENTS = 50
PROCESSES = 2
DEADLINE = 300.0


@job(kind="bench:poison")
async def poison() -> None:
    await asyncio.sleep(0.05)
    os._exit(1)


@job(kind="bench:innocent")
async def innocent(number: int) -> None:
    await asyncio.sleep(0.2)


async def report(dsn: str, runs: int) -> None:
    """Print a line for each run."""
    for number in range(1, runs + 1):
        async with fresh_database(dsn) as database:
            deaths, row, seconds = await run(database)
        print(
            f"poison, run {number}: {deaths} processes died until it was failed ({row['crashes']} crashes on its record), "
            f"{row['done']} of {INNOCENTS} innocents done, {row['blamed']} failed, "
            f"at most {row['most']} crash on an innocent's record, {seconds:.1f} s in all",
            flush=True,
        )


async def run(dsn: str) -> tuple[int, Any, float]:
    """Processes that died, what became of the jobs, seconds until all were final."""
    await Jobs(dsn).migrate()
    async with Jobs(dsn):
        await poison.later()
        for number in range(INNOCENTS):
            await innocent.later(number)
    watcher = await asyncpg.connect(dsn)
    processes: list[subprocess.Popen[bytes]] = [_start(dsn) for _ in range(PROCESSES)]
    deaths, began = 0, time.monotonic()
    try:
        while await watcher.fetchval("select count(*) from asyncjobs.finished_jobs") <= INNOCENTS:
            for place, process in enumerate(processes):
                if process.poll() is not None:
                    deaths += 1
                    processes[place] = _start(dsn)
            if time.monotonic() - began > DEADLINE:
                raise SystemExit(f"after {DEADLINE:.0f} s and {deaths} deaths it is not over")
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        row = await watcher.fetchrow("""
            select max(crashes) filter (where kind = 'bench:poison') as crashes,
                   max(crashes) filter (where kind <> 'bench:poison') as most,
                   count(*) filter (where kind <> 'bench:poison' and state = 'completed') as done,
                   count(*) filter (where kind <> 'bench:poison' and state = 'failed') as blamed
              from asyncjobs.jobs""")
    finally:
        for process in processes:
            process.kill()
            process.wait()
        await watcher.close()
    return deaths, row, seconds


def _start(dsn: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bench.poison", dsn])


async def work(dsn: str) -> None:
    """One process of the fleet."""
    async with Jobs(dsn, slots=8).running():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
