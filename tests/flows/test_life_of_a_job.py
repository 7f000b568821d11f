"""From enqueued to forgotten: attempts and their errors, waits and their ends, queues and their pauses, results and their waiters."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncjobs import (
    Cancel,
    Constant,
    JobCancelled,
    JobFailed,
    Jobs,
    JobState,
    Later,
    Snooze,
    current_job,
    job,
)
from asyncjobs._upkeep.janitor import Janitor, Retention
from asyncjobs.errors import JobNotFound
from tests.engine.running import running, watching
from tests.store.jobs import new_job, store
from tests.waiting import eventually_async

S = JobState
SOON = Constant(wait=timedelta(milliseconds=40), jitter=0.0)

ran: list[Any] = []
at: list[float] = []
gate: asyncio.Event


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate
    ran.clear()
    at.clear()
    gate = asyncio.Event()


@attrs.frozen
class Try(Later, kind="life:Try", backoff=SOON):
    """Fails until the attempt that is to succeed."""

    succeeds_at: int

    async def call(self) -> str:
        ran.append(current_job().attempt)
        at.append(time.perf_counter())
        if current_job().attempt < self.succeeds_at:
            raise ValueError(f"attempt {current_job().attempt} of {self.succeeds_at}")
        return f"at attempt {current_job().attempt}"


@job(kind="life:note")
async def note(name: str) -> str:
    ran.append(name)
    at.append(time.perf_counter())
    return name


@job(kind="life:hold", queue="held")
async def hold(name: str) -> None:
    ran.append(name)
    await gate.wait()


@job(kind="life:snooze", max_attempts=2)
async def snooze(times: int) -> int:
    ran.append(current_job().attempt)
    if len(ran) <= times:
        raise Snooze(0.01)
    return current_job().attempt


@job(kind="life:give_up", max_attempts=5)
async def give_up() -> None:
    ran.append(current_job().attempt)
    raise Cancel("the customer is gone")


async def is_true(fact: Callable[[], bool]) -> None:
    async def true() -> bool:
        return fact()

    await eventually_async(true)


# Attempts.


async def test_a_job_is_tried_until_it_succeeds(dsn: str) -> None:
    """After each failure it waits for its backoff; every failure is remembered, with its traceback."""
    async with running(dsn) as jobs:
        handle = await Try(4).later("call")
        assert await handle.result(timeout=10) == "at attempt 4"
        assert ran == [1, 2, 3, 4]
        waits = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
        assert all(0.04 <= wait < 0.5 for wait in waits), waits
        done = await jobs.get_job(handle.id)
        assert done is not None
        assert (done.state, done.attempt, done.crashes) == (S.COMPLETED, 4, 0)
        assert [error.attempt for error in done.errors] == [1, 2, 3]
        assert [error.error for error in done.errors] == [f"ValueError: attempt {n} of 4" for n in (1, 2, 3)]
        for error in done.errors:
            assert error.traceback is not None
            assert 'raise ValueError(f"attempt' in error.traceback
            assert done.created_at <= error.at
        assert done.finished_at is not None
        assert done.started_at is not None
        assert done.created_at <= done.started_at <= done.finished_at


async def test_between_attempts_it_is_retryable(dsn: str) -> None:
    """And says when it will be tried again."""
    async with running(dsn) as jobs:
        handle = await Try(2).later("call", backoff=Constant(wait=timedelta(hours=1), jitter=0.0))
        await is_true(lambda: ran == [1])

        async def waits() -> bool:
            return await handle.status() is S.RETRYABLE

        await eventually_async(waits)
        waiting = await jobs.get_job(handle.id)
        assert waiting is not None
        assert (waiting.attempt, waiting.runner, waiting.started_at) == (1, None, None)
        in_an_hour = (waiting.scheduled_at - datetime.now(UTC)).total_seconds()
        assert 3500 < in_an_hour <= 3600
        assert await jobs.retry(handle.id), "people need not wait"
        assert await handle.result(timeout=10) == "at attempt 2"


async def test_after_its_last_attempt_it_has_failed(dsn: str) -> None:
    """With what went wrong the last time as the cause."""
    async with running(dsn) as jobs:
        handle = await Try(9).later("call", max_attempts=3)
        with pytest.raises(JobFailed, match="attempt 3 of 9") as caught:
            await handle.result(timeout=10)
        assert "ValueError: attempt 3 of 9" in str(caught.value.__cause__)
        assert ran == [1, 2, 3]
        failed = await jobs.get_job(handle.id)
        assert failed is not None
        assert (failed.state, failed.attempt, len(failed.errors)) == (S.FAILED, 3, 3)


async def test_the_last_twenty_errors_are_kept(dsn: str) -> None:
    """Each with the end of its traceback, however many attempts there are."""
    async with running(dsn) as jobs:
        handle = await Try(99).later("call", max_attempts=25, backoff=Constant(wait=timedelta(0), jitter=0.0))
        with pytest.raises(JobFailed):
            await handle.result(timeout=20)
        failed = await jobs.get_job(handle.id)
        assert failed is not None
        assert [error.attempt for error in failed.errors] == list(range(6, 26))


async def test_snoozing_burns_no_attempt(dsn: str) -> None:
    """It may be done more often than there are attempts."""
    async with running(dsn) as jobs:
        handle = await snooze.later(5)
        assert await handle.result(timeout=10) == 1
        assert ran == [1] * 6
        done = await jobs.get_job(handle.id)
        assert done is not None
        assert (done.attempt, done.errors) == (1, ())


async def test_a_job_that_cancels_itself_is_not_tried_again(dsn: str) -> None:
    """And says why."""
    async with running(dsn) as jobs:
        handle = await give_up.later()
        with pytest.raises(JobCancelled):
            await handle.result(timeout=10)
        cancelled = await jobs.get_job(handle.id)
        assert cancelled is not None
        assert cancelled.state is S.CANCELLED
        assert "the customer is gone" in cancelled.errors[0].error
        assert ran == [1]


@pytest.mark.parametrize("state", [S.AVAILABLE, S.SCHEDULED, S.RETRYABLE])
async def test_a_waiting_job_is_cancelled_at_once(dsn: str, state: JobState) -> None:
    """Whatever it waits for; it never runs, and who awaits it is told."""
    async with Jobs(dsn) as jobs, watching(dsn) as other:
        handle = await note.set(delay=0 if state is S.AVAILABLE else 3600).later("never")
        if state is S.RETRYABLE:
            await other.connection.execute(
                "update asyncjobs.live_jobs set state = 2, attempt = 1 where id > 0"
            )
        assert await handle.status() is state
        waiter = asyncio.ensure_future(handle.result(timeout=10))
        await asyncio.sleep(0.05)
        assert await handle.cancel() == "cancelled"
        with pytest.raises(JobCancelled):
            await waiter
        assert await handle.status() is S.CANCELLED
        assert await handle.cancel() is None
        assert await jobs.count_jobs() == {"default": {S.CANCELLED: 1}}
        with pytest.raises(JobNotFound):
            await jobs.cancel(handle.id + 1)


# When.


async def test_a_job_starts_when_it_is_due(dsn: str) -> None:
    """After a delay, or at a moment: not before, and soon after; a moment that has passed is now."""
    async with running(dsn):
        begun = time.perf_counter()
        handles = [
            await note.set(delay=timedelta(milliseconds=300)).later("delay"),
            await note.set(at=datetime.now(UTC) + timedelta(milliseconds=300)).later("at"),
            await note.set(at=datetime.now(UTC) - timedelta(days=1)).later("past"),
            await note.set(delay=0).later("none"),
        ]
        assert [await handle.status() for handle in handles[:2]] == [S.SCHEDULED, S.SCHEDULED]
        for handle in handles:
            await handle.result(timeout=10)
        took = dict(zip(ran, (moment - begun for moment in at), strict=True))
        assert max(took["past"], took["none"]) < 0.3
        assert 0.29 <= took["delay"] < 0.5
        assert 0.29 <= took["at"] < 0.5


async def test_urgent_jobs_run_first(dsn: str) -> None:
    """Of those that wait in a queue: the lower priority, then the older."""
    async with Jobs(dsn) as jobs:
        for name, priority in (("c", 0), ("e", 10), ("a", -10), ("d", 0), ("b", -10)):
            await note.set(priority=priority).later(name)
    async with running(dsn, slots=1) as jobs:
        await jobs.work_off()
    assert ran == ["a", "b", "c", "d", "e"]


async def test_queues_have_slots_of_their_own(dsn: str) -> None:
    """A full one holds up no other, and none runs more than it has."""
    async with running(dsn, queues={"held": 2, "default": 1}) as jobs:
        for name in ("one", "two", "three"):
            await hold.later(name)
        handle = await note.later("meanwhile")
        await handle.result(timeout=10)
        assert sorted(ran) == ["meanwhile", "one", "two"]
        assert (await jobs.count_jobs())["held"] == {S.RUNNING: 2, S.AVAILABLE: 1}
        gate.set()
        await jobs.work_off()
        assert ran.count("three") == 1


async def test_a_queue_nobody_serves_waits(dsn: str) -> None:
    """It is not this runner's business."""
    async with running(dsn, queues={"default": 1}) as jobs:
        handle = await hold.later("not here")
        await (await note.later("here")).result(timeout=10)
        assert await handle.status() is S.AVAILABLE
        assert ran == ["here"]
        assert await handle.cancel() == "cancelled"
        await jobs.work_off()


