"""Everything the store can be asked, in any order, by anybody, next to `model.py`: after each step the database is as the model
says.

Claims are never forgotten, so that writers long declared dead come back by themselves. Three sessions have transactions and
savepoints of their own, in which jobs are enqueued, finished together with the application's rows, cancelled and retried; what
waits for a row waits here too, as predicted. At the end of each life everything that is left is rescued, claimed and finished:
nothing is lost.

The invariants, as reliability research numbers them:

I1   the tables are as the model has them                                   `as_the_model_says`, after each step
I2   a token never falls, and changes only with a claim                     `as_the_model_says`
I3   a job goes only ways that `_model/states.py` knows                     `as_the_model_says`
I4   a write is accepted exactly when (id, incarnation, token) are current  `finish`, `return_`, `complete_in_tx`, `adopt`
I5   effects of a transactional job are there once, exactly when it is done `as_the_model_says`
I6   nobody sees or hears of what is not committed                          `as_the_model_says`
I7   nobody gets what another holds: a job has one runner                   `claim`; the limit per key: not in the product yet
I8   one live job per unique key                                            not in the product yet
I9   a claim gets the jobs in order, and no more than there is room for     `claim`
I10  a rescue takes what the dead held, and blames only what had begun      `rescue`
I11  a live job is ready, or has a time, or a runner somebody can find      `as_the_model_says`, `find_orphans`
I12  one job per tick of a schedule                                         not in the product yet
I13  live and finished are what was committed, less what was pruned         `as_the_model_says`
I14  no lock and no open transaction is left behind                         `teardown`
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from asyncjobs._model.job import ClaimedJob, Lane, NewJob
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import TRANSITIONS, FinalState, JobState, LiveState
from asyncjobs._store.chores import find_orphans, promote_jobs, prune_jobs, rescue_jobs
from asyncjobs._store.claims import (
    FROM_THE_START,
    Caution,
    Claim,
    LaneRequest,
    Mark,
    adopt_jobs,
    announce_idle,
    begin_jobs,
    claim_jobs,
    claim_suspect,
    find_claims,
    find_finished,
    find_held,
    finish_jobs,
    is_past_horizon,
    look_around,
    return_jobs,
    seek_suspect,
    withdraw_idle,
)
from asyncjobs._store.intake import insert
from asyncjobs._store.migrate import migrate
from asyncjobs._store.runners import (
    find_suspects,
    forget_runner,
    hold_lock,
    register_runner,
    release_lock,
    renew_lease,
)
from asyncjobs._store.session import Session
from asyncjobs._store.views import (
    await_job,
    cancel_job,
    count_jobs,
    count_suspects,
    get_job,
    pause_queue,
    paused_queues,
    resume_queue,
    retry_job,
)
from tests.machine import model
from tests.machine.model import TICKS, Job, Request, Statement, World
from tests.machine.stage import KEEPERS, SCHEMA, SESSIONS, Stage

HOUR = 3600  #: the least that time passes: far more than a whole life takes on a real clock
QUEUES = ("a", "b")
KNOWN, KINDS = ("k", "l"), ("k", "l", "unknown")
ALONE = 60.0  #: seconds a suspect has its runner to itself
AN_ERROR = '{"attempt": 0, "error": "x"}'
START = (-(2**62), 0, 0)
FINALS = {state.name.lower(): state for state in FinalState}
LIVES = {state.name.lower(): state for state in LiveState}
NAMES = {int(state): state.name.lower() for kind in (LiveState, FinalState) for state in kind} | {
    14: "deadly"
}


class Held(NamedTuple):
    """A claim, once given out."""

    incarnation: int
    job: ClaimedJob
    due: int  #: in the model's time

    @property
    def lane(self) -> tuple[str, str]:
        return self.job.queue, self.job.kind

    @property
    def claim(self) -> tuple[int, int]:
        return self.job.id, self.job.token


PEOPLE: dict[str, tuple[Callable[[int], Statement], Callable[[Session, int], Awaitable[Any]]]] = {
    "await": (model.await_, await_job),
    "cancel": (model.cancel, cancel_job),
    "retry": (model.retry, retry_job),
}


def tells(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that fails leaves nothing to be looked at afterwards."""

    @wraps(step)
    def told(self: Machine, *args: Any, **given: Any) -> Any:
        try:
            return step(self, *args, **given)
        except BaseException:
            self.broken = True
            raise

    return told


def has_claims(machine: Machine) -> bool:
    return bool(machine.given)


