"""The soak's checks: a clean record passes all of them, and each reports the violation it is there for, and only it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import cattrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs._keeper.vigilance import Vigilance
from soak import report
from soak.checks import CHECKS, check
from soak.history import Event, Recorder, read
from soak.reading import Reading
from soak.record import Change, Effect, Incarnation, Leftovers, Record, Stored, load, save
from soak.schedule import ON_RUNNERS, WEIGHTS, draw

WALL = 1_000_000.0  #: the wall clock where the monotonic one says 0
ONE, TWO = 11, 22  #: processes, and (times 100) their incarnations
EVER_AFTER = 500.0
LIVE = {0: "available", 1: "scheduled", 2: "retryable", 4: "available"}
FINAL = {10: "completed", 12: "cancelled", 13: "failed", 14: "failed"}


class Story:
    """A run, told in few words: times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.jobs: list[Stored] = []
        self.trail: list[Change] = []
        self.effects: list[Effect] = []
        self.sent: list[str] = []
        self.incarnations = [
            Incarnation(pid * 100, pid, holds_lock=True, since=WALL, until=None) for pid in (ONE, TWO)
        ]
        self.leftovers = Leftovers()
        for pid in (ONE, TWO):
            self.note(0.0, pid, "process", "up")
            self.note(1.0, pid, "resources", files=10, threads=2, tasks=10, most_kilobytes=50_000)

    def note(
        self,
        at: float,
        pid: int,
        op: str,
        phase: str = "",
        *,
        key: str = "",
        job: int = 0,
        token: int = 0,
        **detail: Any,
    ) -> None:
        self.events.append(Event(at, WALL + at, pid, op, phase, key, job, token, detail))

    def enqueue(
        self, at: float, job: int, kind: str = "quick", *, way: str = "commit", due: float = 0.0
    ) -> None:
        """In a transaction that is committed and acknowledged."""
        key = f"j{job}"
        self.note(at, 1, "enqueue", "invoke", keys=[key], way=way)
        self.change(at, job, kind=f"soak:{kind}", due=WALL + max(at, due), state=1 if due > at else 0)
        self.note(at + 0.01, 1, "enqueue", "ok", keys=[key], ids=[job])
        if way != "alone":
            self.sent.append(key)

    def change(self, at: float, job: int, **now: Any) -> None:
        """Of the row, from what it was to that with *now* changed."""
        before = next((each for each in reversed(self.trail) if each.job == job), None)
        blank: dict[str, Any] = {
            "kind": "soak:quick", "queue": "wide", "priority": 0, "due": WALL + at, "state": 0, "runner": None, "token": 0,
            "attempt": 0, "crashes": 0, "cancel": False,
        }  # fmt: skip
        row = blank if before is None else {name: getattr(before, name) for name in blank}
        was: dict[str, Any] = dict.fromkeys(
            ("was_state", "was_runner", "was_token", "was_attempt", "was_cancel")
        )
        if before is not None and now.get("state", 0) < 10:
            was = {name: row[name.removeprefix("was_")] for name in was}
        number = len(self.trail) + 1
        self.trail.append(Change(n=number, at=WALL + at, xid=number, job=job, **was, **{**row, **now}))

    def claim(self, at: float, job: int, pid: int = ONE) -> None:
        last = self.last(job)
        self.change(at, job, state=0, runner=pid * 100, token=last.token + 1, attempt=last.attempt + 1)

    def start(self, at: float, job: int, pid: int = ONE) -> None:
        last = self.last(job)
        detail = {"kind": last.kind, "queue": last.queue, "runner": str(pid * 100)}
        self.note(at, pid, "start", key=f"j{job}", job=job, token=last.token, **detail)

    def end(
        self, at: float, job: int, outcome: str = "ok", pid: int = ONE, token: int = 0, *, said: str = ""
    ) -> None:
        self.note(
            at, pid, "end", outcome, key=f"j{job}", job=job, token=token or self.last(job).token, said=said
        )

    def finish(self, at: float, job: int, state: int = 10, **now: Any) -> None:
        self.change(at, job, state=state, **now)

    def run(self, at: float, job: int, pid: int = ONE, *, state: int = 10, outcome: str = "ok") -> None:
        """From the claim to the end."""
        self.claim(at, job, pid)
        self.start(at + 0.01, job, pid)
        self.end(at + 0.11, job, outcome, pid)
        if self.last(job).kind in ("soak:effect", "soak:parent") and state == 10:
            self.effects.append(Effect(f"j{job}", job, self.last(job).token))
        self.finish(at + 0.12, job, state)

    def last(self, job: int) -> Change:
        return next(each for each in reversed(self.trail) if each.job == job)

    def harm(self, at: float, kind: str, pid: int = 0, seconds: float = 0.1) -> None:
        self.note(at, 1, "fault", "begin", kind=kind, of=pid, seat=0)
        self.note(at + seconds, 1, "fault", "end", kind=kind, of=pid, seat=0)

    def die(self, at: float, pid: int) -> None:
        """Of SIGKILL."""
        self.harm(at, "kill", pid)
        self.note(at + 0.05, 1, "process", "gone", of=pid, seat=0, code=-9)

    def record(self) -> Record:
        """What remains of it: what is stored is what the trail says last."""
        stored = []
        for job in sorted({each.job for each in self.trail}):
            last = self.last(job)
            state = FINAL.get(last.state) or ("running" if last.runner else LIVE[last.state])
            stored.append(Stored(job, f"j{job}", last.kind, state, last.attempt, 60, last.crashes))
        return Record(
            slots={"wide": 2, "narrow": 1},
            events=sorted(self.events, key=lambda each: each.mono),
            jobs=stored,
            trail=self.trail,
            incarnations=self.incarnations,
            effects=self.effects,
            sent=self.sent,
            leftovers=self.leftovers,
        )


