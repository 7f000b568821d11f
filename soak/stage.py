"""The processes and the server of a run, and the nemesis that harms them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import attrs

from asyncjobs import Jobs
from asyncjobs._keeper.vigilance import Vigilance
from soak.history import Recorder
from soak.jobs import QUEUES
from soak.schedule import ON_SERVER, Harm, guarded, listens, networked
from tests.faults.servers import DURABLE, FAST, IMMEDIATE, Server
from tests.network import Network

ROOT = Path(__file__).parents[1]
SETTINGS = {**DURABLE, "autovacuum": "on", "autovacuum_naptime": "10s", "max_wal_size": "1GB"}
APPLICATION = "asyncjobs-soak"  #: the sessions of those who look on, which nobody harms

HARMED = f"""
    from pg_stat_activity
   where datname = current_database() and backend_type = 'client backend' and application_name <> '{APPLICATION}'
     and pid <> pg_backend_pid()"""


@attrs.define(eq=False)
class Seat:
    """The place of a runner; processes come and go."""

    number: int
    dsn: str
    network: Network | None
    process: subprocess.Popen[bytes] | None = None
    occupant: int = 0  #: the number of that process
    back_after: float = 0.2  #: seconds, when its process is gone
    busy: asyncio.Lock = attrs.field(factory=asyncio.Lock)  #: one harm at a time


@attrs.define(eq=False)
class Stage:
    """Everything that runs."""

    server: Server
    dsn: str
    folder: Path
    recorder: Recorder
    vigilance: Vigilance
    seats: list[Seat] = attrs.field(factory=list)
    healed: bool = False
    closing: bool = False
    restarting: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))  #: of processes

    # Processes.

    def start(self, module: str, *args: str) -> subprocess.Popen[bytes]:
        """A process of this run, whose bare words are kept: a process that is well says nothing."""
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default::ResourceWarning"}
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", module, *args], cwd=ROOT, env=environment, stdout=said, stderr=said
            )

    def seat_somebody(self, seat: Seat) -> None:
        seat.occupant = next(self.numbers)
        config = {
            "seat": seat.number,
            "number": seat.occupant,
            "listen": listens(seat.number),
            "guarded": guarded(seat.number),
            "vigilance": attrs.asdict(self.vigilance),
        }
        seat.process = self.start("soak.runner", seat.dsn, self.dsn, str(self.folder), json.dumps(config))
        seat.back_after = 0.2

    async def mind(self, seat: Seat) -> None:
        """Keep a process in the seat, for ever."""
        while not self.closing:
            self.seat_somebody(seat)
            process = seat.process
            assert process is not None
            while process.poll() is None:
                await asyncio.sleep(0.02)
            self.recorder.note("process", "gone", of=seat.occupant, seat=seat.number, code=process.returncode)
            if not self.closing:
                await asyncio.sleep(seat.back_after)

    # Harm.

    async def harm(self, plan: list[Harm]) -> None:
        """Do what was planned, each at its time; what lasts overlaps."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for harm in plan:
                await asyncio.sleep(max(0.0, began + harm.at - time.monotonic()))
                tasks.create_task(self._do(harm))

    async def _do(self, harm: Harm) -> None:
        if harm.seat is not None:
            async with self.seats[harm.seat].busy:
                await self._to_runner(harm, self.seats[harm.seat])
        elif harm.kind in ON_SERVER:
            async with self.restarting:
                await self._restart(harm)
        else:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await self._to_database(harm)

    def _note(self, harm: Harm, phase: str, of: int = 0) -> None:
        self.recorder.note("fault", phase, kind=harm.kind, of=of, seat=-1 if harm.seat is None else harm.seat)

    async def _to_runner(self, harm: Harm, seat: Seat) -> None:
        process = seat.process
        if process is None or process.poll() is not None:
            return
        occupant = seat.occupant
        self._note(harm, "begin", occupant)
        if harm.kind == "kill":
            seat.back_after = harm.seconds
            process.kill()
            await self._gone(process)
        elif harm.kind == "end":
            seat.back_after = harm.seconds / 3
            process.terminate()
            await self._gone(process)
        elif harm.kind == "freeze":
            process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(harm.seconds)
            finally:
                process.send_signal(signal.SIGCONT)
        elif seat.network is not None and harm.kind == "cut":
            seat.network.cut()
        elif seat.network is not None:
            seat.network.swallow()
            try:
                await asyncio.sleep(harm.seconds)
            finally:
                seat.network.restore()
        self._note(harm, "end", occupant)

    async def _gone(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            await asyncio.sleep(0.02)

    async def _restart(self, harm: Harm) -> None:
        self._note(harm, "begin")
        await asyncio.to_thread(self.server.stop, FAST if harm.kind == "restart-fast" else IMMEDIATE)
        await asyncio.sleep(harm.seconds)
        await asyncio.to_thread(self.server.start)
        self._note(harm, "end")

    async def _to_database(self, harm: Harm) -> None:
        connection = await look_on(self.dsn)
        dice = random.Random(harm.dice)
        try:
            self._note(harm, "begin")
            if harm.kind in ("terminate", "interrupt"):
                what = "pg_terminate_backend" if harm.kind == "terminate" else "pg_cancel_backend"
                await connection.fetch(f"select {what}(pid) {HARMED} and random() < 0.5")
            elif harm.kind == "terminate-one":
                await connection.fetch(
                    f"select pg_terminate_backend(pid) from (select pid {HARMED} order by random() limit 1) one"
                )
            elif harm.kind == "vacuum":
                await connection.execute("vacuum analyze asyncjobs.live_jobs")
            elif harm.kind == "hold":
                async with connection.transaction(isolation="repeatable_read"):
                    await connection.fetchval(
                        "select pg_current_xact_id(), count(*) from asyncjobs.live_jobs"
                    )
                    await asyncio.sleep(harm.seconds)
            elif harm.kind == "pause":
                await self._pause(dice.choice(list(QUEUES)), harm.seconds)
        finally:
            self._note(harm, "end")
            connection.terminate()

    async def _pause(self, queue: str, seconds: float) -> None:
        async with Jobs(self.dsn) as jobs:
            await jobs.pause(queue)
        await asyncio.sleep(seconds)
        while True:
            with suppress(Exception):
                async with Jobs(self.dsn) as jobs:
                    await jobs.resume(queue)
                return
            await asyncio.sleep(0.2)


async def look_on(dsn: str) -> asyncpg.Connection:
    """A connection that nobody harms."""
    connection: asyncpg.Connection = await asyncpg.connect(
        dsn, server_settings={"application_name": APPLICATION}, timeout=10, command_timeout=120
    )
    return connection


def seats_of(number: int, dsn: str, networks: dict[int, Network]) -> list[Seat]:
    """Every other one behind a network of its own."""
    return [
        Seat(seat, networks[seat].dsn if networked(seat) else dsn, networks.get(seat))
        for seat in range(number)
    ]
