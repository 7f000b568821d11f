"""What becomes of jobs when something dies, in seconds: real processes, real kills, asyncjobs' own default times.

Times are the machine's monotonic clock, which its processes share. A *holder* runs a job that does not end by itself; a
*peer* has been there for longer than the settle rule asks, and ends the same job at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from asyncjobs import Jobs, current_job, job
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs.embedded import Embedded
from asyncjobs.embedded.watch import Postmaster
from bench.proxy import Proxy, proxy_to
from bench.server import SETTINGS, fresh_database
from tests.faults.cables import can_make_namespaces, laid_cable, server_at_the_cable

SETTLED = Vigilance().settle + 0.5

# The processes.

log = -1
ends_at_once = False


def say(word: str, name: str = "") -> None:
    os.write(log, f"{time.monotonic():.6f} {os.getpid()} {word} {name}\n".encode())


@job(kind="bench:held")
async def held(name: str, blocks: float = 0.0) -> None:
    """Begins, and ends when a peer runs it; blocks the loop for a while, if asked to."""
    say("START", name)
    try:
        if blocks:
            time.sleep(blocks)
        elif not ends_at_once:
            await asyncio.sleep(3600)
    except asyncio.CancelledError:
        say("CANCELLED", name)
        raise
    say("END", name)


async def work(dsn: str, own: str, **given: Any) -> None:
    """A process with a runner. It stops as an application does when it is told to; *own* is a job it enqueues itself."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with Jobs(dsn, slots=5, **given).running() as jobs:
        await jobs._supervisor.runner.connected()
        await jobs.work_off()
        say("READY")
        if own:
            await held.later(own)
        await stopping.wait()
    say("STOPPED")


@dataclass(eq=False)
class Worker:
    """Such a process, seen from here."""

    popen: subprocess.Popen[bytes]
    log: Path

    def said(self, word: str, name: str = "") -> list[float]:
        """When it said so."""
        lines = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return [
            float(at)
            for at, pid, what, whose in lines
            if int(pid) == self.popen.pid and what == word and name in ("", whose)
        ]

    async def hears(self, word: str, name: str = "", within: float = 120.0) -> float:
        """When it first said so, once it has."""
        end = time.monotonic() + within
        while not (said := self.said(word, name)):
            if time.monotonic() > end:
                raise TimeoutError(f"{word} {name}")
            await asyncio.sleep(0.005)
        return said[0]

    def signal(self, number: signal.Signals) -> float:
        """Send it; when."""
        at = time.monotonic()
        self.popen.send_signal(number)
        return at

    async def exits(self) -> float:
        """When it has."""
        while self.popen.poll() is None:
            await asyncio.sleep(0.002)
        return time.monotonic()


@dataclass(eq=False)
class Workers:
    """Those of one measurement."""

    dsn: str
    log: Path
    started: list[Worker] = field(default_factory=list)

    async def start(
        self, *, is_peer: bool, own: str = "", dsn: str = "", inside: Sequence[str] = (), **given: Any
    ) -> Worker:
        """One that is ready, on the machine that its command starts *inside* of."""
        config = {"dsn": dsn or self.dsn, "own": own, "ends_at_once": is_peer, **given}
        command = [*inside, sys.executable, "-m", "bench.recovery", str(self.log), json.dumps(config)]
        worker = Worker(subprocess.Popen(command), self.log)
        self.started.append(worker)
        await worker.hears("READY")
        return worker

    def starts(self, name: str) -> int:
        """How often the job began, anywhere."""
        return sum(len(worker.said("START", name)) for worker in self.started)


@asynccontextmanager
async def workers_on(dsn: str, *, own: bool = False) -> AsyncIterator[Workers]:
    """Processes on a fresh database of the server at *dsn*, or on the one named when the server is our *own*; all ended
    afterwards.
    """
    async with nullcontext(dsn) if own else fresh_database(dsn) as database:
        await Jobs(database).migrate()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log"
            path.touch()
            workers = Workers(database, path)
            try:
                yield workers
            finally:
                for worker in workers.started:
                    if worker.popen.poll() is None:
                        worker.popen.kill()
                    worker.popen.wait()


# The measurements.