def a_day() -> Story:
    """A bit of everything, with kills and cut networks, and nothing wrong."""
    story = Story()
    for number, kind in enumerate(["quick", "effect", "nap", "quick"], start=1):
        story.enqueue(number, number, kind, way="alone" if number == 4 else "commit")
        story.run(number + 0.1, number, ONE if number % 2 else TWO)
    story.note(5.0, 1, "enqueue", "invoke", keys=["undone"], way="rollback")
    story.note(5.1, 1, "enqueue", "fail", keys=["undone"])
    story.enqueue(6, 5, due=8)
    story.change(8.01, 5, state=0)
    story.run(8.02, 5)
    story.enqueue(9, 6, "stumble")  # fails once
    story.claim(9.1, 6)
    story.start(9.2, 6)
    story.end(9.3, 6, "raised")
    story.change(9.4, 6, state=2, runner=None, due=WALL + 9.7)
    story.change(9.8, 6, state=0)
    story.run(9.9, 6, TWO)
    story.enqueue(11, 7, "hopeless")
    story.run(11.1, 7, state=13, outcome="raised")
    story.enqueue(12, 8)  # cancelled while it waits
    story.note(12.1, 1, "cancel", "invoke", key="j8", job=8)
    story.finish(12.15, 8, 12)
    story.note(12.2, 1, "cancel", "ok", key="j8", job=8, answer="cancelled")
    story.enqueue(13, 9, "nap")  # cancelled while it runs
    story.claim(13.1, 9)
    story.start(13.2, 9)
    story.note(13.3, 1, "cancel", "invoke", key="j9", job=9)
    story.change(13.35, 9, cancel=True)
    story.note(13.4, 1, "cancel", "ok", key="j9", job=9, answer="requested")
    story.end(13.5, 9, "stopped")
    story.finish(13.6, 9, 12, cancel=False)
    story.enqueue(20, 10, "nap")  # its runner is cut off, is thought dead, and goes on a while
    story.claim(20.1, 10)
    story.start(20.2, 10)
    story.harm(20.3, "swallow", ONE, 30)
    story.change(45, 10, state=4, runner=None, attempt=0, crashes=1)
    story.run(46, 10, TWO)
    story.end(50, 10, "stopped", ONE, token=1)
    story.enqueue(60, 11, "effect")  # its runner is killed
    story.claim(60.1, 11, TWO)
    story.start(60.2, 11, TWO)
    story.die(60.5, TWO)
    story.change(62.1, 11, state=4, runner=None, attempt=0, crashes=1)
    story.run(62.2, 11)
    return story


