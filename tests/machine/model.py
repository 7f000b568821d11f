"""What the store promises, as Python that can be read: the reference of `machine.py`.

A `World` is what is committed; a `Transaction` is what one session has done on top of it and nobody else sees, with the rows it
keeps from others. A `Statement` says which rows it wants and what it does with them. Wanted by a statement and kept by
somebody else's transaction means: it waits until that one ends, then it looks again at the rows it had chosen; a row that moved
to the other table meanwhile is gone for it. What skips locked rows (claim, promote, rescue) does not see them.

Time is a shift in seconds, which the test moves, and ticks, one per statement: no two statements happen at once.

Not in the product yet, and so not here: unique keys (I8), limits per key (the second half of I7), schedules (I12). When they
come, `Job` gets `unique_key` and `limit_key`, `World` gets `schedules`, and `machine.Machine.what_is_not_there_yet` goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

TICKS = 1_000_000_000  #: of a second: more than one example has statements
FINAL = ("completed", "skipped", "cancelled", "failed", "deadly")
MOST_ERRORS = 20

Told = tuple[str, str]  #: what listeners hear: channel, payload


@dataclass(frozen=True)
class Job:
    """A job, live or finished."""

    id: int
    queue: str
    kind: str
    priority: int
    due: int
    state: str = "ready"
    runner: int | None = None
    token: int = 0
    attempt: int = 0
    crashes: int = 0
    errors: int = 0
    begun: bool = False  #: started_at is set …
    started_at: int = 0  #: … to this, where it matters
    awaited: bool = False
    asked: bool = False  #: to stop
    finished_at: int | None = None
    row: int = 0  #: which row of which table: another one whenever it moves

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands in its lane."""
        return self.priority, self.due, self.id

    def ended(self, state: str, at: int, **more: Any) -> Job:
        return replace(
            self, state=state, finished_at=at, row=self.row + 1, awaited=False, asked=False, **more
        )

    def waits(self, state: str, **more: Any) -> Job:
        return replace(self, state=state, runner=None, begun=False, **more)

    def erred(self, *, really: bool = True) -> Job:
        return replace(self, errors=min(self.errors + really, MOST_ERRORS))


# The rule of the jobs that kill runners: this much knows it, and `World.claim_suspect`.


def ready(job: Job) -> str:
    """Where a job waits that may run now: alone, when it has a crash on its record."""
    return "suspected" if job.crashes else "ready"


def after_a_death(job: Job, *, blamed: bool, max_crashes: int, at: int) -> Job:
    """What becomes of *job* when the runner that held it is dead. A deadly one has failed, and is kept."""
    struck = replace(job, crashes=job.crashes + blamed).erred(really=blamed)
    if job.asked:
        return struck.ended("cancelled", at)
    if blamed and struck.crashes >= max_crashes:
        return struck.ended("deadly", at)
    return struck.waits(ready(struck), attempt=job.attempt - 1)


def blamed_of(held: Sequence[Job], known: Runner | None) -> set[int]:
    """Who may have killed the runner: what had begun; and where that was a suspect, nobody beside it."""
    listed = known.begun if known else ()
    begun = {job.id for job in held if job.begun or (job.id, job.token) in listed}
    return {job.id for job in held if job.id in begun and job.crashes} or begun


@dataclass(frozen=True)
class Runner:
    """An incarnation on the list."""

    incarnation: int
    holds_lock: bool
    lease: int
    seen_at: int
    begun: tuple[tuple[int, int], ...] = ()


class Request(NamedTuple):
    """One lane of a claim."""

    queue: str
    kind: str
    pool: int
    room: int
    alone: bool
    mark: tuple[int, int, int]


@dataclass
class Transaction:
    """What one session has done, on top of what is committed."""

    began: int  #: its tick
    jobs: dict[int, Job] = field(default_factory=dict)
    keeps: set[int] = field(default_factory=set)  #: jobs whose rows nobody else may change
    effects: Counter[tuple[int, int]] = field(default_factory=Counter)
    told: set[Told] = field(default_factory=set)
    wrote_at: int | None = None  #: the tick of its first write: from then on it has a transaction id

    def copy(self) -> Transaction:
        return Transaction(
            self.began, dict(self.jobs), set(self.keeps), Counter(self.effects), set(self.told), self.wrote_at
        )


@dataclass(frozen=True)
class Statement:
    """Something that changes rows named by id, and waits for them."""

    name: str
    ids: tuple[int, ...]
    wants: Callable[[Job], bool]
    does: Callable[[World, Transaction, list[Job], int], Any]


