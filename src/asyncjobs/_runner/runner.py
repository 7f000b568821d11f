"""The runner: its parts, wired, in one task group."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import anyio
import attrs

from asyncjobs._define.codec import Codec
from asyncjobs._define.registry import is_standalone, kinds_for_anywhere
from asyncjobs._engine.around import NOTHING_AROUND, Around
from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.claimer import Claimer, Rhythm
from asyncjobs._engine.completer import Completer
from asyncjobs._engine.context import RunningJob, enter, job_in
from asyncjobs._engine.identity import Identity
from asyncjobs._engine.pace import Pace
from asyncjobs._engine.slots import Pool
from asyncjobs._engine.supply import Provide
from asyncjobs._engine.telling import error_json
from asyncjobs._engine.turnstile import MOST_IN_LINE, Turnstile
from asyncjobs._enqueue.ambient import bind
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._guard.blocked import Blocked
from asyncjobs._guard.guard import Guard
from asyncjobs._guard.watch import KEPT, Ward, Watch
from asyncjobs._keeper.keeper import Keeper
from asyncjobs._keeper.post import Account
from asyncjobs._keeper.thread import KeeperThread
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._model.modes import Modes
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import LiveState
from asyncjobs._schedule.ticker import Declared, Ticker
from asyncjobs._store.claims import Caution, Claim, absolve_jobs, finish_jobs, return_jobs
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._upkeep.janitor import Janitor, Retention

logger = logging.getLogger("asyncjobs")

FAILING = 3  #: claims in a row
HURRIED = 1.0  #: seconds for writing what jobs came to, when the runner stops in a hurry


@attrs.frozen(kw_only=True)
class Settings:
    """How a runner runs."""

    pools: Callable[[], Sequence[Pool]]
    provide: Provide
    around: Around = NOTHING_AROUND
    retention: Retention
    modes: Modes | None = None  #: None: found out by trying
    vigilance: Vigilance = attrs.field(factory=Vigilance)
    rhythm: Rhythm = attrs.field(factory=Rhythm)
    shutdown: float = 8.0  #: seconds to stop in, all in all
    kinds: Callable[[], frozenset[str]] = kinds_for_anywhere
    guard: Guard | None = attrs.field(factory=Guard)
    name: str | None = None  #: in the list of runners; None: host:pid
    standalone: bool = False  #: this process serves no requests: there is nothing to give way to
    schedules: Declared = attrs.field(factory=Declared)
    beside: Sequence[
        Callable[[], Coroutine[Any, Any, None]]
    ] = ()  #: what else goes on as long as jobs run here


class Runner:
    """Runs jobs until it is stopped."""

    def __init__(self, jobs: Enqueuer, source: Source, codec: Codec, settings: Settings) -> None:
        self._jobs = jobs
        self._source = source
        self._codec = codec
        self._settings = settings
        self._pools = settings.pools()
        self._pace = Pace()
        self._identity = Identity()
        self._attempts: dict[int, Attempt] = {}
        #: the token of each claim, until the completer has written what came of it
        self._held: dict[int, int] = {}
        self._deaf = True
        schema = jobs.schema
        gives_way = settings.guard is not None and not settings.standalone
        self._claimer = Claimer(
            source,
            schema,
            self._identity,
            pools=self._pools,
            pace=self._pace,
            kinds=settings.kinds,
            rhythm=settings.rhythm,
            begin=self._begin,
            claimed=self._claimed,
            release=self._release,
            is_empty=lambda: not self._held and not self._attempts,
            caution=Caution(settings.vigilance.alone, settings.vigilance.max_crashes),
            gives_way=gives_way,
            registry=jobs.registry,
        )
        self._completer = Completer(
            source,
            schema,
            self._identity,
            self._settled,
            expects_more=lambda: gives_way and bool(self._attempts),
        )
        keeper = Keeper(
            source, schema, self._identity, settings.vigilance, modes=settings.modes, name=settings.name
        )
        self._keeper = KeeperThread(keeper, self._identity, self)
        self._janitor = Janitor(source, schema, settings.retention)
        self._ticker = Ticker(source, jobs, codec, settings.schedules)
        self.blockers: deque[Blocked] = deque(maxlen=KEPT)  #: who blocked the loop, the latest last
        self._turnstile = Turnstile() if gives_way else None
        for pool in self._pools if gives_way else ():
            pool.most_entering = min(pool.size, MOST_IN_LINE)
        ward = Ward(
            is_busy=lambda: bool(self._attempts),
            is_starved=source.is_exhausted,
            job_of=self._job_of,
            in_threads=self._in_threads,
            open=self._open_slots if gives_way else None,
        )
        self._watch = None if settings.guard is None else Watch(settings.guard, ward, self.blockers)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run jobs until `stop` has ended. Run again after a failure, it goes on with what it holds."""
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        bind(self._jobs)  # every task begun below inherits it
        async with anyio.create_task_group() as self._tasks:
            for long_lived in (self._keeper, self._completer, self._claimer, self._janitor, self._ticker):
                self._tasks.start_soon(long_lived.run)
            for other in self._settings.beside:
                self._tasks.start_soon(other)
            if self._watch is not None:
                self._tasks.start_soon(self._watch.run)

    # The slots.

    def _begin(self, job: ClaimedJob, pool: Pool) -> None:
        """Begin *job* in a free slot, as an asyncio task of its own: what it raises, cancels or leaves in its context ends
        with it, and what ends this runner's task group does not end the job. (As anyio's child it would cost 18 to 34 µs, not 4.)
        """
        started = time.perf_counter()
        running = RunningJob(job, self._jobs, self._codec, self._settle_in, started)
        attempt = Attempt(
            job, running, self._codec, self._settings.provide, started=started, around=self._settings.around
        )
        earlier = self._attempts.get(job.id)
        if earlier is not None:  # under a claim that is over, or there would not be this one
            earlier.stop("lost")
        self._attempts[job.id] = attempt
        pool.occupied += 1
        pool.entering += 1
        try:
            attempt.task = self._loop.create_task(self._attempt(attempt, pool))
        except BaseException:
            pool.occupied -= 1
            pool.entering -= 1
            del self._attempts[job.id]
            raise

    async def _attempt(self, attempt: Attempt, pool: Pool) -> None:
        job = attempt.job
        outcome: Outcome | None
        try:
            enter(attempt.running)
            # The job is awaited here, by the outermost coroutine of its task: when that is closed (`Attempt.close`), those
            # below it are too, and what they would have returned is lost.
            try:
                await self._enter(attempt, pool)
                outcome = await attempt.run()
            except BaseException as error:
                if self._is_torn_down:
                    attempt.stop("shutdown")
                outcome = attempt.came_to(error)
            if attempt.thread is not None or attempt.running.awaits_commit:
                with suppress(GeneratorExit):  # closed: nothing is awaited any more
                    await self._what_is_left_of(attempt)
                if attempt.running.awaits_commit:
                    outcome = None  # to be written it would have to wait for that transaction, and all others with it
        except Exception as error:
            logger.critical(
                "what job %s (%s) came to was not found out, which is a fault of asyncjobs; it is tried again",
                job.id,
                job.kind,
                exc_info=error,
            )
            outcome = Returned(job, LiveState.RETRYABLE, delay=1.0, error=error_json(job, error))
        pool.occupied -= 1
        if attempt.thread is None:
            if self._attempts.get(job.id) is attempt:  # else it was rescued from us, and is ours again
                del self._attempts[job.id]
            self._pace.observe(job.kind, attempt.elapsed, len(job.args))
            self._claimer.ended(job.id)
            if outcome is not None:
                self._completer.add(outcome)
            else:
                self._settled(job)
        self._claimer.slot_freed()

    async def _enter(self, attempt: Attempt, pool: Pool) -> None:
        """Wait for the attempt's turn to enter the event loop."""
        try:
            attempt.wake()
            if self._turnstile is not None and (ticket := self._turnstile.enter()) is not None:
                await ticket
                attempt.started = attempt.running.started = time.perf_counter()
        finally:
            pool.entering -= 1
            if pool.entering == pool.most_entering - 1:
                self._claimer.slot_freed()

    async def _what_is_left_of(self, attempt: Attempt) -> None:
        """Wait for the thread that outlived its task, whoever cancelled that, and for the transaction it was completed in."""
        while attempt.thread is not None and not self._leaves(attempt):
            with suppress(asyncio.CancelledError):
                await attempt.thread.over()
        if attempt.running.awaits_commit:
            await self._commit_of(attempt)

    async def _commit_of(self, attempt: Attempt) -> None:
        """Wait for the end of the transaction that *attempt* completed the job in, which others may end after the job."""
        pause, asked = 0.001, time.monotonic()
        while (
            attempt.running.awaits_commit
            and not self._leaves(attempt)
            and "shutdown" not in attempt.stopped_for
        ):
            # The job is over: only the end of the process is worth leaving for.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(pause)
            if pause < 1 <= time.monotonic() - asked:
                logger.warning(
                    "job %s (%s) has ended, and the transaction it was completed in is still open; commit or roll it back",
                    attempt.job.id,
                    attempt.job.kind,
                )
                pause = 1.0
            elif pause < 1:
                pause = min(pause * 2, 0.1)

    def _leaves(self, attempt: Attempt) -> bool:
        return "abandoned" in attempt.stopped_for or self._is_torn_down

    @property
    def _is_torn_down(self) -> bool:
        """Somebody cancels every task of the loop, as asyncio.run does at its end."""
        return self._owner is not None and self._owner.cancelling() > 0

    async def _settle_in(self, session: Session, outcome: Outcome) -> bool:
        """Write what a job came to in a transaction of its own, under whichever incarnation holds it now."""
        while True:
            incarnation = await self._identity.known()
            if isinstance(outcome, Finished):
                written = await finish_jobs(session, incarnation, [outcome])
            else:
                written = await return_jobs(session, incarnation, [outcome])
            if written:
                return True
            if self._identity.current == incarnation:
                return False

    # What the guard asks, from its thread too, and tells.

    def _job_of(self, task: asyncio.Task[Any] | None, context: Context | None) -> ClaimedJob | None:
        for attempt in list(self._attempts.values()):
            if task is not None and attempt.task is task:
                return attempt.job
        return None if context is None else job_in(context)

    def _in_threads(self) -> list[str]:
        attempts = list(self._attempts.values())
        return [f"{each.job.id} ({each.job.kind})" for each in attempts if each.thread is not None]

    def _open_slots(self, share: float) -> None:
        if self._turnstile is not None:
            self._turnstile.is_closed = share == 0
        for pool in self._pools:
            pool.open = math.ceil(pool.size * share)
        self._claimer.slot_freed()

    def _claimed(self, jobs: Iterable[ClaimedJob]) -> None:
        self._held.update({job.id: job.token for job in jobs})

    def _settled(self, job: ClaimedJob | Claim) -> None:
        if self._held.get(job.id) == job.token:  # else it is held by a later claim
            del self._held[job.id]
            if isinstance(job, ClaimedJob):
                self._claimer.settled(job)
            if not self._held:
                self._claimer.emptied()

    # What the keeper tells (Post).

    def ready(self, queue: str) -> None:
        if any(pool.serves(queue) for pool in self._pools):
            self._claimer.wake()

    def finished(self, job_id: int) -> None:
        self._jobs.job_finished(job_id)

    def cancel(self, job_id: int) -> None:
        if job_id in self._attempts:
            self._attempts[job_id].stop("cancel")

    def queues_changed(self) -> None:
        self._claimer.look_again()

    def schedules_changed(self) -> None:
        self._ticker.look()

    def held(self) -> Sequence[Claim]:
        return [Claim(job_id, token) for job_id, token in list(self._held.items())]

    def account(self) -> Account:
        running, unwritten = self._attempts.keys(), self._completer.ids()
        prefetched = {job.id for pool in self._pools for job in pool.prefetched}
        # A fault of ours between claim and begin leaves a job that nobody here answers for: not held, it goes back.
        for job_id in self._held.keys() - running - unwritten - prefetched:
            del self._held[job_id]
        return Account(dict(self._held), self._claimer.sent, self._claimer.answered)

    def lost(self, claims: Sequence[Claim]) -> None:
        gone = {claim.id for claim in claims}
        for pool in self._pools:
            pool.drop(gone)
        for claim in claims:
            self._settled(claim)
            attempt = self._attempts.get(claim.id)
            if attempt is not None and attempt.job.token == claim.token:
                attempt.stop("lost")

    def cut_off(self) -> None:
        stopped = set()
        for pool in self._pools:
            for job in pool.give_up():
                self._settled(job)
        for attempt in list(self._attempts.values()):
            if (
                attempt.thread is None
            ):  # a thread cannot be stopped; what it comes to is written if nobody took its job
                stopped.add(attempt.job.id)
                self._settled(attempt.job)
                attempt.stop("lost")
        if stopped:
            logger.warning("jobs %s are stopped here, and run again", sorted(stopped))

    def unanswered(self) -> None:
        self._claimer.unanswered()

    def assume(self, incarnation: int, losses: int) -> None:
        self._identity.assume(incarnation, losses)

    def deaf(self, *, is_deaf: bool) -> None:
        self._deaf = is_deaf
        self._jobs.hears_results(hears=not is_deaf)

    # What the enqueuer of this process asks (LocalRunner).

    def is_hungry(self, lane: Lane) -> bool:
        return (self._settings.standalone or not is_standalone(lane.kind)) and self._claimer.is_hungry(
            lane.queue
        )

    def wake(self, lanes: Sequence[Lane]) -> None:
        self._claimer.wake(lane for lane in lanes if any(pool.serves(lane.queue) for pool in self._pools))

    # Looking at it.

    @property
    def is_connected(self) -> bool:
        """Whether it has a place among the runners: jobs are claimed."""
        return self._identity.current is not None

    @property
    def cannot_claim(self) -> bool:
        """Claims fail, one after the other, whatever the keeper says."""
        return self._claimer.failures >= FAILING

    @property
    def modes(self) -> Modes | None:
        """What was found to work with the database; None until it was reached."""
        return self._identity.modes if self._identity.latest is not None else None

    @property
    def busy(self) -> int:
        """How many jobs are running here."""
        return len(self._attempts)

    @property
    def is_idle(self) -> bool:
        """Nothing runs here, nothing waits here, and nothing is left to write."""
        return not self._held and not self._attempts and self._claimer.is_drained

    async def connected(self) -> None:
        """Wait until jobs are claimed."""
        await self._identity.known()

    # Stopping.

    def quiet(self) -> None:
        """Claim nothing more, from this moment on, and give back what has not begun."""
        self._claimer.quiet()
        for pool in self._pools:
            self._release(pool.give_up())

    def _release(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            self._completer.add(Returned(job, LiveState.READY, unburnt=True))

    async def stop(self, hurry: anyio.Event | None = None) -> None:
        """Stop within `shutdown` seconds; *hurry* set, the running jobs are cancelled at once.

        Five eighths of the time jobs may go on, two eighths they have to clean up when cancelled, the rest is for writing.
        """
        self.quiet()
        started, eighth = time.monotonic(), self._settings.shutdown / 8
        await self._wait_for_attempts(5 * eighth, hurry)
        for attempt in list(self._attempts.values()):
            attempt.stop("shutdown")
        await self._wait_for_attempts(2 * eighth, None, but_threads=True)
        self._end_attempts()
        in_a_hurry = hurry is not None and hurry.is_set()
        left = 7.7 * eighth - (time.monotonic() - started)
        with anyio.move_on_after(min(left, HURRIED) if in_a_hurry else left):
            await self._completer.flush()
        if self._completer.unwritten:
            logger.warning(
                "what %s jobs came to could not be written; they run again", self._completer.unwritten
            )
        await self._absolve_threads(eighth * 0.3)
        for attempt in list(self._attempts.values()):
            if attempt.thread is not None:
                let_go = await self._keeper.outlive()
                if attempt.thread is not None:
                    attempt.thread.when_over(let_go)
                else:  # it ended meanwhile
                    let_go()
            attempt.abandon()
        if not self._attempts and self.is_connected:
            with anyio.move_on_after(eighth * 0.3):
                await self._keeper.leave()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def _wait_for_attempts(
        self, limit: float, hurry: anyio.Event | None, *, but_threads: bool = False
    ) -> None:
        deadline = time.monotonic() + limit
        while (hurry is None or not hurry.is_set()) and (left := deadline - time.monotonic()) > 0:
            tasks = [
                attempt.task
                for attempt in self._attempts.values()
                if attempt.task is not None and not (but_threads and attempt.thread is not None)
            ]
            if not tasks:
                return
            await asyncio.wait(tasks, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED)

    async def _absolve_threads(self, limit: float) -> None:
        """Who is told to stop is no victim: the end of this process is not the fault of the jobs that outlive the runner."""
        jobs = [attempt.job for attempt in self._attempts.values() if attempt.thread is not None]
        claims = [Claim(job.id, job.token) for job in jobs]
        if not jobs or not self.is_connected:
            return
        try:
            with anyio.move_on_after(limit):
                await self._keeper.see_to(lambda session, name: absolve_jobs(session, name, claims))
        except Exception as error:
            logger.warning(
                "jobs %s will be suspected of ending this process: %s", [job.id for job in jobs], error
            )

    def _end_attempts(self) -> None:
        """The time of the cancelled is over."""
        for attempt in list(self._attempts.values()):
            what = attempt.job.id, attempt.job.kind
            if attempt.thread is not None:
                logger.warning(
                    "job %s (%s) goes on in its thread: it runs again when that, or this process, has ended",
                    *what,
                )
            else:
                logger.warning(
                    "job %s (%s) does not end though it was cancelled: it is closed, and given back", *what
                )
                attempt.close()

    async def salvage(self) -> None:
        """Say what came of the jobs, now that everything of this runner was cancelled at once, by somebody in a hurry."""
        self.quiet()
        await self._wait_for_attempts(HURRIED, None, but_threads=True)
        with anyio.move_on_after(HURRIED):
            await self._completer.write_once()
