"""The fence: every write after a claim is refused unless (id, runner, token) are those of the claim.

Random lives of a few jobs, by the functions of the store on a real database, next to a model of a page. Claims are never
forgotten: any that was ever given out may come back from the dead and write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import (
    Claim,
    adopt_jobs,
    begin_jobs,
    find_finished,
    find_held,
    finish_jobs,
    return_jobs,
)
from asyncjobs._store.runners import renew_lease
from asyncjobs._store.session import Session
from asyncjobs._store.views import cancel_job, retry_job
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, finished, live, new_job, session_of, store

T = TypeVar("T")

MAX_CRASHES = 2
AN_ERROR = '{"attempt": 0, "error": "x"}'


@attrs.define
class Expected:
    """A job, as the model has it."""

    state: str = "ready"
    runner: int | None = None
    token: int = 0
    attempt: int = 0
    crashes: int = 0
    errors: int = 0
    begun: bool = False
    asked_to_stop: bool = False

    @property
    def is_final(self) -> bool:
        return self.state in {state.name.lower() for state in FinalState}

    def let_go(self, state: str) -> None:
        self.state, self.runner, self.begun = state, None, False


class Lives(RuleBasedStateMachine):
    """Jobs, runners that come and go, and people."""

    dsn: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self._context = session_of(self.dsn)
        self.session = self.do(self._context.__aenter__())
        self.do(self._clear())
        self.jobs: dict[int, Expected] = {}
        self.claims: list[tuple[int, ClaimedJob]] = []  # every one there ever was, with its runner
        self.runners: set[int] = set()
        self.last_runner = 0
        self.start_a_runner()

    def do(self, act: Awaitable[T]) -> T:
        return self.loop.run_until_complete(act)

    async def _clear(self) -> None:
        await self.session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        await self.session.connection.execute("truncate asyncjobs.finished_jobs, asyncjobs.runners")

    def teardown(self) -> None:
        self.do(self._context.__aexit__(None, None, None))
        self.loop.close()

    # What happens.

    def start_a_runner(self) -> int:
        self.last_runner += 1
        self.do(enter(self.session, self.last_runner))
        self.runners.add(self.last_runner)
        return self.last_runner

    @rule(count=st.integers(1, 3), later=st.booleans())
    def enqueue(self, count: int, later: bool) -> None:
        new = [new_job(delay=3600.0 if later else None) for _ in range(count)]
        for job_id in self.do(store(self.session, *new)):
            self.jobs[job_id] = Expected("scheduled" if later else "ready")

    @rule()
    def start_another_runner(self) -> None:
        if len(self.runners) < 3:
            self.start_a_runner()

    @rule(data=st.data(), room=st.integers(1, 3), begin=st.booleans())
    def claim(self, data: st.DataObject, room: int, begin: bool) -> None:
        runner = data.draw(
            st.sampled_from(range(1, self.last_runner + 1))
        )  # a dead one, too: it does not know
        waiting = sorted(id_ for id_, job in self.jobs.items() if job.state == "ready" and job.runner is None)
        got = self.do(claim(self.session, runner, room=room, begin=begin))
        assert len(got) == min(room, len(waiting))
        for each in got:
            job = self.jobs[each.id]
            assert each.token > job.token
            job.runner, job.token, job.attempt, job.begun = runner, job.token + 1, job.attempt + 1, begin
            assert (each.token, each.attempt) == (job.token, job.attempt)
            self.claims.append((runner, each))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from(range(1, self.last_runner + 1)))
        held = sorted(id_ for id_, job in self.jobs.items() if job.runner == runner and not job.is_final)
        chosen = data.draw(st.sets(st.sampled_from(held))) if held else set()
        prefetched_and_begun = {id_ for id_ in held if self.jobs[id_].begun}
        beginning = [Claim(id_, self.jobs[id_].token) for id_ in chosen | prefetched_and_begun]
        allowed = self.do(begin_jobs(self.session, runner, beginning))
        assert allowed == (runner in self.runners)
        for job_id in chosen if allowed else ():
            self.jobs[job_id].begun = True

    def _chosen(self, data: st.DataObject) -> tuple[int, list[ClaimedJob]]:
        """Some claims of one runner, as it would write them together: fresh or stale, at most one per job."""
        runner = data.draw(st.sampled_from(sorted({runner for runner, _ in self.claims})))
        of_it = [each for by, each in self.claims if by == runner]
        chosen = data.draw(
            st.lists(st.sampled_from(of_it), min_size=1, max_size=3, unique_by=lambda each: each.id)
        )
        return runner, chosen

    def _ours(self, runner: int, chosen: Iterable[ClaimedJob]) -> set[int]:
        return {
            each.id
            for each in chosen
            if (job := self.jobs[each.id]).runner == runner and job.token == each.token and not job.is_final
        }

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from(FinalState), failed=st.booleans(), rolled_back=st.booleans())
    def finish(self, data: st.DataObject, state: FinalState, failed: bool, rolled_back: bool) -> None:
        runner, chosen = self._chosen(data)
        ours = self._ours(runner, chosen)
        error = AN_ERROR if failed else None

        async def write() -> set[int]:
            own = self.session.connection.transaction()
            await own.start()  # type: ignore[attr-defined]
            written = await finish_jobs(
                self.session, runner, [Finished(job, state, 0.1, error=error) for job in chosen]
            )
            await (own.rollback() if rolled_back else own.commit())  # type: ignore[attr-defined]
            return written

        assert self.do(write()) == ours
        for job_id in () if rolled_back else ours:
            self.jobs[job_id].state = state.name.lower()
            self.jobs[job_id].errors += failed

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        state=st.sampled_from([LiveState.READY, LiveState.SCHEDULED, LiveState.RETRYABLE]),
        unburnt=st.booleans(),
        failed=st.booleans(),
    )
    def return_(self, data: st.DataObject, state: LiveState, unburnt: bool, failed: bool) -> None:
        runner, chosen = self._chosen(data)
        ours = self._ours(runner, chosen)
        delay = None if state is LiveState.READY else 3600.0
        back = [Returned(job, state, delay, unburnt, AN_ERROR if failed else None) for job in chosen]
        assert self.do(return_jobs(self.session, runner, back)) == ours
        for job_id in ours:
            job = self.jobs[job_id]
            if job.asked_to_stop:
                job.state = "cancelled"
            else:
                job.let_go(state.name.lower())
                job.attempt -= unburnt
            job.errors += failed

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        old, chosen = self._chosen(data)
        ours = self._ours(old, chosen)
        new = self.start_a_runner()
        assert (
            self.do(adopt_jobs(self.session, old, new, [Claim(each.id, each.token) for each in chosen]))
            == ours
        )
        for job_id in ours:
            self.jobs[job_id].runner = new
        self.claims += [(new, each) for each in chosen if each.id in ours]

    @rule(data=st.data(), blame=st.booleans())
    def rescue(self, data: st.DataObject, blame: bool) -> None:
        runner = data.draw(st.sampled_from(range(1, self.last_runner + 1)))
        rescue = self.do(
            rescue_jobs(self.session, runner, blame=blame, max_crashes=MAX_CRASHES, error='{"error": "gone"}')
        )
        held = [job for job in self.jobs.values() if job.runner == runner and not job.is_final]
        killers = 0
        for job in held:
            if blame and job.begun:
                job.crashes += 1
                job.errors += 1
            if job.asked_to_stop:
                job.state = "cancelled"
            elif blame and job.begun and job.crashes >= MAX_CRASHES:
                job.state = "failed"
                killers += 1
            else:
                job.let_go("ready")
                job.attempt -= 1
        waiting = sum(job.state == "ready" for job in held)
        assert rescue == (waiting, killers, len(held) - waiting - killers, runner in self.runners)
        self.runners.discard(runner)
        assert not self.do(renew_lease(self.session, runner))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def people_cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[job_id]
        answer = self.do(cancel_job(self.session, job_id))
        if job.is_final:
            assert answer is None
        elif job.runner is None:
            assert answer == "cancelled"
            job.state = "cancelled"
        else:
            assert answer == "requested"
            job.asked_to_stop = True

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def people_retry(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[job_id]
        answer = self.do(retry_job(self.session, job_id))
        if job.is_final:
            assert answer == "q"
            job.let_go("ready")
            job.attempt = job.crashes = 0
            job.asked_to_stop = False
        elif job.state in ("scheduled", "retryable"):
            assert answer == "q"
            job.let_go("ready")
        else:
            assert answer is None

    @rule()
    def time_passes(self) -> None:
        """All that waits for a time is due, and promoted."""
        self.do(
            self.session.connection.execute(
                "update asyncjobs.live_jobs set scheduled_at = now() where state in (1, 2) and id > 0"
            )
        )
        waiting = [job for job in self.jobs.values() if job.state in ("scheduled", "retryable")]
        promoted = self.do(promote_jobs(self.session, 1000))
        assert sum(promoted.values()) == len(waiting)
        for job in waiting:
            job.state = "ready"

    # What is true all the time.

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        rows = self.do(
            self.session.connection.fetch("""
                select id, state, runner, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0) as errors
                  from asyncjobs.live_jobs where id > 0
                union all
                select id, state, runner, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0)
                  from asyncjobs.finished_jobs
            """)
        )
        names: Mapping[int, str] = {
            int(state): state.name.lower() for kind in (LiveState, FinalState) for state in kind
        }
        found = {row["id"]: (names[row["state"]], *row[2:]) for row in rows}
        assert len(found) == len(rows), "a job is live and finished at once"
        expected: dict[int, tuple[Any, ...]] = {
            job_id: (job.state, job.runner, job.token, job.attempt, job.crashes, job.errors)
            for job_id, job in self.jobs.items()
        }
        # Who held a job that ended is kept for people, and nothing depends on it.
        for job_id, job in self.jobs.items():
            if job.is_final and job_id in found:
                expected[job_id] = (job.state, found[job_id][1], *expected[job_id][2:])
        assert found == expected

    @invariant()
    def a_claim_is_held_or_it_is_not(self) -> None:
        for runner in {runner for runner, _ in self.claims}:
            newest = {each.id: each for by, each in self.claims if by == runner}
            held = self.do(
                find_held(self.session, runner, [Claim(each.id, each.token) for each in newest.values()])
            )
            assert held.keys() == self._ours(runner, newest.values())


# Each write, against each way to be stale.

Write = Callable[[Session, ClaimedJob, int], Awaitable[bool]]


async def finishing(session: Session, job: ClaimedJob, runner: int) -> bool:
    return bool(await finish_jobs(session, runner, [Finished(job, FinalState.COMPLETED, 0.1)]))


async def finishing_in_its_own_transaction(session: Session, job: ClaimedJob, runner: int) -> bool:
    async with session.connection.transaction():
        return bool(
            await finish_jobs(session, runner, [Finished(job, FinalState.COMPLETED, 0.1, result="1")])
        )


async def returning(session: Session, job: ClaimedJob, runner: int) -> bool:
    return bool(await return_jobs(session, runner, [Returned(job, LiveState.READY, unburnt=True)]))


async def adopting(session: Session, job: ClaimedJob, runner: int) -> bool:
    return bool(await adopt_jobs(session, runner, 99, [Claim(job.id, job.token)]))


async def asking_whether_it_is_held(session: Session, job: ClaimedJob, runner: int) -> bool:
    return bool(await find_held(session, runner, [Claim(job.id, job.token)]))


WRITES: list[Write] = [
    finishing,
    finishing_in_its_own_transaction,
    returning,
    adopting,
    asking_whether_it_is_held,
]


async def claimed_again(session: Session, job: ClaimedJob) -> None:
    """By the same runner, after it was given back."""
    await returning(session, job, RUNNER)
    assert len(await claim(session)) == 1


async def claimed_by_another(session: Session, job: ClaimedJob) -> None:
    """Rescued, and running elsewhere."""
    await rescued(session, job)
    assert len(await claim(session, SOMEBODY_ELSE)) == 1


async def forgotten_by_the_server(session: Session, job: ClaimedJob) -> None:
    """The claim was lost with the server, and its token given out again to a newer incarnation."""
    await session.connection.execute(
        "update asyncjobs.live_jobs set runner = null, token = token - 1, attempt = attempt - 1 where id = $1",
        job.id,
    )
    (again,) = await claim(session, SOMEBODY_ELSE)
    assert (again.id, again.token) == (job.id, job.token)


async def rescued(session: Session, job: ClaimedJob) -> None:
    await rescue_jobs(session, RUNNER, blame=True, max_crashes=9, error="{}")


async def snoozed(session: Session, job: ClaimedJob) -> None:
    await return_jobs(session, RUNNER, [Returned(job, LiveState.SCHEDULED, delay=60.0, unburnt=True)])


async def done(session: Session, job: ClaimedJob) -> None:
    assert await finishing(session, job, RUNNER)


async def done_and_retried(session: Session, job: ClaimedJob) -> None:
    """By people; and it runs again here."""
    await done(session, job)
    assert await retry_job(session, job.id) == "q"
    assert [each.token for each in await claim(session)] == [job.token + 1]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "staleness",
    [
        claimed_again,
        claimed_by_another,
        forgotten_by_the_server,
        rescued,
        snoozed,
        done,
        done_and_retried,
    ],
)
async def test_a_stale_write_is_refused(
    dsn: str, write: Write, staleness: Callable[[Session, ClaimedJob], Awaitable[None]]
) -> None:
    """Each write, against each way a claim can have ended; and it changes nothing."""
    async with session_of(dsn) as session:
        await enter(session)
        await enter(session, SOMEBODY_ELSE)
        await store(session)
        (job,) = await claim(session)
        await staleness(session, job)
        before = (await live(session, job.id), await finished(session, job.id))
        assert not await write(session, job, RUNNER)
        assert (await live(session, job.id), await finished(session, job.id)) == before


@pytest.mark.parametrize("write", WRITES)
async def test_a_fresh_write_is_allowed(dsn: str, write: Write) -> None:
    """The fence has a gate."""
    async with session_of(dsn) as session:
        await enter(session)
        await store(session)
        (job,) = await claim(session)
        assert await write(session, job, RUNNER)


async def test_one_stale_outcome_does_not_hold_up_a_batch(dsn: str) -> None:
    """The others of its batch are written, each with what is its own."""
    async with session_of(dsn) as session:
        await enter(session)
        await store(session, *(new_job() for _ in range(5)))
        jobs = await claim(session)
        await returning(session, jobs[2], RUNNER)
        done = [Finished(job, FinalState.COMPLETED, 0.1, result=str(job.id)) for job in jobs]
        assert await finish_jobs(session, RUNNER, done) == {job.id for job in jobs} - {jobs[2].id}
        rows = await session.connection.fetch("select id, result::text from asyncjobs.finished_jobs")
        assert {row[0]: int(row[1]) for row in rows} == {job.id: job.id for job in jobs if job is not jobs[2]}


async def test_what_was_done_is_told_from_what_was_taken(dsn: str) -> None:
    """A refused finish, whose reply was lost, is found; one that was finished by others is not mistaken for it."""
    async with session_of(dsn) as session:
        await enter(session)
        await store(session, new_job(), new_job())
        mine, theirs = await claim(session)
        await finishing(session, mine, RUNNER)
        await returning(session, theirs, RUNNER)
        (again,) = await claim(session, SOMEBODY_ELSE)
        await finishing(session, again, SOMEBODY_ELSE)
        claims = [Claim(mine.id, mine.token), Claim(theirs.id, theirs.token)]
        assert await find_finished(session, RUNNER, claims) == {mine.id}


async def test_nothing_begins_under_an_incarnation_that_is_gone(dsn: str) -> None:
    """A runner that was declared dead hears of it before it begins what it prefetched."""
    async with session_of(dsn) as session:
        await enter(session)
        await store(session)
        (job,) = await claim(session, begin=False)
        assert await begin_jobs(session, RUNNER, [Claim(job.id, job.token)])
        await rescued(session, job)
        assert not await begin_jobs(session, RUNNER, [Claim(job.id, job.token)])


@pytest.mark.timeout(120)
def test_any_life_of_jobs_is_as_the_model_says(dsn: str) -> None:
    """Enqueued, claimed, begun, finished, returned, adopted, rescued, cancelled and retried in any order, by anybody:
    no stale claim writes, no token falls, no job is lost or there twice."""

    class OnThisDatabase(Lives):
        pass

    OnThisDatabase.dsn = dsn
    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
