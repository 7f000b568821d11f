"""Play the demo: start Postgres and the web application, be its users, and check what it did."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg
import httpx
import uvicorn

from asyncjobs import Connection, Jobs
from asyncjobs.demo import airfields
from asyncjobs.demo.airfields import Countries
from asyncjobs.demo.check import check
from asyncjobs.demo.progress import BriefLog, Show, progress
from asyncjobs.embedded import Embedded, EmbeddedUnavailable

INTERRUPTED = 130  #: what a shell calls the end by Ctrl-C
PATIENCE = 60.0  #: seconds in which nothing is finished, after which the demo says what is missing
MOST_FAULTS = 20  #: lines


def play(*, once: bool, spoil: str | None, port: int) -> int:
    """See `asyncjobs.demo.run`."""
    logging.basicConfig(level=logging.WARNING, handlers=[BriefLog()])
    # A shell has its background jobs ignore SIGINT; `kill` is then the way, and no worse than Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    countries = airfields.by_country()
    if spoil is not None and spoil not in countries:
        print(f"--break {spoil}: the data set has no such country; try IS", file=sys.stderr)
        return 2
    try:
        door = _listen(port)
    except OSError as error:
        print(f"cannot serve on port {port}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        print("Starting a Postgres for this demo alone; it is deleted afterwards.", flush=True)
        with door, Embedded(keep=False).running() as dsn:
            right = asyncio.run(_play(dsn, door, countries, spoil=spoil, once=once))
    except KeyboardInterrupt:
        print("Interrupted.", flush=True)
        return INTERRUPTED if once else 0
    except EmbeddedUnavailable as error:
        print(f"the demo cannot start: {error}", file=sys.stderr)
        return 1
    return 0 if right else 1


def _listen(port: int) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", port))
    # asyncio does this only where a socket names its protocol; without, an answer may wait 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


async def _play(
    dsn: str, door: socket.socket, countries: Countries, *, spoil: str | None, once: bool
) -> bool:
    await Jobs(dsn).migrate()
    db = await asyncpg.connect(dsn)
    await airfields.load(db, countries)
    if spoil is not None:
        await airfields.spoil(db, spoil)
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    print(f"The application serves {url} and runs its jobs in the same process.", flush=True)
    async with _serving(dsn, door) as stopped:
        with progress(len(countries), sum(map(len, countries.values()))) as show:
            async with asyncio.TaskGroup() as users:
                users.create_task(_request_exports(url, countries))
                await _follow(db, len(countries), show)
        right = await _report(db, countries)
        if not once:
            print(f"Look at {url}, or curl -X POST {url}/tenants/IS/exports; Ctrl-C stops.", flush=True)
            with suppress(asyncio.CancelledError):  # what Ctrl-C becomes, when the server has stopped for it
                await stopped
            print("Stopped.", flush=True)
    await db.close()
    return right


@asynccontextmanager
async def _serving(dsn: str, door: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """The application, served. Gives what ends when a signal has stopped the server; stops it otherwise."""
    os.environ["DATABASE_URL"] = dsn
    config = uvicorn.Config("asyncjobs.demo.app:app", log_config=None, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[door]))
    try:
        yield serving
    finally:
        server.should_exit = True
        await asyncio.wait([serving])


async def _request_exports(url: str, tenants: Iterable[str]) -> None:
    # Not by the proxies of the environment: our loopback is not theirs.
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        for tenant in tenants:
            response = await client.post(f"/tenants/{tenant}/exports")
            response.raise_for_status()


async def _follow(db: Connection, exports: int, show: Show) -> None:
    """Show how the jobs get on, until all are final or nothing moves any more."""
    clock = asyncio.get_running_loop().time
    done, moved_at = -1, clock()
    while done < exports and clock() - moved_at < PATIENCE:
        now_done = await db.fetchval("select count(*) from asyncjobs.jobs where finished_at is not null")
        if now_done != done:
            done, moved_at = now_done, clock()
        show(done, await db.fetchval("select coalesce(sum(stations), 0) from exports"))
        await asyncio.sleep(0.1)


async def _report(db: Connection, countries: Countries) -> bool:
    """Say what is wrong, if anything, and how many jobs did what."""
    faults = await check(db, countries)
    for fault in faults[:MOST_FAULTS]:
        print(fault)
    if more := len(faults[MOST_FAULTS:]):
        print(f"… and {more} more")
    if not faults:
        print("Read back from Postgres: every station of every country, as the data set has it.")
    completed, failed = await db.fetchrow("""
        select count(*) filter (where state = 'completed'), count(*) filter (where state = 'failed')
          from asyncjobs.jobs
    """)
    print(f"{completed} jobs completed, {failed} failed", flush=True)
    return not faults