def in_quiet(job: int = 20, kind: str = "quick", at: float = EVER_AFTER) -> Story:
    """The same, and a job enqueued long after the last fault."""
    story = a_day()
    story.enqueue(at, job, kind)
    return story


def found(record: Record) -> dict[str, list[str]]:
    return {name: violations for name, violations in check(record).items() if violations}


def test_a_run_in_which_nothing_went_wrong_passes_every_check() -> None:
    """With rollbacks, retries, cancels, a process that was killed and one that was cut off and overlapped another."""
    assert found(a_day().record()) == {}


# The violations. Each is a story that ends in a record, and the check that must report it.

VIOLATIONS: list[tuple[str, Callable[[], Record]]] = []


def violates(name: str) -> Callable[[Callable[[], Record]], Callable[[], Record]]:
    def add(story: Callable[[], Record]) -> Callable[[], Record]:
        VIOLATIONS.append((name, story))
        return story

    return add


def without(record: Record, job: int) -> Record:
    """As if the job had never been stored."""
    return attrs.evolve(
        record,
        jobs=[each for each in record.jobs if each.job != job],
        trail=[each for each in record.trail if each.job != job],
    )


@violates("C1")
def acknowledged_and_gone() -> Record:
    return without(in_quiet().record(), 20)


@violates("C1")
def committed_with_its_data_and_gone() -> Record:
    story = in_quiet()
    story.events = [each for each in story.events if each.detail.get("ids") != [20]]  # the reply was lost
    return without(story.record(), 20)


@violates("C1")
def never_run() -> Record:
    return in_quiet().record()


@violates("C1")
def held_for_ever() -> Record:
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    return story.record()


@violates("C2")
def rolled_back_and_there() -> Record:
    story = a_day()
    story.enqueue(EVER_AFTER, 20)
    story.events = [each for each in story.events if each.detail.get("ids") != [20]]
    story.note(EVER_AFTER + 0.01, 1, "enqueue", "fail", keys=["j20"])
    story.sent.remove("j20")
    story.run(EVER_AFTER + 1, 20)
    return story.record()


@violates("C2")
def there_without_its_data() -> Record:
    story = in_quiet()
    story.events = [each for each in story.events if each.detail.get("ids") != [20]]
    story.sent.remove("j20")
    story.run(EVER_AFTER + 1, 20)
    return story.record()


@violates("C2")
def enqueued_once_and_there_twice() -> Record:
    story = in_quiet()
    story.run(EVER_AFTER + 1, 20)
    story.change(EVER_AFTER + 2, 21)
    story.run(EVER_AFTER + 3, 21)
    record = story.record()
    twin = attrs.evolve(record.jobs[-1], key="j20")
    events = [attrs.evolve(each, key="j20") if each.key == "j21" else each for each in record.events]
    return attrs.evolve(record, jobs=[*record.jobs[:-1], twin], events=events)


@violates("C2")
def a_ghost_started() -> Record:
    story = a_day()
    detail = {"kind": "soak:quick", "queue": "wide", "runner": "0"}
    story.note(EVER_AFTER, ONE, "start", key="undone", job=99, token=1, **detail)
    story.note(EVER_AFTER + 1, ONE, "end", "stopped", key="undone", job=99, token=1)
    return story.record()


