"""A newcomer's first job."""

import attrs

from asyncjobs import Jobs, Later


@attrs.frozen
class Measure(Later, kind="test_first:Measure"):
    text: str

    async def call(self) -> int:
        return len(self.text)


async def test_a_job_runs_and_its_result_comes_back(dsn: str) -> None:
    """What `later` enqueues runs in this process, and `result` gives what it returned."""
    async with Jobs(dsn).running():
        handle = await Measure("abc").later("call")
        assert await handle.result(timeout=10) == 3
