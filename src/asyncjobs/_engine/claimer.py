"""Claim what the slots have room for, and sleep when there is nothing, so that one enqueue wakes at once.

Falling asleep, on the claimer's own connection:

1. a claim from the start of every lane comes back empty, and a look around finds no lane with a job;
2. announce it, and make sure that nobody looked just before (`announcement`);
3. sleep until a notification, a wake-up from this process, the next due job, or the poll: the net below it all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import attrs

from asyncjobs._define.registry import is_standalone, newer_version
from asyncjobs._engine.alarm import Alarm
from asyncjobs._engine.announcement import HORIZON_TO, KEEP_ANNOUNCED, Announcement
from asyncjobs._engine.doubts import Doubts
from asyncjobs._engine.grip import Grip
from asyncjobs._engine.identity import Identity
from asyncjobs._engine.lanes import Lanes
from asyncjobs._engine.limits import Limits
from asyncjobs._engine.link import Patience, link
from asyncjobs._engine.pace import MOST_BYTES, TOO_LONG, Pace
from asyncjobs._engine.slots import Pool
from asyncjobs._engine.solitude import Solitude
from asyncjobs._engine.suspects import Suspects
from asyncjobs._engine.turns import Turns
from asyncjobs._engine.turnstile import GATHER
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._model.urgency import Urgency
from asyncjobs._store.chores import promote_jobs
from asyncjobs._store.claims import A_BATCH, Caution, begin_jobs, claim_jobs, look_around, wake_others
from asyncjobs._store.limits import find_limits
from asyncjobs._store.locks import settle_locks
from asyncjobs._store.rates import promote_rates
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

logger = logging.getLogger("asyncjobs")

MOST_RATES = 100  #: of which one statement looks who may begin
OTHERS_ARE_QUICKER = 0.050  #: seconds until rates are looked at again that another runner saw to first
LOOK_EVERY = 1.0  #: seconds between looks around while busy: new lanes, paused queues, forgotten marks


@attrs.frozen
class Rhythm:
    """How often to look when nothing wakes us, in seconds."""

    poll: float = 2.0  #: with notifications: the net below them
    poll_from: float = 0.02  #: without: at first …
    poll_to: float = 0.25  #: … and at most


class Claimer:
    """Keeps the slots supplied."""

    def __init__(
        self,
        source: Source,
        schema: str,
        identity: Identity,
        *,
        pools: Sequence[Pool],
        pace: Pace,
        kinds: Callable[[], frozenset[str]],
        rhythm: Rhythm,
        begin: Callable[[ClaimedJob, Pool], None],
        claimed: Callable[[Sequence[ClaimedJob]], None],
        release: Callable[[Iterable[ClaimedJob]], None],
        forget: Callable[[ClaimedJob], None],
        is_empty: Callable[[], bool],
        caution: Caution,
        gives_way: bool = False,
        registry: QueueRegistry | None = None,
    ) -> None:
        self._source = source
        self._schema = schema
        self._identity = identity
        self._pools = pools
        self._pace = pace
        self._kinds = kinds
        self._rhythm = rhythm
        self._begin_in = begin  #: a slot of the pool is free for the job
        self._release = release  #: takes jobs that are not to begin here
        self._forget = forget  #: told of a job that is nobody's now
        self._session: Session | None = None
        self._lanes = Lanes(pools, registry)
        self.failures = 0  #: of turns, one after the other
        self._alarm = Alarm()
        self._grip = Grip(identity, self._lanes, claimed, lambda jobs: self._give_back(list(jobs)))
        self._grip.rate_due = self._rate_is_due
        self._solitude = Solitude(pools, is_empty, caution)
        self._urgency = Urgency(  #: what some slot takes
            min(pool.urgency.first for pool in pools), max(pool.urgency.last for pool in pools)
        )
        self._suspects = Suspects(
            pools,
            self._solitude,
            self._grip,
            kinds=kinds,
            urgency=self._urgency,
            begin=lambda job: begin(job, self._lanes.pools_of(job.queue)[-1]),
            release=release,
            wake=self.wake,
            is_quiet=lambda: self._quiet,
        )
        self._gather = GATHER if gives_way else 0.0
        self._claimed_at = 0.0  #: when the reply of the last claim came
        self._quiet = False
        self._begun: dict[int, ClaimedJob] = {}  # prefetched jobs that run: what runners.begun says
        self._unknown: set[str] = set()
        self._returning: set[int] = set()  # jobs that did not begin here, until that is written
        self._promised: set[str] = set()  # queues of which jobs were committed here without waking others
        self._reset()

    def _reset(self) -> None:
        """What is only true of one connection, or of what was seen over it."""
        self._drained = False
        self._returning.clear()
        self._left = False  #: the last look saw jobs for which there was no slot
        self._looked_at = 0.0
        self._due_at: float | None = None
        self._patient_until = 0.0  #: nothing was to be promoted, though it was due
        self._rated_at = math.inf  #: somebody who waits for a rate is due
        self._announcement = Announcement(self._pools, self._lanes, self._alarm)
        self._grip.doubts = Doubts()
        self._lanes.limits, self._lanes.paused_by_hand = Limits(), frozenset()
        self._turns = Turns(self._pools, self._urgency)
        self._alarm.calm()

    # From the rest of the runner.

    def wake(self, lanes: Iterable[Lane] = ()) -> None:
        """There may be jobs: in these lanes, or anywhere."""
        self._lanes.see(lanes, time.monotonic())
        self._drained = False
        self._alarm.calm()
        self._alarm.ring()

    def slot_freed(self) -> None:
        """A job has left its slot."""
        if self._left:
            self._drained = False
        if not self._is_gathering() or any(pool.prefetched for pool in self._pools):
            self._alarm.ring()

    def ended(self, job_id: int) -> None:
        """A job runs no more."""
        self._begun.pop(job_id, None)

    def settled(self, job: ClaimedJob) -> None:
        """This runner answers for *job* no more: who waited for its lock, or for its place in a queue, may begin."""
        if job.lock_key is not None:
            self.wake()
        if self._grip.begins_at:
            self._grip.begins_at.pop(job.id, None)
        if job.id in self._returning:  # nobody tells: it may be the only one there is
            self._returning.discard(job.id)
            self.wake()
        if job.queue in self._lanes.limits:
            self.look_again()

    def emptied(self) -> None:
        """This runner answers for no job any more."""
        if self._solitude.is_closed:
            self._alarm.ring()

    def look_again(self) -> None:
        """A queue was paused or resumed."""
        self._looked_at = 0.0
        self.wake()

    def unanswered(self) -> None:
        """The claim under way is done, and its reply does not come: give its connection up."""
        if self._session is not None and self._grip.sent > self._grip.answered:
            self._session.connection.terminate()  # type: ignore[attr-defined]

    def quiet(self) -> None:
        """Claim nothing more, from this moment on."""
        self._quiet = True
        self._alarm.ring()

    def is_hungry(self, queue: str) -> bool:
        """It takes a job of *queue* as soon as it is woken, or wakes others if it cannot after all."""
        connected = self._identity.current is not None
        hungry = (
            connected
            and not self._quiet
            and any(pool.free > 0 and not pool.is_choosy for pool in self._lanes.pools_of(queue))
            and queue not in self._lanes.paused
        )
        if hungry:
            self._promised.add(queue)
        return hungry

    @property
    def begins_at(self) -> dict[int, float]:
        """Jobs in slots that may not begin before, having paid for a moment that has yet to come."""
        return self._grip.begins_at

    @property
    def is_drained(self) -> bool:
        """The last claim found nothing, nothing waits for a slot, and nothing was heard of since."""
        return self._drained and not self._left and not self._solitude.waits and not self._solitude.is_closed

    @property
    def is_asleep(self) -> bool:
        """Nothing is there to be claimed, and whoever enqueues wakes this runner."""
        return self.is_drained and self._announcement.stands

    @property
    def sent(self) -> int:
        """How many claims were sent."""
        return self._grip.sent

    @property
    def answered(self) -> int:
        """How many of them were answered, and what they brought is held."""
        return self._grip.answered

    # The loop.

    async def run(self) -> None:
        """Claim, for ever."""
        patience = Patience("the claimer")
        while True:
            try:
                async with link(
                    self._source,
                    self._schema,
                    durable=False,
                    answer=patience.answer,
                ) as session:
                    self._session = session
                    # Its announcements end with it: asleep, nobody would wake us any more.
                    session.connection.add_termination_listener(lambda _: self.wake())  # type: ignore[attr-defined]
                    self._reset()
                    while True:
                        await self._turn(session)
                        patience.succeeded()
                        self.failures = 0
            except Exception as error:
                self.failures += 1
                # The reply of a claim may be lost with the connection: what it claimed must not stay ours unknown to us.
                self._identity.doubt()
                await patience.wait_after(error)

    async def _turn(self, session: Session) -> None:
        """One turn: begin what waits for a slot, claim what there is room for, or sleep."""
        incarnation = await self._identity.known()
        self._alarm.silence()
        now = time.monotonic()
        if self._quiet:
            await self._alarm.wait(self._rhythm.poll)
            return
        await self._announcement.withdraw(session, drained=self._drained)
        if self._promised:
            await self._wake_others(session)
        began = await self._begin(session, incarnation)
        self._give_back_what_waited_too_long()
        if self._due_at is not None and now >= self._due_at:
            await self._promote(session)
        if now >= self._rated_at:
            await self._promote_rates(session)
        if (now - self._looked_at > LOOK_EVERY and not self._drained) or self._lanes.limits.is_due(now):
            self._drained = False
            await self._look(session)
        if self._grip.doubts.are_due(now):
            await settle_locks(session, self._grip.doubts.look_at(now))
        if self._solitude.concerns(now) and await self._suspects.keep_others_away(session, incarnation):
            await self._sleep()
            return
        rooms = self._rooms()
        if rooms and not self._drained and await self._claim(session, incarnation, rooms):
            return
        if not began and (not rooms or not self._drained or await self._ready_to_sleep(session)):
            await self._sleep()

    def _rooms(self) -> dict[Pool, int]:
        """How many jobs each pool can take now; a claim for a few more than wait already is not worth its round trip."""
        if self._quiet or self._is_gathering():  # it may have been told in the middle of a turn
            return {}
        rooms = {}
        for pool in self._pools:
            lanes = self._lanes.of(pool)
            prefetches = lanes and pool.prefetches
            allowance = self._pace.prefetch((lane.kind for lane in lanes), pool.open) if prefetches else 0
            waiting = len(pool.prefetched)
            room = min(pool.free + allowance - waiting, A_BATCH)
            if room > 0 and (waiting == 0 or room >= allowance / 2):
                rooms[pool] = room
        return rooms

    def _is_gathering(self) -> bool:
        """Where jobs give way, freed slots gather, unless they are half of all."""
        return time.monotonic() < self._claimed_at + self._gather and all(
            2 * pool.free < pool.open for pool in self._pools
        )

    async def _begin(self, session: Session, incarnation: int) -> bool:
        """Let prefetched jobs begin in the slots that are free: only those, so that nobody else is blamed for a crash.

        At most half a pool at a time: while that half is being marked, the other half runs.
        """
        chosen = {pool: min(pool.free, len(pool.prefetched), (pool.size + 1) // 2) for pool in self._pools}
        if not any(chosen.values()):
            return False
        beginning = {
            pool: [pool.prefetched[nth] for nth in range(count)] for pool, count in chosen.items() if count
        }
        begun = {job.id: job for jobs in beginning.values() for job in jobs}
        if rated := [job for job in begun.values() if job.rate_key is not None]:
            refused = await self._pay(session, incarnation, rated)
            beginning = {
                pool: [job for job in jobs if job.id not in refused] for pool, jobs in beginning.items()
            }
            begun = {job.id: job for jobs in beginning.values() for job in jobs}
            if not begun:
                return True
        if not await begin_jobs(session, incarnation, [*self._begun.values(), *begun.values()]):
            self._identity.doubt()  # somebody declared this incarnation dead
            return True
        if self._identity.current != incarnation:  # its successor does not know they have begun
            return True
        self._begun |= begun
        for pool, jobs in beginning.items():
            for job in jobs:
                # Not there: it was taken from this runner meanwhile.
                if pool.prefetched and pool.prefetched[0] is job:
                    self._begin_in(pool.prefetched.popleft(), pool)
        return True

    async def _pay(self, session: Session, incarnation: int, rated: Sequence[ClaimedJob]) -> frozenset[int]:
        """Let prefetched jobs pay for their rates: which of them do not begin."""
        back, waiting = await self._grip.let_in(session, incarnation, rated, beginning=len(rated))
        refused = back | waiting
        for pool in self._pools if refused else ():
            pool.drop(refused)
        for job in rated:
            if job.id in waiting:
                self._forget(job)
        self._give_back([job for job in rated if job.id in back])
        return refused

    async def _claim(self, session: Session, incarnation: int, rooms: dict[Pool, int]) -> bool:
        """Claim once; True when there may be more to do before sleeping."""
        kinds = self._kinds()
        requests = self._lanes.requests(rooms, kinds)
        claimed: list[ClaimedJob] = []
        if requests:
            begin = all(room <= pool.free for pool, room in rooms.items())
            with self._grip.awaited():
                claimed = await claim_jobs(
                    session, requests, incarnation, begin=begin, limited=self._lanes.limits.queues
                )
                jobs = await self._grip.take(
                    session, incarnation, claimed, begin=begin, free=sum(pool.free for pool in rooms)
                )
            self._claimed_at = time.monotonic()
            if self._quiet:  # told so while this claim was under way
                self._release(jobs)
                return True
            self._hand_out(jobs, rooms, begin=begin)
            self._lanes.advance(claimed, time.monotonic())
            if self._turns.concern(claimed, sum(rooms.values())):
                self.wake(await self._turns.deal(session, kinds))
        if claimed:
            if len(claimed) < sum(rooms.values()):
                self._lanes.forget_marks()
            return True
        if self._lanes.forget_marks():
            return True  # empty beyond the marks: look before them
        found = await self._look(session)
        asked = {request.lane for request in requests}
        waiting = [
            lane
            for lane in found
            if lane.kind in kinds
            and lane.queue not in self._lanes.paused
            and any(self._may_take(pool, lane, rooms, asked) for pool in self._pools)
        ]
        closed = self._lanes.limits.closed
        self._left = bool(waiting) or any(lane.queue in closed and lane.kind in kinds for lane in found)
        if not waiting:
            self._solitude.nothing_else()
        if self._solitude.is_due(time.monotonic()):
            return True
        if any(self._may_take(pool, lane, rooms, asked) for lane in waiting for pool in rooms):
            return True
        self._drained = not self._alarm.is_ringing
        if self._drained:
            self._promised.clear()
        return not self._drained

    def _may_take(self, pool: Pool, lane: Lane, rooms: Mapping[Pool, int], asked: Container[Lane]) -> bool:
        """Whether what was seen in *lane* may be for *pool*: one that takes only some was just told that it is not."""
        return pool.serves(lane.queue) and not (pool.is_choosy and pool in rooms and lane in asked)

    async def _wake_others(self, session: Session) -> None:
        """More was committed here than this runner has slots for: those who are idle were not notified of it."""
        full = {
            queue
            for queue in self._promised
            if not any(pool.free and not pool.is_choosy for pool in self._lanes.pools_of(queue))
        }
        if full:
            self._promised -= full
            await wake_others(session, sorted(full))

    def _hand_out(self, jobs: Sequence[ClaimedJob], rooms: Mapping[Pool, int], *, begin: bool) -> None:
        prefetched: dict[Pool, list[ClaimedJob]] = {}
        for job, pool in self._placed(jobs, rooms):
            if begin:
                self._begin_in(job, pool)
            else:
                prefetched.setdefault(pool, []).append(job)
        now = time.monotonic()
        for pool, theirs in prefetched.items():
            pool.keep(theirs, now, self._lanes.in_order)
            surplus = pool.give_up_beyond(MOST_BYTES)
            for job in surplus:
                self._pace.surprise(job.kind, size=len(job.args))
            self._give_back(surplus)

    def _placed(
        self, jobs: Sequence[ClaimedJob], rooms: Mapping[Pool, int]
    ) -> Iterable[tuple[ClaimedJob, Pool]]:
        """Each job with its pool. Where several serve its queue, it takes room from the one with the least choice."""
        only: dict[str, Pool] = {}  # the pools of queues that have but one
        left: dict[Pool, int] = dict(rooms)
        homeless = []
        for job in self._lanes.in_order(jobs) if jobs else ():
            pool = only.get(job.queue)
            if pool is None:
                pools = self._lanes.pools_of(job.queue)
                if len(pools) == 1:
                    pool = only[job.queue] = pools[0]
                else:
                    pool = next((each for each in pools if left.get(each, 0) and each.takes(job)), None)
                    if (
                        pool is None
                    ):  # two pools of some of the same queues, each promised what the other has room for
                        homeless.append(job)
                        continue
                    left[pool] -= 1
            yield job, pool
        self._give_back(homeless)

    def _give_back(self, jobs: Sequence[ClaimedJob]) -> None:
        """Let anybody have *jobs*, and this runner when that is written."""
        self._returning.update(job.id for job in jobs)
        self._release(jobs)

    def _give_back_what_waited_too_long(self) -> None:
        """No slot became free for it in all that time: others may have one."""
        for pool in self._pools:
            waited = time.monotonic() - pool.prefetched_at
            if pool.prefetched and waited >= TOO_LONG:
                for job in pool.prefetched:
                    self._pace.surprise(job.kind, seconds=waited)
                self._give_back(pool.give_up())

    async def _look(self, session: Session) -> list[Lane]:
        lanes, due, paused, suspects, limited, in_line, rate_due = await look_around(session)
        allowances = await find_limits(session) if limited else ()
        dealt = await self._turns.deal(session, self._kinds()) if in_line else self._turns.none()
        now = self._looked_at = time.monotonic()
        self._lanes.limits.saw(now, allowances)
        self._solitude.saw(now, suspects=suspects)
        self._due_at = None if due is None else max(now + due, self._patient_until)
        self._rated_at = math.inf if rate_due is None else now + rate_due
        self._lanes.paused_by_hand = paused
        self._lanes.forget_old(now)
        known = self._kinds()
        served = [lane for lane in lanes if self._lanes.are_served(lane.queue)]
        for lane in (*served, *self._turns.lines):
            if lane.kind not in known and lane.kind not in self._unknown:
                self._unknown.add(lane.kind)
                log, why = logger.warning, "this process does not define it and leaves them to one that does"
                if newer := newer_version(lane.kind):
                    why = f"{newer}; it leaves them to a process with newer code"
                if is_standalone(lane.kind):
                    log, why = logger.info, "its placement leaves them to processes that serve no requests"
                log("jobs of kind %r wait in queue %r: %s", lane.kind, lane.queue, why)
        mine = [lane for lane in served if lane.kind in known]
        self._lanes.see(mine, now)
        self._lanes.forget_marks()
        if dealt:
            self.wake(dealt)
        return mine

    async def _promote(self, session: Session) -> None:
        promoted = await promote_jobs(session, A_BATCH)
        if not promoted:  # somebody else promotes it, or holds it
            self._patient_until = time.monotonic() + HORIZON_TO
        if sum(promoted.values()) < A_BATCH:
            await self._look(session)  # when the next one is due
        known = self._kinds()
        self.wake(lane for lane in promoted if lane.kind in known and self._lanes.are_served(lane.queue))

    def _rate_is_due(self, seconds: float) -> None:
        self._rated_at = min(self._rated_at, time.monotonic() + seconds)

    async def _promote_rates(self, session: Session) -> None:
        """Make ready who waits for a rate and has its tokens now."""
        asked = time.monotonic()
        promoted, due = await promote_rates(session, MOST_RATES)
        now = time.monotonic()
        self._rated_at = math.inf if due is None else now + due
        if not promoted:
            # Ten thousand lines of a queue that is paused may be due at any time: a tenth of the time is enough for them.
            self._rated_at = max(self._rated_at, now + OTHERS_ARE_QUICKER, now + 9 * (now - asked))
            return
        known = self._kinds()
        self._lanes.forget_marks_of(promoted)  # who waited is older than what was claimed meanwhile
        self.wake(lane for lane in promoted if lane.kind in known and self._lanes.are_served(lane.queue))

    # Sleeping.

    async def _ready_to_sleep(self, session: Session) -> bool:
        """Enqueuers know of this runner, and nobody looked for it just before."""
        if not self._identity.modes.hears or await self._announcement.is_heard(session):
            return True
        self._drained = False
        return False

    async def _sleep(self) -> None:
        """Until something happens, a job is due, or it is time to look."""
        if self._identity.modes.hears:
            limit = self._rhythm.poll
        else:
            limit = self._alarm.longer(self._rhythm.poll_from, self._rhythm.poll_to)
        if self._due_at is not None:
            limit = min(limit, max(0.0, self._due_at - time.monotonic()))
        limit = min(limit, max(0.0, self._rated_at - time.monotonic()))
        for pool in self._pools:
            if pool.prefetched:
                limit = min(limit, max(0.0, pool.prefetched_at + TOO_LONG - time.monotonic()))
        limit = min(
            limit, self._solitude.wait(time.monotonic()), self._grip.doubts.wait(), self._lanes.limits.wait()
        )
        if self._is_gathering():
            limit = min(limit, max(0.0, self._claimed_at + self._gather - time.monotonic()))
        hungry = not self._announcement.in_vain(drained=self._drained)
        if not hungry:
            limit = min(limit, KEEP_ANNOUNCED)
        woken = await self._alarm.wait(limit)
        if hungry:
            self._announcement.slept()
        if not woken:  # nothing happened: look all the same
            self._drained = False
            self._alarm.ring()
