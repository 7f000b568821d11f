"""`needed()`: is there still something to do?"""

from __future__ import annotations

import asyncio
import threading

import attrs
import pytest

from asyncjobs import JobFailed, Jobs, JobSkipped, JobState, Later, Missing, job

seen: list[str] = []


@attrs.frozen
class Async(Later):
    answer: bool

    async def needed(self) -> bool:
        await asyncio.sleep(0)
        return self.answer

    async def call(self) -> str:
        seen.append("called")
        return "done"

    @job
    async def with_arguments(self, n: int) -> int:
        seen.append("called")
        return n


@attrs.frozen
class Sync(Later):
    answer: bool

    def needed(self) -> bool:
        seen.append(threading.current_thread().name)
        return self.answer

    def call(self) -> str:
        seen.append("called")
        return "done"

    async def on_the_loop(self) -> str:
        return "done"


@attrs.frozen
class Raises(Later, max_attempts=1):
    async def needed(self) -> bool:
        raise OSError("cannot tell")

    async def call(self) -> None:
        seen.append("called")


@pytest.mark.parametrize("cls", [Async, Sync])
async def test_what_is_not_needed_is_skipped(running: Jobs, cls: type[Async | Sync]) -> None:
    """The job is final at once: not called, not tried again, and `result` says so."""
    seen.clear()
    handle = await cls(False).later("call")
    with pytest.raises(
        JobSkipped, match=rf"job {handle.id} .* was skipped: there was nothing left to do"
    ) as skipped:
        await handle.result(timeout=10)
    assert skipped.value.job_id == handle.id
    assert "called" not in seen
    stored = await handle.job()
    assert (stored.state, stored.attempt, stored.errors) == (JobState.SKIPPED, 1, ())
    assert stored.finished_at is not None


@pytest.mark.parametrize("cls", [Async, Sync])
async def test_what_is_needed_runs(running: Jobs, cls: type[Async | Sync]) -> None:
    """Whatever `needed` and the method are, async or sync."""
    assert await (await cls(True).later("call")).result(timeout=10) == "done"


async def test_every_method_is_asked_for(running: Jobs) -> None:
    """A `@job` method of the class too."""
    assert await (await Async(True).with_arguments.later(3)).result(timeout=10) == 3
    with pytest.raises(JobSkipped):
        await (await Async(False).with_arguments.later(3)).result(timeout=10)


async def test_it_is_asked_where_the_job_runs(running: Jobs) -> None:
    """A sync job's sync question may block, so it is asked in a thread; an async job's stands on the event loop."""
    loop = threading.current_thread().name
    for name, in_thread in (("call", True), ("on_the_loop", False)):
        seen.clear()
        assert await (await Sync(True).later(name)).result(timeout=10) == "done"
        assert (seen[0] != loop) is in_thread


async def test_who_calls_now_is_not_asked() -> None:
    """Calling the method is calling the method."""
    seen.clear()
    assert await Async(False).call() == "done"


async def test_a_needed_that_raises_fails_the_attempt(running: Jobs) -> None:
    """It is the job's code as well."""
    handle = await Raises().later("call")
    with pytest.raises(JobFailed, match="cannot tell"):
        await handle.result(timeout=10)


@attrs.frozen
class SaysWhy(Later, kind="test_needed:SaysWhy"):
    raises: bool

    async def needed(self) -> bool | Missing:
        why = Missing("the invoice is gone")
        if self.raises:
            raise why
        return why

    def call(self) -> None:
        seen.append("called")


@pytest.mark.parametrize("raises", [False, True])
async def test_it_may_say_why_not(running: Jobs, raises: bool) -> None:
    """A verb, returned or raised, is no yes."""
    seen.clear()
    with pytest.raises(JobSkipped, match="the invoice is gone"):
        await (await SaysWhy(raises).later("call")).result(timeout=10)
    assert seen == []
