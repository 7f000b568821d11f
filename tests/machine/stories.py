"""Short lives, told step by step, each for what it puts to the test. In every run they notice every mutant of `mutants.py`, which
a machine that acts at random needs minutes for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis.stateful import MultipleResults

from tests.machine.machine import HOUR, Machine

HERE, THERE, ELSEWHERE = 0, 1, 2  #: sessions
READY = ("ready", None)


class Play:
    """The steps of a machine, with its invariants after each."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.one = int(machine.first_runner())  # type: ignore[arg-type]

    def __getattr__(self, step: str) -> Callable[..., Any]:
        def done(*args: Any, **given: Any) -> Any:
            said = getattr(self.machine, step)(*args, **given)
            self.machine.as_the_model_says()
            return list(said.values) if isinstance(said, MultipleResults) else said

        return done

    def new(self, *places: tuple[str, int], delay: int | None = None) -> list[int]:
        """Jobs of kind k, by queue and priority."""
        jobs: list[int] = self.enqueue(
            HERE, [(queue, "k", priority, delay) for queue, priority in places], wake=True
        )
        return jobs

    def another(self, *, holds_lock: bool = True) -> int:
        (runner,) = [self.start_runner(1, holds_lock=holds_lock, lease=HOUR)]
        return int(runner)

    def dies(self, runner: int, *, blame: bool = True) -> None:
        self.rescue(runner, blame=blame, whom="me", max_crashes=3)

    def begins(self, session: int) -> None:
        self.transaction(session, "end", commit=True)

    commits = begins

    def rolls_back(self, session: int) -> None:
        self.transaction(session, "end", commit=False)

    def waits(self, session: int) -> bool:
        return session in self.machine.world.waiting


def zombies(play: Play) -> None:
    """Claims of one job, by one runner and by two, come back from the dead and write."""
    (job,) = play.new(("a", 0))
    (old,) = play.claim_some(play.one, True)
    play.return_(HERE, [old], READY, unburnt=True, failed=False)
    (newer,) = play.claim_some(play.one, True)
    assert newer.job.token > old.job.token
    _all_are_refused(play, old, job)
    two = play.another()
    play.dies(play.one)
    (theirs,) = play.claim_suspect(two, HERE, ("",), 3)
    for stale in (old, newer):
        _all_are_refused(play, stale, job)
    play.finish(HERE, [theirs], "completed", failed=False)
    play.people(HERE, job, "retry")
    (again,) = play.claim_some(play.one, True)
    for stale in (old, newer, theirs):
        _all_are_refused(play, stale, job)
    play.return_(HERE, [again], READY, unburnt=False, failed=True)
    play.claim_some(play.one, True)
    _all_are_refused(play, again, job)


def _all_are_refused(play: Play, stale: Any, job: int) -> None:
    play.look(job)
    play.finish(HERE, [stale], "completed", failed=False)
    play.return_(HERE, [stale], READY, unburnt=True, failed=True)
    play.adopt(HERE, [stale])
    play.complete_in_tx(HERE, [stale])
    play.commits(HERE)


def claiming(play: Play) -> None:
    """In order, in turns, no more than there is room for, and nothing that others have or hold."""
    play.new(("a", 5), ("a", 0), ("a", -1), ("a", 0), ("b", 0))
    play.new(("a", 5), delay=HOUR)
    pools = ("all", 2, 2, 2, 2)
    play.claim(play.one, HERE, pools, begin=False, marked=False)
    play.begins(THERE)
    play.people(THERE, 2, "cancel")  # the next one
    play.claim(play.another(), HERE, ("alone", 1, 1, 1, 1), begin=True, marked=False)
    play.rolls_back(THERE)
    play.claim(play.one, HERE, ("by queue", 3, 3, 3, 3), begin=True, marked=True)
    play.claim(play.one, HERE, ("by queue", 3, 3, 3, 3), begin=True, marked=False)
    play.new(("a", 0))
    play.pause_or_resume("a", pause=True)
    play.look(1)
    play.claim_some(play.one, True)
    play.pause_or_resume("a", pause=False)
    play.claim_some(play.one, True)


def coming_back(play: Play) -> None:
    """Retried after a delay, released without a mark, stopped where somebody asked."""
    jobs = play.new(("a", 0), ("a", 0), ("a", 0), ("b", 0))
    play.announce("", HERE)
    first, second, third = play.claim(play.one, HERE, ("alone", 3, 3, 3, 3), begin=False, marked=False)[:3]
    play.people(HERE, third.job.id, "await")
    play.begin_prefetched([first, second])
    play.return_(HERE, [first], ("retryable", HOUR), unburnt=False, failed=True)
    play.return_(HERE, [second], READY, unburnt=True, failed=False)
    play.people(HERE, third.job.id, "cancel")
    play.return_(HERE, [third], ("retryable", HOUR), unburnt=False, failed=True)
    play.promote(HERE, 5)
    play.time_passes(2 * HOUR)
    play.promote(HERE, 5)
    (again,) = [each for each in play.claim_some(play.one, True) if each.job.id == first.job.id]
    play.return_(HERE, [again], ("retryable", 0), unburnt=False, failed=True)
    play.promote(HERE, 5)
    for job in jobs:
        play.people(HERE, job, "await")
    play.complete_in_tx(THERE, [again])
    play.commits(THERE)
    (last,) = [each for each in play.claim_some(play.one, True) if each.job.id == first.job.id]
    play.complete_in_tx(THERE, [last])
    play.commits(THERE)


