"""What blocks the loop for longer than anybody should wait, at the default times."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

import pytest

from asyncjobs import job
from tests.engine.running import running
from tests.waiting import eventually_async

pytestmark = pytest.mark.faults


@job(kind="faults_guard:block")
async def block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251


@job(kind="faults_guard:add")
async def add(numbers: int) -> None:
    """One call into C that holds the interpreter."""
    sum(range(numbers))


@pytest.mark.failure_mode("F11")
async def test_five_seconds_are_reported_while_they_last(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """The warning comes after half a second, not after five; once; and the report says five in the end."""
    said_at: list[float] = []

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has blocked" in record.getMessage():
                said_at.append(time.monotonic())

    clock = Clock()
    logging.getLogger("asyncjobs").addHandler(clock)
    try:
        async with running(dsn) as jobs:
            started = time.monotonic()
            await (await block.later(5.0)).result(timeout=20)
            assert len(said_at) == 1
            assert said_at[0] - started < 4

            async def whole() -> bool:
                return jobs.blockers()[-1].seconds > 4.5

            await eventually_async(whole)
    finally:
        logging.getLogger("asyncjobs").removeHandler(clock)


@pytest.mark.failure_mode("F12")
async def test_seconds_of_the_interpreter_are_reported_afterwards(dsn: str) -> None:
    """With the name of the job."""
    async with running(dsn) as jobs:
        handle = await add.later(60_000_000)
        await handle.result(timeout=50)

        async def named() -> bool:
            return any(each.job_id == handle.id for each in jobs.blockers())

        await eventually_async(named)


async def test_a_process_that_was_stopped_blames_nobody(dsn: str) -> None:
    """SIGSTOP and SIGCONT: no code of the application ran meanwhile."""
    async with running(dsn) as jobs:
        stop, go_on = (
            f"os.kill({os.getpid()}, {int(number)})" for number in (signal.SIGSTOP, signal.SIGCONT)
        )
        code = f"import os, time; time.sleep(0.3); {stop}; time.sleep(3); {go_on}"
        helper = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        await helper.wait()
        await asyncio.sleep(1.0)
        assert jobs.blockers() == []