@violates("C3")
def an_effect_twice() -> Record:
    record = a_day().record()
    return attrs.evolve(record, effects=[*record.effects, record.effects[0]])


@violates("C3")
def an_effect_of_a_zombie() -> Record:
    record = a_day().record()
    return attrs.evolve(record, effects=[*record.effects[:-1], attrs.evolve(record.effects[-1], token=1)])


@violates("C3")
def an_effect_that_is_missing() -> Record:
    record = a_day().record()
    return attrs.evolve(record, effects=record.effects[1:])


@violates("C3")
def an_effect_of_a_cancelled_job() -> Record:
    record = a_day().record()
    return attrs.evolve(record, effects=[*record.effects, Effect("j9", 9, 1)])


@violates("C4")
def a_zombie_finished_it() -> Record:
    """Its runner is not the one that holds it."""
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20)
    story.finish(EVER_AFTER + 2, 20, runner=TWO * 100)
    return story.record()


@violates("C4")
def the_token_stays() -> Record:
    story = in_quiet()
    story.change(EVER_AFTER + 1, 20, runner=ONE * 100, attempt=1)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20)
    story.finish(EVER_AFTER + 2, 20)
    return story.record()


@violates("C4")
def claimed_from_under_another() -> Record:
    """Held by one, then by the other with a new token, and nobody let go."""
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.change(EVER_AFTER + 2, 20, runner=TWO * 100, token=2)
    story.start(EVER_AFTER + 3, 20, TWO)
    story.end(EVER_AFTER + 4, 20, pid=TWO)
    story.finish(EVER_AFTER + 5, 20)
    return story.record()


@violates("C4")
def alive_again_after_its_end() -> Record:
    story = in_quiet()
    story.run(EVER_AFTER + 1, 20)
    last = story.last(20)
    number = len(story.trail) + 1
    story.trail.append(attrs.evolve(last, n=number, xid=number, at=last.at + 1))
    return story.record()


@violates("C4")
def a_suspect_among_the_others() -> Record:
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 2, 20)
    story.die(EVER_AFTER + 3, ONE)
    story.change(EVER_AFTER + 5, 20, runner=None, attempt=0, crashes=1)
    story.run(EVER_AFTER + 6, 20, TWO)
    return story.record()


@violates("C5")
def two_at_once_for_no_reason() -> Record:
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.change(EVER_AFTER + 5, 20, runner=None, attempt=0)
    story.run(EVER_AFTER + 6, 20, TWO)
    story.end(EVER_AFTER + 9, 20, "stopped", token=1)
    return story.record()


@violates("C5")
def two_at_once_for_a_frozen_one_that_held_its_lock() -> Record:
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.harm(EVER_AFTER + 1.2, "freeze", ONE, 30)
    story.change(EVER_AFTER + 25, 20, runner=None, attempt=0)
    story.run(EVER_AFTER + 26, 20, TWO)
    story.end(EVER_AFTER + 32, 20, "stopped", token=1)
    return story.record()


@violates("C6")
def done_and_run_again() -> Record:
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20)
    story.change(EVER_AFTER + 5, 20, runner=None, attempt=0)
    story.run(EVER_AFTER + 6, 20, TWO)
    return story.record()


@violates("C6")
def completed_itself_and_run_again() -> Record:
    """Even a fault is no reason."""
    story = in_quiet(kind="effect")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20)
    story.harm(EVER_AFTER + 1.3, "restart-immediate")
    story.change(EVER_AFTER + 5, 20, runner=None, attempt=0)
    story.run(EVER_AFTER + 6, 20, TWO)
    return story.record()


@violates("C6")
def completed_and_never_run() -> Record:
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.finish(EVER_AFTER + 2, 20)
    return story.record()


