"""Processes that are killed, frozen or cut off in the middle of their jobs, and what becomes of those."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.running import Watcher, watching
from tests.faults.processes import Process, Processes, fault
from tests.store.jobs import store
from tests.waiting import eventually_async


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Watcher]:
    """Somebody outside."""
    async with watching(dsn) as other:
        await other.connection.execute("create table effects (name text, pid integer)")
        yield other


async def in_thread(act: Any, *args: Any, **given: Any) -> Any:
    return await asyncio.to_thread(act, *args, **given)


async def until_finished(other: Watcher, count: int) -> None:
    async def finished() -> bool:
        done: int = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
        return done >= count

    await eventually_async(finished)


async def jobs_by_name(other: Watcher) -> dict[str, Any]:
    rows = await other.connection.fetch("select *, args->>'name' as name from asyncjobs.jobs")
    return {row["name"]: row for row in rows}


async def keeper_of(other: Watcher, process: Process) -> int:
    """The pid of the backend that holds the lock which proves *process* alive."""
    pid: int = await other.connection.fetchval(
        """
        select locks.pid from pg_locks locks, asyncjobs.runners
         where locktype = 'advisory' and classid = 1634364780 and objid::bigint = (lock_key::bigint & 4294967295)
           and (info->>'pid')::int = $1""",
        process.pid,
    )
    return pid


@pytest.mark.failure_mode("F01")
async def test_what_a_killed_process_held_runs_elsewhere(processes: Processes, other: Watcher) -> None:
    """Soon. What had begun has a crash on its record; what was only claimed ahead is innocent; what was done is done."""
    dying = await in_thread(processes.start, slots=2, too_long=60.0)
    quick = [fault("sleep", f"quick {number}") for number in range(100)]
    stuck = [fault("sleep", f"stuck {number}", seconds=0.0 if number > 1 else 600.0) for number in range(12)]
    await store(other.session, *quick)
    await until_finished(other, 100)
    await store(other.session, *stuck)
    await in_thread(processes.wait_for, "START", "stuck 0", "stuck 1")

    async def claimed_ahead() -> bool:
        held: int = await other.connection.fetchval(
            "select count(*) from asyncjobs.live_jobs where id > 0 and runner is not null"
        )
        return held == 12

    await eventually_async(claimed_ahead)
    dying.kill()
    killed = time.monotonic()
    await other.connection.execute(
        "update asyncjobs.live_jobs set args = jsonb_set(args, '{seconds}', '0') where id > 0"
    )
    await in_thread(processes.start)
    await until_finished(other, 112)
    assert time.monotonic() - killed < 30
    jobs = await jobs_by_name(other)
    assert all((job["state"], job["attempt"]) == ("completed", 1) for job in jobs.values())
    assert {name for name, job in jobs.items() if job["crashes"]} == {"stuck 0", "stuck 1"}
    for name in ("stuck 0", "stuck 1"):
        (error,) = json.loads(jobs[name]["errors"])
        assert (error["attempt"], error["error"].split(":")[0]) == (1, "RunnerLost")
    starts = processes.counts("START")
    assert {name for name, count in starts.items() if count != 1} == {"stuck 0", "stuck 1"}


async def test_a_job_that_kills_whoever_runs_it_is_given_up(processes: Processes, other: Watcher) -> None:
    """After three; then processes live again, and the others' jobs are run."""
    await store(other.session, fault("poison", "poison"))
    for _ in range(3):
        process = await in_thread(processes.start, ready=False)
        await in_thread(process.popen.wait, 30)
    await in_thread(processes.start)
    await until_finished(other, 1)
    await store(other.session, fault("sleep", "afterwards"))
    await until_finished(other, 2)
    jobs = await jobs_by_name(other)
    assert jobs["afterwards"]["state"] == "completed"
    poison = jobs["poison"]
    assert (poison["state"], poison["crashes"], processes.counts("START")["poison"]) == ("failed", 3, 3)
    assert poison["errors"].count("RunnerLost") == 3