@dataclass
class Waiting:
    """A statement that has been sent, and waits for a row."""

    session: int
    statement: Statement
    behind: int  #: the session whose transaction keeps the row
    tick: int
    seen: Mapping[int, int]  #: which row of each job it saw


@dataclass
class World:
    """What is committed, and who is at it."""

    jobs: dict[int, Job] = field(default_factory=dict)
    runners: dict[int, Runner] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    effects: Counter[tuple[int, int]] = field(default_factory=Counter)
    idle: set[str] = field(default_factory=set)  #: queues somebody is idle on
    alone: tuple[int, int] | None = None  #: the claim of the suspect that was claimed last
    locks: set[int] = field(default_factory=set)  #: incarnations whose lock is held
    stacks: dict[int, list[Transaction]] = field(
        default_factory=dict
    )  #: by session: its transaction, its savepoints
    waiting: dict[int, Waiting] = field(default_factory=dict)  #: by session
    told: list[Told] = field(default_factory=list)  #: what listeners have heard since they were last asked
    enqueued: int = 0
    pruned: int = 0
    shift: int = 0
    tick: int = 0

    # Time.

    def step(self) -> int:
        self.tick += 1
        return self.tick

    def time(self, tick: int | None = None) -> int:
        return self.shift * TICKS + (self.tick if tick is None else tick)

    # Transactions.

    def begin(self, session: int) -> None:
        self.stacks[session] = [Transaction(self.step())]

    def savepoint(self, session: int) -> None:
        self.stacks[session].append(self.stacks[session][-1].copy())

    def release(self, session: int) -> None:
        newest = self.stacks[session].pop()
        self.stacks[session][-1] = newest

    def rollback_to_savepoint(self, session: int) -> None:
        """The savepoint stays."""
        stack = self.stacks[session]
        wrote_at = stack[-1].wrote_at
        stack[-1] = stack[-2].copy()
        stack[-1].wrote_at = wrote_at

    def commit(self, session: int) -> None:
        self._commit(self.stacks.pop(session)[-1])

    def rollback(self, session: int) -> None:
        del self.stacks[session]

    def _commit(self, done: Transaction) -> None:
        self.enqueued += len(done.jobs.keys() - self.jobs.keys())
        self.jobs |= done.jobs
        self.effects += done.effects
        self.told += done.told

    def keeper_of(self, job_id: int, session: int | None) -> int | None:
        """The other session whose transaction keeps the rows of a job."""
        return next(
            (by for by, stack in self.stacks.items() if by != session and job_id in stack[-1].keeps), None
        )

    def _seen_by(self, session: int) -> Callable[[int], Job | None]:
        mine = self.stacks[session][-1].jobs if session in self.stacks else {}
        return lambda job_id: mine.get(job_id) or self.jobs.get(job_id)

    # Statements that wait for rows.

    def in_the_way(self, session: int, statement: Statement) -> dict[int, int]:
        """Rows it wants that others keep, and who."""
        see = self._seen_by(session)
        wanted = (job for job_id in statement.ids if (job := see(job_id)) and statement.wants(job))
        return {job.id: by for job in wanted if (by := self.keeper_of(job.id, session)) is not None}

    def run(self, session: int, statement: Statement) -> Any:
        """What *statement* answers, when nothing is in its way."""
        return self._do(session, statement, self.step(), None)

    def send(self, session: int, statement: Statement, behind: int) -> None:
        """It is sent, and waits."""
        see = self._seen_by(session)
        seen = {job_id: job.row for job_id in statement.ids if (job := see(job_id))}
        self.waiting[session] = Waiting(session, statement, behind, self.step(), seen)

    def freed(self) -> Iterator[tuple[int, Any]]:
        """Sessions whose statement has nothing in its way any more, and what each answers."""
        for session, waiting in list(self.waiting.items()):
            if not self.in_the_way(session, waiting.statement):
                del self.waiting[session]
                yield session, self._do(session, waiting.statement, waiting.tick, waiting.seen)

    def _do(self, session: int, statement: Statement, tick: int, seen: Mapping[int, int] | None) -> Any:
        see = self._seen_by(session)
        found = [job for job_id in sorted(set(statement.ids)) if (job := see(job_id))]
        chosen = [
            job for job in found if (seen is None or seen.get(job.id) == job.row) and statement.wants(job)
        ]
        stack = self.stacks.get(session)
        inside = stack[-1] if stack else Transaction(tick)
        inside.keeps |= {job.id for job in chosen}
        if chosen:
            inside.wrote_at = inside.wrote_at or self.tick
        answer = statement.does(self, inside, chosen, tick)
        if stack is None:
            self._commit(inside)
        return answer

    def wake(self, inside: Transaction, queues: Iterable[str]) -> None:
        inside.told |= {("ready", queue) for queue in queues if self.idle & {queue, ""}}

    # Intake.

    def enqueue(self, session: int, new: Sequence[Job], *, delays: Sequence[int | None], wake: bool) -> None:
        """*new* have their ids from the database."""
        at = self.time(self.step())
        stack = self.stacks.get(session)
        inside = stack[-1] if stack else Transaction(self.tick)
        for job, delay in zip(new, delays, strict=True):
            state = "scheduled" if delay is not None and delay > 0 else "ready"
            inside.jobs[job.id] = replace(job, due=at + (delay or 0) * TICKS, state=state)
        inside.keeps |= {job.id for job in new}
        inside.wrote_at = inside.wrote_at or self.tick
        if wake:
            self.wake(inside, {job.queue for job in new})
        if stack is None:
            self._commit(inside)

    # Claims.

    def look_around(self) -> tuple[list[tuple[str, str]], int | None, frozenset[str]]:
        """Lanes with ready jobs, ticks until the next is due, paused queues."""
        at = self.time(self.step())
        lanes = {
            (job.queue, job.kind) for job in self.jobs.values() if job.state == "ready" and job.runner is None
        }
        due = [job.due for job in self.jobs.values() if job.state in ("scheduled", "retryable")]
        return sorted(lanes), min(due) - at if due else None, frozenset(self.paused)

    def claim(self, requests: Sequence[Request], incarnation: int, *, begin: bool) -> list[Job]:
        """The jobs it gets, in order; what other transactions keep is passed over."""
        self.step()
        shares = {
            number: len(list(places)) if not requests[number].alone else requests[number].room
            for number, places in groupby(sorted(self._shares(requests)))
        }
        chosen = []
        for number, share in shares.items():
            free = (job for job in self._ready(requests[number]) if self.keeper_of(job.id, None) is None)
            chosen += [job for job, _ in zip(free, range(share), strict=False)]
        for job in chosen:
            self.jobs[job.id] = replace(
                job, runner=incarnation, token=job.token + 1, attempt=job.attempt + 1, begun=begin
            )
        return sorted((self.jobs[job.id] for job in chosen), key=lambda job: job.place)

    def _ready(self, lane: Request) -> list[Job]:
        mine = (
            job
            for job in self.jobs.values()
            if (job.queue, job.kind) == (lane.queue, lane.kind)
            and (job.state, job.runner) == ("ready", None)
            and job.place > lane.mark
        )
        return sorted(mine, key=lambda job: job.place)

    def _shares(self, requests: Sequence[Request]) -> Iterator[int]:
        """The number of each lane, as often as it gets a job; of lanes alone, once."""
        yield from (number for number, lane in enumerate(requests) if lane.alone)
        for pool in {lane.pool for lane in requests if not lane.alone}:
            sharing = [(number, lane) for number, lane in enumerate(requests) if lane.pool == pool]
            turns = []  # queues take turns; inside a queue, order decides
            for queue in {lane.queue for _, lane in sharing}:
                nexts = [
                    (*job.place, number)
                    for number, lane in sharing
                    if lane.queue == queue
                    for job in self._ready(lane)[: lane.room]
                ]
                turns += [(turn, *rest) for turn, rest in enumerate(sorted(nexts))]
            yield from (number for *_, number in sorted(turns)[: sharing[0][1].room])

    def suspect_runs(self, alone: float, max_crashes: int) -> bool:
        """Whether a suspect has somewhere a runner to itself."""
        since = self.time() - int(alone * TICKS)
        return any(
            job.crashes + 1 >= max_crashes or job.started_at > since
            for job in self.jobs.values()
            if (job.id, job.token) == self.alone and job.runner is not None and not job.is_final
        )

    def suspects_of(self, queues: Iterable[str], kinds: Iterable[str]) -> list[Job]:
        """Those that may be claimed, the least suspected first."""
        suspects = (
            job
            for job in self.jobs.values()
            if job.state == "suspected"
            and job.kind in kinds
            and (job.queue in queues or "" in queues)
            and job.queue not in self.paused
        )
        return sorted(suspects, key=lambda job: (job.crashes, job.place))

    def claim_suspect(
        self, incarnation: int, queues: Iterable[str], kinds: Iterable[str], alone: float, max_crashes: int
    ) -> Job | None:
        """One at a time in the whole fleet. It begins at once."""
        at = self.time(self.step())
        free = [job for job in self.suspects_of(queues, kinds) if self.keeper_of(job.id, None) is None]
        if not free or self.suspect_runs(alone, max_crashes):
            return None
        job = free[0]
        self.jobs[job.id] = claimed = replace(
            job, state="ready", runner=incarnation, token=job.token + 1, attempt=job.attempt + 1, begun=True,
            started_at=at,
        )  # fmt: skip
        self.alone = (job.id, claimed.token)
        return claimed

    def begin_jobs(self, incarnation: int, claims: Sequence[tuple[int, int]]) -> bool:
        self.step()
        if incarnation not in self.runners:
            return False
        self.runners[incarnation] = replace(self.runners[incarnation], begun=tuple(claims))
        return True

    def held(self, incarnation: int, claims: Iterable[tuple[int, int]]) -> dict[int, bool]:
        ours = of_claims(incarnation, claims)
        return {job_id: job.asked for job_id, _ in claims if ours(job := self.jobs[job_id])}

    def finished(self, incarnation: int, claims: Iterable[tuple[int, int]]) -> set[int]:
        """Which of these claims reached their end under this incarnation."""
        found = ((self.jobs[job_id], token) for job_id, token in claims)
        return {
            job.id for job, token in found if job.is_final and (job.runner, job.token) == (incarnation, token)
        }

    def claims_of(self, incarnation: int) -> frozenset[tuple[int, int]]:
        mine = (job for job in self.jobs.values() if job.runner == incarnation and not job.is_final)
        return frozenset((job.id, job.token) for job in mine)

    # Runners.

    def register(self, incarnation: int, *, holds_lock: bool, lease: int) -> None:
        self.runners[incarnation] = Runner(incarnation, holds_lock, lease, self.time(self.step()))

    def renew(self, incarnation: int) -> bool:
        at = self.time(self.step())
        if incarnation in self.runners:
            self.runners[incarnation] = replace(self.runners[incarnation], seen_at=at)
        return incarnation in self.runners

    def forget(self, incarnation: int) -> None:
        if incarnation not in {job.runner for job in self.jobs.values() if not job.is_final}:
            self.runners.pop(incarnation, None)

    def suspects(self, me: int) -> set[tuple[int, bool]]:
        at = self.time(self.step())
        others = [runner for runner in self.runners.values() if runner.incarnation != me]
        over = {each.incarnation: each.seen_at + each.lease * TICKS < at for each in others}
        dead = (
            each.incarnation
            for each in others
            if (each.incarnation not in self.locks if each.holds_lock else over[each.incarnation])
        )
        return {(incarnation, over[incarnation]) for incarnation in dead}

    def orphans(self) -> set[int]:
        holders = {job.runner for job in self.jobs.values() if not job.is_final and job.runner is not None}
        return holders - self.runners.keys()

    def adopted(self, old: int, new: int) -> None:
        """What had begun under *old* has begun under *new*."""
        if old in self.runners and new in self.runners:
            carried = self.runners[new].begun + self.runners[old].begun
            self.runners[new] = replace(self.runners[new], begun=carried)

    def rescue(self, incarnation: int, *, blame: bool, max_crashes: int) -> tuple[int, int, int, bool]:
        """How many wait, failed, were cancelled; whether the incarnation is forgotten."""
        at = self.time(self.step())
        known = self.runners.get(incarnation)
        told: set[Told] = set()
        inside = Transaction(self.tick)
        held = [job for job in self.jobs.values() if job.runner == incarnation and not job.is_final]
        free = [job for job in held if self.keeper_of(job.id, None) is None]
        counts = Counter[str]()
        blamed = blamed_of(held, known) if blame else set()
        for job in free:
            after = after_a_death(job, blamed=job.id in blamed, max_crashes=max_crashes, at=at)
            counts[after.state] += 1
            inside.jobs[job.id] = after
            if after.is_final and job.awaited:
                told.add(("finished", str(job.id)))
        self.wake(inside, {job.queue for job in inside.jobs.values() if not job.is_final})
        inside.told |= told
        self._commit(inside)
        forgotten = known is not None and len(free) == len(held)
        if forgotten:
            del self.runners[incarnation]
        return counts["ready"] + counts["suspected"], counts["deadly"], counts["cancelled"], forgotten

    # Chores.

    def due(self) -> list[Job]:
        """What promote could take now, in order; what other transactions keep is passed over."""
        at = self.time()
        waiting = (
            job for job in self.jobs.values() if job.state in ("scheduled", "retryable") and job.due <= at
        )
        return sorted(
            (job for job in waiting if self.keeper_of(job.id, None) is None), key=lambda job: job.due
        )

    def promote(self, limit: int) -> dict[tuple[str, str], int]:
        self.step()
        chosen = self.due()[:limit]
        inside = Transaction(self.tick, {job.id: replace(job, state=ready(job)) for job in chosen})
        self.wake(inside, {job.queue for job in chosen})
        self._commit(inside)
        return dict(Counter((job.queue, job.kind) for job in chosen))

    def old(self, keep: int, keep_failed: int) -> set[int]:
        """Finished jobs that may be forgotten now."""
        at = self.time(self.step())
        return {
            job.id
            for job in self.jobs.values()
            if job.finished_at is not None
            and job.state != "deadly"
            and job.finished_at < at - (keep_failed if job.state == "failed" else keep) * TICKS
        }

    def prune(self, gone: Iterable[int]) -> None:
        for job_id in gone:
            del self.jobs[job_id]
            self.pruned += 1