@violates("C7")
def more_at_once_than_slots() -> Record:
    story = a_day()
    for job in (20, 21, 22):
        story.enqueue(EVER_AFTER, job)
        story.claim(EVER_AFTER + 1, job)
        story.start(EVER_AFTER + 1, job)
    for job in (20, 21, 22):
        story.end(EVER_AFTER + 2, job)
        story.finish(EVER_AFTER + 2, job)
    return story.record()


@violates("C7")
def passed_by() -> Record:
    story = in_quiet()
    for job in (21, 22, 23):
        story.enqueue(EVER_AFTER + job, job)
        story.run(EVER_AFTER + job + 1, job)
    story.run(EVER_AFTER + 60, 20)
    return story.record()


@violates("C8")
def run_before_it_was_due() -> Record:
    story = a_day()
    story.enqueue(EVER_AFTER, 20, due=EVER_AFTER + 10)
    story.change(EVER_AFTER + 8, 20, state=0)
    story.run(EVER_AFTER + 9, 20)
    return story.record()


@violates("C9")
def left_with_the_dead_for_long() -> Record:
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 2, 20)
    story.die(EVER_AFTER + 3, ONE)
    story.change(EVER_AFTER + 100, 20, state=4, runner=None, attempt=0, crashes=1)
    story.run(EVER_AFTER + 101, 20, TWO)
    return story.record()


@violates("C10")
def charged_for_somebody_elses_failure() -> Record:
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20, "stopped")
    story.change(EVER_AFTER + 2, 20, state=2, runner=None)
    story.change(EVER_AFTER + 3, 20, state=0)
    story.run(EVER_AFTER + 4, 20, TWO)
    return story.record()


@violates("C10")
def forgiven_what_it_raised() -> Record:
    return put_off_for_nothing("raised", "")


def put_off_for_nothing(outcome: str, said: str) -> Record:
    """An attempt is to be made again later, and does not count."""
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.end(EVER_AFTER + 1.2, 20, outcome, said=said)
    story.change(EVER_AFTER + 2, 20, state=2, runner=None, attempt=0)
    story.change(EVER_AFTER + 3, 20, state=0)
    story.run(EVER_AFTER + 4, 20, TWO)
    return story.record()


@violates("C10")
def counted_wrongly() -> Record:
    story = in_quiet()
    story.run(EVER_AFTER + 1, 20)
    story.trail[-1] = attrs.evolve(story.trail[-1], attempt=2)
    return story.record()


@violates("C11")
def cancelled_and_run() -> Record:
    story = in_quiet()
    story.note(EVER_AFTER + 1, 1, "cancel", "invoke", key="j20", job=20)
    story.note(EVER_AFTER + 1.1, 1, "cancel", "ok", key="j20", job=20, answer="cancelled")
    story.run(EVER_AFTER + 2, 20)
    return story.record()


@violates("C11")
def asked_to_stop_and_given_to_another() -> Record:
    story = in_quiet(kind="stumble")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.change(EVER_AFTER + 1.2, 20, cancel=True)
    story.note(EVER_AFTER + 1.3, 1, "cancel", "ok", key="j20", job=20, answer="requested")
    story.end(EVER_AFTER + 1.4, 20, "raised")
    story.change(EVER_AFTER + 2, 20, state=2, runner=None)
    story.change(EVER_AFTER + 3, 20, state=0, cancel=False)
    story.run(EVER_AFTER + 4, 20, TWO)
    return story.record()


@violates("C11")
def a_request_that_is_gone() -> Record:
    story = in_quiet()
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.note(EVER_AFTER + 1.2, 1, "cancel", "ok", key="j20", job=20, answer="requested")
    story.end(EVER_AFTER + 2, 20)
    story.finish(EVER_AFTER + 2.1, 20)
    return story.record()


@violates("C11")
def too_late_too_early() -> Record:
    story = in_quiet()
    story.note(EVER_AFTER + 1, 1, "cancel", "ok", key="j20", job=20, answer="too late")
    story.run(EVER_AFTER + 2, 20)
    return story.record()


