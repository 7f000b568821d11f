"""A record, put in order: attempts, faults, deaths, and what each change of a row was."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from statistics import median
from typing import Protocol, TypeVar

import attrs

from soak.history import Event
from soak.record import Change, Incarnation, Record, Stored
from soak.schedule import ON_SERVER

AFTERMATH = (
    5.0  #: seconds, besides the settling, in which a fault that is over may still be the reason of something
)
FOREVER = float("inf")
TO_ALL = ON_SERVER | {"terminate", "terminate-one"}  #: faults that may cost any runner its connections


class OfAJob(Protocol):
    """Something that belongs to one job."""

    @property
    def job(self) -> int: ...


T = TypeVar("T", bound=OfAJob)


@attrs.frozen
class Attempt:
    """A job's start and end, as its process saw them. Without an end, it ended with the process."""

    key: str
    job: int
    token: int
    kind: str
    queue: str
    pid: int
    start: float
    end: float
    outcome: str  #: ok, raised, broke, snoozed, refused, stopped; or died
    said: str = ""


@attrs.frozen
class Fault:
    """Harm, and how long it lasted."""

    kind: str
    pid: int  #: to whom; 0: to the server
    since: float
    until: float


@attrs.frozen
class Rescue:
    """What became of a job whose process died."""

    job: int
    pid: int
    held_lock: bool
    died: float  #: by the wall clock
    freed: float | None
    started: float | None
    undisturbed: bool  #: nothing else was broken around then


