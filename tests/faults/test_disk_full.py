"""The server has no space left: an outage like another."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from asyncjobs import Jobs, job
from asyncjobs.embedded import Embedded
from tests.engine.running import watching
from tests.faults.processes import Processes, fault
from tests.faults.servers import DURABLE
from tests.features import need, need_root
from tests.store.jobs import store
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

SIZE = 160  #: megabytes


@job(kind="disk:padded")
async def padded(padding: str) -> None: ...


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    need_root()
    path = tmp_path / "disk"
    path.mkdir()
    for parent in path.parents:
        if parent != Path("/") and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m,mode=755", "tmpfs", str(path)], check=False
    )
    need("a disk that may be mounted", mounted.returncode == 0)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Leave nothing."""
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)


@pytest.mark.failure_mode("F59", "F119")
async def test_a_full_disk_loses_nothing_and_burns_nothing(disk: Path, tmp_path: Path) -> None:
    """Enqueuing is refused with words; what runs is finished when there is space again; whatever was accepted ran once."""
    server = Embedded(
        dir=disk / "postgres",
        settings={**DURABLE, "max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "16MB"},
    )
    server.start()
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("create database filled")
    await admin.close()
    dsn = server.dsn("filled")
    await Jobs(dsn).migrate()
    processes = Processes(dsn, tmp_path / "log")
    try:
        await asyncio.to_thread(processes.start, slots=10)
        before = [f"before {number}" for number in range(10)]
        async with watching(dsn) as other:
            await store(other.session, *(fault("sleep", name, seconds=3.0) for name in before))
        await asyncio.to_thread(processes.wait_for, "START", *before)
        await asyncio.to_thread(fill, disk / "ballast")
        refused = await _until_refused(dsn)
        assert getattr(refused, "sqlstate", "53100") in {"53100", "57P03", "08006"} or isinstance(
            refused, OSError
        )
        await asyncio.sleep(4.0)  # the jobs end, and what came of them cannot be written
        (disk / "ballast").unlink()
        with suppress(Exception):
            server.start()  # it may have given up: a server cannot run without its log
        await eventually_async(lambda: _all_done(dsn), within=60)
        assert processes.counts("START") == dict.fromkeys(before, 1)
        async with watching(dsn) as other:
            rows = await other.connection.fetch(
                "select distinct state, attempt, crashes from asyncjobs.jobs where kind like 'fault:%'"
            )
            assert [tuple(row) for row in rows] == [("completed", 1, 0)]
            await store(other.session, fault("sleep", "afterwards"))
        await asyncio.to_thread(processes.wait_for, "END", "afterwards")
    finally:
        processes.end()
        server.stop()


async def _until_refused(dsn: str) -> Exception:
    """Enqueue until the server has no room; what it says then."""
    async with Jobs(dsn) as jobs:
        for _ in range(2000):
            try:
                await jobs.enqueue_many(
                    padded.set(queue="nobody").prepare(os.urandom(40_000).hex()) for _ in range(10)
                )
            except Exception as error:
                return _cause(error)
    raise AssertionError("the disk is not full")


def _cause(error: Exception) -> Exception:
    cause: Any = error.__cause__
    return cause if isinstance(cause, Exception) else error


async def _all_done(dsn: str) -> bool:
    async with watching(dsn) as other:
        left = await other.connection.fetchval(
            "select count(*) from asyncjobs.live_jobs where id > 0 and kind like 'fault:%'"
        )
        return bool(left == 0)
