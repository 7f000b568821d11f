"""The keeper, whatever the application's loop is doing; and claims whose reply is lost while the process lives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import psycopg
import pytest

from asyncjobs import Jobs, current_job, job
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.runners import list_runners
from bench.proxy import Line, Proxy, proxy_to
from tests.connections import engine_on
from tests.engine.running import runner_of, running, watching
from tests.faults.processes import ALERT, Processes, fault
from tests.store.jobs import RUNNER, claim, enter, live, new_job, store
from tests.waiting import eventually, eventually_async

QUICK = Vigilance(look_every=0.05, settle=0.2, lease=2.0, renew_every=0.05, answer=2.0, reconcile_every=0.15)
"""A tenth of a keeper's own times."""

FINISHES = b'insert into "asyncjobs".finished_jobs'  # what only a completer's connection says

started: Counter[str] = Counter()
ended: Counter[str] = Counter()
cancelled: dict[str, float] = {}
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    started.clear()
    ended.clear()
    cancelled.clear()
    gate = asyncio.Event()


@job(kind="keeper_thread:hold")
async def hold(name: str) -> str:
    started[name] += 1
    try:
        await gate.wait()
    except asyncio.CancelledError:
        cancelled[name] = time.monotonic()
        raise
    ended[name] += 1
    return name


@job(kind="keeper_thread:note")
async def note(name: str) -> None:
    """Done at once."""


@job(kind="keeper_thread:ask")
async def ask(name: str) -> None:
    async with current_job().transaction() as connection:
        await connection.execute("select 1")
        started[name] += 1
        await connection.execute("select pg_sleep(3600)")


async def begun(name: str, times: int = 1) -> None:
    async def has() -> bool:
        return started[name] == times

    await eventually_async(has)


def block_until(fact: Callable[[psycopg.Connection[Any]], object], dsn: str) -> None:
    """Block this loop, until a thread with a connection of its own has seen *fact*."""
    failure: list[BaseException] = []

    def see() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                eventually(lambda: fact(connection), within=10)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=see)
    thread.start()
    thread.join()  # this loop stands still meanwhile
    if failure:
        raise failure[0]


def value(connection: psycopg.Connection[Any], question: str) -> Any:
    row = connection.execute(question).fetchone()
    assert row is not None
    return row[0]


def keepers_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "asyncjobs keeper"]


# A blocked loop.


@pytest.mark.failure_mode("F11")
async def test_the_lease_is_renewed_while_the_loop_is_blocked(dsn: str) -> None:
    """Several times, by the keeper's own thread."""
    async with running(dsn, vigilance=QUICK):
        seen = set()

        def renewed(connection: psycopg.Connection[Any]) -> bool:
            seen.add(value(connection, "select seen_at from asyncjobs.runners"))
            return len(seen) > 3

        block_until(renewed, dsn)


@pytest.mark.failure_mode("F11", "F40")
async def test_a_keeper_that_loses_its_connection_while_the_loop_is_blocked_takes_its_jobs_along(
    dsn: str,
) -> None:
    """A new name is entered, a new lock held, and the jobs brought over, before the loop comes to itself."""
    async with running(dsn, vigilance=QUICK) as jobs:
        handles = [await hold.later(name) for name in ("a", "b")]
        await begun("a")
        await begun("b")
        before = runner_of(jobs)._identity.current

        def terminate_keeper(connection: psycopg.Connection[Any]) -> bool:
            locks = "select pid from pg_locks where locktype = 'advisory' and classid = 1634364780"
            pids = [row[0] for row in connection.execute(locks)]
            for pid in pids:
                connection.execute("select pg_terminate_backend(%s)", [pid])
            return bool(pids)

        def adopted(connection: psycopg.Connection[Any]) -> bool:
            holders = "select array_agg(distinct runner) from asyncjobs.live_jobs where id > 0"
            names = "select array_agg(incarnation) from asyncjobs.runners"
            (holder,) = value(connection, holders)
            return bool(value(connection, names) == [holder] and holder != before)

        block_until(terminate_keeper, dsn)
        assert runner_of(jobs)._identity.current in (None, before)  # not assumed yet: this loop stood still
        block_until(adopted, dsn)
        gate.set()
        for handle in handles:
            await handle.result(timeout=10)
            done = await handle.job()
            assert (done.attempt, done.crashes) == (1, 0)
    assert started == ended == Counter("ab")


