"""`drain` runs what is due, in the test's own transaction, by the statements a runner uses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import (
    CurrentJob,
    Dependency,
    Discard,
    Jobs,
    JobState,
    Later,
    Lock,
    MisusedJobs,
    Rate,
    Skip,
    WrongConnection,
    current_job,
    job,
)
from asyncjobs.testing import NotDrained, all_enqueued, assert_enqueued, drain, inside, refute_enqueued
from tests.kinds import forgotten
from tests.testing_helpers.kinds import (
    DID,
    Address,
    Charge,
    Ship,
    Write,
    again,
    asks_for_another,
    fails,
    first,
    flaky,
    in_a_thread,
    locked,
    retries,
    second,
    snoozes,
    tenant,
    who,
)


class Mailer:
    """What an application provides."""


NO_MAILER = Mailer()


async def test_it_runs_what_is_due_and_what_that_enqueues(jobs: Jobs) -> None:
    """Until nothing is left; it says how many jobs are in which state."""
    handle = await first.later(1)
    await Charge(1, paid=True).later("call")
    assert await drain(jobs) == {"completed": 2, "skipped": 1}
    assert DID == [("first", 1), ("second", 2)]
    assert await handle.result() == 1
    assert await handle.status() is JobState.COMPLETED
    assert await drain(jobs) == {}


async def test_priorities_and_times_decide_the_order(jobs: Jobs) -> None:
    """As in a runner: the more urgent first, then the older."""
    await second.later(1)
    await first.later(10)
    await second.set(priority=-1).later(2)
    await drain()
    assert DID == [("second", 2), ("first", 10), ("second", 1), ("second", 11)]


async def test_what_is_due_later_waits_unless_asked_for(jobs: Jobs) -> None:
    """Then it runs in the order of its times, whatever its priority."""
    day = timedelta(days=1)
    await second.set(delay=3 * day, priority=-9).later(4)
    await second.set(delay=2 * day, priority=-5).later(3)
    await second.set(delay=day).later(2)
    await second.later(1)
    assert await drain() == {"completed": 1}
    await assert_enqueued(second, count=3, states=["scheduled"])
    assert await drain(with_scheduled=datetime.now(UTC) + 2.5 * day) == {"completed": 2}
    assert await drain(with_scheduled=True) == {"completed": 1}
    assert DID == [("second", 1), ("second", 2), ("second", 3), ("second", 4)]


async def test_only_some_queues(jobs: Jobs) -> None:
    """Those named."""
    await Charge(1).later("call")
    await Ship(1, Address("Bern")).later("call", delay=60)
    await second.later(1)
    assert await drain(queues=["billing"], with_scheduled=True) == {"completed": 1}
    assert DID == [("charged", 1)]
    await assert_enqueued(Ship, states=["scheduled"])
    await assert_enqueued(second, states=["available"])
    assert len(await all_enqueued()) == 2


async def test_what_a_job_raises_is_raised(jobs: Jobs) -> None:
    """It is stored first: the job has failed an attempt, and waits for the next."""
    await flaky.later(1)
    with pytest.raises(ValueError, match="not yet") as raised:
        await drain()
    assert "at attempt 1 of 3" in raised.value.__notes__[0]
    [job] = await assert_enqueued(flaky, states=["retryable"])
    assert job.errors[0].error == "ValueError: not yet"
    assert await drain(with_scheduled=True) == {"completed": 1}
    assert DID == [("tried", 1), ("tried", 2)]


async def test_errors_can_be_kept_instead(jobs: Jobs) -> None:
    """The states say what became of the jobs, and the retries run when asked for."""
    await flaky.later(1)
    await flaky.later(5)
    await fails.later()
    assert await drain(raises=False) == {"retryable": 2, "failed": 1}
    assert await drain(raises=False, with_scheduled=True) == {"completed": 1, "failed": 1}


async def test_verbs_are_no_errors_but_fail_is(jobs: Jobs) -> None:
    """What a job decides is not raised; that it gives up is."""
    await snoozes.later()
    await retries.later()
    assert await drain() == {"scheduled": 1, "retryable": 1}
    await fails.later()
    with pytest.raises(Exception, match="no such customer"):
        await drain()


async def test_an_endless_chain_is_an_error_that_names_it(jobs: Jobs) -> None:
    """And the one too many is not run."""
    await again.later()
    with pytest.raises(NotDrained, match=r"^20 jobs ran, and there are more: 21 x th\.again"):
        await drain(limit=20)
    await assert_enqueued(again, count=1)


async def test_a_jobs_own_transaction_is_a_savepoint_of_the_tests(
    jobs: Jobs, connection: asyncpg.Connection
) -> None:
    """What it writes is seen by the test, and gone with it; what fails is undone alone."""
    await Write("a").later("call")
    assert await drain() == {"completed": 1}
    await Write("a").later("call")
    with pytest.raises(asyncpg.UniqueViolationError):
        await drain()
    assert await connection.fetchval("select array_agg(text) from notes") == ["a"]
    await assert_enqueued(Write, states=["retryable"])


async def test_a_job_that_breaks_the_transaction_is_undone(
    jobs: Jobs, connection: asyncpg.Connection
) -> None:
    """The test goes on, and what others wrote stays."""

    @attrs.frozen
    class Breaks(Later, kind="th.Breaks"):
        async def call(self) -> None:
            await connection.execute("insert into notes (text) values ('of the job')")
            await connection.execute("select 1 / 0")

    with forgotten():
        await connection.execute("insert into notes (text) values ('of the test')")
        await Breaks().later("call")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await drain()
        assert await connection.fetchval("select array_agg(text) from notes") == ["of the test"]
        await assert_enqueued("Breaks", states=["retryable"])


async def test_nothing_is_left_after_the_rollback(dsn: str) -> None:
    """Neither jobs nor runners nor what the jobs wrote, and ids of nobody."""
    connection = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        async with inside(Jobs(dsn), connection) as jobs:
            await first.later(1)
            assert await drain(jobs) == {"completed": 2}
        await transaction.rollback()
        assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0
        assert await connection.fetchval("select count(*) from asyncjobs.runners") == 0
    finally:
        await connection.close()


async def test_it_drains_what_is_committed_too(alone: str) -> None:
    """A Jobs on its own connections: for tests that commit, and have a database to themselves."""
    async with Jobs(alone):
        handle = await first.later(1)
        await locked.later(1)
        await Write("nowhere").later("call")
        assert await drain(raises=False) == {"completed": 3, "retryable": 1}
        assert await handle.result(timeout=5) == 1
        await assert_enqueued(Write, states=["retryable"])
    connection = await asyncpg.connect(alone)
    assert await connection.fetchval("select count(*) from asyncjobs.runners") == 0
    assert await connection.fetchval("select count(*) from asyncjobs.locks") == 0
    await connection.close()


async def test_on_a_connection_that_others_opened(dsn: str, connection: asyncpg.Connection) -> None:
    """`on=` is enough: the Jobs works there for the time of the drain."""
    async with Jobs(dsn) as jobs:
        await first.set(on=connection).later(1)
        assert await drain(jobs, on=connection) == {"completed": 2}
        await second.set(on=connection).later(9)
        await refute_enqueued(second)
        await assert_enqueued(second, on=connection, states=["available"])


async def test_a_job_runs_in_a_context_of_its_own(jobs: Jobs) -> None:
    """What is current in the test is not in the job, unless it travels: as in a runner."""
    tenant.set("acme")
    handle = await who.later()
    await drain()
    assert await handle.result() == "nobody"


async def test_a_sync_job_enqueues_from_its_thread(jobs: Jobs) -> None:
    """And what it enqueues runs."""
    await in_a_thread.later()
    assert await drain() == {"completed": 2}
    assert DID == [("second", 7)]


@job(kind="drain:forgotten", keep="nothing")
async def forgotten_after(verb: str) -> None:
    async with current_job().transaction():
        current_job().result = {"skip": Skip, "discard": Discard}.get(verb, verb)


async def test_what_a_job_of_which_nothing_is_kept_said_is_counted(jobs: Jobs) -> None:
    """It settled itself and its row is gone: it counts as what it said, and not as completed."""
    for verb in ("skip", "discard", "a result"):
        await forgotten_after.later(verb)
    assert await drain() == {"skipped": 1, "cancelled": 1, "completed": 1}
    assert await jobs.list_jobs() == []


async def test_locks_are_taken_and_given_back(jobs: Jobs, connection: asyncpg.Connection) -> None:
    """One job after the other has it."""
    held: list[int] = []

    async def looks() -> None:
        held.append(await connection.fetchval("select count(*) from asyncjobs.locks"))

    await locked.later(1)
    await locked.later(2)
    with forgotten():
        await job(kind="th.looks", lock=Lock(key="th-key"))(looks).later()
        assert await drain() == {"completed": 3}
    assert held == [1]
    assert await connection.fetchval("select count(*) from asyncjobs.locks") == 0


async def test_paused_and_limited_queues_are_respected(jobs: Jobs) -> None:
    """What may not begin waits."""
    await jobs.pause("billing")
    await jobs.limit("shipping", concurrency=1)
    await Charge(1).later("call")
    await Ship(1, Address("Bern")).later("call")
    await Ship(2, Address("Bern")).later("call")
    assert await drain() == {"completed": 2}
    await jobs.resume("billing")
    assert await drain() == {"completed": 1}


async def test_a_result_nobody_will_bring_is_an_error_that_says_so(jobs: Jobs) -> None:
    """Inside a test's transaction nothing runs by itself, and waiting would have no end."""
    handle = await first.later(1)
    with pytest.raises(
        MisusedJobs, match=r"job \d+ \(th\.first\) is available, and nothing runs jobs inside"
    ):
        await handle.result()
    await asks_for_another.later()
    with pytest.raises(MisusedJobs, match=r"\(th\.second\) is available"):
        await drain()


