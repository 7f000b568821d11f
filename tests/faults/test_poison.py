"""Jobs that take their process with them, among others that do not: processes that a supervisor starts again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import Watcher, watching
from tests.faults.processes import ROOT, Process, Processes, fault
from tests.features import need, need_memory_cgroup
from tests.store.jobs import new_job, store
from tests.waiting import eventually, eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240), pytest.mark.failure_mode("F06")]

MAX_CRASHES = Vigilance().max_crashes
INNOCENTS = 50


@attrs.define(eq=False)
class Fleet:
    """Processes, each of which is started again when it dies, as a process manager does it."""

    processes: Processes
    size: int
    alone: float = Vigilance().alone
    deaths: int = 0
    _over: threading.Event = attrs.field(factory=threading.Event)

    def run(self) -> None:
        places = [self._start() for _ in range(self.size)]
        while not self._over.wait(0.05):
            for place, process in enumerate(places):
                if process.popen.poll() is not None:
                    self.deaths += 1
                    places[place] = self._start()

    def _start(self) -> Process:
        return self.processes.start(vigilance={"alone": self.alone}, ready=False, slots=8)

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def processes(dsn: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(dsn, tmp_path / "log")
    yield processes
    processes.end()


@pytest.fixture
def fleet(processes: Processes) -> Iterator[Fleet]:
    """Two processes, at the default times of the protocol."""
    fleet = Fleet(processes, 2)
    thread = threading.Thread(target=fleet.run)
    thread.start()
    yield fleet
    fleet.end()
    thread.join()


def innocents() -> list[Any]:
    return [fault("sleep", f"innocent {number}", seconds=0.2) for number in range(INNOCENTS)]


async def what_came_of(other: Watcher, count: int) -> dict[str, Any]:
    """Every job by its name, when all are final."""

    async def all_final() -> bool:
        done: int = await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs")
        return done >= count

    await eventually_async(all_final, within=180)
    rows = await other.connection.fetch("select *, args->>'name' as name from asyncjobs.jobs")
    return {row["name"]: row for row in rows}


def check(jobs: dict[str, Any], deaths: int, poisons: int) -> None:
    """The poison was given up after exactly three crashes, and nobody else."""
    guilty = {name: job for name, job in jobs.items() if name.startswith("poison")}
    innocent = {name: job for name, job in jobs.items() if not name.startswith("poison")}
    assert len(guilty) == poisons
    assert {(job["state"], job["crashes"]) for job in guilty.values()} == {("failed", MAX_CRASHES)}
    for job in guilty.values():
        assert f"took {MAX_CRASHES} runners down" in json.loads(job["errors"])[-1]["error"]
    assert len(innocent) == INNOCENTS
    assert {job["state"] for job in innocent.values()} == {"completed"}
    assert max(job["crashes"] for job in innocent.values()) <= 1  # beside it when it was not suspected yet
    assert MAX_CRASHES <= deaths <= MAX_CRASHES * poisons


@pytest.mark.failure_mode("F05")
@pytest.mark.parametrize("how", ["exit", "segfault", "abort"])
async def test_one_poison_among_fifty_innocents(dsn: str, fleet: Fleet, how: str) -> None:
    """Three processes die of it; it is failed, and says why; the fifty are done."""
    async with watching(dsn) as other:
        await store(other.session, fault("die", "poison", how=how, after=0.05), *innocents())
        jobs = await what_came_of(other, INNOCENTS + 1)
    check(jobs, fleet.deaths, 1)
    assert fleet.deaths == MAX_CRASHES == fleet.processes.counts("START")["poison"]


@pytest.mark.failure_mode("F05")
async def test_two_poisons_among_fifty_innocents(dsn: str, fleet: Fleet) -> None:
    """Each is found out by itself; the first death may be laid to both, because both had begun."""
    async with watching(dsn) as other:
        poisons = [fault("die", f"poison {number}", how="exit", after=0.05) for number in range(2)]
        await store(other.session, *poisons, *innocents())
        jobs = await what_came_of(other, INNOCENTS + 2)
    check(jobs, fleet.deaths, 2)


async def test_a_poison_that_takes_its_time(dsn: str, fleet: Fleet) -> None:
    """When it has run alone for long enough, others begin beside it. It kills them too, and only it is blamed."""
    fleet.alone = 0.3
    half = INNOCENTS // 2
    async with watching(dsn) as other:
        poison = fault("die", "poison", how="exit", after=2.0)
        await store(other.session, poison, *innocents()[:half])

        async def died() -> bool:
            return fleet.deaths > 0

        await eventually_async(died, within=60)
        late = [fault("sleep", f"innocent {number}", seconds=1.0) for number in range(half, INNOCENTS)]
        await store(other.session, *late)
        jobs = await what_came_of(other, INNOCENTS + 1)
    check(jobs, fleet.deaths, 1)
    assert {jobs[f"innocent {number}"]["crashes"] for number in range(half, INNOCENTS)} == {0}


@pytest.mark.failure_mode("F04")
async def test_a_job_that_takes_all_memory(dsn: str, processes: Processes, tmp_path: Path) -> None:
    """The kernel kills its process, when the memory of the group is gone; what runs in the other one goes on."""
    need_memory_cgroup()
    group = Path("/sys/fs/cgroup/memory") / f"asyncjobs-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("400000000")
    processes.inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    fleet = Fleet(processes, 2)
    thread = threading.Thread(target=fleet.run)
    thread.start()
    try:
        async with watching(dsn) as other:
            await store(other.session, fault("die", "poison", how="memory", after=0.2), *innocents())
            jobs = await what_came_of(other, INNOCENTS + 1)
        check(jobs, fleet.deaths, 1)
        assert {process.popen.returncode for process in processes.started} - {None} == {-9}
    finally:
        fleet.end()
        thread.join()
        processes.end()
        eventually(lambda: (group / "cgroup.procs").read_text() == "")
        group.rmdir()


WEB = """
import os, re
from asyncjobs import Jobs, job

