"""TResque: what a service object is made from."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
import pytest

from asyncjobs import Handle, JobFailed, Jobs, Later


@attrs.frozen
class Greets(Later, kind="seeds.Greets", max_attempts=25):
    name: str
    times: int = 2

    async def call(self) -> str:
        return " ".join([f"hello {self.name}"] * self.times)


async def stored_as(jobs: Jobs, payload: dict[str, Any]) -> Handle[Any]:
    """A job of these inputs, whoever stored it: another version of the code, or another language."""
    async with jobs.connection() as connection:
        job_id = await connection.fetchval(
            """select asyncjobs.enqueue('seeds.Greets', $1, '{"method": "call", "max_attempts": 25}')""",
            orjson.dumps(payload).decode(),
        )
    return jobs.handle(job_id)


@pytest.mark.seed("T1")
async def test_a_payload_may_have_more_and_less(running: Jobs) -> None:
    """T1 service object with declared inputs, dict payload; unknown keys in payload tolerated, missing optional ⇒ default, …"""
    handle = await Greets("Ada", 1).later("call")
    assert (await handle.job()).args == {"name": "Ada", "times": 1}
    assert await handle.result(timeout=10) == "hello Ada"
    more = await stored_as(running, {"name": "Bob", "times": 1, "of another version": [1, 2]})
    assert await more.result(timeout=10) == "hello Bob"
    less = await stored_as(running, {"name": "Eve"})
    assert await less.result(timeout=10) == "hello Eve hello Eve"


@pytest.mark.seed("T1")
async def test_what_is_missing_is_missed_once(running: Jobs) -> None:
    """T1 … missing required ⇒ permanent failure with clear error (not 25 retries)."""
    handle = await stored_as(running, {"times": 1})
    with pytest.raises(JobFailed, match="UndecodableInput: .*'name'"):
        await handle.result(timeout=10)
    failed = await handle.job()
    assert (failed.attempt, failed.max_attempts, len(failed.errors)) == (1, 25, 1)