@violates("C12")
def a_runner_is_on_the_list() -> Record:
    return attrs.evolve(a_day().record(), leftovers=Leftovers(runners=1))


@violates("C12")
def a_lock_is_held() -> Record:
    return attrs.evolve(a_day().record(), leftovers=Leftovers(locks=1))


@violates("C12")
def a_session_is_open() -> Record:
    return attrs.evolve(a_day().record(), leftovers=Leftovers(sessions=1))


@violates("C12")
def something_was_left_unawaited() -> Record:
    story = a_day()
    story.note(
        EVER_AFTER,
        ONE,
        "log",
        "ERROR",
        logger="asyncio",
        message="Task exception was never retrieved",
        error="",
    )
    return story.record()


@violates("C12")
def a_fault_of_ours_was_logged() -> Record:
    story = a_day()
    said = "the runner failed, which is a fault of asyncjobs; it starts again"
    story.note(EVER_AFTER, ONE, "log", "CRITICAL", logger="asyncjobs", message=said, error="KeyError")
    return story.record()


@violates("C12")
def a_process_ended_by_itself() -> Record:
    story = a_day()
    story.note(EVER_AFTER, 1, "process", "gone", of=ONE, seat=0, code=1)
    return story.record()


@violates("C12")
def a_process_did_not_end_in_time() -> Record:
    story = a_day()
    story.harm(EVER_AFTER, "end", ONE, 30)
    story.note(EVER_AFTER + 30, 1, "process", "gone", of=ONE, seat=0, code=0)
    return story.record()


@violates("C12")
def files_were_left_open() -> Record:
    story = a_day()
    story.note(EVER_AFTER, ONE, "resources", files=1000, threads=2, tasks=10, most_kilobytes=50_000)
    return story.record()


@violates("C13")
def an_innocent_was_failed() -> Record:
    story = in_quiet(kind="nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 2, 20)
    story.die(EVER_AFTER + 3, ONE)
    story.finish(EVER_AFTER + 5, 20, 14, crashes=3)
    return story.record()


@violates("C13")
def poison_without_end() -> Record:
    story = in_quiet(kind="poison")
    for number in range(5):
        at = EVER_AFTER + 10 * number
        pid = 100 + number
        story.incarnations.append(Incarnation(pid * 100, pid, holds_lock=True, since=WALL + at, until=None))
        story.claim(at, 20, pid)
        story.start(at + 1, 20, pid)
        story.note(at + 1.1, pid, "process", "poisoned", key="j20")
        story.note(at + 1.2, 1, "process", "gone", of=pid, seat=0, code=-9)
        if number < 4:
            story.change(at + 3, 20, state=4, runner=None, attempt=0, crashes=number + 1)
    story.finish(EVER_AFTER + 45, 20, 14, crashes=5)
    return story.record()


@violates("C13")
def a_suspect_in_company() -> Record:
    story = in_quiet(kind="nap")
    story.enqueue(EVER_AFTER, 21)
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 2, 20)
    story.die(EVER_AFTER + 3, ONE)
    story.change(EVER_AFTER + 5, 20, state=4, runner=None, attempt=0, crashes=1)
    story.claim(EVER_AFTER + 6, 20, TWO)
    story.start(EVER_AFTER + 7, 20, TWO)
    story.run(EVER_AFTER + 8, 21, TWO)
    story.end(EVER_AFTER + 9, 20, pid=TWO)
    story.finish(EVER_AFTER + 9.1, 20)
    return story.record()


@violates("C13")
def cancelled_and_nobody_asked() -> Record:
    story = in_quiet()
    story.finish(EVER_AFTER + 1, 20, 12)
    return story.record()


@pytest.mark.parametrize(("name", "story"), VIOLATIONS, ids=[story.__name__ for _, story in VIOLATIONS])
def test_a_violation_is_reported_by_the_check_it_belongs_to(name: str, story: Callable[[], Record]) -> None:
    """And by no other: a report names what is wrong."""
    assert set(found(story())) == {name}


