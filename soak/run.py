"""One run: set the stage, harm, heal, drain, and read what is left."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import orjson

from asyncjobs import Jobs
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs.embedded import Embedded
from soak import record
from soak.history import Recorder, read
from soak.jobs import QUEUES
from soak.record import Record, Times
from soak.schedule import draw, networked
from soak.stage import ROOT, SETTINGS, Stage, look_on, seats_of
from tests.faults.servers import Server
from tests.network import network

DRAINED = """
select (select count(*) from asyncjobs.live_jobs where id > 0) as jobs,
       (select count(*) from asyncjobs.runners) as runners"""


@attrs.frozen
class Plan:
    """What to do."""

    minutes: float
    seed: int
    processes: int
    rate: float
    every: float
    pace: float
    faults: frozenset[str] | None
    poison: bool

    @property
    def vigilance(self) -> Vigilance:
        """The protocol's times, at this pace."""
        given = Vigilance()
        return attrs.evolve(
            given,
            **{
                field.name: getattr(given, field.name) * self.pace
                for field in attrs.fields(Vigilance)
                if isinstance(getattr(given, field.name), float) and field.name != "answer"
            },
        )


async def soak(plan: Plan, folder: Path) -> Record:
    """Do it; all that is known then."""
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(folder, "stage", -1)
    vigilance = plan.vigilance
    times = Times(
        vigilance.look_every, vigilance.settle, vigilance.lease, vigilance.max_crashes, vigilance.alone
    )
    server = Server(Embedded(settings=SETTINGS, keep=False))
    await asyncio.to_thread(server.start)
    try:
        dsn = await _database(server)
        stage = Stage(server, dsn, folder, recorder, vigilance)
        recorder.note("config", **await _about(plan, dsn))
        async with AsyncExitStack() as stack:
            networks = {
                seat: await stack.enter_async_context(network(dsn))
                for seat in range(plan.processes)
                if networked(seat)
            }
            stage.seats = seats_of(plan.processes, dsn, networks)
            await _play(stage, plan, times)
        said = (folder / "said.txt").read_text(errors="replace")
        connection = await look_on(dsn)
        tables = await record.tables(connection, times, QUEUES, said)
        await connection.close()
    finally:
        await asyncio.to_thread(server.embedded.stop)
        recorder.close()
    record.save(tables, folder)
    return attrs.evolve(tables, events=read(folder))


async def _database(server: Server) -> str:
    admin = await asyncpg.connect(server.embedded.dsn())
    await admin.execute("create database soak")
    await admin.close()
    dsn = server.embedded.dsn("soak")
    await Jobs(dsn).migrate()
    connection = await asyncpg.connect(dsn)
    await connection.execute((Path(__file__).parent / "trail.sql").read_text())
    await connection.close()
    return dsn


async def _about(plan: Plan, dsn: str) -> dict[str, Any]:
    connection = await asyncpg.connect(dsn)
    version = await connection.fetchval("show server_version")
    await connection.close()
    told = orjson.loads(orjson.dumps(attrs.asdict(plan) | {"faults": sorted(plan.faults or ())}))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        **told,
        "commit": _commit(),
        "command": " ".join(["python -m soak", *sys.argv[1:]]),
        "postgres": version,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gigabytes": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _commit() -> str:
    """Of this checkout, if it is one."""
    with suppress(OSError, subprocess.CalledProcessError):
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return said.stdout.strip()
    return "unknown"


async def _play(stage: Stage, plan: Plan, times: Times) -> None:
    seconds = plan.minutes * 60
    harms = draw(plan.seed, seconds, plan.processes, plan.every, stage.vigilance, plan.faults)
    minders = [asyncio.create_task(stage.mind(seat)) for seat in stage.seats]
    config = {"seed": plan.seed, "rate": plan.rate, "poison": plan.poison}
    producer = stage.start("soak.producer", stage.dsn, str(stage.folder), json.dumps(config))
    try:
        stage.recorder.note("stage", "harm")
        began = time.monotonic()
        await stage.harm(harms)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        stage.recorder.note("stage", "healed")
        producer.send_signal(signal.SIGTERM)
        await asyncio.to_thread(producer.wait, 60)
        await _drain(stage, times)
        stage.recorder.note("stage", "drained")
        stage.closing = True
        for seat in stage.seats:
            if seat.process is not None and seat.process.poll() is None:
                stage.recorder.note("fault", "begin", kind="end", of=seat.occupant, seat=seat.number)
                seat.process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*minders), times.shutdown * 2 + 10)
    finally:
        stage.closing = True
        for process in [producer, *(seat.process for seat in stage.seats)]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for task in minders:
            task.cancel()


async def _drain(stage: Stage, times: Times) -> None:
    """Wait until every job is final and only who lives is a runner, as long as something happens that brings this nearer."""
    patience = times.rescue * 2 + 60
    fewest, deadline = float("inf"), time.monotonic() + patience
    while time.monotonic() < deadline:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            connection = await look_on(stage.dsn)
            try:
                while time.monotonic() < deadline:
                    left = await connection.fetchrow(DRAINED)
                    if left is not None and left["jobs"] == 0 and left["runners"] <= len(stage.seats):
                        return
                    if left is not None and left["jobs"] < fewest:
                        fewest, deadline = left["jobs"], time.monotonic() + patience
                    await asyncio.sleep(0.1)
            finally:
                connection.terminate()
        await asyncio.sleep(0.2)
