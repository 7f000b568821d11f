"""A server that needs long to recover from its crash."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import asyncpg
import psutil
import pytest

from asyncjobs.embedded import Embedded, watch
from tests.faults.servers import DURABLE, IMMEDIATE
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@pytest.fixture
def server() -> Iterator[Embedded]:
    server = Embedded(settings=DURABLE, keep=False)
    server.start()
    yield server
    server.stop()


def _recovering(server: Embedded) -> psutil.Process | None:
    """The process of the server that replays its log."""
    postmaster = watch.Postmaster.of(server.dir)
    if postmaster is None or not postmaster.lives():
        return None
    for child in psutil.Process(postmaster.pid).children():
        if "startup" in " ".join(child.cmdline()):
            return child
    return None


@pytest.mark.failure_mode("F118")
async def test_a_start_waits_for_a_long_recovery(server: Embedded) -> None:
    """Longer than pg_ctl would wait, and than any patience of ours: the server is at it, so it is waited for."""
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("create table big as select generate_series(1, 4000000) n")
    crashed = watch.Postmaster.of(server.dir)
    assert crashed is not None
    os.kill(crashed.pid, IMMEDIATE)
    eventually(lambda: not crashed.lives())
    connection.terminate()
    starting = threading.Thread(target=server.start)
    starting.start()
    at_work = eventually(lambda: _recovering(server))
    assert at_work is not None
    os.kill(at_work.pid, signal.SIGSTOP)
    try:
        starting.join(15)
        assert starting.is_alive(), "it was started before it had recovered"
    finally:
        os.kill(at_work.pid, signal.SIGCONT)
    starting.join(60)
    assert not starting.is_alive()
    connection = await asyncpg.connect(server.dsn())
    assert await connection.fetchval("select count(*) from big") == 4_000_000
    await connection.close()
