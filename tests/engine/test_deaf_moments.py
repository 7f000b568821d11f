"""What is committed while nobody listens is found all the same, at once and without a poll."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from asyncjobs import job
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import runner_of, running, watching
from tests.store.jobs import new_job, store
from tests.waiting import eventually_async

ran: Counter[int] = Counter()


@job(kind="deaf:note")
async def note(number: int) -> None:
    ran[number] += 1


@pytest.mark.failure_mode("F40", "F42")
async def test_a_job_stored_while_the_listener_is_gone_is_found_when_it_is_back(dsn: str) -> None:
    """Whether its notification fell before the loss, into it, or just before the next LISTEN; nothing else would find it."""
    ran.clear()
    dice = random.Random(3)
    async with running(dsn, vigilance=Vigilance(look_every=0.1)) as jobs, watching(dsn) as other:
        for number in range(6):
            await other.until_idle()
            lost = runner_of(jobs)._identity.losses
            await other.connection.execute(
                "select pg_terminate_backend(pid) from pg_locks"
                " where locktype = 'advisory' and classid = 1634364780 and granted"
            )
            await asyncio.sleep(dice.random() * 0.3)
            await store(other.session, new_job("deaf:note", "default", args=f'{{"number": {number}}}'))

            async def done(number: int = number) -> bool:
                return ran[number] == 1

            await eventually_async(done, within=10)
            assert runner_of(jobs)._identity.losses > lost
    assert set(ran.values()) == {1}