def has(is_such: Callable[[Job], bool]) -> Callable[[Machine], bool]:
    """There is such a job: what has nothing to do is asked less often."""
    return lambda machine: any(map(is_such, machine.world.jobs.values()))


has_work = has(lambda job: job.state == "ready" and job.runner is None)

#: Which claims: those that hold their job; those it has another token or another runner than; or any there ever was.
Pick = tuple[str, int, int]
picks = st.tuples(
    st.sampled_from(["current", "current", "outdated", "taken over", "any"]),
    st.integers(0, 31),
    st.integers(1, 3),
)

sessions = st.integers(0, SESSIONS - 1)
queues = st.sampled_from(QUEUES)
coin = st.booleans()
delays = st.sampled_from([None, None, None, HOUR, 2 * HOUR])
New = tuple[str, str, int, int | None]  #: queue, kind, priority, delay
new_jobs = st.tuples(
    queues, st.sampled_from([*KNOWN, *KNOWN, *KINDS]), st.sampled_from([0, 0, -1, 5]), delays
)


class Machine(RuleBasedStateMachine):
    """One life of a database."""

    stage: ClassVar[Stage]
    steps: ClassVar[int] = 0  #: of all lives

    claims = Bundle("claims")
    jobs = Bundle("jobs")
    runners = Bundle("runners")

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.world = World()
        self.last = 0
        self.committed = 0
        self.keys: dict[int, int] = {}
        self.before: dict[int, tuple[str, int]] = {}
        self.may_jump = False  #: a transaction has committed: a job may have gone several ways at once
        self.claimed = False
        self.given: list[Held] = []  #: every claim there ever was
        self.stage.run(self.stage.clear())

    # Helpers.

    def on(self, session: int, statement: Callable[[Session], Awaitable[Any]]) -> Any:
        return self.stage.run(statement(self.stage.sessions[session]))

    def observe(self, statement: Callable[[Session], Awaitable[Any]]) -> Any:
        return self.stage.run(statement(self.stage.observer))

    def free(self, session: int, *, outside: bool = False) -> int | None:
        """A session that waits for nothing, from this one on; with *outside*, one without a transaction."""
        for nth in range(SESSIONS):
            other = (session + nth) % SESSIONS
            if other not in self.world.waiting and not (outside and other in self.world.stacks):
                return other
        return None

    def perform(
        self, session: int, statement: Statement, real: Callable[[Session], Awaitable[Any]]
    ) -> tuple[str, Any]:
        """Do *statement* in both worlds: what both answered, or that it waits, or that it was not sent."""
        world = self.world
        blocked = world.in_the_way(session, statement)
        if not blocked:
            said, expected = self.on(session, real), world.run(session, statement)
            assert said == expected, f"{statement.name}{statement.ids} said {said}, not {expected}"
            return "done", said
        ((job_id, behind), *more) = blocked.items()
        contended = any(job_id in waiting.statement.ids for waiting in world.waiting.values())
        chosen = {each for each in statement.ids if (job := world.jobs.get(each)) and statement.wants(job)}
        if more or len(chosen) > 1 or contended or self._would_deadlock(session, behind):
            return "not sent", None
        waits = self.stage.run(self.stage.send(session, real))
        assert waits, f"{statement.name}({job_id}) did not wait for the transaction of session {behind}"
        world.send(session, statement, behind)
        return "waits", None

    def _would_deadlock(self, session: int, behind: int) -> bool:
        while behind in self.world.waiting:
            behind = self.world.waiting[behind].behind
        return behind == session

    def settle(self) -> None:
        """A transaction has ended: what waited for it goes on."""
        for session, expected in self.world.freed():
            said = self.stage.run(self.stage.answer(session))
            assert said == expected, f"having waited, session {session} said {said}, not {expected}"
            self.may_jump = True

    def picked(self, pick: Pick | list[Held]) -> list[Held]:
        """Claims, by what has become of them."""
        if isinstance(pick, list):
            return pick
        which, at, count = pick
        found = [each for each in self.given if which == "any" or self._became(each) == which] or self.given
        return [found[(at + nth) % len(found)] for nth in range(count)]

    def _became(self, held: Held) -> str:
        job = self.world.jobs.get(held.job.id)
        if job is None or job.is_final or job.runner is None:
            return "gone"
        if job.token != held.job.token:
            return "outdated" if job.runner == held.incarnation else "gone"
        return "current" if job.runner == held.incarnation else "taken over"

    def newest(self, pick: Pick | list[Held]) -> tuple[int, list[Held]]:
        """Claims of one incarnation."""
        chosen = self.picked(pick)
        incarnation = chosen[0].incarnation
        return incarnation, list(
            {each.claim: each for each in chosen if each.incarnation == incarnation}.values()
        )

    # Intake.

    @initialize(target=jobs, new=st.lists(new_jobs, min_size=2, max_size=5))
    @tells
    def first_jobs(self, new: list[New]) -> Any:
        return self._enqueue(0, new, wake=True)

    @rule(target=jobs, session=sessions, new=st.lists(new_jobs, min_size=1, max_size=3), wake=coin)
    @tells
    def enqueue(self, session: int, new: list[New], wake: bool) -> Any:
        return self._enqueue(session, new, wake=wake)

    @rule(target=jobs, session=sessions, hours=st.integers(-2, 2), queue=queues)
    @tells
    def enqueue_at(self, session: int, hours: int, queue: str) -> Any:
        """For a time that may have passed."""
        return self._enqueue(session, [(queue, "k", 0, None)], wake=True, hours=hours)

    def _enqueue(self, session: int, new: list[New], *, wake: bool, hours: int | None = None) -> Any:
        free = self.free(session)
        if free is None:
            return multiple()
        now = datetime.now(UTC) + timedelta(seconds=self.world.shift)
        at = None if hours is None else now + timedelta(hours=hours)
        given = [
            NewJob(
                kind=kind, method=None, args="{}", queue=queue, priority=priority, max_attempts=10, delay=delay,
                scheduled_at=at,
            )
            for queue, kind, priority, delay in new
        ]  # fmt: skip
        ids = self.on(free, lambda session: insert(session, given, wake=wake))
        assert ids == sorted(ids)
        made = [Job(id_, job.queue, job.kind, job.priority, 0) for id_, job in zip(ids, given, strict=True)]
        after = [each[3] if hours is None else hours * HOUR for each in new]
        if hours == 0:  # the client's clock is read before the server's: it has passed
            after = [None]
        self.world.enqueue(free, made, delays=after, wake=wake)
        return multiple(*ids)

    # Transactions.

    @rule(
        session=sessions,
        what=st.sampled_from(["end", "end", "savepoint", "savepoint", "release", "rollback to"]),
        commit=coin,
    )
    @tells
    def transaction(self, session: int, what: str, commit: bool) -> None:
        """Begin one, where there is none; else go on with it."""
        world, execute = self.world, self.stage.connections[session].execute
        if session in world.waiting:
            return
        if session not in world.stacks:
            self._begin(session)
            return
        depth = len(world.stacks[session]) - 1
        if what == "savepoint" and depth < 3:
            self.stage.run(execute(f"savepoint s{depth + 1}"))
            world.savepoint(session)
        elif what == "release" and depth:
            self.stage.run(execute(f"release savepoint s{depth}"))
            world.release(session)
        elif what == "rollback to" and depth:
            self.stage.run(execute(f"rollback to savepoint s{depth}"))
            world.rollback_to_savepoint(session)
            self.settle()
        elif what == "end":
            self._end(session, commit=commit)

    def _begin(self, session: int) -> None:
        self.stage.run(self.stage.connections[session].execute("begin"))
        self.world.begin(session)

    def _end(self, session: int, *, commit: bool) -> None:
        self.stage.run(self.stage.connections[session].execute("commit" if commit else "rollback"))
        (self.world.commit if commit else self.world.rollback)(session)
        self.may_jump = True
        self.settle()

    # Runners.

    @initialize(target=runners)
    @tells
    def first_runner(self) -> int:
        return self._register(0, holds_lock=True, lease=HOUR)

    @precondition(lambda self: len(self.world.runners) < 4)
    @rule(
        target=runners,
        keeper=st.integers(0, KEEPERS - 1),
        holds_lock=coin,
        lease=st.sampled_from([HOUR, 3 * HOUR]),
    )
    @tells
    def start_runner(self, keeper: int, holds_lock: bool, lease: int) -> Any:
        return self._register(keeper, holds_lock=holds_lock, lease=lease)

    def _register(self, keeper: int, *, holds_lock: bool, lease: int) -> int:
        self.last += 1
        new = self.last
        if holds_lock:
            assert self.stage.run(hold_lock(self.stage.keepers[keeper], new))
            self.world.locks.add(new)
            self.keys[new] = keeper
        self.observe(
            lambda session: register_runner(
                session, incarnation=new, lock_key=new, holds_lock=holds_lock, lease=lease, name="test:1",
                version="0", info="{}",
            )
        )  # fmt: skip
        self.world.register(new, holds_lock=holds_lock, lease=lease)
        return new

    @rule(runner=runners, what=st.sampled_from(["renew", "renew", "let go", "killed", "forget"]))
    @tells
    def fleet(self, runner: int, what: str) -> None:
        """What becomes of runners."""
        world, keeper = self.world, self.keys.get(runner)
        if what == "renew":
            assert self.observe(lambda session: renew_lease(session, runner)) == world.renew(runner)
        elif what == "let go" and keeper is not None and runner in world.locks:
            self.stage.run(release_lock(self.stage.keepers[keeper], runner))
            world.locks.discard(runner)
        elif what == "killed" and keeper is not None:  # with its session go its locks
            self.stage.run(self.stage.keepers[keeper].connection.execute("select pg_advisory_unlock_all()"))
            world.locks -= {each for each in world.locks if self.keys[each] == keeper}
        elif what == "forget":
            self.observe(lambda session: forget_runner(session, runner))
            world.forget(runner)

    # Claims.

    @precondition(has_work)
    @rule(target=claims, runner=runners, begin=coin)
    @tells
    def claim_some(self, runner: int, begin: bool) -> Any:
        return self._claim(runner, 0, [2] * 4, "alone", begin=begin, marked=False)

    @precondition(has_work)
    @rule(
        target=claims, runner=runners, session=sessions, begin=coin, marked=coin,
        pools=st.tuples(st.sampled_from(["alone", "all", "by queue"]), *[st.integers(1, 3)] * 4),
    )  # fmt: skip
    @tells
    def claim(
        self, runner: int, session: int, pools: tuple[str, int, int, int, int], begin: bool, marked: bool
    ) -> Any:
        sharing, *rooms = pools
        return self._claim(runner, session, rooms, sharing, begin=begin, marked=marked)

    def _claim(
        self, runner: int, session: int, rooms: list[int], sharing: str, *, begin: bool, marked: bool
    ) -> Any:
        """As a claimer does: the lanes it knows, of the queues it sees are not paused."""
        free = self.free(session, outside=True)
        if free is None:
            return multiple()
        paused = self.on(free, look_around).paused
        assert paused == self.world.look_around()[2]
        lanes = [Lane(queue, kind) for queue in QUEUES if queue not in paused for kind in KNOWN]
        asked, requests = [], []
        for nth, lane in enumerate(lanes):
            pool = {"alone": nth, "all": 0, "by queue": QUEUES.index(lane.queue)}[sharing]
            alone = sharing == "alone"
            mark, place = FROM_THE_START, START
            if marked and (last := next((each for each in reversed(self.given) if each.lane == lane), None)):
                mark = Mark(last.job.priority, last.job.scheduled_at, last.job.id)
                place = (last.job.priority, last.due, last.job.id)
            asked.append(LaneRequest(lane, pool, rooms[pool], alone, mark))
            requests.append(Request(*lane, pool, rooms[pool], alone, place))
        got = self.on(free, lambda session: claim_jobs(session, asked, runner, begin=begin))
        expected = self.world.claim(requests, runner, begin=begin)
        said = [(job.id, job.token, job.attempt) for job in got]
        assert said == [(job.id, job.token, job.attempt) for job in expected]
        self.claimed = True
        return self._gives(Held(runner, job, mine.due) for job, mine in zip(got, expected, strict=True))

    @precondition(has(lambda job: job.state == "suspected"))
    @rule(
        target=claims, runner=runners, session=sessions, queues=st.sampled_from([("",), ("a",), ("a", "b")]),
        max_crashes=st.integers(2, 3),
    )  # fmt: skip
    @tells
    def claim_suspect(self, runner: int, session: int, queues: tuple[str, ...], max_crashes: int) -> Any:
        """A job with a crash on its record, when none runs alone anywhere."""
        free = self.free(session, outside=True)
        if free is None:
            return multiple()
        caution = Caution(ALONE, max_crashes)
        waits = self.on(free, lambda session: seek_suspect(session, queues, KNOWN, caution))
        may_run = not self.world.suspect_runs(*caution)
        assert waits == (may_run and bool(self.world.suspects_of(queues, KNOWN)))
        got = self.on(free, lambda session: claim_suspect(session, runner, queues, KNOWN, caution))
        expected = self.world.claim_suspect(runner, queues, KNOWN, *caution)
        if expected is None:
            assert got is None
            return multiple()
        assert (got.job.id, got.job.token, got.job.attempt, got.crashes) == (
            expected.id, expected.token, expected.attempt, expected.crashes,
        )  # fmt: skip
        self.claimed = True
        return self._gives([Held(runner, got.job, expected.due)])

    def _gives(self, claims: Iterable[Held]) -> Any:
        given = list(claims)
        self.given += given
        return multiple(*given)

    @precondition(has_claims)
    @rule(chosen=picks)
    @tells
    def begin_prefetched(self, chosen: Pick | list[Held]) -> None:
        incarnation, ours = self.newest(chosen)
        given = [each.claim for each in ours]
        said = self.observe(
            lambda session: begin_jobs(session, incarnation, [Claim(*each) for each in given])
        )
        assert said == self.world.begin_jobs(incarnation, given)

    @precondition(has_claims)
    @rule(
        session=sessions, chosen=picks, state=st.sampled_from(sorted(FINALS)),
        failed=coin,
    )  # fmt: skip
    @tells
    def finish(self, session: int, chosen: Pick | list[Held], state: str, failed: bool) -> None:
        """By its completer, long ago or now."""
        free = self.free(session, outside=True)
        if free is not None:
            self._finish(free, chosen, state, failed=failed)

    def _finish(
        self, session: int, chosen: Pick | list[Held], state: str, *, failed: bool
    ) -> tuple[str, Any]:
        incarnation, ours = self.newest(chosen)
        error = AN_ERROR if failed else None
        done = [Finished(each.job, FINALS[state], 0.1, error=error) for each in ours]
        return self.perform(
            session,
            model.finish(incarnation, [each.claim for each in ours], state, failed=failed),
            lambda session: finish_jobs(session, incarnation, done),
        )

    @precondition(has_claims)
    @rule(session=sessions, pick=picks)
    @tells
    def complete_in_tx(self, session: int, pick: Pick | list[Held]) -> None:
        """The application's rows and the finish, together: refused, the application rolls both back."""
        free = self.free(session)
        if free is None:
            return
        (chosen, *_) = self.picked(pick)
        world, connection = self.world, self.stage.connections[free]
        if free not in world.stacks:
            self._begin(free)
        statement = model.finish(chosen.incarnation, [chosen.claim], "completed", failed=False)
        if world.in_the_way(free, statement):
            return
        self.stage.run(
            connection.execute(f"savepoint work; insert into public.effects values {chosen.claim}")
        )
        world.savepoint(free)
        top = world.stacks[free][-1]
        top.effects[chosen.claim] += 1
        top.wrote_at = top.wrote_at or world.tick
        _, accepted = self._finish(free, [chosen], "completed", failed=False)
        if accepted:
            self.stage.run(connection.execute("release savepoint work"))
            world.release(free)
        else:
            self.stage.run(connection.execute("rollback to savepoint work; release savepoint work"))
            world.rollback_to_savepoint(free)
            world.release(free)

    @precondition(has_claims)
    @rule(
        session=sessions, chosen=picks,
        how=st.sampled_from([("ready", None), ("scheduled", HOUR), ("retryable", HOUR), ("retryable", 0)]),
        unburnt=coin, failed=coin,
    )  # fmt: skip
    @tells
    def return_(
        self,
        session: int,
        chosen: Pick | list[Held],
        how: tuple[str, int | None],
        unburnt: bool,
        failed: bool,
    ) -> None:
        """Released, snoozed or to be retried."""
        free = self.free(session, outside=True)
        if free is None:
            return
        incarnation, ours = self.newest(chosen)
        state, delay = how
        error = AN_ERROR if failed else None
        back = [Returned(each.job, LIVES[state], delay, unburnt, error) for each in ours]
        claims = [each.claim for each in ours]
        self.perform(
            free,
            model.give_back(incarnation, claims, state, delay, unburnt=unburnt, failed=failed),
            lambda session: return_jobs(session, incarnation, back),
        )

    @precondition(has_claims)
    @rule(target=claims, session=sessions, chosen=picks)
    @tells
    def adopt(self, session: int, chosen: Pick | list[Held]) -> Any:
        """The server was lost: a new incarnation takes over what is still there to take."""
        free = self.free(session, outside=True)
        if free is None:
            return multiple()
        old, ours = self.newest(chosen)
        ours = list({each.job.id: each for each in ours}.values())
        claims = [each.claim for each in ours]
        if self.world.in_the_way(free, model.adopt(old, 0, claims)):
            return multiple()
        new = self._register(0, holds_lock=False, lease=HOUR)
        _, adopted = self.perform(
            free,
            model.adopt(old, new, claims),
            lambda session: adopt_jobs(session, old, new, [Claim(*each) for each in claims]),
        )
        return self._gives(each._replace(incarnation=new) for each in ours if each.job.id in adopted)

    # The dead.

    @precondition(has(lambda job: job.runner is not None and not job.is_final))
    @rule(
        me=runners, blame=st.sampled_from([True, True, False]), max_crashes=st.integers(2, 3),
        whom=st.sampled_from(["suspects", "suspects", "orphans", "me"]),
    )  # fmt: skip
    @tells
    def rescue(self, me: int, blame: bool, whom: str, max_crashes: int) -> None:
        """By lock and by lease; or wrongly: whoever is declared dead must find that it is."""
        dead = {me}
        if whom == "suspects":
            found = {tuple(each) for each in self.observe(lambda session: find_suspects(session, me))}
            assert found == self.world.suspects(me)
            dead = {incarnation for incarnation, _ in found}
        elif whom == "orphans":
            dead = set(self.observe(find_orphans))
            assert dead == self.world.orphans()
        for incarnation in sorted(dead):
            self._rescue(incarnation, blame=blame, max_crashes=max_crashes)

    def _rescue(self, incarnation: int, *, blame: bool, max_crashes: int = 3) -> None:
        said = self.observe(
            lambda session: rescue_jobs(
                session, incarnation, blame=blame, max_crashes=max_crashes, error='{"error": "gone"}'
            )
        )
        assert said[:4] == self.world.rescue(incarnation, blame=blame, max_crashes=max_crashes)

    # People.

    @rule(session=sessions, job=jobs, what=st.sampled_from(sorted(PEOPLE)))
    @tells
    def people(self, session: int, job: int, what: str) -> None:
        """Cancel, retry, await."""
        if (free := self.free(session)) is not None:
            statement, real = PEOPLE[what]
            self.perform(free, statement(job), lambda session: real(session, job))

    @rule(queue=queues, pause=coin)
    @tells
    def pause_or_resume(self, queue: str, pause: bool) -> None:
        was_paused = queue in self.world.paused
        if pause:
            self.observe(lambda session: pause_queue(session, queue))
            self.world.paused.add(queue)
        else:
            assert self.observe(lambda session: resume_queue(session, queue)) == was_paused
            self.world.paused.discard(queue)
        if pause or was_paused:
            self.world.told.append(("queues", queue))

    @rule(job=jobs)
    @tells
    def look(self, job: int) -> None:
        """What people see: of one job, of all; what a claimer sees; what a runner is told of its claims."""
        for incarnation in {each.incarnation for each in self.given[-3:]}:
            self._is_told_what_it_holds(incarnation)
        seen, mine = self.observe(lambda session: get_job(session, job)), self.world.jobs.get(job)
        assert (seen is None) == (mine is None)
        if mine:
            assert (seen.state, seen.attempt, seen.crashes, len(seen.errors)) == (
                word(mine), mine.attempt, mine.crashes, mine.errors,
            )  # fmt: skip
        counted: dict[str, dict[JobState, int]] = {}
        for each in self.world.jobs.values():
            of_queue = counted.setdefault(each.queue, {})
            of_queue[word(each)] = of_queue.get(word(each), 0) + 1
        assert self.observe(count_jobs) == counted
        assert self.observe(paused_queues) == self.world.paused
        states = [each.state for each in self.world.jobs.values()]
        assert self.observe(count_suspects) == (states.count("suspected"), states.count("deadly"))
        around = self.observe(look_around)
        lanes, due_, paused = self.world.look_around()
        assert (around.lanes, around.paused) == (lanes, paused)
        assert around.suspects == any(job.state == "suspected" for job in self.world.jobs.values())
        due = around.due
        assert (due is None) == (due_ is None)
        assert due is None or due_ is None or round(due / HOUR) == round(due_ / HOUR / TICKS)
        if job % 8 == 0:  # rarely, for it takes longest
            assert self.observe(lambda session: migrate(session.connection, SCHEMA)) == []

    def _is_told_what_it_holds(self, incarnation: int) -> None:
        """Of its newest claims, and of its oldest."""
        theirs = [each.claim for each in self.given if each.incarnation == incarnation]
        for claims in (dict(theirs), dict(reversed(theirs))):
            asked = [Claim(*each) for each in claims.items() if each[0] in self.world.jobs]
            told = self.stage.run(find_held(self.stage.observer, incarnation, asked))
            assert told == self.world.held(incarnation, asked)
            done = self.stage.run(find_finished(self.stage.observer, incarnation, asked))
            assert done == self.world.finished(incarnation, asked)
        known = self.stage.run(find_claims(self.stage.observer, [incarnation]))
        assert known.get(incarnation, frozenset()) == self.world.claims_of(incarnation)

    # Chores, and time.

    @precondition(has(lambda job: job.state in ("scheduled", "retryable")))
    @rule(session=sessions, limit=st.integers(1, 5))
    @tells
    def promote(self, session: int, limit: int) -> None:
        free = self.free(session, outside=True)
        if free is None:
            return
        due = [job.due for job in self.world.due()]
        while 0 < limit < len(due) and due[limit - 1] == due[limit]:  # stored at once: either may come first
            limit += 1
        said = self.on(free, lambda session: promote_jobs(session, limit))
        assert said == self.world.promote(limit)

    @precondition(has(lambda job: job.is_final))
    @rule(
        session=sessions, keep=st.sampled_from([0, HOUR]), keep_failed=st.sampled_from([0, 2 * HOUR]), limit=st.integers(1, 4),
    )  # fmt: skip
    @tells
    def prune(self, session: int, keep: int, keep_failed: int, limit: int) -> None:
        free = self.free(session, outside=True)
        if free is None:
            return
        old = self.world.old(keep, keep_failed)
        if any(self.world.keeper_of(job_id, free) is not None for job_id in old):
            return
        said = self.on(free, lambda session: prune_jobs(session, keep, keep_failed, limit))
        assert said == min(limit, len(old))
        left = {
            row[0] for row in self.stage.run(self.stage.eyes.fetch("select id from asyncjobs.finished_jobs"))
        }
        gone = {job.id for job in self.world.jobs.values() if job.is_final} - left
        assert gone <= old, f"pruned too early: {gone - old}"
        assert len(gone) == said
        self.world.prune(gone)

    @precondition(lambda self: not self.world.waiting)
    @rule(seconds=st.sampled_from([HOUR, HOUR, 3 * HOUR, -HOUR]))
    @tells
    def time_passes(self, seconds: int) -> None:
        """Or the server's clock is set back."""
        self.world.shift += seconds
        self.stage.run(self.stage.set_clock(self.world.shift))

    # Sleep.

    @rule(queue=st.sampled_from(["", *QUEUES]), session=sessions)
    @tells
    def announce(self, queue: str, session: int) -> None:
        """A runner is idle, and not past the horizon while an enqueue it was not announced to is open."""
        if queue in self.world.idle:
            self.stage.run(withdraw_idle(self.stage.idler, [queue]))
            self.world.idle.discard(queue)
            return
        refused, xid = self.stage.run(announce_idle(self.stage.idler, [queue]))
        assert refused == []
        self.world.idle.add(queue)
        if any(stack[-1].wrote_at is not None for stack in self.world.stacks.values()):
            # The application goes on, and others come: the newest transaction id is beyond this runner's own.
            if (free := self.free(session, outside=True)) is not None:
                self.stage.run(self.stage.connections[free].execute("select pg_current_xact_id()"))
            assert not self.stage.run(is_past_horizon(self.stage.idler, xid))

    # What is true all the time.

    @invariant()
    @tells
    def as_the_model_says(self) -> None:
        Machine.steps += 1
        world = self.world
        live, finished, runners, paused, effects = self.stage.run(self.stage.see())
        assert not {row[0] for row in live} & {row[0] for row in finished}, (
            "a job is live and finished at once"
        )
        expected = {job.id: shown(job) for job in world.jobs.values()}
        found = {row[0]: seen(row) for row in [*live, *finished]}
        assert found == expected
        assert {row[0]: (row[1], row[2]) for row in runners} == {
            each.incarnation: ([i for i, _ in each.begun], [t for _, t in each.begun])
            for each in world.runners.values()
        }
        assert set(paused) == world.paused
        self._effects_are_there_once(effects)
        heard, world.told = sorted(world.told), []
        assert sorted(self.stage.heard) == heard
        self.stage.heard.clear()
        self._jobs_went_legal_ways(
            {row[0]: (found[row[0]][3].split()[0].rstrip(","), row[6]) for row in [*live, *finished]}
        )
        for row in live:
            assert row[4] in (0, 1, 2, 4), "a live job waits for nothing"
        assert len(found) == world.enqueued - world.pruned
        self.what_is_not_there_yet()

    def _effects_are_there_once(self, effects: list[list[int]]) -> None:
        written = [tuple(row) for row in effects]
        assert len(written) == len(set(written)), "a transactional job had its effects twice"
        assert set(written) == {claim for claim, count in self.world.effects.items() if count}

    def _jobs_went_legal_ways(self, now: dict[int, tuple[str, int]]) -> None:
        for job_id, (state, token) in now.items():
            was, had = self.before.get(job_id, (state, token))
            assert token in ((had, had + 1) if self.claimed else (had,)), "a token changes only with a claim"
            legal = TRANSITIONS[JobState(was)]
            assert was == state or state in legal or self.may_jump, f"{was} → {state}"
        self.before = now
        self.claimed = self.may_jump = False

    def what_is_not_there_yet(self) -> None:
        """I8, the limits of I7, and I12: unique keys, limits per key and schedules are not in the product yet."""

    # The end.

    def teardown(self) -> None:
        if not self.broken:
            self._everything_comes_to_an_end()
            assert self.stage.run(self.stage.idle_in_transaction()) == set()
            assert self.stage.run(self.stage.advisory_locks()) == len(self.world.locks) + len(self.world.idle)

    def _everything_comes_to_an_end(self) -> None:
        """Transactions end, the dead are rescued, time passes: then every job can be claimed and finished."""
        world = self.world
        while world.stacks:
            self._end(next(each for each in world.stacks if each not in world.waiting), commit=True)
        self.time_passes(100 * HOUR)
        for queue in QUEUES:
            self.pause_or_resume(queue, pause=False)
        if has(lambda job: job.state in ("scheduled", "retryable"))(self):
            self.promote(0, limit=1000)
        for incarnation in [*world.runners, *world.orphans()]:
            self._rescue(incarnation, blame=False)
        self.as_the_model_says()
        last = self._register(0, holds_lock=False, lease=HOUR)
        lanes = [Lane(queue, kind) for queue in QUEUES for kind in KINDS]
        asked = [LaneRequest(lane, nth, 1000, True) for nth, lane in enumerate(lanes)]
        got = self.on(0, lambda session: claim_jobs(session, asked, last, begin=True))
        left = {job.id: job.state for job in world.jobs.values() if not job.is_final}
        assert {job.id for job in got} == {job_id for job_id, state in left.items() if state == "ready"}
        self._done(last, got)
        for _ in range(sum(state == "suspected" for state in left.values())):
            suspect = self.on(0, lambda session: claim_suspect(session, last, [""], KINDS, Caution(ALONE, 3)))
            assert suspect, "a suspect waits for ever"
            self._done(last, [suspect.job])
        live, finished, *_ = self.stage.run(self.stage.see())
        assert live == []
        assert {row[0] for row in finished} == world.jobs.keys()

    def _done(self, incarnation: int, jobs: Sequence[ClaimedJob]) -> None:
        done = [Finished(job, FinalState.COMPLETED, 0.1) for job in jobs]
        said = self.on(0, lambda session: finish_jobs(session, incarnation, done))
        assert said == {job.id for job in jobs}