async def killed(dsn: str, runs: int, **given: Any) -> list[float]:
    """From the SIGKILL of the process that runs a job to the job's START in a peer, which was idle."""
    waits = []
    async with workers_on(dsn) as workers:
        peer = await workers.start(is_peer=True, **given)
        await asyncio.sleep(SETTLED)
        for run in range(runs):
            name = f"killed {run}"
            holder = await workers.start(is_peer=False, own=name, **given)
            await holder.hears("START", name)
            await asyncio.sleep(0.3 + random.random())  # not in step with anybody's looks
            at = holder.signal(signal.SIGKILL)
            waits.append(await peer.hears("START", name) - at)
    return waits


async def lost(runs: int) -> list[float]:
    """From pulling the cable of the machine that runs a job to the job's START in a peer on another: nobody says a word. A
    machine is a network namespace here, which takes root.
    """
    waits = []
    for run in range(runs):
        with laid_cable() as cable:
            async with server_at_the_cable() as ends, workers_on(ends.near, own=True) as workers:
                name = f"lost {run}"
                peer = await workers.start(is_peer=True)
                await asyncio.sleep(SETTLED)
                there = await workers.start(is_peer=False, own=name, dsn=ends.far, inside=cable.inside)
                await there.hears("START", name)
                await asyncio.sleep(0.3 + random.random())
                at = time.monotonic()
                cable.pull()
                waits.append(await peer.hears("START", name) - at)
    return waits


@dataclass
class Terminated:
    """One SIGTERM."""

    exit: float  #: seconds from the signal to the end of the process
    start: float  #: from the moment its job had ended there to its START in a peer


async def terminated(dsn: str, runs: int) -> list[Terminated]:
    """SIGTERM to a process whose job will not end by itself: until it has exited, and from the job's end there (it is
    cancelled when its time is over) to its START in a peer. Raises AssertionError should an attempt be burnt.
    """
    found = []
    async with workers_on(dsn) as workers:
        peer = await workers.start(is_peer=True)
        connection = await asyncpg.connect(workers.dsn)
        for run in range(runs):
            name = f"terminated {run}"
            holder = await workers.start(is_peer=False, own=name)
            await holder.hears("START", name)
            at = holder.signal(signal.SIGTERM)
            exited = await holder.exits() - at
            started = await peer.hears("START", name)
            found.append(Terminated(exited, started - await holder.hears("CANCELLED", name)))
        await asyncio.sleep(1)
        assert (
            await connection.fetchval(
                "select count(*) from asyncjobs.jobs where attempt <> 1 or crashes <> 0"
            )
            == 0
        )
        await connection.close()
    return found


async def unheard(dsn: str, runs: int) -> list[float]:
    """From the commit of a job to its START, when the reply of the claim that takes it is lost and nothing else breaks."""
    waits = []
    async with workers_on(dsn) as workers, proxy_to(workers.dsn) as proxy, Jobs(workers.dsn) as jobs:
        only = await workers.start(is_peer=True, dsn=proxy.dsn)
        connection = await asyncpg.connect(workers.dsn)
        run = 0
        while len(waits) < runs:
            run += 1
            await held.set(jobs=jobs).later(
                f"before {run}"
            )  # so that it has just looked around, and claims next
            await only.hears("END", f"before {run}")
            await asyncio.sleep(0.3 + 0.4 * random.random())
            for line in proxy.claimers():
                line.loses_replies = True
            at = time.monotonic()
            handle = await held.set(jobs=jobs).later(f"unheard {run}")
            await asyncio.sleep(0.3)
            is_claimed = await connection.fetchval(
                "select runner is not null from asyncjobs.live_jobs where id = $1", handle.id
            )
            wait = await only.hears("START", f"unheard {run}") - at
            if is_claimed:  # else something else was said before the claim, and nothing was claimed
                waits.append(wait)
            await asyncio.sleep(0.5)
        await connection.close()
    return waits


@job(kind="bench:asks")
async def asks(name: str) -> None:
    """Waits for an answer in the middle of its transaction."""
    async with current_job().transaction() as connection:
        await connection.execute("select 1")
        started[name] = asyncio.current_task()
        await connection.execute("select pg_sleep(3600)")


