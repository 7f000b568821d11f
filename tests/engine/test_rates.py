"""Rates by key, over all processes: so many tokens begin in a time, and who must wait costs nobody anything."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidInput, InvalidOption, Jobs, JobState, Later, Lock, Rate, job
from tests.engine.running import running, watching
from tests.waiting import eventually_async

gate: asyncio.Event
began: list[tuple[float, Any]] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    gate = asyncio.Event()
    began.clear()


@job(kind="test_rates:call")
async def call(tenant: str, wait: bool = False) -> None:
    began.append((time.monotonic(), tenant))
    if wait:
        await gate.wait()


@job(kind="test_rates:read")
async def read(tenant: str, pages: int, name: str = "") -> None:
    began.append((time.monotonic(), name))


async def run(count: int) -> bool:
    return len(began) >= count


async def test_so_many_of_each_key_begin_in_a_time(dsn: str) -> None:
    """Three of each tenant at once and one more each tenth of a second, on two runners; a tenant does not wait for another."""
    limited = call.set(rate=Rate(10, burst=3, by="tenant"))
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running():
        many = [await limited.set(jobs=jobs).later("acme") for _ in range(10)]
        few = [await limited.set(jobs=jobs).later("ann") for _ in range(3)]
        for handle in few + many:
            await handle.result(timeout=30)
        done = [await jobs.get_job(handle.id) for handle in many]
    starts = sorted(each.started_at for each in done if each is not None and each.started_at is not None)
    assert (starts[9] - starts[0]).total_seconds() >= 0.7 - 0.001
    assert (starts[2] - starts[0]).total_seconds() < 0.3
    assert [each.attempt for each in done if each is not None] == [1] * 10
