"""Run what is due, here and now: one job after the other, by the statements a runner uses, in the test's own transaction."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from contextvars import Context
from datetime import UTC, datetime
from typing import Any

import anyio

from asyncjobs._app import Jobs
from asyncjobs._define import registry
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.context import RunningJob, enter
from asyncjobs._engine.slots import EVERY_QUEUE
from asyncjobs._enqueue.ambient import bind, which
from asyncjobs._model.durations import moment
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import LiveState
from asyncjobs._model.urgency import EVERY_PRIORITY
from asyncjobs._model.verbs import Retry
from asyncjobs._model.words import counted
from asyncjobs._schedule.firing import fire
from asyncjobs._store.claims import LaneRequest, claim_jobs, finish_jobs, look_around, return_jobs
from asyncjobs._store.limits import admit_jobs, find_limits
from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.rates import let_in, promote_rates
from asyncjobs._store.runners import forget_runner, register_runner
from asyncjobs._store.schedules import list_schedules
from asyncjobs._store.session import Session
from asyncjobs._store.testing import bring_forward
from asyncjobs._store.turns import deal_turns
from asyncjobs.errors import InvalidOption
from asyncjobs.testing.stage import inside, savepoint_of, stage_of

logger = logging.getLogger("asyncjobs")

LEASE = 3600.0  #: seconds a debugger may take; nobody takes the jobs of a drain away meanwhile

_THE_END = datetime(2199, 1, 1, tzinfo=UTC)  #: ballast is due later

_RETURNED = {LiveState.READY: "available", LiveState.SCHEDULED: "scheduled", LiveState.RETRYABLE: "retryable"}


class NotDrained(AssertionError):
    """There were always more jobs to run."""


async def drain(
    jobs: Jobs | None = None,
    *,
    on: Any = None,
    queues: Iterable[str] | None = None,
    with_scheduled: bool | datetime = False,
    raises: bool = True,
    limit: int = 1000,
) -> dict[str, int]:
    """Run the jobs that are due, and those they enqueue, until none is left: how many of them are in which state now.

    One after the other, in the order of their queues' weights, their priorities and their times; of *queues*, or all of them. With
    *with_scheduled* also those due later, retries too, in the order in which they are due: all, or until then. What a job raises
    is raised here, once it is stored, unless *raises* is False. *on*: in the transaction of that connection (`inside`). With a frozen
    clock, schedules tick too. Raises NotDrained where there is no end after *limit* runs.
    """
    found: Any = jobs if jobs is not None else which()[0]
    if isinstance(queues, str):
        raise InvalidOption(f"queues={queues!r} is one word; write queues=[{queues!r}]")
    until = None
    if with_scheduled is True:
        until = _THE_END
    elif with_scheduled is not False:
        until = moment(with_scheduled, "with_scheduled")
    async with AsyncExitStack() as stack:
        if on is not None:
            await stack.enter_async_context(inside(found, on))
        found.check_open()
        return await Drain(found, None if queues is None else list(queues), until, raises, limit).run()


class Drain:
    """One call of `drain`."""

    def __init__(
        self, jobs: Any, queues: Sequence[str] | None, until: datetime | None, raises: bool, limit: int
    ) -> None:
        self._jobs = jobs
        self._queues = queues
        self._until = until
        self._raises = raises
        self._limit = limit
        self._codec = codec_of(jobs)
        self._incarnation = secrets.randbelow(2**63 - 1) + 1
        self._came_to: dict[int, str] = {}
        self._ran: Counter[str] = Counter()
        self._closed: set[str] = set()  #: limited queues that let nothing more in
        self._limited: Sequence[str] = ()
        self._unknown: set[str] = set()
        self._served: dict[str, int] = {}

    async def run(self) -> dict[str, int]:
        """Run them."""
        await self._jobs.ask(
            register_runner,
            incarnation=self._incarnation,
            lock_key=0,
            holds_lock=False,
            lease=LEASE,
            name="drain",
            version="",
            info="{}",
        )
        try:
            while (job := await self._next()) is not None:
                await self._run(job)
        finally:
            await self._jobs.ask(forget_runner, self._incarnation)
        return dict(Counter(self._came_to.values()))

    # What is next.

    async def _next(self) -> ClaimedJob | None:
        while True:
            await self._tick()
            await self._jobs.ask(bring_forward, self._queues, None)
            job = await self._claim()
            if job is not None:
                return job
            if self._until is None or not await self._jobs.ask(bring_forward, self._queues, self._until):
                return None

    async def _tick(self) -> None:
        stage = stage_of(self._jobs)
        if stage is None or not stage.has_clock:
            return  # a test must not depend on which minute it is
        for schedule in await self._jobs.ask(list_schedules):
            if schedule.next_tick is not None and schedule.next_tick <= schedule.now:
                while await self._jobs.ask(fire, schedule.name, self._jobs):
                    if schedule.missed != "all" or schedule.overlap != "allow":
                        break

    async def _claim(self) -> ClaimedJob | None:
        while requests := await self._lanes():
            claimed = await self._jobs.ask(
                claim_jobs, requests, self._incarnation, begin=True, limited=self._limited
            )
            if not claimed:
                return None
            job: ClaimedJob = claimed[0]
            self._served[job.queue] = sum(self._ran.values()) + 1
            if await self._may_run(job):
                return job
        return None

    async def _lanes(self) -> list[LaneRequest]:
        known = registry.known_kinds()
        around = await self._jobs.ask(look_around)
        if around.in_line:
            in_line = (self._queues or [EVERY_QUEUE], sorted(known), EVERY_PRIORITY)
            await self._jobs.ask(deal_turns, *in_line, wanted=1)
            around = await self._jobs.ask(look_around)
        if around.rate_due is not None and around.rate_due <= 0:
            await self._jobs.ask(promote_rates, 100)
            around = await self._jobs.ask(look_around)
        self._limited = [each.queue for each in await self._jobs.ask(find_limits)] if around.limited else []
        found = []
        for lane in around.lanes:
            if lane.queue in around.paused or lane.queue in self._closed:
                continue
            if self._queues is not None and lane.queue not in self._queues:
                continue
            if lane.kind in known:
                found.append(lane)
            elif lane.kind not in self._unknown:
                self._unknown.add(lane.kind)
                logger.warning(
                    "jobs of kind %r wait in queue %r: this process does not define it, and does not drain them",
                    *reversed(lane),
                )
        weigh = self._jobs.registry.weight_of
        return [
            LaneRequest(
                lane,
                pool=0,
                room=1,
                alone=len(found) == 1,
                weight=weigh(lane.queue),
                served=self._served.get(lane.queue, 0),
            )
            for lane in found
        ]

    async def _may_run(self, job: ClaimedJob) -> bool:
        """Whether its lock, its rate and the limits of its queue let it. Else it waits, as it would."""
        if job.lock_key is not None:
            acquired = await self._jobs.ask(acquire_locks, self._incarnation, [job])
            if job.id in acquired.blocked:
                return False
            if job.id not in acquired.held:
                await self._give_back(job)
                return False
        if job.rate_key is not None:
            came = await self._jobs.ask(let_in, self._incarnation, [job])
            if job.id not in came.held | came.blocked:
                await self._give_back(job)
            return job.id in came.held
        if job.queue not in self._limited or await self._jobs.ask(admit_jobs, self._incarnation, [job]):
            return True
        await self._give_back(job)
        return False

    async def _give_back(self, job: ClaimedJob) -> None:
        self._closed.add(job.queue)
        await self._settle(Returned(job, LiveState.READY, unburnt=True))

    # Running it.

    async def _run(self, job: ClaimedJob) -> None:
        self._ran[job.kind if job.method is None else f"{job.kind}.{job.method}"] += 1
        if sum(self._ran.values()) > self._limit:
            await self._settle(Returned(job, LiveState.READY, unburnt=True))
            raise NotDrained(self._endless())
        drained = Drained(self._jobs, self._codec, job, self._settle_in)
        try:
            async with savepoint_of(self._jobs):
                await drained.run()
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._settle(Returned(job, LiveState.READY, unburnt=True))
            raise
        outcome = drained.outcome
        if outcome is None:
            await self._look_at(drained, job)
            return
        if not await self._settle(outcome):  # it settled itself, in a transaction of the test's
            await self._look_at(drained, job)
            return
        self._came_to[job.id] = (
            outcome.state.public.value if isinstance(outcome, Finished) else _RETURNED[outcome.state]
        )
        error = drained.error
        if self._raises and error is not None:
            error.add_note(
                f"in job {job.id} ({job.kind}), at attempt {job.attempt} of {job.max_attempts}, which was drained; "
                "with drain(raises=False) it is kept with the job instead"
            )
            raise error

    async def _look_at(self, drained: Drained, job: ClaimedJob) -> None:
        """What became of a job that settled itself; of one of which nothing is kept, what it said."""
        found = await self._jobs.find_job(job.id)
        if found is not None:
            self._came_to[job.id] = found.state.value
        elif isinstance(drained.settled, Finished):
            self._came_to[job.id] = drained.settled.state.public.value

    async def _settle(self, outcome: Outcome) -> bool:
        return bool(await self._jobs.ask(self._write, outcome))

    async def _settle_in(self, session: Session, outcome: Outcome) -> bool:
        return bool(await self._write(session, outcome))

    async def _write(self, session: Session, outcome: Outcome) -> set[int]:
        if isinstance(outcome, Finished):
            return await finish_jobs(session, self._incarnation, [outcome])
        return await return_jobs(session, self._incarnation, [outcome])

    def _endless(self) -> str:
        most = ", ".join(f"{times} x {name}" for name, times in self._ran.most_common(5))
        return (
            f"{counted(self._limit, 'job')} ran, and there are more: {most}. A job that enqueues itself, or always retries with "
            "with_scheduled=, has no end; assert what it enqueues instead, or pass limit= if there are so many"
        )


class Drained:
    """A job that runs in a task and a context of its own, as in a slot: nothing of the test's leaks into it."""

    def __init__(self, jobs: Any, codec: Any, job: ClaimedJob, settle: Any) -> None:
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None  #: what failed it
        started = time.perf_counter()
        self._running = RunningJob(job, jobs, codec, settle, started)
        self._attempt = Attempt(
            job, self._running, codec, jobs._provide, started=started, around=jobs._around
        )
        self._context = Context()
        self._context.run(bind, jobs)
        self._context.run(enter, self._running)
        self._is_staged = stage_of(jobs) is not None

    @property
    def settled(self) -> Outcome | None:
        """What it made of itself, in a transaction of its own."""
        return self._running.outcome

    async def run(self) -> None:
        """Run it to its end."""
        attempt = self._attempt
        task = asyncio.get_running_loop().create_task(self._perform(), context=self._context)
        attempt.task = task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            attempt.abandon()
            await asyncio.wait([task])
            raise
        task.result()

    async def _perform(self) -> None:
        attempt, said = self._attempt, None
        try:
            attempt.wake()
            self.outcome = await attempt.run()
        except BaseException as raised:
            said = raised
            self.outcome = attempt.came_to(raised)
        if attempt.thread is not None:  # it is over its timeout, and nothing stops it
            await attempt.thread.over()
        while self._running.awaits_commit and not self._is_staged:  # noqa: ASYNC110 -- nobody could tell
            await asyncio.sleep(0.005)  # somebody else ends the transaction it was completed in
        if not isinstance(said, Retry):
            self.error = attempt.error