@job(kind="bench:connects")
async def connects(name: str) -> None:
    """Waits for a connection."""
    started[name] = asyncio.current_task()
    await gates[name].wait()
    async with current_job().transaction():
        pass


started: dict[str, asyncio.Task[Any] | None] = {}
gates: dict[str, asyncio.Event] = {}


async def cancelled(dsn: str, runs: int) -> dict[str, list[float]]:
    """On a network that is dead, and says nothing: from the cancellation of a job (as somebody asked) to its task's end; in the
    middle of a statement of its transaction, and while it waits for a connection.
    """
    waits: dict[str, list[float]] = {"in a statement": [], "connecting": []}
    for run in range(runs):
        for where, what in (("in a statement", asks), ("connecting", connects)):
            async with fresh_database(dsn) as database, proxy_to(database) as proxy:
                await Jobs(database).migrate()
                name = f"{where} {run}"
                gates[name] = asyncio.Event()
                async with Jobs(proxy.dsn, shutdown_timeout=1.0).running() as jobs:
                    await what.later(name)
                    while name not in started:
                        await asyncio.sleep(0.01)
                    waits[where].append(await _cancel(jobs, proxy, name))
    return waits


async def _cancel(jobs: Jobs, proxy: Proxy, name: str) -> float:
    await asyncio.sleep(0.1)
    proxy.die()
    gates[name].set()
    await asyncio.sleep(0.2)
    (attempt,) = jobs._supervisor.runner._attempts.values()
    at = time.monotonic()
    attempt.stop("cancel")
    await asyncio.wait([attempt.task], timeout=60)
    took = time.monotonic() - at
    proxy.revive()
    return took


# Of a server of its own.


@contextmanager
def own_server() -> Iterator[Embedded]:
    """A server that may be stopped."""
    server = Embedded(dir=tempfile.mkdtemp(prefix="asyncjobs-bench-"), settings=SETTINGS, keep=False)
    server.start()
    try:
        yield server
    finally:
        with suppress(Exception):
            server.start()
        server.stop()


def stop(server: Embedded, how: signal.Signals) -> None:
    postmaster = Postmaster.of(server.dir)
    os.kill(postmaster.pid, how)
    while postmaster.lives():
        time.sleep(0.01)


@dataclass
class Outage:
    """One absence of Postgres."""

    first: float  #: seconds from its first answer to the START of a job that was stored after it
    waiting: float  #: to the START of one that had waited all the time
    burnt: int  #: attempts and crashes too many


async def outage(seconds: float) -> Outage:
    """Postgres is stopped for *seconds* while a process runs and idles, then started: until jobs start again."""
    with own_server() as server:
        async with workers_on(server.dsn(), own=True) as workers:
            only = await workers.start(is_peer=True)
            async with Jobs(workers.dsn) as jobs:
                await held.set(delay=seconds, jobs=jobs).later("waiting")
            await asyncio.sleep(1)
            await asyncio.to_thread(stop, server, signal.SIGINT)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.start)
            at = time.monotonic()
            async with Jobs(workers.dsn) as jobs:
                await held.set(jobs=jobs).later("first")
                first = await only.hears("START", "first") - at
                waiting = await only.hears("START", "waiting") - at
                await asyncio.sleep(1)
                async with jobs.connection() as connection:
                    burnt = await connection.fetchval(
                        "select coalesce(sum(attempt - 1 + crashes), 0)::int from asyncjobs.jobs"
                    )
    return Outage(first, waiting, burnt)


async def blocked(dsn: str, seconds: float) -> int:
    """How often a job that blocks its process' loop for *seconds* began besides the once that is right, a peer watching."""
    async with workers_on(dsn) as workers:
        await workers.start(is_peer=True)
        await asyncio.sleep(SETTLED)
        holder = await workers.start(is_peer=False)
        async with Jobs(workers.dsn) as jobs:
            name, starts = "", 0
            while not starts:  # until the holder takes it, not the peer
                name = f"blocks {random.random()}"
                handle = await held.set(jobs=jobs).later(name, blocks=seconds)
                await asyncio.sleep(2)
                starts = len(holder.said("START", name))
                if not starts:
                    await handle.result(timeout=seconds + 60)
            await handle.result(timeout=seconds + 60)
        await asyncio.sleep(3)
        return workers.starts(name) - 1