async def test_jobs_have_what_the_application_provides(dsn: str, connection: asyncpg.Connection) -> None:
    """As in a runner."""
    sent: list[str] = []

    with forgotten():

        class Welcome(Later, kind="th.Welcome"):
            def __init__(self, name: str, mailer: Dependency[Mailer] = NO_MAILER) -> None:
                self.name = name
                self.mailer = mailer

            async def call(self) -> None:
                assert self.mailer is not NO_MAILER
                sent.append(self.name)

        async with inside(Jobs(dsn, provide={Mailer: Mailer}), connection):
            await Welcome("anna").later("call")
            assert await drain() == {"completed": 1}
    assert sent == ["anna"]


class Loud:
    """Middleware that says what passes."""

    async def enqueue(self, jobs: Any, call_next: Any) -> Any:
        DID.append(("stored", [each.kind for each in jobs]))
        return await call_next(jobs)

    async def run(self, current: CurrentJob, call_next: Any) -> Any:
        DID.append(("runs", current.kind))
        return await call_next()

    async def error(self, current: CurrentJob, error: BaseException) -> None:
        DID.append(("error", str(error)))


async def test_middleware_and_hooks_are_told(dsn: str, connection: asyncpg.Connection) -> None:
    """As in a runner."""
    async with inside(Jobs(dsn, middleware=[Loud()]), connection):
        await flaky.later(3)
        await drain(raises=False)
    assert DID == [("stored", ["th.flaky"]), ("runs", "th.flaky"), ("tried", 1), ("error", "not yet")]