@pytest.mark.failure_mode("F07", "F75")
async def test_a_frozen_process_writes_nothing_when_it_comes_back(
    processes: Processes, other: Watcher
) -> None:
    """It was taken for dead and its jobs ran elsewhere: its completions are refused, its transactions rolled back."""
    zombie = await in_thread(processes.start)
    await store(
        other.session, fault("write", "transaction", seconds=1.0), fault("sleep", "plain", seconds=1.0)
    )
    await in_thread(processes.wait_for, "WRITTEN", "transaction")
    await in_thread(processes.wait_for, "START", "plain")
    zombie.freeze()
    await other.connection.execute("select pg_terminate_backend($1)", await keeper_of(other, zombie))
    healthy = await in_thread(processes.start)
    await until_finished(other, 2)
    assert {each.name for each in processes.said("START", by=healthy)} == {"transaction", "plain"}
    before = await other.connection.fetch("select * from asyncjobs.finished_jobs order by id")
    zombie.thaw()
    await store(other.session, fault("sleep", "afterwards"))
    await until_finished(other, 3)

    async def is_back() -> bool:
        count: int = await other.connection.fetchval("select count(*) from asyncjobs.runners")
        return count == 2

    await eventually_async(is_back)
    ends = {"END", "CANCELLED", "FENCED", "COMMITTED"}

    async def zombies_attempts_are_over() -> bool:
        return {"transaction", "plain"} <= {
            said.name for said in processes.said(by=zombie) if said.word in ends
        }

    await eventually_async(zombies_attempts_are_over)
    await asyncio.sleep(0.3)  # it may still try to write
    rows = await other.connection.fetch(
        "select * from asyncjobs.finished_jobs where args->>'name' <> 'afterwards' order by id"
    )
    assert rows == before
    effects = await other.connection.fetch("select name, pid from effects")
    assert [tuple(row) for row in effects] == [("transaction", healthy.pid)]
    assert processes.said("COMMITTED", by=zombie) == []
    jobs = await jobs_by_name(other)
    assert (jobs["transaction"]["crashes"], jobs["plain"]["crashes"]) == (1, 1)


@pytest.mark.failure_mode("F07")
async def test_a_process_that_never_goes_on_does_not_keep_its_jobs(
    processes: Processes, other: Watcher
) -> None:
    """The server believes in its session for ever: others end it, when it has said nothing for long."""
    zombie = await in_thread(processes.start)
    await store(other.session, fault("sleep", "held", seconds=1.0))
    await in_thread(processes.wait_for, "START", "held")
    zombie.freeze()
    healthy = await in_thread(
        processes.start,
        vigilance={"look_every": 0.1, "settle": 0.2, "lease": 0.5, "renew_every": 0.1, "frozen": 2.0},
    )
    await until_finished(other, 1)
    assert processes.said("START", by=healthy) != []
    jobs = await jobs_by_name(other)
    assert (jobs["held"]["state"], jobs["held"]["crashes"]) == ("completed", 1)


@pytest.mark.failure_mode("F11")
async def test_a_blocked_loop_is_not_a_dead_process(processes: Processes, other: Watcher) -> None:
    """Its lease runs out, but the server holds its lock: nobody takes its jobs."""
    blocked = await in_thread(
        processes.start, vigilance={"look_every": 0.1, "settle": 0.2, "lease": 0.5, "renew_every": 0.1}
    )
    await store(
        other.session, fault("block", "blocks", seconds=2.5), fault("sleep", "beside it", seconds=1.0)
    )
    await in_thread(processes.wait_for, "START", "blocks")
    await in_thread(processes.start)
    await until_finished(other, 2)
    jobs = await jobs_by_name(other)
    assert {(job["state"], job["attempt"], job["crashes"]) for job in jobs.values()} == {("completed", 1, 0)}
    assert processes.counts("START") == {"blocks": 1, "beside it": 1}
    assert {each.pid for each in processes.said("END")} == {blocked.pid}


async def test_where_no_lock_is_held_a_dead_process_is_known_by_its_lease(
    processes: Processes, other: Watcher
) -> None:
    """As behind a pooler."""
    dying = await in_thread(processes.start, listen=False)
    await store(other.session, fault("sleep", "job", seconds=600.0))
    await in_thread(processes.wait_for, "START", "job")
    dying.kill()
    await other.connection.execute(
        "update asyncjobs.live_jobs set args = jsonb_set(args, '{seconds}', '0') where id > 0"
    )
    await in_thread(processes.start, listen=False)
    await until_finished(other, 1)
    jobs = await jobs_by_name(other)
    assert (jobs["job"]["state"], jobs["job"]["crashes"]) == ("completed", 1)