async def restarted(times: int) -> tuple[int, int]:
    """How often, over *times* immediate restarts of Postgres under three processes with twelve running jobs, a job began besides
    the once that is right; and how many attempts and crashes were counted too many.
    """
    with own_server() as server:
        async with workers_on(server.dsn(), own=True) as workers:
            for _ in range(3):
                await workers.start(is_peer=False)
            names = [f"job {number}" for number in range(12)]
            async with Jobs(workers.dsn) as jobs:
                for name in names:
                    await held.set(jobs=jobs).later(name)
            while sum(workers.starts(name) for name in names) < len(names):
                await asyncio.sleep(0.05)
            await asyncio.sleep(
                1
            )  # claims are committed asynchronously; what a crash forgets is another measurement
            for _ in range(times):
                await asyncio.to_thread(stop, server, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
                await asyncio.sleep(2 + random.random() * 2)
            await asyncio.sleep(SETTLED + 3)
            async with Jobs(workers.dsn) as jobs, jobs.connection() as connection:
                burnt = await connection.fetchval(
                    "select coalesce(sum(attempt - 1 + crashes), 0)::int from asyncjobs.jobs"
                )
            return sum(workers.starts(name) for name in names) - len(names), burnt


# Everything.

MEASUREMENTS = (
    "killed",
    "leases",
    "lost",
    "terminated",
    "unheard",
    "cancelled",
    "outage",
    "blocked",
    "restarts",
)


async def report(
    dsn: str, runs: int, *, only: tuple[str, ...], outage_seconds: float, block_seconds: float, restarts: int
) -> None:
    """Measure, and print."""
    names = only or MEASUREMENTS
    if "killed" in names:
        show("kill -9 to START on a peer, s", await killed(dsn, runs))
    if "leases" in names:
        waits = await killed(dsn, max(2, runs // 10), listen=False)
        show("kill -9 to START on a peer, where no lock is held, s", waits)
    if "lost" in names:
        if can_make_namespaces():
            show("its machine lost, to START on a peer, s", await lost(max(2, runs // 5)))
        else:
            print("its machine lost: not measured, for that takes root and network namespaces", flush=True)
    if "terminated" in names:
        found = await terminated(dsn, max(2, runs // 5))
        show("SIGTERM to exit with a job that does not end, s", [each.exit for each in found])
        show("its end there to its START on a peer, s", [each.start for each in found])
    if "unheard" in names:
        show("reply of its claim lost, enqueue to START, s", await unheard(dsn, max(2, runs // 4)))
    if "cancelled" in names:
        for where, waits in (await cancelled(dsn, max(2, runs // 5))).items():
            show(f"cancelled {where} on a dead network to returned, s", waits)
    if "outage" in names:
        found_one = await outage(outage_seconds)
        print(
            f"outage of {outage_seconds:g} s: first job {found_one.first:.2f} s after Postgres answers, the one that waited "
            f"{found_one.waiting:.2f} s; attempts burnt {found_one.burnt}",
            flush=True,
        )
    if "blocked" in names:
        print(
            f"loop blocked for {block_seconds:g} s: double runs {await blocked(dsn, block_seconds)}",
            flush=True,
        )
    if "restarts" in names:
        twice, burnt = await restarted(restarts)
        print(
            f"{restarts} immediate restarts of Postgres: double runs {twice}, attempts burnt {burnt}",
            flush=True,
        )


def show(what: str, values: list[float]) -> None:
    """Median, 99th percentile and the worst; with few runs the last two are the same."""
    ordered = sorted(values)
    tail = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(
        f"{what}: p50 {statistics.median(ordered):.2f}, p99 {tail:.2f}, max {ordered[-1]:.2f}, n {len(ordered)}",
        flush=True,
    )


if __name__ == "__main__":
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    config = json.loads(sys.argv[2])
    ends_at_once = config.pop("ends_at_once")
    asyncio.run(work(config.pop("dsn"), config.pop("own"), **config))