jobs = Jobs(os.environ["DSN"])

@job(kind="web:spin")
async def spin() -> None:
    re.fullmatch(r"(a|aa)+", "a" * 60 + "b")

@job(kind="web:fine")
async def fine() -> None: ...

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})

app = jobs.asgi(application)
"""


@pytest.fixture
def server(dsn: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A web server that starts a worker again when it does not answer."""
    import uvicorn.config

    need(
        "uvicorn that looks after its workers",
        "timeout_worker_healthcheck" in vars(uvicorn.config.Config("x")),
    )
    (tmp_path / "webapp.py").write_text(WEB)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "webapp:app",
        "--workers",
        "2",
        "--port",
        "0",
        "--log-level",
        "warning",
    ]
    server = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "DSN": dsn})
    yield server
    server.terminate()
    server.wait(30)


@pytest.mark.failure_mode("F14")
async def test_a_web_process_that_is_killed_because_it_does_not_answer(
    dsn: str, server: subprocess.Popen[bytes]
) -> None:
    """A job that holds the interpreter for long is, to the server, a process that hangs: a crash, and after three it is failed."""
    async with watching(dsn) as other:

        async def both_run() -> bool:
            return bool(await other.connection.fetchval("select count(*) = 2 from asyncjobs.runners"))

        await eventually_async(both_run, within=60)
        await store(other.session, *[new_job(f"web:{kind}", "default") for kind in ("spin", "fine", "fine")])

        async def over() -> bool:
            return bool(await other.connection.fetchval("select count(*) = 3 from asyncjobs.finished_jobs"))

        await eventually_async(over, within=200)
        poison, *fine = await other.connection.fetch("select state, crashes from asyncjobs.jobs order by id")
        assert tuple(poison) == ("failed", MAX_CRASHES)
        assert {job["state"] for job in fine} == {"completed"}
        assert server.poll() is None
