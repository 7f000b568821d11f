"""Versions of asyncjobs, and of Postgres, side by side."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import Jobs
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from asyncjobs.embedded.binaries import ENV
from tests.engine.running import runner_of, watching
from tests.faults.processes import ALERT, ROOT, Process, Processes, fault
from tests.features import need
from tests.flows import test_conformance as conformance
from tests.flows.test_crashes import in_thread, until_finished
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

MIGRATIONS = "src/asyncjobs/_store/migrations"


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The code of the commit that made the schema what it is: the oldest that can work with it."""
    try:
        commit = _git("log", "-1", "--format=%H", "--", MIGRATIONS).decode().strip()
        clean = not _git("status", "--porcelain", "--", MIGRATIONS)
    except (OSError, subprocess.CalledProcessError):
        commit, clean = "", False
    need("a git history with the schema as it is", commit and clean)
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "src", "tests"))) as archive:
        archive.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


@pytest.fixture
def before_turns(tmp_path: Path) -> Path:
    """The code of before there were fair turns: its promise is that migration's, that it can work with what is there since."""
    turns = f"{MIGRATIONS}/0007_turns.sql"
    try:
        commit = _git("log", "--diff-filter=A", "-1", "--format=%H", "--", turns).decode().strip()
        archive = _git("archive", f"{commit}~1", "src", "tests")
    except (OSError, subprocess.CalledProcessError):
        archive = b""
    need("a git history from before there were fair turns", archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tmp_path / "before", filter="data")
    assert not (tmp_path / "before" / turns).exists()
    return tmp_path / "before"


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


def start(processes: Processes, code: Path, **config: Any) -> Process:
    """A process that runs *code*."""
    import json

    command = [sys.executable, "-m", "tests.faults.program", processes.dsn, str(processes.log)]
    command.append(json.dumps({"vigilance": ALERT, **config}))
    path = os.pathsep.join((str(code / "src"), str(code)))
    process = Process(subprocess.Popen(command, cwd=code, env={**os.environ, "PYTHONPATH": path}))
    processes.started.append(process)
    processes.wait_for("READY", by=process)
    return process


@pytest.mark.failure_mode("F97")
async def test_two_versions_share_one_queue(processes: Processes, earlier: Path) -> None:
    """During a deploy: both run jobs, each rescues what the other held when it is killed, and nothing is blamed wrongly."""
    old = await in_thread(start, processes, earlier, slots=5)
    new = await in_thread(start, processes, ROOT, slots=5)
    async with watching(processes.dsn) as other:
        await store(
            other.session, *(fault("sleep", f"shared {number}", seconds=0.05) for number in range(100))
        )
        await until_finished(other, 100)
        assert processes.said("END", by=old)
        assert processes.said("END", by=new)
        assert set(processes.counts("START").values()) == {1}
        for dying, code in ((old, ROOT), (new, earlier)):
            name = f"held by {dying.pid}"
            await store(
                other.session, *(fault("sleep", f"{name} {number}", seconds=2) for number in range(10))
            )

            async def both_hold(name: str = name) -> bool:
                return sum(each.name.startswith(name) for each in processes.said("START")) == 10

            await eventually_async(both_hold)
            dying.kill()
            done = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
            await until_finished(other, done - done % 10 + 10)
            if code is ROOT:
                await in_thread(start, processes, earlier, slots=5)
        rows = await other.connection.fetch(
            "select distinct state, attempt, crashes from asyncjobs.finished_jobs where args->>'name' like 'held%'"
        )
        assert {tuple(row) for row in rows} == {(10, 1, 0), (10, 1, 1)}


@pytest.mark.failure_mode("F97")
async def test_code_of_before_the_turns_goes_on_beside_them(processes: Processes, before_turns: Path) -> None:
    """It starts on the newer schema, runs what is not in line, and what is dealt; nothing is lost, or run twice."""
    new = await in_thread(start, processes, ROOT, slots=5)
    old = await in_thread(start, processes, before_turns, slots=5)
    async with watching(processes.dsn) as other:
        plain = [fault("sleep", f"plain {number}", seconds=0.05) for number in range(60)]
        fair = [
            attrs.evolve(fault("sleep", f"fair {number}", seconds=0.05), fair_key=key, options={"fair": key})
            for number in range(60)
            for key in [str(number % 3)]
        ]
        await store(other.session, *plain, *fair)
        await until_finished(other, 120)
        rows = await other.connection.fetch("select distinct state, attempt from asyncjobs.finished_jobs")
        assert [tuple(row) for row in rows] == [(10, 1)]
    assert processes.said("END", by=old)
    assert processes.said("END", by=new)
    assert set(processes.counts("START").values()) == {1}


@pytest.mark.failure_mode("F72")
@pytest.mark.parametrize("major", [15, 16])
async def test_all_flows_work_on_older_servers(major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the oldest that is supported, and in between."""
    if major == 15:
        there = Path("/usr/lib/postgresql/15/bin")
        need("Postgres 15", (there / "postgres").exists())
        monkeypatch.setenv(ENV, str(there))
    conformance.ran.clear()
    vars(conformance)["gate"] = asyncio.Event()
    with Embedded(settings=TEST_SETTINGS, major=major, keep=False).running() as dsn:
        await Jobs(dsn).migrate()
        effects = await asyncpg.connect(dsn)
        await effects.execute("create table effects (name text)")
        three = [
            conformance.works_as(Jobs(dsn, slots=4, vigilance=conformance.ALERT), None) for _ in range(3)
        ]
        async with three[0].running(), three[1].running(), three[2]:
            await runner_of(three[0]).connected()
            await runner_of(three[1]).connected()
            assert [str(each.modes).partition(" (")[0] for each in three[:2]] == [
                "liveness lock, wake notify"
            ] * 2
            await conformance.flows(three[0], three[1], three[2], effects)
        await effects.close()