def word(job: Job) -> JobState:
    """What people call the state of a job."""
    if job.state == "ready":
        return JobState.AVAILABLE if job.runner is None else JobState.RUNNING
    return {"suspected": JobState.AVAILABLE, "deadly": JobState.FAILED}.get(job.state) or JobState(job.state)


def stored_as(job: Job) -> str:
    """The same, and more."""
    return {"suspected": "available, alone", "deadly": "failed for good"}.get(job.state) or str(word(job))


def shown(job: Job) -> tuple[Any, ...]:
    """A job of the model, as the tables would have it."""
    common = (
        job.queue, job.kind, job.priority, stored_as(job), job.runner, job.token, job.attempt, job.crashes, job.errors,
        job.begun,
    )  # fmt: skip
    return common if job.is_final else (*common, job.awaited, job.asked, round(job.due / TICKS / HOUR, 1))


def seen(row: list[Any]) -> tuple[Any, ...]:
    """A row of the tables, in the same form."""
    _, queue, kind, priority, state, runner, *rest = row
    name = NAMES[state]
    if name == "ready":
        name = "available" if runner is None else "running"
    name = {"suspected": "available, alone", "deadly": "failed for good"}.get(name, name)
    if len(rest) > 5:
        rest[-1] = round(rest[-1] / HOUR, 1)
    return (queue, kind, priority, name, runner, *rest)