@pytest.mark.failure_mode("F13")
async def test_notifications_are_read_while_the_loop_is_blocked(dsn: str) -> None:
    """No end of them: the server's queue is empty, its horizon free, and afterwards the loop hears of jobs at once."""
    async with running(dsn, vigilance=QUICK) as jobs:
        await hold.later("first")
        await begun("first")

        def flooded(connection: psycopg.Connection[Any]) -> bool:
            with connection.transaction():
                connection.execute(
                    "select pg_notify('asyncjobs:ready', n::text) from generate_series(1, 12000) n"
                )
            return True

        def read(connection: psycopg.Connection[Any]) -> bool:
            pinned = "select count(*) from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()"
            usage = value(connection, "select pg_notification_queue_usage()")
            return bool(usage == 0 and value(connection, pinned) == 0)

        block_until(flooded, dsn)
        block_until(read, dsn)
        gate.set()
        assert await (await hold.later("second")).result(timeout=10) == "second"
        assert not jobs.is_degraded


# The thread.


async def test_the_thread_ends_with_the_runner(dsn: str) -> None:
    """And its connection with it; another runner begins another."""
    async with watching(dsn) as other:
        for _ in range(2):
            async with running(dsn):
                assert len(keepers_threads()) == 1
                assert keepers_threads()[0].daemon
            assert keepers_threads() == []

        async def alone() -> bool:
            count = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            return bool(await other.connection.fetchval(count) == 0)

        await eventually_async(alone)


async def test_a_runner_that_is_stopped_at_once_leaves_no_thread(dsn: str) -> None:
    """Before it has connected, too."""
    for _ in range(5):
        async with running(dsn, wait=False):
            pass
        eventually(lambda: not keepers_threads())


@pytest.mark.parametrize(
    "source", ["pool", "asyncpg engine", "psycopg engine", "connect", "pool with connect"]
)
async def test_the_keeper_connects_as_the_application_does(dsn: str, source: str) -> None:
    """On its own loop, whatever the application's connections are bound to."""

    async def work(jobs: Jobs) -> None:
        async with jobs.running():
            await runner_of(jobs).connected()
            assert len(keepers_threads()) == 1
            gate.set()
            assert await (await hold.later(source)).result(timeout=10) == source

    opened: list[Any] = []

    async def connect() -> Any:
        opened.append(await asyncpg.connect(dsn))
        return opened[-1]

    if source.endswith("engine"):
        async with engine_on(dsn, source.split(maxsplit=1)[0]) as engine:
            await work(Jobs(engine=engine))
    elif source == "connect":
        await work(Jobs(dsn, connect=connect))
        assert len({connection._loop for connection in opened}) == 2
    else:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=3) as pool:
            await work(Jobs(pool=pool, connect=connect if "with" in source else None))


# Claims whose reply is lost.


async def idle(jobs: Jobs, proxy: Proxy) -> Line:
    """Wait until the claimer sleeps; its connection."""
    claimer = runner_of(jobs)._claimer

    async def asleep() -> bool:
        return claimer.is_asleep

    await eventually_async(asleep)
    (line,) = proxy.claimers()
    return line


