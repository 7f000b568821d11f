"""What a saturating load of jobs does to the requests of the web process they run in, and what a job that blocks it does.

Processes of their own: a FastAPI application under uvicorn, whose jobs run in its lifespan; a load generator that sends
requests at a fixed rate, and counts a request's time from when it was due (a late answer delays no other question); and a
runner that serves nobody and gives way to nothing, for what the same jobs do alone. The same server answers the same
generator with and without jobs, in turn: what else the machine does falls on both.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from asyncjobs import Jobs, job

CONNECTIONS = 16
SETTLE = 1.0  #: seconds between what is compared
PAUSE = 0.02  #: what a job waits for others, before its own query
QUERY = "select id, code, name from stations where country = $1 order by id limit 20"
SCHEMA = """
create table stations (id int primary key, country int not null, code text not null, name text not null);
create index on stations (country);
insert into stations select n, n % 200, 'S' || n, 'Station ' || n from generate_series(1, 20000) n;
analyze stations;
"""

pool: Any = None
ran = 0


@job(kind="bench:io")
async def io(i: int) -> None:
    """Waits for somebody else, asks the database, and is done."""
    global ran
    await asyncio.sleep(PAUSE)
    await pool.fetch(QUERY, i % 200)
    ran += 1


@job(kind="bench:offender")
async def offender(seconds: float) -> None:
    """Forgets that the loop is everybody's."""
    time.sleep(seconds)


# The web application.


def application(dsn: str, queue: str, slots: int, guarded: bool) -> Any:
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        global pool
        async with asyncpg.create_pool(dsn, min_size=20, max_size=20) as pool:
            given: dict[str, Any] = {} if guarded else {"guard": None}
            async with Jobs(pool=pool, queues={queue: slots}, **given).running() as jobs:
                app.state.jobs = jobs
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/stations/{country}")
    async def stations(country: int) -> list[dict[str, Any]]:
        return [dict(row) for row in await pool.fetch(QUERY, country)]

    @app.get("/ran")
    async def count() -> dict[str, Any]:
        return {"ran": ran, "at": time.monotonic(), "worked": time.thread_time()}

    @app.get("/open")
    async def share() -> int:
        return sum(pool.open for pool in app.state.jobs._supervisor.runner._pools)

    @app.get("/blockers")
    async def blockers() -> list[str]:
        return [f"{each}\n{each.stack}" for each in app.state.jobs.blockers()]

    return app


def serve(dsn: str, port: int, queue: str, slots: int, guarded: bool) -> None:
    import uvicorn

    app = application(dsn, queue, slots, guarded)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", loop="asyncio")


# The load generator.


