"""The runner: its parts, wired, in one task group."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import anyio
import attrs

from asyncjobs._define.codec import Codec
from asyncjobs._define.registry import is_standalone, kinds_for_anywhere
from asyncjobs._engine.around import NOTHING_AROUND, Around
from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.claimer import Claimer, Rhythm
from asyncjobs._engine.completer import Completer
from asyncjobs._engine.context import RunningJob
from asyncjobs._engine.identity import Identity
from asyncjobs._engine.pace import Pace
from asyncjobs._engine.slots import Pool
from asyncjobs._engine.supply import Provide
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
from asyncjobs._runner.attempts import Attempts
from asyncjobs._runner.stopping import Stopping
from asyncjobs._schedule.ticker import Declared, Ticker
from asyncjobs._store.claims import Caution, Claim, finish_jobs, return_jobs
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs._upkeep.janitor import Janitor, Retention

logger = logging.getLogger("asyncjobs")

FAILING = 3  #: claims in a row


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
    beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()  #: goes on, too, as long as jobs run here


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
        #: the token of each claim, until the completer has written what came of it
        self._held: dict[int, int] = {}
        schema = jobs.schema
        gives_way = settings.guard is not None and not settings.standalone
        self._turnstile = Turnstile() if gives_way else None
        self._attempts = Attempts(self._attempt, self._turnstile, ended=self._ended, freed=self._freed)
        self._claimer = Claimer(
            source,
            schema,
            self._identity,
            pools=self._pools,
            pace=self._pace,
            kinds=settings.kinds,
            rhythm=settings.rhythm,
            begin=self._attempts.begin,
            claimed=self._claimed,
            release=self._release,
            forget=self._settled,
            is_empty=lambda: not self._held and not self._attempts,
            caution=Caution(settings.vigilance.alone, settings.vigilance.max_crashes),
            gives_way=gives_way,
            registry=jobs.registry,
        )
        self._attempts.begins_at = self._claimer.begins_at
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
        for pool in self._pools if gives_way else ():
            pool.most_entering = min(pool.size, MOST_IN_LINE)
        ward = Ward(
            is_busy=lambda: bool(self._attempts),
            is_starved=source.is_exhausted,
            job_of=self._attempts.job_of,
            in_threads=self._attempts.in_threads,
            open=self._open_slots if gives_way else None,
        )
        self._watch = None if settings.guard is None else Watch(settings.guard, ward, self.blockers)
        self._stopping = Stopping(
            self._attempts, self._completer, self._keeper, self._identity, shutdown=settings.shutdown
        )
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Run jobs until `stop` has ended. Run again after a failure, it goes on with what it holds."""
        self._attempts.belong_to(asyncio.current_task())
        bind(self._jobs)  # every task begun below inherits it
        async with anyio.create_task_group() as self._tasks:
            for long_lived in (self._keeper, self._completer, self._claimer, self._janitor, self._ticker):
                self._tasks.start_soon(long_lived.run)
            for other in self._settings.beside:
                self._tasks.start_soon(other)
            if self._watch is not None:
                self._tasks.start_soon(self._watch.run)

    # The slots.

    def _attempt(self, job: ClaimedJob, started: float) -> Attempt:
        running = RunningJob(job, self._jobs, self._codec, self._settle_in, started)
        return Attempt(
            job,
            running,
            self._codec,
            self._settings.provide,
            started=started,
            around=self._settings.around,
        )

    def _ended(self, attempt: Attempt, outcome: Outcome | None) -> None:
        job = attempt.job
        self._pace.observe(job.kind, attempt.elapsed, len(job.args))
        if self._watch is not None:
            self._watch.ended(job, attempt.elapsed)
        self._claimer.ended(job.id)
        if outcome is not None:
            self._completer.add(outcome)
        else:
            self._settled(job)

    def _freed(self) -> None:
        self._claimer.slot_freed()

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
        if (attempt := self._attempts.of(job_id)) is not None:
            attempt.stop("cancel")

    def queues_changed(self) -> None:
        self._claimer.look_again()

    def schedules_changed(self) -> None:
        self._ticker.look()

    def held(self) -> Sequence[Claim]:
        return [Claim(job_id, token) for job_id, token in list(self._held.items())]

    def account(self) -> Account:
        running, unwritten = self._attempts.ids(), self._completer.ids()
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
            attempt = self._attempts.of(claim.id)
            if attempt is not None and attempt.job.token == claim.token:
                attempt.stop("lost")

    def cut_off(self) -> None:
        stopped = set()
        for pool in self._pools:
            for job in pool.give_up():
                self._settled(job)
        for attempt in self._attempts:
            # A thread cannot be stopped; what it comes to is written if nobody took its job.
            if attempt.thread is None:
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
        """Stop within `shutdown` seconds; *hurry* set, the running jobs are cancelled at once."""
        self.quiet()
        await self._stopping.stop(hurry, lambda: self._claimer.sent > self._claimer.answered)
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def salvage(self) -> None:
        """Say what came of the jobs, now that everything of this runner was cancelled at once, by somebody in a hurry."""
        self.quiet()
        await self._stopping.salvage()