async def test_a_paused_queue_rests_in_every_process(dsn: str) -> None:
    """Also in one that was asleep when it was paused or resumed elsewhere; what runs may finish."""
    async with running(dsn, queues={"held": 5, "default": 1}) as jobs:
        await hold.later("running")
        await is_true(lambda: ran == ["running"])
        async with Jobs(dsn) as elsewhere:
            await elsewhere.pause("held")
            await elsewhere.pause("held")  # once more is no harm

            async def rests() -> bool:
                supervisor = jobs._supervisor
                return supervisor is not None and "held" in supervisor.runner._claimer._lanes.paused

            await eventually_async(rests)
            paused = await hold.set(jobs=elsewhere).later("paused")
            await (await note.set(jobs=elsewhere).later("another queue")).result(timeout=10)
            assert ran == ["running", "another queue"]
            assert await paused.status() is S.AVAILABLE
            gate.set()
            await elsewhere.resume("held")
            await paused.result(timeout=10)
            assert ran == ["running", "another queue", "paused"]
            await elsewhere.resume("never paused")


async def test_a_runner_that_starts_finds_the_queue_paused(dsn: str) -> None:
    """A pause is kept in the database."""
    async with Jobs(dsn) as jobs:
        await jobs.pause("default")
        await note.later("paused")
    async with running(dsn) as jobs:
        await (await hold.later("another queue")).status()
        await is_true(lambda: ran == ["another queue"])
        assert "paused" not in ran
        gate.set()
        await jobs.resume("default")
        await is_true(lambda: ran == ["another queue", "paused"])