async def load(port: int, rate: float, seconds: float) -> list[tuple[float, float]]:
    """Of each request: when it was due, and the milliseconds it took from then."""
    due: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    took: list[tuple[float, float]] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            number, at = await due.get()
            writer.write(b"GET /stations/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % (number % 200))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append((at, (time.monotonic() - at) * 1000))

    clients = [asyncio.create_task(client()) for _ in range(CONNECTIONS)]
    start = time.monotonic() + 0.1
    count = int(rate * seconds)
    for number in range(count):
        at = start + number / rate
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        due.put_nowait((number, at))
    while len(took) < count:
        await asyncio.sleep(0.01)
        for each in clients:
            if each.done():
                each.result()
    for each in clients:
        each.cancel()
    return took


# The measurement.


class Look(NamedTuple):
    start: float  #: on the monotonic clock
    end: float
    rate: float  #: jobs a second
    busy: float  #: of the time the loop's thread had a processor


class Served:
    """A server, and how to load it."""

    def __init__(self, dsn: str, port: int, queue: str) -> None:
        self.dsn, self.port, self.queue = dsn, port, queue
        self.stored = 0

    async def get(self, path: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            return json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        finally:
            writer.close()

    async def requests(self, rate: float, seconds: float) -> list[tuple[float, float]]:
        command = [sys.executable, "-m", "bench.requests", "load", str(self.port), str(rate), str(seconds)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        answer, _ = await process.communicate()
        return [(at, ms) for at, ms in json.loads(answer)]

    async def store(self, jobs: Jobs, enough: int) -> None:
        """At least so many jobs wait, in a queue that is paused."""
        while self.stored - (await self.get("/ran"))["ran"] < enough:
            await jobs.enqueue_many(io.set(queue=self.queue).prepare(i) for i in range(5000))
            self.stored += 5000

    async def look(self, seconds: float) -> Look:
        """What it does for so long."""
        before = await self.get("/ran")
        await asyncio.sleep(seconds)
        after = await self.get("/ran")
        start, end = before["at"], after["at"]
        rate, busy = ((after[word] - before[word]) / (end - start) for word in ("ran", "worked"))
        return Look(start, end, rate, busy)

    async def work(self, jobs: Jobs, seconds: float) -> Look:
        """What it does for so long, with jobs."""
        await jobs.resume(self.queue)
        await asyncio.sleep(SETTLE)
        look = await self.look(seconds)
        await jobs.pause(self.queue)
        await asyncio.sleep(SETTLE / 2)
        return look


@asynccontextmanager
async def served(dsn: str, queue: str, slots: int, guarded: bool, log: Path) -> AsyncIterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "bench.requests",
        "serve",
        dsn,
        str(port),
        queue,
        str(slots),
        str(int(guarded)),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        server = Served(dsn, port, queue)
        try:
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    await server.get("/ran")
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            yield server
        finally:
            process.terminate()
            process.wait()


def p(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def measure(
    dsn: str,
    pairs: int,
    *,
    rate: float,
    seconds: float,
    slots: int,
    guarded: bool,
    spread: Callable[..., str],
) -> None:
    """Print what the requests saw without jobs and beside them, and what the jobs did alone and beside requests."""
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    await connection.execute(SCHEMA)
    await connection.close()
    with tempfile.TemporaryDirectory() as logs:
        async with (
            Jobs(dsn) as jobs,
            served(dsn, "web", slots, guarded, Path(logs, "web")) as web,
            served(dsn, "alone", slots, False, Path(logs, "alone")) as alone,
        ):
            for server in (web, alone):
                await jobs.pause(server.queue)
            await web.requests(rate, 2)  # warm
            rows = [await _pair(jobs, web, alone, number, rate, seconds) for number in range(pairs)]
            print(
                f"requests: FastAPI under uvicorn, {rate:g} requests/s, {seconds:g} s a run, {pairs} pairs; "
                f"jobs that wait {PAUSE * 1000:g} ms and query, {slots} slots, guard {'on' if guarded else 'off'}"
            )
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                without = [p(row.without, part) for row in rows]
                beside = [p(row.beside, part) for row in rows]
                ratio = [b / a for a, b in zip(without, beside, strict=True)]
                print(
                    f"  {name} ms  without jobs {spread(without, '.1f')}, with {spread(beside, '.1f')}; "
                    f"ratio {spread(ratio, '.2f')}"
                )
            share = [row.with_jobs.rate / row.alone.rate for row in rows]
            print(
                f"  jobs/s  alone, without a guard {spread([row.alone.rate for row in rows], ',.0f')}, "
                f"beside requests {spread([row.with_jobs.rate for row in rows], ',.0f')}; share {spread(share, '.2f')}"
            )
            print(
                f"  the loop's thread is at work  {spread([row.quiet.busy for row in rows], '.0%')} of the time without "
                f"jobs, {spread([row.with_jobs.busy for row in rows], '.0%')} with, "
                f"{spread([row.alone.busy for row in rows], '.0%')} with jobs alone",
                flush=True,
            )
            await offend(jobs, web, rate, 5.0)


class Row(NamedTuple):
    without: list[float]  #: milliseconds of requests
    beside: list[float]
    quiet: Look
    with_jobs: Look
    alone: Look


async def _pair(jobs: Jobs, web: Served, alone: Served, number: int, rate: float, seconds: float) -> Row:
    for server in (web, alone):
        await server.store(jobs, int(1500 * (seconds + SETTLE)))
    by_themselves = await alone.work(jobs, seconds / 2)
    asking = asyncio.create_task(web.requests(rate, 2 * seconds + 3 * SETTLE + 3))
    await asyncio.sleep(SETTLE)
    if number % 2:
        with_jobs = await web.work(jobs, seconds)
        quiet = await web.look(seconds)
    else:
        quiet = await web.look(seconds)
        with_jobs = await web.work(jobs, seconds)
    took = await asking
    without, beside = ([ms for at, ms in took if look.start <= at < look.end] for look in (quiet, with_jobs))
    return Row(without, beside, quiet, with_jobs, by_themselves)


async def offend(jobs: Jobs, server: Served, rate: float, blocks: float) -> None:
    """One job blocks the loop: what requests see of it, and what is said of it."""
    asking = asyncio.create_task(server.requests(rate, blocks + 4))
    await asyncio.sleep(1.5)
    await jobs.resume(server.queue)
    await offender.set(queue=server.queue, priority=-1).later(blocks)
    took = [ms for _, ms in await asking]
    print(
        f"  a job blocks the loop for {blocks:g} s: {sum(ms > 100 for ms in took)} of {len(took)} requests over 100 ms, "
        f"the longest {max(took) / 1000:.2f} s; jobs.blockers() says:"
    )
    for each in await server.get("/blockers"):
        print("    " + each.strip().replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6] == "1")
    else:
        print(json.dumps(asyncio.run(load(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))))
