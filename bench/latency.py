"""From the commit of an enqueue in another process to the start of the job's body, on an idle runner."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

from asyncjobs import Jobs, job

started: dict[int, float] = {}


@job(kind="bench:note")
async def note(i: int) -> None:
    started[i] = time.monotonic()


async def latencies(dsn: str, jobs: int, pause: float = 0.02) -> list[float]:
    """Milliseconds of each; the clock is the machine's, shared by its processes."""
    started.clear()
    await Jobs(dsn).migrate()
    async with Jobs(dsn).running():
        enqueuer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.latency", dsn, str(jobs), str(pause), stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await enqueuer.communicate()
        committed = json.loads(answer)
        while len(started) < len(committed):
            await asyncio.sleep(0.01)
    return [(started[i] - at) * 1000 for i, at in enumerate(committed) if i >= 20]


async def enqueue(dsn: str, jobs: int, pause: float) -> None:
    """The other process: says when each call returned, its commit acknowledged."""
    committed = []
    async with Jobs(dsn):
        for i in range(jobs):
            await asyncio.sleep(1 if i == 20 else pause)
            await note.later(i)
            committed.append(time.monotonic())
    print(json.dumps(committed))


def summary(values: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return statistics.median(values), sorted(values)[int(len(values) * 0.99)]


if __name__ == "__main__":
    asyncio.run(enqueue(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