# Again.


async def test_a_finished_job_may_be_run_again(dsn: str) -> None:
    """With all its attempts, whatever became of it, under the same id; its token goes on, its errors are kept."""
    async with running(dsn) as jobs, watching(dsn) as other:
        handle = await Try(2).later("call", max_attempts=1)
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
        assert await jobs.retry(handle.id)
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
        again = await jobs.get_job(handle.id)
        assert again is not None
        assert (again.attempt, [error.attempt for error in again.errors]) == (1, [1, 1])
        assert await other.connection.fetchval("select token from asyncjobs.finished_jobs") == 2
        assert not await jobs.retry(handle.id + 1)


async def test_a_running_job_is_not_retried(dsn: str) -> None:
    """It runs already."""
    async with running(dsn) as jobs:
        handle = await hold.later("runs")
        await is_true(lambda: ran == ["runs"])
        assert not await jobs.retry(handle.id)
        gate.set()
        await handle.result(timeout=10)
        assert ran == ["runs"]


# Kept and forgotten.


async def test_finished_jobs_are_kept_for_as_long_as_said(dsn: str) -> None:
    """Failed ones longer than the others; what is live is never forgotten."""
    async with Jobs(dsn) as jobs, watching(dsn) as other:
        await store(other.session, *(new_job("life:old") for _ in range(9)))
        await other.connection.execute("""
            with gone as (delete from asyncjobs.live_jobs where id between 1 and 8 returning *)
            insert into asyncjobs.finished_jobs
                   (id, finished_at, created_at, scheduled_at, token, priority, attempt, max_attempts, crashes, state,
                    queue, kind, args)
            select id, now() - case when id % 2 = 0 then interval '90 s' else interval '30 s' end,
                   created_at, scheduled_at, 1, 0, 1, 1, 0, 10 + (id - 1) / 2, queue, kind, args
              from gone""")
        await other.connection.execute(
            "update asyncjobs.live_jobs set created_at = '2020-01-01' where id > 0"
        )

        async def left() -> dict[str, int]:
            rows = await other.connection.fetch("select state, count(*) from asyncjobs.jobs group by state")
            return dict(rows)

        assert await left() == {"available": 1, "completed": 2, "skipped": 2, "cancelled": 2, "failed": 2}
        janitor = Janitor(jobs._source, "asyncjobs", Retention(60.0, 120.0))
        assert await janitor.round(other.session) == 3
        assert await left() == {"available": 1, "completed": 1, "skipped": 1, "cancelled": 1, "failed": 2}
        janitor = Janitor(jobs._source, "asyncjobs", Retention(60.0, 60.0))
        assert await janitor.round(other.session) == 1
        janitor = Janitor(jobs._source, "asyncjobs", Retention(120.0, 0.0))
        assert await janitor.round(other.session) == 1
        assert await left() == {"available": 1, "completed": 1, "skipped": 1, "cancelled": 1}


