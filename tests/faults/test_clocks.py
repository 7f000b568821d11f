"""Clocks that are wrong: the machine's of a runner, or the database's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from asyncjobs.embedded import TEST_SETTINGS, Embedded
from tests.engine.running import watching
from tests.faults.processes import Processes, fault
from tests.features import need
from tests.store.jobs import new_job, store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

WATCHFUL = {"look_every": 0.2, "settle": 1.0, "lease": 4.0, "renew_every": 0.5}


def pretend(monkeypatch: pytest.MonkeyPatch, offset: str, **more: str) -> None:
    """Processes started from now on read a wall clock that is *offset* wrong; how long things take is measured rightly."""
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    monkeypatch.setenv("DONT_FAKE_MONOTONIC", "1")
    if offset:
        monkeypatch.setenv("FAKETIME", offset)
    for name, value in more.items():
        monkeypatch.setenv(name, value)


async def in_thread(act: Any, *args: Any, **given: Any) -> Any:
    return await asyncio.to_thread(act, *args, **given)


@pytest.fixture
async def processes(dsn: str, tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


@pytest.mark.failure_mode("F102")
@pytest.mark.parametrize("listen", [True, False])
async def test_runners_whose_clocks_are_hours_apart(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, listen: bool
) -> None:
    """Nobody is thought dead, nothing runs before it is due, and nothing waits until a wrong clock says so."""
    need("libfaketime", FAKETIME)
    for offset in ("+0", "+1h", "-1h"):
        with monkeypatch.context() as patched:
            pretend(patched, offset)
            await in_thread(processes.start, vigilance=WATCHFUL, slots=4, listen=listen)
    long = [f"long {number}" for number in range(9)]
    later = [f"later {number}" for number in range(9)]
    async with watching(processes.dsn) as other:
        await store(other.session, *(fault("sleep", name, seconds=6.0) for name in long))
        stored_at = time.monotonic()
        await store(other.session, *(_delayed(name, 2.0) for name in later))
        await in_thread(processes.wait_for, "END", *long, *later)
    assert processes.counts("START") == dict.fromkeys([*long, *later], 1)
    starts = [said.at - stored_at for said in processes.said("START") if said.name in later]
    assert min(starts) > 1.99
    assert max(starts) < 20
    assert len({said.pid for said in processes.said("START")}) == 3, "the clocks of all three were to matter"


def _delayed(name: str, seconds: float) -> Any:
    return new_job("fault:sleep", "default", args=f'{{"name": "{name}"}}', delay=seconds)


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """What the server's clock is wrong by."""
    path = tmp_path / "clock"
    path.write_text("+0\n")
    os.chmod(tmp_path, 0o755)  # noqa: PTH101, S103 -- the server's user reads it
    return path


@pytest.fixture
def server(clock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    need("libfaketime", FAKETIME)
    for parent in clock.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    server = Embedded(settings=TEST_SETTINGS, keep=False)
    with monkeypatch.context() as patched:
        pretend(patched, "", FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1")
        server.start()
    yield server
    server.stop()


@pytest.mark.failure_mode("F103")
async def test_the_databases_clock_jumps(server: Embedded, clock: Path, tmp_path: Path) -> None:
    """Every lease is over at once, and nobody is dead: the lock is asked first. Then back: nothing hangs, nothing runs twice."""
    from asyncjobs import Jobs  # noqa: PLC0415

    admin = await asyncpg.connect(server.dsn())
    await admin.execute("create database skewed")
    dsn = server.dsn("skewed")
    await Jobs(dsn).migrate()
    processes = Processes(dsn, tmp_path / "log")
    try:
        for _ in range(3):
            await in_thread(processes.start, vigilance=WATCHFUL, slots=5)
        names = [f"job {number}" for number in range(15)]
        async with watching(dsn) as other:
            await store(other.session, *(fault("sleep", name, seconds=8.0) for name in names))
            await in_thread(processes.wait_for, "START", *names)
            before = await admin.fetchval("select clock_timestamp()")
            await in_thread(clock.write_text, "+1h\n")
            assert await admin.fetchval("select clock_timestamp()") - before > timedelta(minutes=50)
            await asyncio.sleep(2.0)  # ten looks of three runners
            await in_thread(clock.write_text, "-1h\n")
            await in_thread(processes.wait_for, "END", *names)
            await store(other.session, fault("sleep", "afterwards"))
            await in_thread(processes.wait_for, "END", "afterwards")
            assert await admin.fetchval("select count(*) from pg_stat_activity where datname = 'skewed'") > 0
        assert processes.counts("START") == dict.fromkeys([*names, "afterwards"], 1)
    finally:
        processes.end()
        await admin.close()
