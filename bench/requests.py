"""What a saturating load of jobs does to the requests of the web process they run in, and what a job that blocks it does.

Three processes: a FastAPI application under uvicorn, whose jobs run in its lifespan; a load generator that sends requests
at a fixed rate, and counts a request's time from when it was due (a late answer delays no other question); and this one,
which enqueues. The same server answers with and without jobs, in turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from asyncjobs import Jobs, job

CONNECTIONS = 16
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


def application(dsn: str, slots: int | None, guarded: bool) -> Any:
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        global pool
        async with asyncpg.create_pool(dsn, min_size=20, max_size=20) as pool:
            given: dict[str, Any] = {} if guarded else {"guard": None}
            async with Jobs(pool=pool, slots=slots, **given).running() as jobs:
                app.state.jobs = jobs
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/stations/{country}")
    async def stations(country: int) -> list[dict[str, Any]]:
        return [dict(row) for row in await pool.fetch(QUERY, country)]

    @app.get("/ran")
    async def count() -> dict[str, Any]:
        return {"ran": ran, "at": time.monotonic()}

    @app.get("/blockers")
    async def blockers() -> list[str]:
        return [f"{each}\n{each.stack}" for each in app.state.jobs.blockers()]

    return app


def serve(dsn: str, port: int, slots: int | None, guarded: bool) -> None:
    import uvicorn

    uvicorn.run(application(dsn, slots, guarded), host="127.0.0.1", port=port, log_level="warning", loop="asyncio")


# The load generator.


async def load(port: int, rate: float, seconds: float) -> list[float]:
    """Milliseconds of each request, from when it was due."""
    due: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    took: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            number, at = await due.get()
            writer.write(b"GET /stations/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % (number % 200))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append((time.monotonic() - at) * 1000)

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


class Served:
    """The server, and how to load it."""

    def __init__(self, dsn: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.dsn, self.port, self.process, self.log = dsn, port, process, log
        self.number = 0

    async def get(self, path: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            return json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        finally:
            writer.close()

    async def requests(self, rate: float, seconds: float) -> list[float]:
        command = [sys.executable, "-m", "bench.requests", "load", str(self.port), str(rate), str(seconds)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        answer, _ = await process.communicate()
        took: list[float] = json.loads(answer)
        return took

    @asynccontextmanager
    async def jobs(self, count: int) -> AsyncIterator[None]:
        """A load of jobs that lasts; what is left of it stays in a paused queue."""
        self.number += 1
        queue = f"load{self.number}"
        async with Jobs(self.dsn) as jobs:
            await jobs.pause(queue)
            for first in range(0, count, 5000):
                await jobs.enqueue_many(io.set(queue=queue).prepare(i) for i in range(first, min(first + 5000, count)))
            await jobs.resume(queue)
            before = (await self.get("/ran"))["ran"]
            while (await self.get("/ran"))["ran"] == before:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)  # the beginning is not what lasts
            try:
                yield
            finally:
                await jobs.pause(queue)
                while True:
                    first = (await self.get("/ran"))["ran"]
                    await asyncio.sleep(0.3)
                    if (await self.get("/ran"))["ran"] == first:
                        break

    async def rate(self, during: Any) -> tuple[float, Any]:
        """Jobs per second while *during* is awaited, and what that gave."""
        before = await self.get("/ran")
        said = await during
        after = await self.get("/ran")
        return (after["ran"] - before["ran"]) / (after["at"] - before["at"]), said


@asynccontextmanager
async def served(dsn: str, slots: int | None, guarded: bool, directory: Path) -> AsyncIterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = directory / "server.log"
    command = [sys.executable, "-m", "bench.requests", "serve", dsn, str(port), str(slots or 0), str(int(guarded))]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        server = Served(dsn, port, process, log)
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
    dsn: str, pairs: int, *, rate: float, seconds: float, slots: int | None, guarded: bool, directory: Path, spread: Any
) -> None:
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    await connection.execute(SCHEMA)
    await connection.close()
    async with served(dsn, slots, guarded, directory) as server:
        await server.requests(rate, 2)  # warm
        rows = []
        for number in range(pairs):
            found: dict[str, Any] = {}
            for phase in ("without", "with", "alone") if number % 2 == 0 else ("alone", "with", "without"):
                if phase == "without":
                    found["without"] = await server.requests(rate, seconds)
                elif phase == "with":
                    async with server.jobs(int(2500 * (seconds + 4))):
                        found["beside"], found["with"] = await server.rate(server.requests(rate, seconds))
                else:
                    async with server.jobs(int(2500 * (seconds + 3))):
                        found["alone"], _ = await server.rate(asyncio.sleep(seconds))
            rows.append(found)
        print(
            f"requests: FastAPI under uvicorn, {rate:g} requests/s for {seconds:g} s a run, {pairs} pairs; "
            f"jobs that wait {PAUSE * 1000:g} ms and query, {slots or 20} slots, guard {'on' if guarded else 'off'}"
        )
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            without = [p(row["without"], part) for row in rows]
            beside = [p(row["with"], part) for row in rows]
            ratio = [b / a for a, b in zip(without, beside, strict=True)]
            print(
                f"  {name} ms  without jobs {spread(without, '.1f')}, with {spread(beside, '.1f')}; ratio {spread(ratio, '.2f')}"
            )
        alone, beside = [row["alone"] for row in rows], [row["beside"] for row in rows]
        share = [b / a for a, b in zip(alone, beside, strict=True)]
        print(
            f"  jobs/s  alone {spread(alone, ',.0f')}, beside requests {spread(beside, ',.0f')}; share {spread(share, '.2f')}",
            flush=True,
        )
        await offend(server, rate, 5.0)


async def offend(server: Served, rate: float, blocks: float) -> None:
    """One job blocks the loop: what requests see of it, and what is said of it."""
    async with Jobs(server.dsn) as jobs:
        asking = asyncio.create_task(server.requests(rate, blocks + 4))
        await asyncio.sleep(1.5)
        await offender.later(blocks)
        took = await asking
    print(
        f"  a job blocks the loop for {blocks:g} s: {sum(ms > 100 for ms in took)} of {len(took)} requests over 100 ms, "
        f"the longest {max(took) / 1000:.2f} s; said of it:"
    )
    for each in await server.get("/blockers"):
        print("    " + each.replace("\n", "\n    "))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None, sys.argv[5] == "1")
    else:
        print(json.dumps(asyncio.run(load(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))))
