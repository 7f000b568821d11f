"""Postgres goes away and comes back, connections break, our own code fails: the jobs end as they should all the same."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import Constant, DatabaseUnavailable, Handle, Jobs, JobState, Later
from asyncjobs._engine.claimer import Claimer
from asyncjobs._engine.completer import Completer
from asyncjobs._guard.watch import Watch
from asyncjobs._keeper.keeper import Keeper
from asyncjobs._keeper.thread import KeeperThread
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._runner.attempts import Attempts
from asyncjobs._runner.runner import Runner
from asyncjobs._store.claims import finish_jobs
from asyncjobs._upkeep.janitor import Janitor
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from asyncjobs.embedded.watch import Postmaster
from tests.waiting import eventually, eventually_async

pytestmark = pytest.mark.timeout(120)

S = JobState
BACK_WITHIN = 5.0  #: seconds from Postgres' return to the first job
ALERT = Vigilance(look_every=0.2, settle=0.4)

FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT  # what `pg_ctl stop -m fast` and `-m immediate` send
DURABLE = {**TEST_SETTINGS, "synchronous_commit": "on", "full_page_writes": "on"}
KEEPERS_LOCK, CLAIMERS_LOCK = 1634364780, 1634364777


class Server:
    """A Postgres that can be stopped, and started again with what it had."""

    def __init__(self) -> None:
        self.embedded = Embedded(settings=DURABLE, keep=False)
        self.numbers = itertools.count()
        self.embedded.start()

    def stop(self, how: signal.Signals = FAST) -> None:
        postmaster = Postmaster.of(self.embedded.dir)
        assert postmaster is not None
        os.kill(postmaster.pid, how)
        eventually(lambda: not postmaster.lives())

    def start(self) -> None:
        self.embedded.start()

    async def database(self) -> str:
        name = f"outage_{next(self.numbers)}"
        admin = await asyncpg.connect(self.embedded.dsn())
        await admin.execute(f"create database {name}")
        await admin.close()
        dsn = self.embedded.dsn(name)
        await Jobs(dsn).migrate()
        return dsn


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.embedded.stop()


@pytest.fixture
async def away(server: Server) -> AsyncIterator[str]:
    """The DSN of a database on a server that tests may stop; it runs again afterwards."""
    yield await server.database()
    await asyncio.to_thread(server.start)


# Jobs


@attrs.define
class Witness:
    """What jobs tell the test, and the test them."""

    ran: Counter[int] = attrs.field(factory=Counter)
    let_go: asyncio.Event = attrs.field(factory=asyncio.Event)
    thread_may_end: threading.Event = attrs.field(factory=threading.Event)


witness: Witness


@pytest.fixture(autouse=True)
async def new_witness() -> AsyncIterator[None]:
    global witness
    witness = Witness()
    yield
    witness.let_go.set()
    witness.thread_may_end.set()


@attrs.frozen
class Task(Later, kind="outages:Task", max_attempts=3, backoff=Constant(0.2)):
    """One of many."""

    number: int

    async def quick(self) -> int:
        witness.ran[self.number] += 1
        await asyncio.sleep(0.005)
        return self.number

    async def hold(self) -> int:
        witness.ran[self.number] += 1
        await witness.let_go.wait()
        return self.number

    def hold_sync(self) -> int:
        witness.ran[self.number] += 1
        witness.thread_may_end.wait(60)
        return self.number

    async def fail_once(self) -> int:
        witness.ran[self.number] += 1
        await witness.let_go.wait()
        if witness.ran[self.number] == 1:
            raise ValueError("the first time")
        return self.number


async def begun(count: int) -> None:
    async def all_of_them() -> bool:
        return len(witness.ran) >= count

    await eventually_async(all_of_them)


async def first_job(jobs: Jobs, number: int) -> float:
    """Seconds until a job that is enqueued as soon as Postgres answers has run."""
    started = time.monotonic()
    while True:
        with suppress(DatabaseUnavailable):
            handle = await Task(number).later("quick", jobs=jobs)
            break
        await asyncio.sleep(0.02)

    async def has_run() -> bool:
        return bool(witness.ran[number])

    await eventually_async(has_run)
    took = time.monotonic() - started
    assert await handle.result(timeout=10) == number
    return took


async def degraded(jobs: Jobs) -> None:
    async def is_degraded() -> bool:
        return jobs.is_degraded

    await eventually_async(is_degraded)


async def recovered(jobs: Jobs) -> None:
    async def is_back() -> bool:
        return not jobs.is_degraded

    await eventually_async(is_back)


# Postgres


@pytest.mark.failure_mode("F35")
async def test_it_starts_without_postgres_and_works_when_it_comes(server: Server, away: str) -> None:
    """Down at the start: the application starts, says it is degraded, refuses to enqueue, and recovers by itself."""
    await asyncio.to_thread(server.stop)
    started = time.monotonic()
    async with Jobs(away).running() as jobs:
        assert time.monotonic() - started < 3
        assert jobs.is_degraded
        with pytest.raises(DatabaseUnavailable):
            await Task(1).later("quick")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        assert await first_job(jobs, 2) < BACK_WITHIN
        assert not jobs.is_degraded
    assert witness.ran == {2: 1}


@pytest.mark.failure_mode("F55")
@pytest.mark.parametrize("how", [FAST, IMMEDIATE], ids=["fast", "immediate"])
async def test_jobs_outlive_a_restart_of_postgres(server: Server, away: str, how: signal.Signals) -> None:
    """Jobs that run go on, what ends meanwhile is written afterwards, and nothing is run twice or burnt."""
    async with Jobs(away, slots=12).running() as jobs:
        held = [await Task(number).later("hold") for number in range(6)]
        threaded = await Task(6).later("hold_sync")
        failing = await Task(7).later("fail_once")
        await begun(8)
        waiting = [await Task(8).later("quick", delay=2), await Task(9).later("quick", queue="paused")]
        await asyncio.sleep(0.8)  # the claims are on disk: what is lost of a claim is another test
        assert not jobs.is_degraded
        await asyncio.to_thread(server.stop, how)
        await degraded(jobs)
        witness.let_go.set()
        witness.thread_may_end.set()
        await asyncio.sleep(0.2)
        assert jobs.is_degraded
        with pytest.raises(DatabaseUnavailable):
            await Task(99).later("quick")
        await asyncio.to_thread(server.start)
        assert await first_job(jobs, 100) < BACK_WITHIN
        await recovered(jobs)
        for handle in [*held, threaded, *waiting]:
            await handle.result(timeout=10)
            done = await handle.job()
            assert (done.state, done.attempt, done.crashes, done.errors) == (S.COMPLETED, 1, 0, ())
        assert await failing.result(timeout=10) == 7
        assert [error.error for error in (await failing.job()).errors] == ["ValueError: the first time"]
    assert witness.ran == Counter({7: 2, 100: 1, **dict.fromkeys([*range(7), 8, 9], 1)})


async def backends(admin: asyncpg.Connection[Any], which: str) -> list[int]:
    """The server processes of this database's other connections, by what they are for."""
    everybody = {
        row["pid"]
        for row in await admin.fetch(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
    }
    holding = "select distinct pid from pg_locks where locktype = 'advisory' and classid = $1::bigint::oid and granted"
    keeper = {row["pid"] for row in await admin.fetch(holding, KEEPERS_LOCK)} & everybody
    claimer = {row["pid"] for row in await admin.fetch(holding, CLAIMERS_LOCK)} & everybody
    found = {"keeper": keeper, "claimer": claimer, "others": everybody - keeper - claimer, "all": everybody}[
        which
    ]
    return sorted(found)


@pytest.mark.failure_mode("F39", "F40")
@pytest.mark.parametrize("which", ["keeper", "claimer", "others", "all"])
async def test_jobs_outlive_their_runners_connections(dsn: str, which: str) -> None:
    """Each connection, and all of them, may be terminated again and again: every job runs once, and completes."""
    admin = await asyncpg.connect(dsn)
    handles: list[Handle[int]] = []
    async with Jobs(dsn, slots=10).running() as jobs:
        held = await Task(-1).later("hold")
        await begun(1)
        numbers = itertools.count()
        killed = 0
        for _ in range(4):
            for pid in await eventually_async(lambda: backends(admin, which)):
                killed += await admin.fetchval("select pg_terminate_backend($1)::int", pid)
            for number in itertools.islice(numbers, 25):
                with suppress(DatabaseUnavailable):
                    handles.append(await Task(number).later("quick"))
        assert killed >= 3
        assert await first_job(jobs, 10_000) < BACK_WITHIN
        await recovered(jobs)
        witness.let_go.set()
        for handle in [held, *handles]:
            await handle.result(timeout=10)
            done = await handle.job()
            assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
        assert len(await backends(admin, "keeper")) == 1
    assert set(witness.ran.values()) == {1}
    await admin.close()


@pytest.mark.failure_mode("F49")
async def test_a_runner_opens_three_connections(dsn: str) -> None:
    """Beside what the application's enqueueing needs."""
    admin = await asyncpg.connect(dsn)
    async with Jobs(dsn).running() as jobs:
        await jobs.work_off()
        await first_job(jobs, 1)
        await jobs._own_source.close()  # the pool of our own
        await eventually_async(lambda: _are_three(admin))  # one that was closed ends a moment later
    await admin.close()


async def _are_three(admin: asyncpg.Connection) -> bool:
    return len(await backends(admin, "all")) == 3


async def _has_let_go(runner: Runner) -> bool:
    return not runner.held()


@pytest.mark.failure_mode("F44")
async def test_a_finish_whose_reply_is_lost_is_found(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection breaks between the commit and its answer: written again, it is seen to have been written."""
    lost: list[int] = []

    async def finish_and_lose_the_reply(*args: Any) -> Any:
        written = await finish_jobs(*args)
        if not lost:
            lost.extend(written)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return written

    monkeypatch.setattr("asyncjobs._engine.completer.finish_jobs", finish_and_lose_the_reply)
    async with Jobs(dsn).running() as jobs:
        handle = await Task(1).later("quick")
        assert await handle.result(timeout=10) == 1
        assert await first_job(jobs, 2) < BACK_WITHIN
        assert jobs._supervisor is not None
        runner = jobs._supervisor.runner
        # The result of a job is told by its commit, which may be heard before the completer has its own answer.
        await eventually_async(lambda: _has_let_go(runner))
    assert lost == [handle.id]
    assert witness.ran == {1: 1, 2: 1}
    assert "taken from this runner" not in caplog.text


async def test_a_finish_that_meets_a_change_of_name_is_made_under_the_next(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner may become another incarnation while it writes, twice over: the job stays its own until it is written."""
    names: list[int] = []

    async def finish_after_a_change(session: Any, incarnation: int, finished: Any) -> Any:
        if len(names) < 2:
            names.append(incarnation)
            identity.doubt()
            await identity.known()
        return await finish_jobs(session, incarnation, finished)

    monkeypatch.setattr("asyncjobs._engine.completer.finish_jobs", finish_after_a_change)
    async with Jobs(dsn).running() as jobs:
        assert jobs._supervisor is not None
        identity = jobs._supervisor.runner._identity
        handle = await Task(1).later("quick")
        assert await handle.result(timeout=10) == 1
        assert (await handle.job()).attempt == 1
    assert len(set(names)) == 2
    assert witness.ran == {1: 1}


# Stopping while Postgres is away


async def test_it_stops_in_time_while_postgres_is_away(
    server: Server, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is said, and rescued when Postgres is back; the budget holds."""
    async with Jobs(away, shutdown_timeout=1.6).running() as jobs:
        handles = [await Task(number).later(how) for number, how in enumerate(["hold", "hold", "fail_once"])]
        await begun(3)
        await asyncio.sleep(0.8)
        await asyncio.to_thread(server.stop, FAST)
        await degraded(jobs)
        started = time.monotonic()
    assert time.monotonic() - started < 1.6 + 0.7
    assert "what 3 jobs came to could not be written" in caplog.text
    await asyncio.to_thread(server.start)
    witness.let_go.set()
    async with Jobs(away, vigilance=ALERT).running() as jobs:
        for handle in handles:
            assert await jobs.handle(handle.id).result(timeout=20) in range(3)


@attrs.define
class Wire:
    """A TCP port that leads to the server, until it is frozen: then bytes go nowhere, and nobody is told."""

    dsn: str = ""
    flows: asyncio.Event = attrs.field(factory=asyncio.Event)
    ends: list[asyncio.StreamWriter] = attrs.field(factory=list)

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Any) -> None:
        """Carry both ways, until either end is closed."""
        self.ends.append(writer)
        await self.flows.wait()
        if isinstance(address, str):
            further, back = await asyncio.open_unix_connection(address)
        else:
            further, back = await asyncio.open_connection(*address)
        self.ends.append(back)
        async with asyncio.TaskGroup() as both:
            both.create_task(self.carry(reader, back))
            both.create_task(self.carry(further, writer))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def wire_to(dsn: str) -> AsyncIterator[Wire]:
    """A wire to the server of *dsn*, with a DSN of its own."""
    probe = await asyncpg.connect(dsn)
    address: Any = probe._addr  # type: ignore[attr-defined]
    database, user = [
        await probe.fetchval(f"select {what}") for what in ("current_database()", "current_user")
    ]
    await probe.close()
    wire, tasks = Wire(), set[asyncio.Task[None]]()
    wire.flows.set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(wire.lead(reader, writer, address)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    wire.dsn = f"postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable"
    try:
        yield wire
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in wire.ends:
            end.transport.abort()
            with suppress(OSError):
                await end.wait_closed()


@pytest.mark.failure_mode("F41")
async def test_it_notices_a_dead_network_and_comes_back(dsn: str) -> None:
    """Nothing answers and nothing is refused: the keeper's patience ends, jobs run on, and all is well when it returns."""
    async with wire_to(dsn) as wire, Jobs(wire.dsn, vigilance=Vigilance(answer=0.5)).running() as jobs:
        held = await Task(1).later("hold")
        await begun(1)
        wire.flows.clear()
        await degraded(jobs)
        witness.let_go.set()
        await asyncio.sleep(0.5)
        wire.flows.set()
        assert await first_job(jobs, 2) < BACK_WITHIN + 5
        assert await held.result(timeout=20) == 1
    assert witness.ran == {1: 1, 2: 1}


@pytest.mark.failure_mode("F20")
async def test_it_stops_in_time_on_a_dead_network(dsn: str) -> None:
    """No goodbye is waited for that will not be answered."""
    async with wire_to(dsn) as wire:
        async with Jobs(wire.dsn, shutdown_timeout=1.6).running():
            handle = await Task(1).later("hold")
            await begun(1)
            wire.flows.clear()
            started = time.monotonic()
        assert time.monotonic() - started < 1.6 + 2
    async with Jobs(dsn) as jobs:
        assert await jobs.handle(handle.id).status() is S.RUNNING


# Our own faults


class Fault(BaseException):
    """Not even an Exception."""


@pytest.mark.failure_mode("F21", "F36")
@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (Claimer, RuntimeError("a bug")),
        (Completer, Fault("a bug")),
        (KeeperThread, RuntimeError("a bug")),
        (Watch, RuntimeError("a bug")),
        *(
            (part, asyncio.CancelledError("a bug"))
            for part in (Claimer, Completer, Keeper, KeeperThread, Janitor, Watch)
        ),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else repr(each),
)
async def test_a_fault_of_the_runner_never_reaches_the_application(
    dsn: str,
    part: Any,
    fault: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whichever loop fails, however: it is said at CRITICAL, the runner goes on, and so does what it runs."""
    run = part.run
    fall = asyncio.Event()
    fell: list[bool] = []

    async def falling(self: Any) -> None:
        if fell:
            await run(self)
            return
        running = asyncio.create_task(run(self))
        try:
            await fall.wait()
            fell.append(True)
            raise fault
        finally:
            running.cancel()

    monkeypatch.setattr(part, "run", falling)
    application = asyncio.current_task()
    assert application is not None
    async with Jobs(dsn, slots=4).running() as jobs:
        held = [await Task(1).later("hold"), await Task(2).later("hold_sync")]
        await begun(2)
        fall.set()

        async def is_said() -> bool:
            return any(record.levelno == logging.CRITICAL for record in caplog.records)

        await eventually_async(is_said)
        assert await first_job(jobs, 3) < BACK_WITHIN
        assert [await handle.status() for handle in held] == [S.RUNNING, S.RUNNING]
        witness.let_go.set()
        witness.thread_may_end.set()
        assert [await handle.result(timeout=10) for handle in held] == [1, 2]
        for handle in held:
            done = await handle.job()
            assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert application.cancelling() == 0
    assert witness.ran == {1: 1, 2: 1, 3: 1}


@pytest.mark.failure_mode("F21", "F36")
async def test_a_fault_that_comes_again_and_again_is_borne(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A runner that cannot run at all says so, with growing pauses, and does not keep the application from stopping."""

    async def fail(self: Claimer) -> None:
        raise RuntimeError("always")

    monkeypatch.setattr(Claimer, "run", fail)
    async with Jobs(dsn, shutdown_timeout=1.6).running():
        await Task(1).later("quick")
        await asyncio.sleep(1)
        started = time.monotonic()
    assert time.monotonic() - started < 1.6 + 0.7
    said = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert 2 <= len(said) <= 6


async def test_a_job_that_could_not_be_begun_is_not_lost(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours between claim and begin: the job goes back, unburnt, and no slot is lost with it."""
    run, failed = Attempts._run, list[int]()

    def fail_twice(self: Attempts, attempt: Any, pool: Any) -> Any:
        if len(failed) < 2:
            failed.append(attempt.job.id)
            raise RuntimeError("a bug")
        return run(self, attempt, pool)

    monkeypatch.setattr(Attempts, "_run", fail_twice)
    async with Jobs(dsn, slots=1).running():
        handle = await Task(1).later("quick")
        assert await handle.result(timeout=10) == 1
        assert (await handle.job()).attempt == 1
        other = await Task(2).later("quick")
        assert await other.result(timeout=10) == 2
    assert len(failed) == 2
    assert "RuntimeError: a bug" in caplog.text