async def test_what_a_rate_does_not_let_in_waits(jobs: Jobs) -> None:
    """And the drain ends."""
    await jobs.limit("billing", rate=Rate(1, per=3600))
    await Charge(1).later("call")
    await Charge(2).later("call")
    assert await drain() == {"completed": 1}
    [waiting] = await assert_enqueued(Charge, states=["available"])
    assert waiting.attempt == 0


async def test_what_a_rate_of_its_own_does_not_let_in_waits_in_line(jobs: Jobs) -> None:
    """As it would; and when there are tokens again the next drain runs it."""
    hourly = {"rate": Rate(1, per=3600)}
    await Charge(1).later("call", **hourly)  # type: ignore[call-overload]
    await Charge(2).later("call", **hourly)  # type: ignore[call-overload]
    assert await drain() == {"completed": 1}
    [waiting] = await assert_enqueued(Charge, states=["blocked"])
    assert waiting.attempt == 0


async def test_a_kind_that_is_not_known_is_left_and_said(
    jobs: Jobs, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's job does not fail here."""
    await connection.execute("select asyncjobs.enqueue('th.nobody:Knows', '{}')")
    await second.later(1)
    assert await drain() == {"completed": 1}
    await assert_enqueued("Knows")
    assert "jobs of kind 'th.nobody:Knows' wait in queue 'default'" in caplog.text


async def test_keys_take_turns(jobs: Jobs) -> None:
    """What waits in line is drained, in its order."""
    for number in (1, 1, 1, 2):
        await second.set(fair="number").later(number)
    assert await drain() == {"completed": 4}
    assert DID.count(("second", 2)) == 1
    assert DID[-1] != ("second", 2)


async def test_a_timeout_fails_the_attempt(jobs: Jobs) -> None:
    """As in a runner."""

    async def slow() -> None:
        await asyncio.sleep(60)

    with forgotten():
        await job(kind="th.slow", timeout=0.02)(slow).later()
        with pytest.raises(TimeoutError, match="longer than its timeout of 0.02 s"):
            await drain()


async def test_a_cancelled_drain_gives_its_job_back(alone: str) -> None:
    """And the job is told."""
    begun = asyncio.Event()
    ended: list[str] = []

    async def endless() -> None:
        try:
            begun.set()
            await asyncio.sleep(3600)
        finally:
            ended.append("told")

    with forgotten():
        async with Jobs(alone) as jobs:
            await job(kind="th.endless")(endless).later()
            draining = asyncio.create_task(drain(jobs))
            await begun.wait()
            draining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await draining
            [back] = await assert_enqueued("th.endless", states=["available"])
    assert (back.attempt, ended) == (0, ["told"])


async def test_a_transactional_jobs_still_wants_a_transaction(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """The test's is not the caller's: what is refused in production is refused here."""
    async with inside(Jobs(dsn, transactional=True), connection):
        with pytest.raises(WrongConnection):
            await second.later(1)
        await second.set(on=connection).later(1)
        assert await drain() == {"completed": 1}