def dying(play: Play) -> None:
    """Those who are dead lose what they held; what had begun is to blame; who lives keeps everything."""
    play.new(("a", 0), ("a", 1), ("b", 0), ("b", 1))
    living, leasing = play.another(), play.another(holds_lock=False)
    begun = play.claim(living, HERE, ("alone", 1, 1, 1, 1), begin=True, marked=False)
    prefetched = play.claim(play.one, HERE, ("alone", 1, 1, 1, 1), begin=False, marked=False)
    play.begin_prefetched(prefetched[:1])
    play.rescue(living, blame=True, whom="suspects", max_crashes=3)
    play.fleet(living, "forget")
    play.begins(THERE)
    play.complete_in_tx(THERE, [prefetched[1]])
    play.dies(play.one)
    play.rolls_back(THERE)
    play.dies(play.one)
    play.dies(leasing)
    play.rescue(living, blame=True, whom="suspects", max_crashes=3)
    play.claim_some(leasing, False)
    play.rescue(living, blame=True, whom="orphans", max_crashes=3)
    play.adopt(HERE, begun)
    play.dies(living, blame=False)


def adopting(play: Play) -> None:
    """The server was lost: what had begun under the old name has begun under the new one."""
    play.new(("a", 0), ("a", 1))
    held = play.claim_some(play.one, False)
    play.begin_prefetched(held)
    (mine,) = play.adopt(HERE, held[:1])
    _all_are_refused(play, held[0], held[0].job.id)
    play.dies(play.one, blame=False)
    play.dies(mine.incarnation)


def killers(play: Play) -> None:
    """A job that takes runners down runs alone, one in the whole fleet, until it is left to people."""
    jobs = play.new(("a", 0), ("a", 1), ("b", 0))
    play.claim_some(play.one, True)
    play.dies(play.one)
    two, three = play.another(), play.another()
    assert play.claim_some(two, True) == []
    assert len(play.claim_suspect(two, HERE, ("",), 3)) == 1
    assert play.claim_suspect(three, HERE, ("",), 3) == []
    play.time_passes(HOUR)
    assert len(play.claim_suspect(three, HERE, ("",), 3)) == 1
    play.dies(three, blame=False)
    play.rescue(two, blame=True, whom="me", max_crashes=2)
    (next_one,) = play.claim_suspect(three, HERE, ("",), 3)
    play.return_(HERE, [next_one], READY, unburnt=True, failed=False)
    (next_one,) = play.claim_suspect(three, HERE, ("",), 3)
    play.people(HERE, next_one.job.id, "cancel")
    play.dies(three)
    play.time_passes(100 * HOUR)
    play.prune(HERE, 0, 0, 5)
    for job in jobs:
        play.people(HERE, job, "retry")
        play.people(HERE, job, "cancel")
    play.claim_some(three, True)


def people(play: Play) -> None:
    """Cancel what waits and what runs; retry what is done, what waits, and what is running."""
    waiting, running = play.new(("a", 1), ("a", 0))
    (later,) = play.new(("a", 0), delay=HOUR)
    (held,) = play.claim(play.one, HERE, ("alone", 1, 1, 1, 1), begin=True, marked=False)
    assert held.job.id == running
    for job in (running, waiting, later):
        play.people(HERE, job, "await")
    for job in (running, later, waiting):
        play.people(HERE, job, "retry")
    for job in (running, waiting):
        play.people(HERE, job, "cancel")
        play.people(HERE, job, "cancel")
    play.finish(HERE, [held], "completed", failed=True)
    play.prune(HERE, HOUR, 2 * HOUR, 5)
    play.people(HERE, running, "retry")
    play.claim_some(play.one, True)
    play.time_passes(2 * HOUR)
    play.prune(HERE, HOUR, HOUR, 5)


def waiting_for_each_other(play: Play) -> None:
    """Whoever wants what an open transaction holds waits for it, and then sees what has become of it."""
    job, other = play.new(("a", 0), ("a", 1))
    held, second = play.claim_some(play.one, True)
    play.complete_in_tx(THERE, [held])
    play.return_(HERE, [held], READY, unburnt=True, failed=False)
    assert play.waits(HERE)
    play.rolls_back(THERE)
    (held,) = play.claim_some(play.one, True)
    play.complete_in_tx(THERE, [held])
    play.people(HERE, job, "cancel")
    assert play.waits(HERE)
    play.commits(THERE)
    (asked,) = play.new(("b", 0))
    (held,) = play.claim_some(play.one, True)
    play.begins(THERE)
    play.people(THERE, asked, "cancel")
    play.return_(HERE, [held], READY, unburnt=True, failed=False)
    assert play.waits(HERE)
    play.commits(THERE)
    play.begins(THERE)
    play.transaction(THERE, "savepoint", commit=True)
    play.people(THERE, other, "cancel")
    play.finish(HERE, [second], "completed", failed=False)
    assert play.waits(HERE)
    play.transaction(THERE, "rollback to", commit=True)
    assert not play.waits(HERE)
    play.enqueue(THERE, [("a", "k", 0, None)], wake=True)
    play.rolls_back(THERE)


def sleeping(play: Play) -> None:
    """Who is idle is told of every job that comes, and of none that does not."""
    play.begins(THERE)
    play.enqueue(THERE, [("a", "k", 0, None)], wake=True)
    play.announce("", HERE)
    play.rolls_back(THERE)
    play.new(("a", 0))
    play.new(("a", 0), ("b", 0))
    play.new(("b", 0), delay=HOUR)
    play.promote(HERE, 5)
    play.time_passes(2 * HOUR)
    play.promote(HERE, 5)
    play.enqueue(THERE, [("a", "k", 0, None)], wake=False)


STORIES = {
    story.__name__: story
    for story in (
        zombies,
        claiming,
        coming_back,
        dying,
        adopting,
        killers,
        people,
        waiting_for_each_other,
        sleeping,
    )
}