def test_a_suspect_has_its_turn_before_others_that_wait() -> None:
    """It is claimed alone, and outside of its lane's order."""
    story = a_day()
    story.enqueue(EVER_AFTER, 20, "nap")
    story.claim(EVER_AFTER + 1, 20)
    story.start(EVER_AFTER + 1.1, 20)
    story.enqueue(EVER_AFTER + 1.5, 21, "nap")
    story.change(EVER_AFTER + 2, 21, due=WALL + EVER_AFTER - 1)
    story.die(EVER_AFTER + 3, ONE)
    story.change(EVER_AFTER + 5, 20, state=4, runner=None, attempt=0, crashes=1)
    story.run(EVER_AFTER + 20, 20, TWO)
    story.run(EVER_AFTER + 30, 21, TWO)
    assert found(story.record()) == {}


def test_an_attempt_that_found_no_database_does_not_count() -> None:
    """It is no failure, and no other job's may be taken for one."""
    said = check(put_off_for_nothing("broke", "DatabaseUnavailable"))
    assert not said["C4"]
    assert not said["C10"]


def test_each_check_has_a_violation() -> None:
    """Thirteen of them."""
    assert {name for name, _ in VIOLATIONS} == set(CHECKS)
    assert len(CHECKS) == 13


def test_an_overlap_is_excused_by_a_cut_network_and_by_nothing_afterwards() -> None:
    """The day's job 10: without the fault, its overlap is a violation."""
    story = a_day()
    story.events = [each for each in story.events if each.detail.get("kind") != "swallow"]
    assert set(found(story.record())) == {"C5"}


