"""Everything at once, for a while, by a seed: then the harm ends, and the books must balance."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.running import watching
from tests.faults.processes import Processes, fault
from tests.faults.servers import DURABLE, FAST, IMMEDIATE, Server, a_server
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

SEED = int(os.environ.get("ASYNCJOBS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
SECONDS = float(os.environ.get("ASYNCJOBS_CHAOS", "40"))
RESTLESS = {"look_every": 0.1, "settle": 1.0, "lease": 1.5, "renew_every": 0.2, "max_crashes": 1000}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from a_server(DURABLE)


@pytest.fixture
async def processes(server: Server, tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(await server.database(), tmp_path / "log")
    yield processes
    processes.end()


async def in_thread(act: Any, *args: Any, **given: Any) -> Any:
    return await asyncio.to_thread(act, *args, **given)


async def test_whatever_happens_every_job_is_done_and_every_effect_is_there_once(
    server: Server, processes: Processes
) -> None:
    """Kills, freezes, cut connections and restarts of Postgres, while jobs are enqueued."""
    dice = random.Random(SEED)
    print(f"ASYNCJOBS_SEED={SEED}")
    async with watching(processes.dsn) as other:
        await other.connection.execute("create table effects (name text, pid integer)")
    for _ in range(3):
        await in_thread(processes.start, vigilance=RESTLESS, slots=5)
    stored: list[str] = []
    end = time.monotonic() + SECONDS

    async def enqueue() -> None:
        number = 0
        while time.monotonic() < end:
            try:
                async with watching(processes.dsn) as other:
                    while time.monotonic() < end:
                        batch = [f"{number + nth}" for nth in range(dice.randrange(1, 10))]
                        kinds = [dice.choice(["sleep", "write", "write"]) for _ in batch]
                        jobs = [
                            fault(kind, name, seconds=dice.choice([0.0, 0.0, 0.05, 1.0]))
                            for kind, name in zip(kinds, batch, strict=True)
                        ]
                        number += len(batch)
                        async with other.connection.transaction():
                            await store(other.session, *jobs)
                            await other.connection.execute(
                                "create table if not exists sent (name text primary key)"
                            )
                            await other.connection.executemany(
                                "insert into sent values ($1)", [(name,) for name in batch]
                            )
                        stored.extend(batch)
                        await asyncio.sleep(dice.random() * 0.1)
            except (OSError, TimeoutError, Exception):
                await asyncio.sleep(0.2)

    async def harm() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(dice.random() * 2.0)
            alive = [process for process in processes.started if process.popen.poll() is None]
            what = dice.choice(["kill", "freeze", "cut", "cut", "restart"])
            if what == "kill":
                dice.choice(alive).kill()
                await in_thread(processes.start, vigilance=RESTLESS, slots=5, ready=False)
            elif what == "freeze":
                victim = dice.choice(alive)
                victim.freeze()
                await asyncio.sleep(dice.random() * 4)
                victim.thaw()
            elif what == "cut":
                try:
                    async with watching(processes.dsn) as other:
                        await other.connection.execute("""
                            select pg_terminate_backend(pid) from pg_stat_activity
                             where datname = current_database() and pid <> pg_backend_pid() and random() < 0.5""")
                except Exception:
                    await asyncio.sleep(0.1)
            elif dice.random() < 0.5:
                await in_thread(server.stop, dice.choice([FAST, IMMEDIATE]))
                await asyncio.sleep(dice.random() * 3)
                await in_thread(server.start)

    await asyncio.gather(enqueue(), harm())
    async with watching(processes.dsn) as other:

        async def all_done() -> bool:
            left: int = await other.connection.fetchval(
                "select count(*) from asyncjobs.jobs where state not in ('completed', 'failed', 'cancelled')"
            )
            return left == 0

        await eventually_async(all_done, within=60)
        sent = {row[0] for row in await other.connection.fetch("select name from sent")}
        assert sent >= set(stored)
        rows = await other.connection.fetch(
            "select args->>'name' as name, kind, state, attempt from asyncjobs.jobs"
        )
        assert {row["name"] for row in rows} == sent, "a job was lost, or there without its data"
        assert len(rows) == len(sent)
        assert {row["state"] for row in rows} == {"completed"}
        effects = await other.connection.fetch("select name, count(*) from effects group by name")
        assert {row[0] for row in effects} == {row["name"] for row in rows if row["kind"] == "fault:write"}
        assert {row[1] for row in effects} == {1}, "an effect is there twice"
        starts = processes.counts("START")
        assert set(starts) == sent
        print(f"{len(sent)} jobs, {sum(starts.values())} starts, {len(processes.started)} processes")
