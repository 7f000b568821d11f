"""Two that want different things of one job at the same moment: one of them waits, and then both know.

In each test one statement is held open in a transaction, another is sent after it and waits behind it or passes it by, and
then the first commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import finish_jobs, return_jobs
from asyncjobs._store.runners import renew_lease
from asyncjobs._store.session import Session
from asyncjobs._store.views import await_job, await_jobs, cancel_job, retry_job
from tests.store.jobs import RUNNER, claim, enter, finished, live, new_job, session_of, store
from tests.waiting import eventually_async

Act = Callable[[Session], Awaitable[Any]]


async def meet(dsn: str, first: Act, second: Act) -> tuple[Any, Any]:
    """*second* happens while *first* has been done and not committed: what each said."""
    async with session_of(dsn) as one, session_of(dsn) as other:
        pid = await other.connection.fetchval("select pg_backend_pid()")
        async with one.connection.transaction():
            said = await first(one)
            task = asyncio.ensure_future(second(other))

            async def has_met() -> bool:
                waits = "select exists (select from pg_locks where pid = $1 and not granted)"
                return task.done() or bool(await one.connection.fetchval(waits, pid))

            await eventually_async(has_met)
        return said, await asyncio.wait_for(task, 5)


def cancelling(job_id: int) -> Act:
    return lambda session: cancel_job(session, job_id)


def finishing(job: ClaimedJob, state: FinalState = FinalState.COMPLETED) -> Act:
    return lambda session: finish_jobs(session, RUNNER, [Finished(job, state, 0.1)])


def returning(job: ClaimedJob, state: LiveState = LiveState.RETRYABLE) -> Act:
    delay = None if state is LiveState.READY else 60.0
    return lambda session: return_jobs(session, RUNNER, [Returned(job, state, delay, error='{"attempt": 1}')])


def rescuing(session: Session) -> Awaitable[Any]:
    return rescue_jobs(session, RUNNER, blame=True, max_crashes=1, error='{"error": "gone"}')


@pytest.fixture
async def waiting(dsn: str) -> int:
    """The id of a job that waits."""
    async with session_of(dsn) as session:
        return (await store(session))[0]


@pytest.fixture
async def running(dsn: str, waiting: int) -> ClaimedJob:
    """The same job, run by RUNNER."""
    async with session_of(dsn) as session:
        await enter(session)
        (job,) = await claim(session)
        return job


async def state_of(dsn: str, job_id: int) -> str | None:
    async with session_of(dsn) as session:
        query = "select state from asyncjobs.jobs where id = $1"
        state: str | None = await session.connection.fetchval(query, job_id)
        return state


# Cancel.


async def test_cancelling_a_job_that_is_being_claimed_asks_its_runner(dsn: str, waiting: int) -> None:
    """Whoever comes second sees the runner that came first: the request is not lost."""
    claimed, answer = await meet(dsn, claim, cancelling(waiting))
    assert len(claimed) == 1
    assert answer == "requested"
    async with session_of(dsn) as session:
        row = await live(session, waiting)
        assert row
        assert row["cancel_requested"]


async def test_claiming_a_job_that_is_being_cancelled_gets_nothing(dsn: str, waiting: int) -> None:
    """It is passed over, and then gone."""
    answer, claimed = await meet(dsn, cancelling(waiting), claim)
    assert (answer, claimed) == ("cancelled", [])
    assert await state_of(dsn, waiting) == "cancelled"


async def test_cancelling_a_job_that_is_just_finishing_is_too_late(dsn: str, running: ClaimedJob) -> None:
    """It is final, as it says."""
    written, answer = await meet(dsn, finishing(running), cancelling(running.id))
    assert (written, answer) == ({running.id}, None)
    assert await state_of(dsn, running.id) == "completed"


async def test_finishing_a_job_that_is_being_asked_to_stop_completes_it(
    dsn: str, running: ClaimedJob
) -> None:
    """The work is done, and nobody can undo it."""
    answer, written = await meet(dsn, cancelling(running.id), finishing(running))
    assert (answer, written) == ("requested", {running.id})
    assert await state_of(dsn, running.id) == "completed"


async def test_cancelling_a_job_that_is_just_going_back_cancels_it(dsn: str, running: ClaimedJob) -> None:
    """It waits by then, and is final at once."""
    written, answer = await meet(dsn, returning(running), cancelling(running.id))
    assert (written, answer) == ({running.id}, "cancelled")
    assert await state_of(dsn, running.id) == "cancelled"


@pytest.mark.parametrize("state", [LiveState.READY, LiveState.SCHEDULED, LiveState.RETRYABLE])
async def test_a_job_asked_to_stop_does_not_wait_for_another_attempt(
    dsn: str, running: ClaimedJob, state: LiveState
) -> None:
    """However its attempt ends, unless the job is final by it: failed, snoozed or given back, it is cancelled."""
    async with session_of(dsn) as session:
        assert await cancel_job(session, running.id) == "requested"
        assert await returning(running, state)(session) == {running.id}
        row = await finished(session, running.id)
        assert row
        assert (row["state"], row["attempt"], row["token"]) == (FinalState.CANCELLED, 1, 1)
        assert '"attempt": 1' in row["errors"]
        assert await live(session, running.id) is None


async def test_a_job_asked_to_stop_while_it_goes_back_is_not_left_with_its_runner(
    dsn: str, running: ClaimedJob
) -> None:
    """The request is seen, although it was not yet there when the statement began."""
    answer, written = await meet(dsn, cancelling(running.id), returning(running))
    assert (answer, written) == ("requested", {running.id})
    assert await state_of(dsn, running.id) == "cancelled"


async def test_a_rescued_job_that_was_asked_to_stop_is_cancelled(dsn: str, running: ClaimedJob) -> None:
    """Nobody wants it run again."""
    async with session_of(dsn) as session:
        await cancel_job(session, running.id)
        await rescuing(session)
    assert await state_of(dsn, running.id) == "cancelled"


async def test_a_job_asked_to_stop_while_it_is_rescued_is_cancelled(dsn: str, running: ClaimedJob) -> None:
    """Whichever of the two commits first."""
    async with session_of(dsn) as session:
        answer, _ = await meet(dsn, cancelling(running.id), rescuing)
        assert answer == "requested"
        await rescuing(session)  # the first passed it by, because it was locked
    assert await state_of(dsn, running.id) == "cancelled"


async def test_who_awaits_a_job_asked_to_stop_is_told(dsn: str, running: ClaimedJob) -> None:
    """When it ends by going back, and when it is rescued."""
    heard: list[str] = []
    listener = await asyncpg.connect(dsn)
    await listener.add_listener("asyncjobs:finished", lambda *args: heard.append(args[3]))
    try:
        async with session_of(dsn) as session:
            (other_id,) = await store(session)
            await claim(session)
            for job_id in (running.id, other_id):
                await await_job(session, job_id)
                await cancel_job(session, job_id)
            await returning(running)(session)
            await rescuing(session)

        async def both() -> bool:
            await listener.fetchval("select 1")
            return heard == [str(running.id), str(other_id)]

        await eventually_async(both)
    finally:
        await listener.close()


# Rescue.


@pytest.mark.failure_mode("F76")
async def test_rescue_and_finish_do_not_both_happen(dsn: str, running: ClaimedJob) -> None:
    """Rescued first: the finish waits, and is refused."""
    rescued, written = await meet(
        dsn, lambda s: rescue_jobs(s, RUNNER, blame=True, max_crashes=3, error="{}"), finishing(running)
    )
    assert (rescued.waiting, written) == (1, set())
    assert await state_of(dsn, running.id) == "available"


@pytest.mark.failure_mode("F76")
async def test_a_job_that_is_just_finishing_does_not_hold_up_a_rescue(dsn: str, running: ClaimedJob) -> None:
    """A zombie may have stopped in the middle of a transaction that completes its job: rescuers pass that job by, rescue
    the others, and look again. When the transaction is rolled back, the job is rescued; when it is committed, it is done.
    """
    async with session_of(dsn) as zombie, session_of(dsn) as rescuer:
        (other_id,) = await store(rescuer)
        await claim(rescuer)
        own = zombie.connection.transaction()
        await own.start()  # type: ignore[attr-defined]
        assert await finishing(running)(zombie) == {running.id}
        async with asyncio.timeout(5):
            assert (await rescuing(rescuer)).failed == 1
        assert await state_of(dsn, other_id) == "failed"
        assert await renew_lease(rescuer, RUNNER), "still on the list, because it still holds a job"
        await own.rollback()  # type: ignore[attr-defined]
        assert (await rescuing(rescuer)).failed == 1
        assert await state_of(dsn, running.id) == "failed"
        assert not await renew_lease(rescuer, RUNNER)


@pytest.mark.failure_mode("F86")
async def test_two_rescues_of_one_runner_blame_it_once(dsn: str, running: ClaimedJob) -> None:
    """A crash is one crash, however many notice it."""

    def rescue(session: Session) -> Awaitable[Any]:
        return rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")

    one, other = await meet(dsn, rescue, rescue)
    assert {one.waiting, other.waiting} == {0, 1}
    async with session_of(dsn) as session:
        await rescue(session)
        row = await live(session, running.id)
        assert row
        assert (row["crashes"], row["attempt"], row["token"], row["runner"]) == (1, 0, 1, None)


# Await.


async def test_awaiting_a_job_that_is_just_finishing_finds_it_final(dsn: str, running: ClaimedJob) -> None:
    """No mark is left for nobody: the caller is told to look."""
    _, marked = await meet(dsn, finishing(running), lambda session: await_job(session, running.id))
    assert not marked


async def test_a_job_that_is_just_finishing_holds_up_nobody_who_awaits_another(
    dsn: str, running: ClaimedJob
) -> None:
    """It is passed by, and marked alone."""
    async with session_of(dsn) as session, session_of(dsn) as beside:
        (other_id,) = await store(session)
        async with session.connection.transaction():
            await finishing(running)(session)
            async with asyncio.timeout(10):
                assert await await_jobs(beside, [running.id, other_id, 12345]) == {other_id}
        assert await await_jobs(beside, [running.id, other_id]) == {other_id}


async def test_finishing_a_job_that_is_just_being_awaited_tells(dsn: str, running: ClaimedJob) -> None:
    """The mark that was set a moment before is seen."""
    heard: list[str] = []
    listener = await asyncpg.connect(dsn)
    await listener.add_listener("asyncjobs:finished", lambda *args: heard.append(args[3]))
    try:
        marked, written = await meet(dsn, lambda session: await_job(session, running.id), finishing(running))
        assert (marked, written) == (True, {running.id})

        async def told() -> bool:
            await listener.fetchval("select 1")
            return heard == [str(running.id)]

        await eventually_async(told)
    finally:
        await listener.close()


# Retry and promote.


async def test_two_retries_revive_a_job_once(dsn: str, running: ClaimedJob) -> None:
    """The second finds it waiting already."""
    async with session_of(dsn) as session:
        await finishing(running, FinalState.FAILED)(session)

    def retry(session: Session) -> Awaitable[Any]:
        return retry_job(session, running.id)

    assert await meet(dsn, retry, retry) == ("q", None)
    assert await state_of(dsn, running.id) == "available"


@pytest.mark.failure_mode("F86")
async def test_two_promotions_promote_a_job_once(dsn: str) -> None:
    """The second passes it by."""
    async with session_of(dsn) as session:
        await store(session, new_job(delay=0.001))
        await asyncio.sleep(0.005)
    one, other = await meet(
        dsn, lambda session: promote_jobs(session, 10), lambda session: promote_jobs(session, 10)
    )
    assert (sum(one.values()), sum(other.values())) == (1, 0)
