"""The fence: every write after a claim is refused unless (id, runner, token) are those of the claim.

Random lives of a few jobs, by the functions of the store on a real database, next to a model of a page. Claims are never
forgotten: any that was ever given out may come back from the dead and write. A life that went wrong says its seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import pytest

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import (
    Caution,
    Claim,
    adopt_jobs,
    begin_jobs,
    claim_suspect,
    find_finished,
    find_held,
    finish_jobs,
    return_jobs,
)
from asyncjobs._store.runners import renew_lease
from asyncjobs._store.session import Session
from asyncjobs._store.views import cancel_job, retry_job
from tests.store.jobs import RUNNER, SOMEBODY_ELSE, claim, enter, finished, live, new_job, session_of, store

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
        return self.state in {"failed for good", *(state.name.lower() for state in FinalState)}

    def let_go(self, state: str) -> None:
        self.state, self.runner, self.begun = state, None, False
        self.suspect_if_it_crashed()

    def suspect_if_it_crashed(self) -> None:
        if self.state == "ready" and self.crashes:
            self.state = "suspected"


class Lives:
    """Jobs, runners that come and go, and people: one step after another, thrown by *dice*."""

    def __init__(self, session: Session, dice: random.Random) -> None:
        self.session = session
        self.dice = dice
        self.jobs: dict[int, Expected] = {}
        self.claims: list[tuple[int, ClaimedJob]] = []  # every one there ever was, with its runner
        self.runners: set[int] = set()
        self.last_runner = 0
        self.told: list[str] = []

    async def live(self, steps: int) -> None:
        """Live for so many steps; after each, the database is as the model has it."""
        await self.session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        await self.session.connection.execute("truncate asyncjobs.finished_jobs, asyncjobs.runners")
        await self.start_a_runner()
        await self.enqueue()
        for _ in range(steps):
            (step,) = self.dice.choices(list(STEPS), list(STEPS.values()))
            self.told.append(step.__name__)
            await step(self)
            await self.check()

    def told_of(self, **what: object) -> None:
        self.told[-1] += f" {what}"

    # What happens.

    async def start_a_runner(self) -> int:
        self.last_runner += 1
        await enter(self.session, self.last_runner)
        self.runners.add(self.last_runner)
        return self.last_runner

    def any_runner(self) -> int:
        """Also a dead one: it does not know."""
        return self.dice.randint(max(1, self.last_runner - 3), self.last_runner)

    async def enqueue(self) -> None:
        count, later = self.dice.randint(1, 3), self.dice.random() < 0.3
        new = [new_job(delay=3600.0 if later else None) for _ in range(count)]
        for job_id in await store(self.session, *new):
            self.jobs[job_id] = Expected("scheduled" if later else "ready")

    async def start_another_runner(self) -> None:
        if len(self.runners) < 3:
            await self.start_a_runner()

    async def claim(self) -> None:
        runner, room, begin = self.any_runner(), self.dice.randint(1, 3), self.dice.random() < 0.5
        self.told_of(runner=runner, room=room, begin=begin)
        waiting = [id_ for id_, job in self.jobs.items() if job.state == "ready" and job.runner is None]
        got = await claim(self.session, runner, room=room, begin=begin)
        assert len(got) == min(room, len(waiting))
        for each in got:
            job = self.jobs[each.id]
            assert each.token > job.token
            job.runner, job.token, job.attempt, job.begun = runner, job.token + 1, job.attempt + 1, begin
            assert (each.token, each.attempt) == (job.token, job.attempt)
            self.claims.append((runner, each))

    async def claim_a_suspect(self) -> None:
        runner = self.any_runner()
        self.told_of(runner=runner)
        got = await claim_suspect(self.session, runner, ["q"], ["k"], Caution(3600.0, MAX_CRASHES))
        waiting = [id_ for id_, job in self.jobs.items() if job.state == "suspected"]
        runs = any(job.crashes and job.runner is not None and not job.is_final for job in self.jobs.values())
        assert (got is not None) == (bool(waiting) and not runs)
        if got is not None:
            job = self.jobs[got.job.id]
            assert (job.state, got.crashes) == ("suspected", job.crashes)
            job.state, job.runner, job.begun = "ready", runner, True
            job.token, job.attempt = job.token + 1, job.attempt + 1
            assert (got.job.token, got.job.attempt) == (job.token, job.attempt)
            self.claims.append((runner, got.job))

    async def begin(self) -> None:
        runner = self.any_runner()
        held = [id_ for id_, job in self.jobs.items() if job.runner == runner and not job.is_final]
        chosen = {id_ for id_ in held if self.dice.random() < 0.5}
        self.told_of(runner=runner, chosen=chosen)
        begun = {id_ for id_ in held if self.jobs[id_].begun}
        allowed = await begin_jobs(
            self.session, runner, [Claim(id_, self.jobs[id_].token) for id_ in chosen | begun]
        )
        assert allowed == (runner in self.runners)
        for job_id in chosen if allowed else ():
            self.jobs[job_id].begun = True

    def some_claims(self) -> tuple[int, list[ClaimedJob]]:
        """Some claims of one runner, as it would write them together: fresh or stale, at most one per job."""
        runner, _ = self.dice.choice(self.claims[-12:])
        of_it = [each for by, each in self.claims if by == runner]
        chosen = {each.id: each for each in self.dice.choices(of_it, k=3)}
        self.told_of(runner=runner, claims=[(each.id, each.token) for each in chosen.values()])
        return runner, list(chosen.values())

    def ours(self, runner: int, chosen: Iterable[ClaimedJob]) -> set[int]:
        return {
            each.id
            for each in chosen
            if (job := self.jobs[each.id]).runner == runner and job.token == each.token and not job.is_final
        }

    async def finish(self) -> None:
        if not self.claims:
            return
        runner, chosen = self.some_claims()
        ours = self.ours(runner, chosen)
        state, failed = self.dice.choice(list(FinalState)), self.dice.random() < 0.5
        rolled_back = self.dice.random() < 0.3
        done = [Finished(job, state, 0.1, error=AN_ERROR if failed else None) for job in chosen]
        own: Any = self.session.connection.transaction()
        await own.start()
        assert await finish_jobs(self.session, runner, done) == ours
        await (own.rollback() if rolled_back else own.commit())
        for job_id in () if rolled_back else ours:
            self.jobs[job_id].state = state.name.lower()
            self.jobs[job_id].errors += failed

    async def return_(self) -> None:
        if not self.claims:
            return
        runner, chosen = self.some_claims()
        ours = self.ours(runner, chosen)
        state = self.dice.choice([LiveState.READY, LiveState.READY, LiveState.SCHEDULED, LiveState.RETRYABLE])
        unburnt, failed = self.dice.random() < 0.5, self.dice.random() < 0.5
        delay = None if state is LiveState.READY else 3600.0
        back = [Returned(job, state, delay, unburnt, AN_ERROR if failed else None) for job in chosen]
        assert await return_jobs(self.session, runner, back) == ours
        for job_id in ours:
            job = self.jobs[job_id]
            if job.asked_to_stop:
                job.state = "cancelled"
            else:
                job.let_go(state.name.lower())
                job.attempt -= unburnt
            job.errors += failed

    async def adopt(self) -> None:
        if not self.claims:
            return
        old, chosen = self.some_claims()
        ours = self.ours(old, chosen)
        new = await self.start_a_runner()
        assert (
            await adopt_jobs(self.session, old, new, [Claim(each.id, each.token) for each in chosen]) == ours
        )
        for job_id in ours:
            self.jobs[job_id].runner = new
            # A list of the begun that is gone, with a runner that was declared dead, cannot be carried over.
            if old not in self.runners:
                row = await live(self.session, job_id)
                assert row
                self.jobs[job_id].begun = row["started_at"] is not None
        self.claims += [(new, each) for each in chosen if each.id in ours]

    async def rescue(self) -> None:
        runner, blame = self.any_runner(), self.dice.random() < 0.7
        self.told_of(runner=runner, blame=blame)
        rescue = await rescue_jobs(
            self.session, runner, blame=blame, max_crashes=MAX_CRASHES, error='{"error": "gone"}'
        )
        held = [job for job in self.jobs.values() if job.runner == runner and not job.is_final]
        killers = 0
        to_blame = [job for job in held if blame and job.begun]
        if any(job.crashes for job in to_blame):
            to_blame = [job for job in to_blame if job.crashes]
        for job in held:
            if job in to_blame:
                job.crashes += 1
                job.errors += 1
            if job.asked_to_stop:
                job.state = "cancelled"
            elif job in to_blame and job.crashes >= MAX_CRASHES:
                job.state = "failed for good"
                killers += 1
            else:
                job.let_go("ready")
                job.attempt -= 1
        waiting = sum(job.state in ("ready", "suspected") for job in held)
        assert rescue[:4] == (waiting, killers, len(held) - waiting - killers, runner in self.runners)
        self.runners.discard(runner)
        assert not await renew_lease(self.session, runner)

    async def people_cancel(self) -> None:
        job_id = self.dice.choice(list(self.jobs))
        self.told_of(job=job_id)
        job = self.jobs[job_id]
        answer = await cancel_job(self.session, job_id)
        if job.state == "failed for good":
            assert answer == "cancelled"
            job.state = "cancelled"
        elif job.is_final:
            assert answer is None
        elif job.runner is None:
            assert answer == "cancelled"
            job.state = "cancelled"
        else:
            assert answer == "requested"
            job.asked_to_stop = True

    async def people_retry(self) -> None:
        job_id = self.dice.choice(list(self.jobs))
        self.told_of(job=job_id)
        job = self.jobs[job_id]
        answer = await retry_job(self.session, job_id)
        if job.is_final:
            assert answer == "q"
            job.attempt = job.crashes = 0
            job.let_go("ready")
            job.asked_to_stop = False
        elif job.state in ("scheduled", "retryable"):
            assert answer == "q"
            job.let_go("ready")
        else:
            assert answer is None

    async def time_passes(self) -> None:
        """All that waits for a time is due, and promoted."""
        await self.session.connection.execute(
            "update asyncjobs.live_jobs set scheduled_at = now() where state in (1, 2) and id > 0"
        )
        waiting = [job for job in self.jobs.values() if job.state in ("scheduled", "retryable")]
        promoted = await promote_jobs(self.session, 1000)
        assert sum(promoted.values()) == len(waiting)
        for job in waiting:
            job.state = "ready"
            job.suspect_if_it_crashed()

    # What is true all the time.

    async def check(self) -> None:
        rows = await self.session.connection.fetch("""
            select id, state, runner, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0) as errors
              from asyncjobs.live_jobs where id > 0
            union all
            select id, state, null, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0)
              from asyncjobs.finished_jobs""")
        names = {int(state): state.name.lower() for kind in (LiveState, FinalState) for state in kind}
        names[14] = "failed for good"
        found = {row["id"]: (names[row["state"]], *row[2:]) for row in rows}
        assert len(found) == len(rows), "a job is live and finished at once"
        assert found == {
            job_id: (
                job.state,
                None if job.is_final else job.runner,
                job.token,
                job.attempt,
                job.crashes,
                min(job.errors, 20),
            )
            for job_id, job in self.jobs.items()
        }
        for runner in {runner for runner, _ in self.claims[-5:]}:
            newest = {each.id: each for by, each in self.claims if by == runner}
            held = await find_held(
                self.session, runner, [Claim(each.id, each.token) for each in newest.values()]
            )
            assert held.keys() == self.ours(runner, newest.values())


STEPS: dict[Callable[[Lives], Awaitable[None]], int] = {
    Lives.enqueue: 2,
    Lives.start_another_runner: 1,
    Lives.claim: 8,
    Lives.claim_a_suspect: 4,
    Lives.begin: 4,
    Lives.finish: 6,
    Lives.return_: 6,
    Lives.adopt: 2,
    Lives.rescue: 3,
    Lives.people_cancel: 2,
    Lives.people_retry: 3,
    Lives.time_passes: 2,
}


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
    assert await claim_suspect(session, SOMEBODY_ELSE, ["q"], ["k"], Caution())


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


@pytest.mark.failure_mode("F75")
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


@pytest.mark.failure_mode("F74", "F75")
@pytest.mark.timeout(120)
async def test_any_life_of_jobs_is_as_the_model_says(dsn: str) -> None:
    """Enqueued, claimed, begun, finished, returned, adopted, rescued, cancelled and retried in any order, by anybody:
    no stale claim writes, no token falls, no job is lost or there twice."""
    seed = int(os.environ.get("ASYNCJOBS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
    async with session_of(dsn) as session:
        for nth in range(int(os.environ.get("ASYNCJOBS_LIVES", "60"))):
            lives = Lives(session, random.Random(f"{seed} {nth}"))
            try:
                await lives.live(60)
            except BaseException as error:
                error.add_note(f"ASYNCJOBS_SEED={seed}, life {nth}:\n" + "\n".join(lives.told))
                raise