@given(st.lists(st.sampled_from(["run", "fail", "snooze", "shutdown", "rescue", "cancel"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_life_of_a_job_is_a_legal_trail(lives: list[str]) -> None:
    """Claims that end in every way there is; and one whose token was given out twice is not."""
    story = in_quiet(kind="stumble")
    at = EVER_AFTER
    for life in lives:
        at += 10
        story.claim(at, 20)
        story.start(at + 1, 20)
        if life == "fail":
            story.end(at + 2, 20, "raised")
            story.change(at + 3, 20, state=2, runner=None)
            story.change(at + 4, 20, state=4 * (story.last(20).crashes > 0))
        elif life == "snooze":
            story.end(at + 2, 20, "snoozed")
            story.change(at + 3, 20, state=1, runner=None, attempt=story.last(20).attempt - 1)
            story.change(at + 4, 20, state=4 * (story.last(20).crashes > 0))
        elif life == "shutdown":
            story.end(at + 2, 20, "stopped")
            story.change(
                at + 3,
                20,
                runner=None,
                attempt=story.last(20).attempt - 1,
                state=4 * (story.last(20).crashes > 0),
            )
        elif life == "rescue":
            story.end(at + 2, 20, "stopped")
            crashes = story.last(20).crashes + 1
            story.change(
                at + 3, 20, state=4, runner=None, attempt=story.last(20).attempt - 1, crashes=crashes
            )
        else:
            story.change(at + 1.5, 20, cancel=life == "cancel")
            story.end(at + 2, 20, "stopped" if life == "cancel" else "ok")
            story.finish(at + 3, 20, 12 if life == "cancel" else 10)
            if life == "cancel":
                story.note(at + 1.4, 1, "cancel", "invoke", key="j20", job=20)
            break
    else:
        story.run(at + 20, 20)
    record = story.record()
    assert found(record) == {}
    twice = [attrs.evolve(each, token=each.token - 1) if each.token > 1 else each for each in record.trail]
    if any(each.token > 1 and each.job == 20 for each in record.trail):
        assert "C4" in found(attrs.evolve(record, trail=twice))


DAY = a_day().record()


@given(st.sampled_from([each.job for each in DAY.jobs]))
@settings(max_examples=20, deadline=None)
def test_whichever_job_is_gone_is_missed(job: int) -> None:
    """C1 does not look at some of them only."""
    assert any(f"j{job} " in each for each in check(without(DAY, job))["C1"])


@given(st.sampled_from([each for each in DAY.trail if each.token]), st.sampled_from([-1, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_whichever_token_is_another_is_noticed(change: Change, by: int) -> None:
    """C4 follows every step."""
    trail = [attrs.evolve(each, token=each.token + by) if each is change else each for each in DAY.trail]
    assert check(attrs.evolve(DAY, trail=trail))["C4"]


@given(st.sampled_from(DAY.effects), st.integers(min_value=1, max_value=3))
@settings(max_examples=10, deadline=None)
def test_whichever_effect_is_there_more_than_once_is_noticed(effect: Effect, times: int) -> None:
    """C3 counts."""
    (said,) = check(attrs.evolve(DAY, effects=[*DAY.effects, *[effect] * times]))["C3"]
    assert f"its effect is there {times + 1} times" in said


# The rest of it.


def test_a_schedule_is_drawn_from_its_seed() -> None:
    """The same for the same seed, another for another; every kind of harm comes; who has no network has none to cut."""
    times = Vigilance()
    first, second = (draw(7, 3600, 4, 3.0, times) for _ in range(2))
    assert first == second != draw(8, 3600, 4, 3.0, times)
    assert {harm.kind for harm in first} == set(WEIGHTS)
    assert all((harm.seat is not None) == (harm.kind in ON_RUNNERS) for harm in first)
    assert {harm.seat for harm in first if harm.kind in ("cut", "swallow")} == {1, 3}
    assert max(harm.seconds for harm in first if harm.kind == "freeze") > times.lease
    assert {harm.kind for harm in draw(7, 3600, 4, 3.0, times, frozenset({"kill"}))} == {"kill"}


def test_histories_come_back_in_the_order_of_the_clock(tmp_path: Path) -> None:
    """From files of several writers."""
    one, two = Recorder(tmp_path, "one", 1), Recorder(tmp_path, "two", 2)
    for number in range(6):
        (one if number % 2 else two).note("start", key=f"j{number}", job=2**40 + number, token=number)
    one.close()
    two.close()
    assert [event.key for event in read(tmp_path)] == [f"j{number}" for number in range(6)]
    assert [event.job - 2**40 for event in read(tmp_path)] == list(range(6))


def test_a_number_of_the_kernels_that_came_back_is_another_process() -> None:
    """Incarnations name the kernel's number; whose it was then, the histories know."""
    story = Story()
    story.note(0.5, 1, "process", "begun", kernels=4711)
    story.note(50.0, 2, "process", "begun", kernels=4711)
    for incarnation, at in ((100, 1.0), (101, 49.0), (200, 51.0)):
        story.incarnations.append(
            Incarnation(incarnation, 4711, holds_lock=True, since=WALL + at, until=None)
        )
    told = Reading(story.record()).incarnations
    assert [told[incarnation].pid for incarnation in (100, 101, 200)] == [1, 1, 2]


def test_a_record_is_kept_and_checked_again(tmp_path: Path) -> None:
    """What a run left can be looked at with the checks of another day."""
    record = a_day().record()
    history = Recorder(tmp_path, "all", 1)
    history.close()
    save(attrs.evolve(record, events=()), tmp_path)
    again = attrs.evolve(load(tmp_path), events=record.events)
    assert cattrs.unstructure(again) == cattrs.unstructure(record)
    assert check(again) == check(record)


def test_a_report_says_what_was_found() -> None:
    """The page and the summary name each check with its violations."""
    record = held_for_ever()
    violations = check(record)
    page = report.page(record, violations)
    assert "**12 jobs, 2 faults, 1 violations.**" in page
    assert "| C1 | Nothing is lost | 1 |" in page
    assert "j20 (job 20) is running" in report.summary(record, violations)