class Reading:
    """What the checks ask."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.times = record.times

    def of(self, op: str, phase: str | None = None) -> Iterator[Event]:
        """Events, in order."""
        return (event for event in self.record.events if event.op == op and phase in (None, event.phase))

    @cached_property
    def offset(self) -> float:
        """From the monotonic to the wall clock."""
        return median([event.wall - event.mono for event in self.record.events] or [0.0])

    @cached_property
    def deaths(self) -> dict[int, float]:
        """When each process that is gone ended, on the monotonic clock. At a kill, or just before."""
        deaths: dict[int, float] = {}
        for event in self.record.events:
            pid = 0
            if event.op == "process" and event.phase == "gone":
                pid = event.detail["of"]
            elif event.op == "process" and event.phase == "poisoned":
                pid = event.pid
            elif event.op == "fault" and event.phase == "begin" and event.detail["kind"] == "kill":
                pid = event.detail["of"]
            if pid:
                deaths[pid] = min(event.mono, deaths.get(pid, FOREVER))
        return deaths

    @cached_property
    def killed(self) -> set[int]:
        """Processes that were killed from outside."""
        return {fault.pid for fault in self.faults if fault.kind == "kill"}

    @cached_property
    def attempts(self) -> list[Attempt]:
        """In the order of their starts."""
        open_: dict[tuple[int, int, int], deque[Event]] = defaultdict(deque)
        attempts = []

        def over(start: Event, end: float, outcome: str, said: str = "") -> None:
            detail = start.detail
            attempts.append(
                Attempt(
                    start.key, start.job, start.token, detail["kind"], detail["queue"], start.pid, start.mono, end, outcome,
                    said,
                )
            )  # fmt: skip

        for event in self.record.events:
            if event.op == "start":
                open_[event.pid, event.job, event.token].append(event)
            elif event.op == "end" and open_[event.pid, event.job, event.token]:
                start = open_[event.pid, event.job, event.token].popleft()
                over(start, event.mono, event.phase, event.detail.get("said", ""))
        for starts in open_.values():
            for start in starts:
                over(start, max(start.mono, self.deaths.get(start.pid, FOREVER)), "died")
        return sorted(attempts, key=lambda each: each.start)

    @cached_property
    def attempts_of(self) -> dict[int, list[Attempt]]:
        """By job."""
        return _grouped(self.attempts)

    @cached_property
    def changes_of(self) -> dict[int, list[Change]]:
        """By job, in order."""
        return _grouped(sorted(self.record.trail, key=lambda change: change.n))

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """By key."""
        return {job.key: job for job in self.record.jobs}

    def final_token(self, job: int) -> int | None:
        """Under which a job was finished."""
        changes = self.changes_of.get(job)
        return changes[-1].token if changes else None

    @cached_property
    def faults(self) -> list[Fault]:
        """In the order of their beginnings."""
        open_: dict[tuple[str, int], deque[float]] = defaultdict(deque)
        faults = []
        for event in self.of("fault"):
            which = event.detail["kind"], event.detail["of"]
            if event.phase == "begin":
                open_[which].append(event.mono)
            elif open_[which]:
                faults.append(Fault(*which, open_[which].popleft(), event.mono))
        faults += [Fault(*which, since, FOREVER) for which, begun in open_.items() for since in begun]
        return sorted(faults, key=lambda each: each.since)

    @cached_property
    def _faults_to(self) -> dict[int, list[Fault]]:
        return {
            pid: [each for each in self.faults if each.pid == pid]
            for pid in {each.pid for each in self.faults}
        }

    @cached_property
    def incarnations(self) -> dict[int, Incarnation]:
        """By name; their process by our number, which is that of the last to begin with what the kernel called it."""
        begun: dict[int, list[Event]] = defaultdict(list)
        for event in self.of("process", "begun"):
            begun[event.detail["kernels"]].append(event)
        return {
            each.incarnation: attrs.evolve(
                each,
                pid=next(
                    (event.pid for event in reversed(begun[each.pid]) if event.wall <= each.since), each.pid
                ),
            )
            for each in self.record.incarnations
        }

    @cached_property
    def lease_only(self) -> set[int]:
        """Processes whose runner holds no lock."""
        return {each.pid for each in self.incarnations.values() if not each.holds_lock}

    def reason(self, pid: int, since: float, until: float) -> str | None:
        """A fault that may have cost this process its jobs, or the reply to a write, between these times.

        A process that is merely frozen keeps its lock; only one that has a lease alone loses its jobs by that.
        """
        aftermath = self.times.settle + AFTERMATH
        for fault in [*self._faults_to.get(pid, []), *self._faults_to.get(0, [])]:
            counts = fault.kind in TO_ALL or (
                fault.pid == pid
                and (fault.kind != "freeze" or pid in self.lease_only)
                and fault.kind != "end"
            )
            if counts and fault.since <= until and fault.until + aftermath >= since:
                return fault.kind
        died = self.deaths.get(pid)
        if died is not None and since <= died <= until and not self._ended_in_order(pid):
            return "death"
        return None

    def _ended_in_order(self, pid: int) -> bool:
        return any(fault.kind == "end" for fault in self._faults_to.get(pid, [])) and not any(
            fault.kind == "kill" for fault in self._faults_to.get(pid, [])
        )

    def unreachable(self, since: float, until: float) -> bool:
        """Whether Postgres, or some sessions or statements of it, failed anybody between these times."""
        return any(
            fault.since <= until and fault.until + AFTERMATH >= since
            for fault in self.faults
            if fault.kind in TO_ALL | {"interrupt", "cut", "swallow", "freeze"}
        )

    def interrupted(self, at: float) -> bool:
        """Whether somebody cancelled statements of ours just before."""
        return any(
            fault.kind == "interrupt" and fault.since <= at <= fault.until + AFTERMATH
            for fault in self.faults
        )

    @cached_property
    def rescues(self) -> list[Rescue]:
        """Of the jobs that were running in a process when it was killed."""
        killed = {pid: at + self.offset for pid, at in self.deaths.items() if not self._ended_in_order(pid)}
        rescues = []
        for job, changes in self.changes_of.items():
            for change, following in zip(changes, [*changes[1:], None], strict=True):
                by = self.incarnations.get(change.runner or 0)
                died = killed.get(by.pid) if by is not None and change.state == 0 else None
                if by is None or died is None or change.at > died or (following and following.at <= died):
                    continue
                free = next(
                    (each for each in changes if each.n > change.n and each.runner != change.runner), None
                )
                if free is None and following is not None:
                    free = following  # finished by whoever cleared up
                started = [
                    each.start + self.offset for each in self.attempts_of.get(job, ()) if each.pid != by.pid
                ]
                again = next((at for at in started if at > died), None)
                freed = None if free is None else free.at
                rescues.append(
                    Rescue(
                        job, by.pid, by.holds_lock, died, freed, again, self._undisturbed(by.pid, died, freed)
                    )
                )
        return rescues

    def _undisturbed(self, pid: int, died: float, freed: float | None) -> bool:
        """No server, session or network was harmed from a settling before until the rescue, and somebody had settled."""
        since, until = died - self.offset - self.times.settle - AFTERMATH, (freed or died) - self.offset
        quiet = not any(
            fault.since <= until and fault.until >= since
            for fault in self.faults
            if fault.kind in TO_ALL | {"cut", "swallow", "freeze", "interrupt"}
        )
        settled = any(
            event.mono <= since and event.pid != pid and self.deaths.get(event.pid, FOREVER) > until
            for event in self.of("process", "up")
        )
        return quiet and settled


def _grouped(things: Iterable[T]) -> dict[int, list[T]]:
    grouped: dict[int, list[T]] = defaultdict(list)
    for thing in things:
        grouped[thing.job].append(thing)
    return grouped