@pytest.mark.failure_mode("F45")
async def test_a_claim_whose_reply_does_not_come_is_given_up(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed, and nothing broke: the job goes back unburnt, and runs over another connection."""
    monkeypatch.setattr("asyncjobs._engine.link.ANSWER", 3600.0)  # else that would be enough
    async with proxy_to(dsn) as proxy, running(proxy.dsn, vigilance=QUICK) as jobs:
        await (await note.later("before")).result(timeout=10)  # the statement is prepared now
        line = await idle(jobs, proxy)
        runner_of(jobs)._claimer._looked_at = time.monotonic() + 60  # so that a claim is what it sends next
        line.loses_replies = True
        handle = await hold.later("lost")
        await begun("lost")
        assert not line.is_open
        gate.set()
        await handle.result(timeout=10)
        done = await handle.job()
        assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert started == {"lost": 1}


@pytest.mark.failure_mode("F45", "F03")
async def test_a_claim_that_commits_after_its_client_is_gone_goes_back(dsn: str) -> None:
    """The server went on with it, and it holds jobs under a name that was given up before: they run soon, unburnt."""
    async with watching(dsn) as other:
        await other.connection.execute("""
            create sequence public.claims;
            create function slow() returns trigger language plpgsql as
            'begin if nextval(''public.claims'') = 1 then perform pg_sleep(1); end if; return new; end';
            create trigger slow before update on asyncjobs.live_jobs for each row
              when (old.runner is null and new.runner is not null) execute function slow();
        """)
        async with proxy_to(dsn) as proxy, running(proxy.dsn, vigilance=QUICK) as jobs:
            line = await idle(jobs, proxy)
            before = runner_of(jobs)._identity.current
            handle = await hold.later("late")

            async def claiming() -> bool:
                busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
                return bool(await other.connection.fetchval(busy) == 1)

            await eventually_async(claiming)
            line.abort_client()

            async def renamed() -> bool:
                return runner_of(jobs)._identity.current not in (None, before)

            await eventually_async(renamed)
            row = await live(other.session, handle.id)
            assert row
            assert row["runner"] is None, "it has committed before: nothing is shown"
            await begun("late")
            gate.set()
            await handle.result(timeout=20)
            done = await handle.job()
            assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert started == {"late": 1}


@pytest.mark.failure_mode("F41", "F44")
async def test_a_finish_whose_reply_does_not_come_is_written_again(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is given up; the next says that it was written."""
    monkeypatch.setattr("asyncjobs._engine.link.ANSWER", 0.3)
    async with proxy_to(dsn) as proxy, running(proxy.dsn, vigilance=QUICK) as jobs:
        await (await note.later("before")).result(timeout=10)
        handle = await hold.later("job")
        await begun("job")
        (line,) = [line for line in proxy.lines if line.is_open and FINISHES in line.said]
        line.loses_replies = True
        gate.set()
        assert await handle.result(timeout=10) == "job"

        async def is_written() -> bool:
            return runner_of(jobs)._completer.unwritten == 0

        await eventually_async(is_written)
        assert not line.is_open
    assert ended == {"job": 1}


# Cut off.


@pytest.mark.failure_mode("F43")
async def test_without_a_lock_a_runner_that_is_cut_off_stops_its_jobs_in_time(dsn: str) -> None:
    """While its lease still lasts: nobody may have begun them elsewhere. They go back, unburnt, when it is there again."""
    vigilance = attrs.evolve(QUICK, renew_every=0.2, answer=0.4)
    async with (
        watching(dsn) as other,
        proxy_to(dsn) as proxy,
        running(proxy.dsn, listen=False, vigilance=vigilance) as jobs,
    ):
        handle = await hold.later("job")
        await begun("job")
        proxy.die()

        async def is_cancelled() -> bool:
            return "job" in cancelled

        await eventually_async(is_cancelled)
        over = "select bool_or(seen_at + lease < clock_timestamp()) from asyncjobs.runners"
        assert await other.connection.fetchval(over) is False
        assert not runner_of(jobs).held()
        proxy.revive()
        await begun("job", 2)
        gate.set()
        await handle.result(timeout=20)
        done = await handle.job()
        assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert ended == {"job": 1}


@pytest.mark.failure_mode("F43")
async def test_with_a_lock_a_runner_that_is_cut_off_lets_its_jobs_go_on(dsn: str) -> None:
    """From here it may as well be an outage, which must cost nobody an attempt."""
    vigilance = attrs.evolve(QUICK, lease=0.4, answer=0.4)
    async with proxy_to(dsn) as proxy, running(proxy.dsn, vigilance=vigilance) as jobs:
        handle = await hold.later("job")
        await begun("job")
        proxy.die()

        async def is_degraded() -> bool:
            return jobs.is_degraded

        await eventually_async(is_degraded)
        await asyncio.sleep(vigilance.lease * 2)
        proxy.revive()
        gate.set()
        assert await handle.result(timeout=20) == "job"
    assert (started, ended, cancelled) == ({"job": 1}, {"job": 1}, {})


@pytest.mark.failure_mode("F20")
@pytest.mark.parametrize("source", ["dsn", "engine"])
async def test_a_job_on_a_dead_network_is_cancelled_at_once(dsn: str, source: str) -> None:
    """In the middle of a statement of its transaction: no answer to the rollback is waited for, no connection lost to others."""
    async with proxy_to(dsn) as proxy, AsyncExitStack() as opened:
        if source == "dsn":
            jobs = Jobs(proxy.dsn, shutdown_timeout=1.0)
        else:
            engine = await opened.enter_async_context(engine_on(proxy.dsn.partition("?")[0]))
            jobs = Jobs(engine=engine, shutdown_timeout=1.0)
        async with jobs.running():
            await ask.later("asks")
            await begun("asks")
            proxy.die()
            (attempt,) = runner_of(jobs)._attempts
            asked_at = time.monotonic()
            attempt.stop("cancel")
            assert attempt.task is not None
            done, _ = await asyncio.wait([attempt.task], timeout=5)
            assert done, f"not within {time.monotonic() - asked_at} s"
            proxy.revive()


# Names.


@pytest.mark.failure_mode("F02")
async def test_whoever_comes_back_with_the_same_host_and_pid_is_somebody_else(dsn: str) -> None:
    """As in a container: what its former life held is rescued, for it goes by another incarnation."""
    async with watching(dsn) as other:
        await enter(other.session, RUNNER, holds_lock=True, lease=3600.0)
        await other.connection.execute(
            "update asyncjobs.runners set name = $1", f"{socket.gethostname()}:{os.getpid()}"
        )
        (job_id,) = await store(other.session, new_job("keeper_thread:note", args='{"name": "former"}'))
        assert await claim(other.session, RUNNER, lanes=[("q", "keeper_thread:note")])
        async with running(dsn, vigilance=QUICK) as jobs:
            await jobs.handle(job_id).result(timeout=10)
            names = [row["name"] for row in await list_runners(other.session)]
            assert names == [f"{socket.gethostname()}:{os.getpid()}"]


@pytest.mark.faults
@pytest.mark.failure_mode("F50")
async def test_nobody_storms_a_server_that_comes_back(dsn: str) -> None:
    """Twenty runners, whose server refuses them for a while, try less and less often, and not in step."""
    tries: list[float] = []

    async def refused() -> Any:
        tries.append(time.monotonic())
        raise ConnectionRefusedError("away")

    async with AsyncExitStack() as runners:
        began = time.monotonic()
        for _ in range(20):
            await runners.enter_async_context(Jobs(dsn, connect=refused).running())
        await asyncio.sleep(3.0 - (time.monotonic() - began))
        late = [at for at in tries if at - began > 1.5]
        connections = 20 * 3
        assert len(late) <= connections * 3
        a_moment = Counter(int(at * 10) for at in late)
        assert max(a_moment.values()) < connections / 2


# Processes.


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


async def in_thread(act: Any, *args: Any, **given: Any) -> Any:
    return await asyncio.to_thread(act, *args, **given)


@pytest.mark.faults
@pytest.mark.failure_mode("F12")
@pytest.mark.parametrize("kind", ["block", "hog"])
async def test_who_holds_the_interpreter_is_not_dead(processes: Processes, dsn: str, kind: str) -> None:
    """Not even the keeper's thread runs, the lease runs out, and nobody takes the job: Postgres holds the lock."""
    short = {**ALERT, "lease": 0.5, "settle": 0.2}
    holder = await in_thread(processes.start, vigilance=short)
    await in_thread(processes.start, vigilance=short)
    async with watching(dsn) as other:
        while processes.counts("END")["job"] == 0:
            await store(other.session, fault(kind, "job", seconds=4.0))
            await in_thread(processes.wait_for, "END", "job")
    assert processes.counts("START") == {"job": 1}
    del holder


@pytest.mark.faults
@pytest.mark.failure_mode("F09")
async def test_a_child_does_not_keep_its_dead_parent_alive(processes: Processes, dsn: str) -> None:
    """It inherits the keeper's socket, and closes it at once: the job runs elsewhere although the child lives on."""
    async with watching(dsn) as other:
        dying = await in_thread(processes.start, slots=1)
        await store(other.session, fault("fork", "job", seconds=60.0))
        await in_thread(processes.wait_for, "START", "job", by=dying)

        async def child() -> int:
            said = [each.word for each in processes.said(by=dying) if each.word.startswith("CHILD:")]
            return int(said[0].partition(":")[2]) if said else 0

        pid = await eventually_async(child)
        try:
            healthy = await in_thread(processes.start)
            dying.kill()
            await in_thread(processes.wait_for, "START", "job", by=healthy, within=10)
            os.kill(pid, 0)  # it lives
        finally:
            for said in processes.said():
                if said.word.startswith("CHILD:"):
                    with suppress(ProcessLookupError):
                        os.kill(int(said.word.partition(":")[2]), signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.failure_mode("F03")
async def test_a_statement_that_outlives_its_process_holds_up_nobody(processes: Processes, dsn: str) -> None:
    """The server is still at it when the job runs elsewhere, and what it wrote is never committed."""
    async with watching(dsn) as other:
        await other.connection.execute("create table effects (name text, pid integer)")
        dying = await in_thread(processes.start, slots=1)
        await store(other.session, fault("slow", "job", seconds=8.0))
        await in_thread(processes.wait_for, "WRITTEN", "job", by=dying)
        healthy = await in_thread(processes.start)
        await other.connection.execute(
            "update asyncjobs.live_jobs set args = jsonb_set(args, '{seconds}', '0') where id > 0"
        )
        sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
        dying.kill()
        assert await other.connection.fetchval(sleeping) == 1
        await in_thread(processes.wait_for, "COMMITTED", "job", by=healthy, within=7)

        async def is_over() -> bool:
            return bool(await other.connection.fetchval(sleeping) == 0)

        await eventually_async(is_over)
        assert [tuple(row) for row in await other.connection.fetch("select * from effects")] == [
            ("job", healthy.pid)
        ]
