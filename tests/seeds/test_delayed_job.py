"""delayed_job: methods that run later, and a process that dies."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import attrs
import pytest

from asyncjobs import Jobs, JobState, Later, job
from asyncjobs._keeper.vigilance import Vigilance
from tests.seeds.holder import held_by_who_dies
from tests.waiting import eventually_async

asked: list[int] = []


@attrs.frozen
class Invoice(Later, kind="seeds.Invoice"):
    number: int

    def on_enqueue(self) -> dict[str, Any]:
        asked.append(self.number)
        return {"priority": 10 * self.number, "queue": f"invoices-{len(asked)}"}

    @job
    async def charge(self, cents: int) -> str:
        return f"{self.number} charged {cents}"

    @job
    def post(self, *, to: str) -> str:
        return f"{self.number} posted to {to}"


@pytest.mark.seed("D4")
async def test_methods_run_later_or_now(running: Jobs) -> None:
    """D4 `.later()/delay()` proxy and `@always_later` decorator with callable options evaluated at call time, `.now()` escape
    hatch = `m_without_delay`; async and sync methods.

    Whoever calls a method says so each time (docs/concepts/differences.md): `obj.charge.later(…)`, or `obj.charge(…)` for now. What
    is computed at call time `on_enqueue` says.
    """
    asked.clear()
    invoice = Invoice(3)
    assert await invoice.charge(5) == "3 charged 5"
    assert invoice.post(to="Ada") == "3 posted to Ada"
    assert asked == []
    charge, post = await invoice.charge.later(7), await invoice.post.later(to="Bob")
    assert asked == [3, 3]
    assert await charge.result(timeout=10) == "3 charged 7"
    assert await post.result(timeout=10) == "3 posted to Bob"
    stored = [await charge.job(), await post.job()]
    assert [(each.priority, each.queue) for each in stored] == [(30, "invoices-1"), (30, "invoices-2")]
    said = await (await invoice.charge.set(priority=1).later(9)).job()
    assert (said.priority, said.queue) == (1, "invoices-3")


@pytest.mark.seed("D11", "T5")
async def test_who_dies_loses_its_jobs_within_seconds(dsn: str) -> None:
    """D11 own-lock resume: replaced by process lease; a restarted worker gets its jobs back in seconds, not 4 h.

    T5 … holder identity fenced; freed on crash within rescue time: who waited for the dead one's lock runs, too.
    """
    program = (sys.executable, "-m", "tests.seeds.holder", dsn)
    async with Jobs(dsn) as jobs:
        held = await held_by_who_dies.later("one")
        other = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        assert other.stdout is not None
        assert await other.stdout.readline() == b"begun\n"
        waits = await held_by_who_dies.later("one")

        async def is_blocked() -> bool:
            return await waits.status() is JobState.BLOCKED

        await eventually_async(is_blocked)
        other.kill()
        await other.wait()
        assert (await held.job()).state is JobState.RUNNING  # nobody is there to know
    async with Jobs(dsn, vigilance=Vigilance(look_every=0.1, settle=0.3)).running() as jobs:
        assert await jobs.handle(waits.id).result(timeout=20) == 1
        assert (
            await jobs.handle(held.id).result(timeout=20) == 1
        )  # the crash is counted, and costs no attempt
        assert (await jobs.handle(held.id).job()).crashes == 1
