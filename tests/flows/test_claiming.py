"""What the seeds promise of claiming: at once while there is more, woken or polled, through errors, and not what is not known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from asyncjobs import Jobs, JobState, job
from tests.running import running, until_connected, until_idle
from tests.waiting import eventually_async

ran: list[int] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@job(kind="test_claiming:run")
async def run(number: int) -> None:
    ran.append(number)


@job(kind="test_claiming:sleep", queue="slow")
async def sleep(number: int) -> None:
    ran.append(number)
    await asyncio.sleep(600)


@asynccontextmanager
async def refusing_claims(dsn: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """A database that answers, and refuses every claim: as with a right that was taken away. How many, it tells."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("""
            create sequence asyncjobs.refused;   -- which no rollback turns back
            create function asyncjobs.refuse() returns trigger language plpgsql as
              $$ begin perform nextval('asyncjobs.refused'); raise exception 'no claims today'; end $$;
            create trigger refuse before update on asyncjobs.live_jobs for each row
              when (old.runner is null and new.runner is not null) execute function asyncjobs.refuse();
        """)

        async def refused() -> int:
            count: int = await connection.fetchval("select last_value from asyncjobs.refused")
            return count

        yield refused
        await connection.execute("drop trigger refuse on asyncjobs.live_jobs")
    finally:
        await connection.close(timeout=5)


@pytest.mark.seed("D12")
async def test_errors_of_claims_back_off_and_turn_health_red(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D12: "reserve errors: exponential back-off, never kills the web process; health turns red", and green again."""
    jobs = Jobs(dsn)
    async with jobs:
        handle = await run.later(1)

    async def red() -> bool:
        return jobs.is_degraded and jobs.modes is not None

    async with refusing_claims(dsn) as refused:
        with caplog.at_level(logging.ERROR, "asyncjobs"):
            async with jobs.running():
                await until_connected(jobs)
                await eventually_async(red)
                before = await refused()
                await asyncio.sleep(1.0)
                assert await refused() - before <= 5  # without a pause it would be hundreds
                assert jobs.is_degraded
                assert (await jobs.get_job(handle.id)) is not None  # the application goes on
        assert "no claims today" in caplog.text
    async with jobs.running():
        await jobs.handle(handle.id).result(timeout=20)
        assert not jobs.is_degraded


@pytest.mark.seed("Q10")
async def test_a_claim_that_was_satisfied_is_followed_by_the_next(dsn: str) -> None:
    """Q10: "poll again immediately when satisfied": with an hour between looks, 40 jobs run in two slots."""
    jobs = Jobs(dsn, slots=2, listen=False, poll=3600)
    async with jobs:
        await jobs.enqueue_many([run.prepare(number) for number in range(40)])
    async with jobs.running():
        await jobs.work_off()
    assert sorted(ran) == list(range(40))


@pytest.mark.seed("Q11")
@pytest.mark.parametrize(
    "given", [{"poll": 86_400}, {"listen": False, "poll": 0.05}, {}], ids=["listen-only", "poll-only", "both"]
)
async def test_listening_polling_or_both(dsn: str, given: dict[str, float]) -> None:
    """Q11: "listen-only, poll-only, both; per-queue poll interval": a job that another process commits is run.

    One claim looks into all queues, so there is one interval (docs/concepts/differences.md).
    """
    mine = Jobs(dsn, **given)  # type: ignore[arg-type]
    async with mine.running():
        await until_connected(mine)
        if given.get("listen", True):
            await until_idle(dsn)
        else:
            await mine.work_off()
        async with Jobs(dsn) as theirs:
            await (await run.set(jobs=theirs).later(1)).result(timeout=20)
        modes = mine.modes
        assert modes is not None
        assert modes.hears is given.get("listen", True)


@pytest.mark.seed("Q12")
async def test_a_notification_concerns_those_who_serve_the_queue(dsn: str) -> None:
    """Q12: "notify wakes one suitable process, not all": of two that sleep, only the one is told that serves the queue, and
    nobody where none does.

    Of several that do, each is told, and one runs the job (docs/concepts/differences.md).
    """
    heard: list[str] = []
    listener = await asyncpg.connect(dsn)
    for channel in ("asyncjobs:ready", "test_claiming"):
        await listener.add_listener(channel, lambda *said: heard.append(said[3]))
    async with running(dsn, queues={"mail": 1}), running(dsn, queues={"slow": 1}), Jobs(dsn) as theirs:
        await until_idle(dsn, 2)
        nobodys = await run.set(jobs=theirs, queue="nobody's").later(2)
        await (await run.set(jobs=theirs, queue="mail").later(1)).result(timeout=20)
        await listener.execute("notify test_claiming, 'the end'")

        async def the_end() -> bool:
            return "the end" in heard

        await eventually_async(the_end)
        assert await nobodys.status() is JobState.AVAILABLE
    await listener.close()
    assert heard == ["mail", "the end"]
    assert ran == [1]


@pytest.mark.seed("Q13")
async def test_a_process_leaves_what_it_does_not_know(dsn: str) -> None:
    """Q13: "job version gate": a kind that only newer code defines waits for a process with that code, and costs no attempt."""
    jobs = Jobs(dsn)
    async with jobs.running():
        async with jobs.connection() as connection:
            newer = await connection.fetchval(
                "insert into asyncjobs.live_jobs (queue, kind, args) values ('default', 'test_claiming:run.v2', '{}') returning id"
            )
        await (await run.later(1)).result(timeout=20)
        await jobs.work_off()
        left = await jobs.get_job(newer)
        assert left is not None
        assert (left.state, left.attempt) == (JobState.AVAILABLE, 0)


@pytest.mark.seed("Q16")
async def test_a_stop_has_a_limit_and_burns_no_attempt(dsn: str) -> None:
    """Q16: "TERM: stop claiming, return buffered, wait with a *limit*, cancel, return to available un-burned"."""
    jobs = Jobs(dsn, shutdown_timeout=0.8, slots=2)
    async with jobs:
        handles = [await sleep.later(number) for number in range(5)]
    with Within(20):
        async with jobs.running():

            async def two_run() -> bool:
                return len(ran) == 2

            await eventually_async(two_run)
    async with jobs:
        seen = [await jobs.get_job(handle.id) for handle in handles]
        assert [(each.state, each.attempt, each.runner) for each in seen if each] == [
            (JobState.AVAILABLE, 0, None)
        ] * 5


class Within:
    """The block takes no longer than so many seconds: without the limit, ten minutes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        self.started = asyncio.get_running_loop().time()

    def __exit__(self, *_: object) -> None:
        assert asyncio.get_running_loop().time() - self.started < self.seconds