def of_claims(incarnation: int, claims: Iterable[tuple[int, int]]) -> Callable[[Job], bool]:
    """The fence: (id, incarnation, token). Of two claims of one job, the later is believed."""
    tokens = dict(sorted(claims))
    return lambda job: not job.is_final and job.runner == incarnation and job.token == tokens.get(job.id)


def finish(incarnation: int, claims: Sequence[tuple[int, int]], state: str, *, failed: bool) -> Statement:
    def does(world: World, inside: Transaction, jobs: list[Job], _: int) -> set[int]:
        for job in jobs:
            inside.jobs[job.id] = job.erred(really=failed).ended(state, world.time(), begun=True)
            if job.awaited:
                inside.told.add(("finished", str(job.id)))
        return {job.id for job in jobs}

    return Statement("finish", tuple(i for i, _ in claims), of_claims(incarnation, claims), does)


def give_back(
    incarnation: int,
    claims: Sequence[tuple[int, int]],
    state: str,
    delay: int | None,
    *,
    unburnt: bool,
    failed: bool,
) -> Statement:
    def does(world: World, inside: Transaction, jobs: list[Job], _: int) -> set[int]:
        for job in jobs:
            erred = job.erred(really=failed)
            if job.asked:
                inside.jobs[job.id] = erred.ended("cancelled", world.time())
                if job.awaited:
                    inside.told.add(("finished", str(job.id)))
            else:
                due = job.due if delay is None else world.time() + delay * TICKS
                where = ready(job) if state == "ready" else state
                inside.jobs[job.id] = erred.waits(where, due=due, attempt=job.attempt - unburnt)
        world.wake(inside, {job.queue for job in jobs if not job.asked})
        return {job.id for job in jobs}

    return Statement("return", tuple(i for i, _ in claims), of_claims(incarnation, claims), does)


