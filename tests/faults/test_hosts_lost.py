"""A machine is gone without a word: a network namespace for a machine, whose cable is pulled."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncjobs import Jobs
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from tests.engine.running import watching
from tests.faults.processes import ALERT, Processes, fault
from tests.features import need, need_root
from tests.flows.test_crashes import in_thread
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

HERE, THERE = "10.203.113.1", "10.203.113.2"  # the two ends of the cable; nobody else is on it
numbers = itertools.count()


@attrs.frozen
class Cable:
    """Leads to a namespace, which stands for a machine."""

    namespace: str
    device: str

    @property
    def inside(self) -> list[str]:
        """What a command starts with to run on that machine."""
        return ["ip", "netns", "exec", self.namespace]

    def pull(self) -> None:
        _ip("link", "set", self.device, "down")

    def plug(self) -> None:
        _ip("link", "set", self.device, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _can_make_namespaces() -> bool:
    try:
        _ip("netns", "add", "ajprobe")
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "delete", "ajprobe")
    return True


@pytest.fixture
def cable() -> Iterator[Cable]:
    need_root()
    need("network namespaces", _can_make_namespaces())
    number = next(numbers)
    cable = Cable(f"aj{os.getpid()}_{number}", f"aj{os.getpid()}.{number}"[:15])
    _ip("netns", "add", cable.namespace)
    try:
        _ip("link", "add", cable.device, "type", "veth", "peer", "name", "eth0", "netns", cable.namespace)
        _ip("address", "add", f"{HERE}/30", "dev", cable.device)
        _ip("-n", cable.namespace, "address", "add", f"{THERE}/30", "dev", "eth0")
        _ip("-n", cable.namespace, "link", "set", "eth0", "up")
        cable.plug()
        yield cable
    finally:
        _ip("netns", "delete", cable.namespace)  # and the cable with it


@attrs.frozen
class Ends:
    """A database by the cable, and by the socket."""

    far: str
    near: str


@pytest.fixture
async def ends(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ends]:
    """A server that listens at its end of the cable, and nowhere else."""
    monkeypatch.setattr("asyncjobs.embedded.server.LOCALHOST", HERE)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
        free.close()
        os.chmod(folder, 0o755)  # noqa: PTH101
        who = Path(folder) / "pg_hba.conf"
        who.write_text(f"local all all trust\nhost all all {HERE}/30 scram-sha-256\n")
        who.chmod(0o644)
        embedded = Embedded(settings={**TEST_SETTINGS, "hba_file": str(who)}, keep=False, port=port)
        far = await in_thread(embedded.start)
        near = f"postgresql://postgres@/postgres?host={embedded.dir}&port={port}"
        try:
            await Jobs(near).migrate()
            yield Ends(far, near)
        finally:
            await in_thread(embedded.stop)


@pytest.fixture
def processes(ends: Ends, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(ends.near, tmp_path / "log")
    yield processes
    processes.end()


def start_over_there(processes: Processes, cable: Cable, ends: Ends, **given: Any) -> Any:
    """A runner on the other machine."""
    there = Processes(ends.far, processes.log, inside=cable.inside)
    process = there.start(**given)
    processes.started.append(process)
    return process


@pytest.mark.failure_mode("F08", "F43")
@pytest.mark.parametrize("what", ["nothing", "a notification"])
async def test_a_lost_machine_is_missed_and_refused_when_it_comes_back(
    cable: Cable, ends: Ends, processes: Processes, what: str
) -> None:
    """Its jobs run elsewhere within 15 s, though the server still has something to send to it; what it writes then is void."""
    lost = await in_thread(start_over_there, processes, cable, ends, slots=1)
    async with watching(ends.near) as other:
        await other.connection.execute("create table effects (name text, pid integer)")
        await store(other.session, fault("write", "job", seconds=25.0))
        await in_thread(processes.wait_for, "WRITTEN", "job", by=lost)
        peer = await in_thread(processes.start, slots=1, vigilance=ALERT)
        cable.pull()
        pulled = time.monotonic()
        if what == "a notification":
            await other.connection.execute("notify \"asyncjobs:ready\", 'default'")
        await in_thread(processes.wait_for, "START", "job", by=peer, within=15 - (time.monotonic() - pulled))
        cable.plug()

        async def done() -> bool:
            return bool(await other.connection.fetchval("select count(*) from asyncjobs.finished_jobs"))

        await in_thread(processes.wait_for, "CANCELLED", "job", by=lost)
        await eventually_async(done, within=60)
        (row,) = await other.connection.fetch("select * from asyncjobs.jobs")
        assert (row["state"], row["attempt"], row["crashes"]) == ("completed", 1, 1)
        assert await other.connection.fetch("select name, pid from effects") == [("job", peer.pid)]
        assert [each.pid for each in processes.said("COMMITTED")] == [peer.pid]
