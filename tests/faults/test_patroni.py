"""A cluster that Patroni keeps: it decides who is the primary, and we follow.

Three members of a Raft, two of them with a Postgres, so no etcd is needed. The program is not of our environment, because Postgres
refuses to run as root and who runs it must be able to enter: ASYNCJOBS_PATRONI names it, made by
`python3 -m venv V && V/bin/pip install 'patroni[raft]' psycopg2-binary` with a Python everybody may run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncjobs import Jobs
from asyncjobs.embedded.binaries import RunAs, binaries_for
from tests.engine.running import watching
from tests.faults.pairs import _ports
from tests.faults.processes import Processes, fault
from tests.features import need
from tests.flows.test_crashes import in_thread, until_finished
from tests.store.jobs import store
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PROGRAM = os.environ.get("ASYNCJOBS_PATRONI") or shutil.which("patroni")


@attrs.define(eq=False)
class Member:
    """One of the cluster."""

    name: str
    api: int
    postgres: int
    process: subprocess.Popen[bytes] | None = None

    def role(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/patroni", timeout=2) as answer:
                said = json.load(answer)
        except OSError as error:
            said = json.load(error) if hasattr(error, "read") else {}
        return str(said.get("role")) if said.get("state") in ("running", "streaming") else ""


@attrs.define(eq=False)
class Patroni:
    """Two servers and somebody to break ties."""

    home: Path
    run_as: RunAs | None
    rafts: list[int]
    members: list[Member]
    others: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def dsn(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.postgres}" for member in self.members)
        return f"postgresql://postgres:secret@{hosts}/postgres?target_session_attrs=read-write"

    def start(self) -> None:
        for number, member in enumerate(self.members):
            member.process = self._run(PROGRAM, self._config(number, member))
        self.others.append(self._run(f"{PROGRAM}_raft_controller", self._config(2, None)))

    def leader(self) -> Member | None:
        return next((each for each in self.members if each.role() in ("primary", "master")), None)

    def is_whole(self) -> bool:
        return sorted(each.role() for each in self.members) in (["primary", "replica"], ["master", "replica"])

    def _config(self, number: int, member: Member | None) -> Path:
        raft = {
            "data_dir": str(self.home / f"raft{number}"),
            "self_addr": f"127.0.0.1:{self.rafts[number]}",
            "partner_addrs": [f"127.0.0.1:{port}" for port in self.rafts if port != self.rafts[number]],
        }
        config: dict[str, Any] = {"scope": "asyncjobs", "name": f"m{number}", "raft": raft}
        if member is not None:
            user = {"username": "postgres", "password": "secret"}
            settings = {
                "unix_socket_directories": str(self.home),
                "max_connections": 60,
                "shared_buffers": "32MB",
            }
            config |= {
                "restapi": {"listen": f"127.0.0.1:{member.api}", "connect_address": f"127.0.0.1:{member.api}"},
                "bootstrap": {
                    "dcs": {
                        "ttl": 20, "loop_wait": 1, "retry_timeout": 3,
                        "postgresql": {"parameters": {"wal_log_hints": "on"}, "use_pg_rewind": True},
                    },
                    "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
                },
                "postgresql": {
                    "listen": f"127.0.0.1:{member.postgres}",
                    "connect_address": f"127.0.0.1:{member.postgres}",
                    "data_dir": str(self.home / f"data{number}"),
                    "bin_dir": str(binaries_for(self.run_as, 18)),
                    "pgpass": str(self.home / f"pgpass{number}"),
                    "authentication": {"superuser": user, "replication": user, "rewind": user},
                    "parameters": settings,
                    "pg_hba": [
                        "local all all trust",
                        "host all all 127.0.0.1/32 scram-sha-256",
                        "host replication all 127.0.0.1/32 scram-sha-256",
                    ],
                },
            }  # fmt: skip
        path = self.home / f"m{number}.yml"
        path.write_text(json.dumps(config))  # YAML, too
        return path

    def _run(self, program: str | None, config: Path) -> subprocess.Popen[bytes]:
        assert program is not None
        identity: Any = self.run_as.identity() if self.run_as else {}
        with open(self.home / f"{config.stem}.log", "ab") as log:  # noqa: PTH123
            return subprocess.Popen([program, str(config)], stdout=log, stderr=log, cwd="/", **identity)

    def end(self) -> None:
        for process in [*(each.process for each in self.members), *self.others]:
            if process is not None and process.poll() is None:
                process.terminate()  # Patroni stops its Postgres
        for process in [*(each.process for each in self.members), *self.others]:
            if process is not None:
                process.wait(timeout=60)


@pytest.fixture
def cluster() -> Iterator[Patroni]:
    need("patroni", PROGRAM)
    home = Path(tempfile.mkdtemp(prefix="ajp-"))
    run_as = RunAs.for_home(home)
    if run_as is not None:
        os.chown(home, run_as.uid, run_as.gid)
        need("a patroni that others than root can run", run_as.can("-x", Path(str(PROGRAM))))
    ports = _ports(7)
    members = [Member("m0", ports[0], ports[1]), Member("m1", ports[2], ports[3])]
    cluster = Patroni(home, run_as, ports[4:7], members)
    try:
        cluster.start()
        eventually(cluster.is_whole, within=90)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def processes(cluster: Patroni, tmp_path: Path) -> AsyncIterator[Processes]:
    await Jobs(cluster.dsn()).migrate()
    processes = Processes(cluster.dsn(), tmp_path / "log")
    try:
        yield processes
    finally:
        processes.end()


@pytest.mark.failure_mode("F56", "F57")
async def test_jobs_follow_the_leader(cluster: Patroni, processes: Processes) -> None:
    """Patroni and its Postgres are killed: when it has found another leader, jobs go on there, and nothing is burnt."""
    await in_thread(processes.start, vigilance={})
    leader = cluster.leader()
    assert leader is not None and leader.process is not None
    async with watching(cluster.dsn()) as other:
        await store(other.session, fault("sleep", "before"), fault("sleep", "through", seconds=40))
    await in_thread(processes.wait_for, "END", "before")
    await in_thread(processes.wait_for, "START", "through")
    time.sleep(1)  # noqa: ASYNC251 -- replication is asynchronous
    data = cluster.home / f"data{leader.name[1:]}"
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    leader.process.kill()
    leader.process.wait()
    os.kill(postmaster, 3)  # SIGQUIT: at once, all of it
    (follower,) = [each for each in cluster.members if each is not leader]
    killed = time.monotonic()
    await in_thread(eventually, lambda: follower.role() in ("primary", "master"), within=120)
    promoted = time.monotonic()
    async with watching(cluster.dsn()) as other:
        await store(other.session, fault("sleep", "after"))
        await in_thread(processes.wait_for, "START", "after", within=30)
        took = processes.said("START", "after")[0].at - promoted
        print(f"\nPatroni promoted {promoted - killed:.1f} s after the kill; first job {took:.2f} s later")
        await in_thread(processes.wait_for, "END", "through", within=60)
        rows = await other.connection.fetch("select distinct attempt, crashes from asyncjobs.jobs")
        assert [tuple(row) for row in rows] == [(1, 0)]
    assert processes.counts("START")["through"] == 1


@pytest.mark.failure_mode("F57")
async def test_a_switchover_loses_nothing(cluster: Patroni, processes: Processes) -> None:
    """Planned: the leader hands over, and is a standby afterwards at the same address."""
    await in_thread(processes.start, vigilance={})
    leader = cluster.leader()
    assert leader is not None
    async with watching(cluster.dsn()) as other:
        await store(other.session, fault("sleep", "before"))
    await in_thread(processes.wait_for, "END", "before")
    (follower,) = [each for each in cluster.members if each is not leader]

    def switch() -> bool:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{leader.api}/switchover",
            data=json.dumps({"leader": leader.name, "candidate": follower.name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return follower.role() in ("primary", "master")

    await in_thread(eventually, switch, within=60)
    await in_thread(eventually, lambda: follower.role() in ("primary", "master"), within=60)
    async with watching(cluster.dsn()) as other:
        await store(other.session, fault("sleep", "after"))
        await in_thread(processes.wait_for, "END", "after", within=30)
        await until_finished(other, 2)
        rows = await other.connection.fetch("select args->>'name' from asyncjobs.finished_jobs order by id")
        assert [row[0] for row in rows] == ["before", "after"]
