"""Postgres is away for a minute, with the protocol's own times."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from asyncjobs import Constant, DatabaseUnavailable, job
from tests.engine.running import running
from tests.faults.servers import DURABLE, FAST, IMMEDIATE, Server, a_server
from tests.waiting import eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

AWAY = 60.0
ran: Counter[str] = Counter()
gate: asyncio.Event


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from a_server(DURABLE)


@job(kind="long_outages:work", max_attempts=2, backoff=Constant(0.1))
async def work(name: str, seconds: float = 0.0) -> str:
    ran[name] += 1
    if name == "held":
        await gate.wait()
    await asyncio.sleep(seconds)
    return name


@pytest.mark.failure_mode("F22", "F55")
@pytest.mark.parametrize("how", [FAST, IMMEDIATE], ids=["fast", "immediate"])
async def test_a_minute_without_postgres(server: Server, how: signal.Signals) -> None:
    """The application is told, and nothing ends; back again, what ended meanwhile is written and what waits is begun, at once."""
    global gate
    gate = asyncio.Event()
    ran.clear()
    dsn = await server.database()
    async with running(dsn, slots=12) as jobs:
        held = await work.later("held")
        ending = [await work.later(f"ends {number}", 5.0) for number in range(5)]

        async def all_run() -> bool:
            return len(ran) == 6

        await eventually_async(all_run)
        waiting = [await work.set(delay=10).later(f"waits {number}") for number in range(20)]
        await asyncio.sleep(0.5)  # claims are committed asynchronously
        await asyncio.to_thread(server.stop, how)
        stopped = time.monotonic()

        async def is_degraded() -> bool:
            return jobs.is_degraded

        await eventually_async(is_degraded)
        while time.monotonic() < stopped + AWAY:
            with pytest.raises(DatabaseUnavailable):
                await work.later("refused")
            assert jobs.is_degraded
            await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        back = time.monotonic()

        async def first_began() -> bool:
            return any(name.startswith("waits") for name in ran)

        await eventually_async(first_began, within=20)
        print(f"first job {time.monotonic() - back:.2f} s after Postgres was back")
        assert time.monotonic() - back < 6  # 3 on a quiet machine
        assert not jobs.is_degraded
        for handle in [*ending, *waiting]:
            await handle.result(timeout=20)
        assert not gate.is_set()
        gate.set()
        assert await held.result(timeout=10) == "held"
        for handle in [held, *ending, *waiting]:
            done = await handle.job()
            assert (done.attempt, done.crashes, done.errors) == (1, 0, ())
    assert set(ran.values()) == {1}
    assert "refused" not in ran
