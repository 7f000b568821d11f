"""The runner itself, one or two of them, on connections that fail where a seed says; then the faults end, and the books must balance.

This is what there is instead of simulated time: docs/decisions says why. A seed that went wrong is named, and runs again with
ASYNCJOBS_SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from asyncjobs import Constant, Jobs, current_job, job
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import watching
from tests.machine.faulty import Faults
from tests.postgres import Databases
from tests.waiting import eventually_async

HERE = "seeded_faults"
SEED = int(os.environ.get("ASYNCJOBS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
SEEDS = int(os.environ.get("ASYNCJOBS_SEEDS", "4"))
AT_ONCE = 4
QUICK = Vigilance(settle=1.5, lease=8.0, renew_every=0.5, answer=2.0, reconcile_every=0.3, max_crashes=1000)

running: Counter[str] = Counter()
overlapped: set[str] = set()
failures: defaultdict[str, int] = defaultdict(int)
starts: Counter[str] = Counter()


class Expected(Exception):
    """What a job raises on purpose."""


@job(kind=f"{HERE}:work", backoff=Constant(0.05), max_attempts=5)
async def work(name: str, seconds: float, fail: int) -> str:
    """Takes a while, and fails as often as it is told."""
    starts[name] += 1
    if running[name]:
        overlapped.add(name)
    running[name] += 1
    try:
        await asyncio.sleep(seconds)
        if failures[name] < fail:
            failures[name] += 1
            raise Expected
    finally:
        running[name] -= 1
    return name


@job(kind=f"{HERE}:write", backoff=Constant(0.05), max_attempts=1000)
async def write(name: str) -> None:
    """Its effect commits with its completion."""
    starts[name] += 1
    async with current_job().transaction() as connection:
        await connection.execute("insert into effects values ($1)", name)


async def one_life(dsn: str, faults: Faults) -> None:
    """Jobs, under faults, and then without."""
    seed, dice = faults.seed, random.Random(faults.seed)
    async with watching(dsn) as other:
        await other.connection.execute("create table effects (name text)")
        connect = faults.connect_to(dsn)
        given: Any = {"vigilance": QUICK, "slots": 4, "guard": None}
        names: dict[str, int] = {}
        async with Jobs(dsn) as own:
            async with AsyncExitStack() as runners:
                for _ in range(1 + (seed % 2)):
                    await runners.enter_async_context(Jobs(dsn, connect=connect, **given).running())
                for nth in range(12):
                    async with other.connection.transaction():
                        for each in range(dice.randint(1, 4)):
                            name = f"{seed}/{nth}.{each}"
                            names[name] = fail = dice.choice([0, 0, 0, 1, 2])
                            if dice.random() < 0.3:
                                await write.set(jobs=own, on=other.connection).later(name)
                            else:
                                await work.set(jobs=own, on=other.connection).later(
                                    name, dice.random() * 0.1, fail
                                )
                    await asyncio.sleep(dice.random() * 0.15)
                faults.healed = True
                await _all_are_done(other.connection, len(names))
            await _the_books_balance(other.connection, names, alone=seed % 2 == 0)


async def _all_are_done(connection: asyncpg.Connection, count: int) -> None:
    async def done() -> bool:
        finished: int = await connection.fetchval("select count(*) from asyncjobs.finished_jobs")
        return finished == count

    await eventually_async(done, within=40)


async def _the_books_balance(connection: asyncpg.Connection, names: dict[str, int], *, alone: bool) -> None:
    """A runner that is *alone* cannot be taken for dead. One of two can, while it is cut off: then its jobs get a crash on their
    record, and the next attempt may begin before it hears of that; of the two, only the later one counts.
    """
    rows = await connection.fetch(
        """select args->>'name' as name, kind, state, attempt, crashes,
                  coalesce(jsonb_array_length(errors), 0) as errors
             from asyncjobs.jobs"""
    )
    assert {row["name"] for row in rows} == names.keys(), "a job is lost, or came from nowhere"
    assert len(rows) == len(names)
    for row in rows:
        assert row["state"] == "completed", dict(row)
        failed = row["errors"] - row["crashes"]
        assert row["attempt"] == failed + 1, f"an attempt is burnt: {dict(row)}"
        if row["kind"].endswith("work"):
            fail = names[row["name"]]
            assert not alone or starts[row["name"]] == fail + 1, (
                f"started {starts[row['name']]} times: {dict(row)}"
            )
            assert failed == fail or (failed < fail and row["crashes"]), (
                f"{dict(row)} was to fail {fail} times"
            )
        assert not (alone and row["crashes"]), f"blamed for a crash, and nobody died: {dict(row)}"
    effects = Counter(row[0] for row in await connection.fetch("select name from effects"))
    assert set(effects) == {row["name"] for row in rows if row["kind"].endswith("write")}
    assert set(effects.values()) <= {1}, "an effect is there twice"
    twice = overlapped & names.keys()
    assert not (alone and twice), f"ran twice at once: {twice}"


@pytest.mark.timeout(60 + 20 * SEEDS)
@pytest.mark.failure_mode("F39", "F44", "F45")
async def test_under_any_faults_nothing_is_lost_and_no_attempt_is_burnt(
    databases: Databases, migrated: str
) -> None:
    """Refused, cut off, answered late or not at all: every job completes, having failed as often as it wanted to."""
    places = asyncio.Semaphore(AT_ONCE)
    began = time.monotonic()

    async def live(seed: int) -> Faults:
        async with places, databases.clone(migrated) as dsn:
            faults = Faults(seed)
            try:
                await one_life(dsn, faults)
                return faults
            except BaseException as error:
                told = "\n".join(faults.told)
                error.add_note(f"ASYNCJOBS_SEED={seed} ASYNCJOBS_SEEDS=1 {faults}\n{told}")
                raise

    lives = await asyncio.gather(*(live(SEED + nth) for nth in range(SEEDS)))
    for faults in lives:
        print(f"{faults}: {len(faults.told)} faults")
    print(f"{SEEDS} seeds from {SEED} in {time.monotonic() - began:.1f} s")