def adopt(old: int, new: int, claims: Sequence[tuple[int, int]]) -> Statement:
    def does(world: World, inside: Transaction, jobs: list[Job], _: int) -> set[int]:
        world.adopted(old, new)
        inside.jobs |= {job.id: replace(job, runner=new) for job in jobs}
        return {job.id for job in jobs}

    return Statement("adopt", tuple(i for i, _ in claims), of_claims(old, claims), does)


def cancel(job_id: int) -> Statement:
    def does(world: World, inside: Transaction, jobs: list[Job], _: int) -> str | None:
        for job in jobs:
            if job.is_final:  # somebody has decided
                inside.jobs[job.id] = replace(job, state="cancelled")
                return "cancelled"
            if job.runner is None:
                inside.jobs[job.id] = job.ended("cancelled", world.time())
                if job.awaited:
                    inside.told.add(("finished", str(job.id)))
                return "cancelled"
            inside.jobs[job.id] = replace(job, asked=True)
            inside.told.add(("cancel", str(job.id)))
            return "requested"
        return None

    return Statement("cancel", (job_id,), lambda job: not job.is_final or job.state == "deadly", does)


def retry(job_id: int) -> Statement:
    def does(world: World, inside: Transaction, jobs: list[Job], _: int) -> str | None:
        for job in jobs:
            at = world.time(inside.began)
            if job.is_final:
                fresh = replace(job, attempt=0, crashes=0, finished_at=None, row=job.row + 1)
                inside.jobs[job.id] = fresh.waits("ready", due=at)
            else:
                inside.jobs[job.id] = replace(job, state=ready(job), due=at)
            world.wake(inside, [job.queue])
            return job.queue
        return None

    return Statement(
        "retry", (job_id,), lambda job: job.is_final or job.state in ("scheduled", "retryable"), does
    )


def await_(job_id: int) -> Statement:
    def does(_: World, inside: Transaction, jobs: list[Job], __: int) -> bool:
        inside.jobs |= {job.id: replace(job, awaited=True) for job in jobs}
        return bool(jobs)

    return Statement("await", (job_id,), lambda job: not job.is_final, does)
