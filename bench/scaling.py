"""The slope: how much 1, 2, 4, 8, 16 processes run on one Postgres, and what they cost it.

Each process is a runner of its own (`python -m bench.scaling DSN SLOTS`). Two kinds of jobs: a no-op, which shows what the
protocol costs, and one that awaits for 10 ms, as I/O does, which shows what slots are worth. Transactions (each statement of a
runner is one) and connections are counted by the database, claims by the runners themselves.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import attrs

from asyncjobs import Jobs, job
from asyncjobs._engine import claimer
from bench.server import fresh_database

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
IO = 0.010  #: seconds one I/O-ish job waits


@job(kind="bench:idle")
async def idle(i: int) -> None:
    """Nothing: what is measured is the rest."""


@job(kind="bench:wait")
async def wait(i: int) -> None:
    """As a short request to somebody else."""
    await asyncio.sleep(IO)


@attrs.frozen
class Point:
    """One measurement."""

    processes: int
    jobs: float  #: per second
    claims: float  #: per second
    transactions: float  #: per second
    connections: int  #: of the runners, under load


async def measure(dsn: str, kind: str, processes: int, count: int, slots: int) -> Point:
    """Drain *count* jobs by so many processes; from the moment they may begin to the last finish."""
    definition = idle if kind == "no-op" else wait
    jobs = Jobs(dsn)
    await jobs.migrate()
    watcher = await asyncpg.connect(dsn)
    runners: list[subprocess.Popen[bytes]] = []
    try:
        async with jobs:
            await jobs.pause("default")
            for first in range(0, count, 10_000):
                await jobs.enqueue_many(
                    definition.prepare(i) for i in range(first, min(first + 10_000, count))
                )
            await watcher.execute("vacuum analyze asyncjobs.live_jobs")
            path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
            for _ in range(processes):
                runners.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "bench.scaling", dsn, str(slots)],
                        env={**os.environ, "PYTHONPATH": path},
                        stdout=subprocess.PIPE,
                    )
                )
            while await watcher.fetchval("select count(*) from asyncjobs.runners") < processes:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            before = await calls(watcher)
            started = time.monotonic()
            await jobs.resume("default")
            connections = 0
            while await watcher.fetchval("select exists (select from asyncjobs.live_jobs where id > 0)"):
                connections = max(connections, await connections_of(watcher))
                await asyncio.sleep(0.02)
            took = time.monotonic() - started
            after = await calls(watcher)
            done = await watcher.fetchval("select count(*) from asyncjobs.finished_jobs where state = 10")
            assert done == count, f"{done} of {count} completed"
        claims = 0
        for runner in runners:
            runner.terminate()
        for runner in runners:
            claims += int(runner.communicate()[0])
        return Point(processes, count / took, claims / took, (after - before) / took, connections)
    finally:
        for runner in runners:
            if runner.poll() is None:
                runner.kill()
                runner.communicate()
        await watcher.close()


async def connections_of(watcher: Any) -> int:
    """Those of the runners: all but ours and the one that enqueued."""
    return int(
        await watcher.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and backend_type = 'client backend' and application_name = 'bench runner'"
        )
    )


async def calls(watcher: Any) -> int:
    """Transactions of this database so far; each of our statements is one."""
    await watcher.execute("select pg_stat_clear_snapshot()")
    row = await watcher.fetchrow(
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
    )
    return int(row[0])


async def report(
    dsn: str, sizes: tuple[int, ...], *, slots: int = 20, repeats: int, jobs: int, into: str | None = None
) -> None:
    """The table of docs/scaling.md, in Markdown; *into* that page, between its marks, too."""
    lines = [
        "",
        f"{os.cpu_count()} cores for Postgres and all processes together, {slots} slots each, "
        f"medians of {repeats}, {time.strftime('%Y-%m-%d', time.gmtime())}:",
        "",
        "| processes | jobs | jobs/s | slope | claims/s | jobs a claim | transactions/s | connections |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for kind in ("no-op", "waits 10 ms"):
        single = 0.0
        for processes in sizes:
            points = []
            for _ in range(repeats):
                # As long for many as for one: a few seconds where slots are the limit.
                count = jobs if kind == "no-op" else min(jobs, int(processes * slots / IO * 2))
                async with fresh_database(dsn) as database:
                    points.append(await measure(database, kind, processes, count, slots))
            middle = sorted(points, key=lambda point: point.jobs)[len(points) // 2]
            single = single or middle.jobs
            lines.append(
                f"| {processes} | {kind} | {middle.jobs:,.0f} | {middle.jobs / single:.2f} | {middle.claims:,.0f} "
                f"| {middle.jobs / middle.claims:,.0f} | {middle.transactions:,.0f} | {middle.connections} |"
            )
            print(lines[-1], flush=True)
    if into is not None:
        page = Path(into)
        head, _, rest = page.read_text().partition(BEGIN)
        _, _, tail = rest.partition(END)
        page.write_text("\n".join([head + BEGIN, *lines, "", END + tail]))


async def run(dsn: str, slots: int) -> None:
    """One of the processes, until it is told to end; then it says how often it claimed something."""
    claim, claimed = claimer.claim_jobs, 0

    async def counted(*args: Any, **given: Any) -> Any:
        nonlocal claimed
        jobs = await claim(*args, **given)
        claimed += bool(jobs)
        return jobs

    claimer.claim_jobs = counted
    named = dsn + ("&" if "?" in dsn else "?") + "application_name=bench%20runner"
    try:
        async with Jobs(named, slots=slots, shutdown_timeout=1).running(standalone=True):
            await asyncio.Event().wait()
    finally:
        print(claimed, flush=True)


if __name__ == "__main__":
    import signal

    async def main() -> None:
        task = asyncio.create_task(run(sys.argv[1], int(sys.argv[2])))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            pass

    asyncio.run(main())