async def test_forgetting_is_done_in_chunks(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing old is left."""
    monkeypatch.setattr("asyncjobs._upkeep.janitor.A_CHUNK", 7)
    async with running(dsn) as jobs, watching(dsn) as other:
        for number in range(20):
            await note.later(str(number))
        await jobs.work_off()
        janitor = Janitor(jobs._source, "asyncjobs", Retention(0.0, 0.0))
        assert await janitor.round(other.session) == 20
        assert await jobs.count_jobs() == {}


async def test_a_runner_forgets_by_itself(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, and puts the planner's ballast back."""
    original = Janitor.__init__

    def hurry(self: Janitor, source: Any, schema: str, retention: Retention) -> None:
        original(self, source, schema, retention, every=0.05)

    monkeypatch.setattr(Janitor, "__init__", hurry)
    async with watching(dsn) as other:
        await other.connection.execute("delete from asyncjobs.live_jobs where id < 0")
        async with running(dsn, keep=0.1, keep_failed=0.1) as jobs:
            handle = await note.later("once")
            await handle.result(timeout=10)

            async def forgotten() -> bool:
                return await jobs.get_job(handle.id) is None

            await eventually_async(forgotten)
            assert await other.connection.fetchval("select count(*) from asyncjobs.live_jobs") == 1400


# Results.


async def test_only_an_awaited_job_notifies(dsn: str) -> None:
    """Whoever listens hears of the jobs somebody waits for, and of no other."""
    async with running(dsn) as jobs, watching(dsn) as other:
        await other.listen("asyncjobs:finished")
        for number in range(20):
            await note.later(str(number))
        await jobs.work_off()
        assert await other.hears_all_that_was_said() == []
        handle = await hold.later("awaited")
        waiter = asyncio.ensure_future(handle.result(timeout=10))

        async def is_marked() -> bool:
            return bool(await other.connection.fetchval("select bool_or(awaited) from asyncjobs.live_jobs"))

        await eventually_async(is_marked)
        gate.set()
        await waiter
        assert await other.hears_all_that_was_said() == [str(handle.id)]


async def test_a_result_wakes_who_waits_for_it_in_another_process(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a notification: the net below is looked into much later."""
    monkeypatch.setattr("asyncjobs._enqueue.waiter.LOOK_EVERY", 3600.0)
    async with running(dsn), Jobs(dsn) as elsewhere:
        for number in range(5):
            handle = await hold.set(jobs=elsewhere).later(str(number))
            waiter = asyncio.ensure_future(handle.result(timeout=10))
            await is_true(lambda number=number: str(number) in ran)  # type: ignore[misc]
            await asyncio.sleep(0.05)
            gate.set()
            opened = time.perf_counter()
            await waiter
            assert time.perf_counter() - opened < 1.0
            gate.clear()


# Kinds this process does not know.


@pytest.mark.failure_mode("F93", "F98")
async def test_an_unknown_kind_waits_and_is_told_once(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """It may be a newer process's. It burns no attempt, is not claimed, and does not keep the runner awake."""
    caplog.set_level(logging.WARNING, "asyncjobs")
    async with running(dsn) as jobs, watching(dsn) as other:
        await store(other.session, *(new_job("life:newer", "default") for _ in range(3)))
        await store(other.session, *(new_job("life:newest", "default") for _ in range(3)))
        for number in range(3):
            await (await note.later(str(number))).result(timeout=10)
            await store(other.session, new_job("life:newer", "default"))
        await other.until_idle()
        rows = await other.connection.fetch(
            "select distinct attempt, token, runner from asyncjobs.live_jobs where id > 0"
        )
        assert [tuple(row) for row in rows] == [(0, 0, None)]
        told = [record.getMessage() for record in caplog.records if "does not define" in record.getMessage()]
        assert len(told) == 2
        assert any("'life:newer'" in each for each in told)
        assert jobs.is_degraded is False


NEWER = """
import asyncio, sys
from asyncjobs import Jobs, job

@job(kind="life:newer_function")
async def newer(number: int) -> int:
    return number * 2

async def main():
    async with Jobs(sys.argv[1]).running() as jobs:
        print(await jobs.handle(int(sys.argv[2])).result(timeout=30))

asyncio.run(main())
"""


@pytest.mark.failure_mode("F93")
async def test_a_process_that_knows_the_kind_runs_it(dsn: str, tmp_path: Path) -> None:
    """As after a deployment."""
    async with running(dsn), watching(dsn) as other:
        (job_id,) = await store(
            other.session, new_job("life:newer_function", "default", args='{"number": 21}')
        )
        await (await note.later("known")).result(timeout=10)
        script = tmp_path / "newer.py"
        script.write_text(NEWER)
        newer = await asyncio.create_subprocess_exec(
            sys.executable, script, dsn, str(job_id), stdout=subprocess.PIPE
        )
        out, _ = await newer.communicate()
        assert (newer.returncode, out.decode().strip()) == (0, "42")


async def test_a_queue_that_is_not_served_is_not_told_of(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its kinds are the business of those who serve it."""
    caplog.set_level(logging.WARNING, "asyncjobs")
    async with running(dsn, queues={"default": 1}), watching(dsn) as other:
        await store(other.session, new_job("life:somebody_elses", "another"))
        await (await note.later("here")).result(timeout=10)
        await other.until_idle()
        assert not [record for record in caplog.records if "does not define" in record.getMessage()]
