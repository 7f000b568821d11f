"""Slots: parallel places for jobs. A pool of slots serves one queue, a few that share it, or every queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.options import check_name
from asyncjobs._model.urgency import EVERY_PRIORITY, LEAST_URGENT, MOST_URGENT, Slots, Urgency, thresholds
from asyncjobs._model.words import counted
from asyncjobs.errors import InvalidOption

EVERY_QUEUE = ""
STAR = "*"  #: how people write it
DEFAULT_SLOTS = 20

InOrder = Callable[[Sequence[ClaimedJob]], Sequence[ClaimedJob]]


class Pool:
    """A number of slots, and the jobs that wait for one of them."""

    def __init__(
        self,
        queues: Iterable[str],
        size: int,
        *,
        urgency: Urgency = EVERY_PRIORITY,
        by_weight: bool = True,
        prefetches: bool = True,
    ) -> None:
        self.queues = frozenset(queues)  #: the queues it serves; EVERY_QUEUE for all of them
        self.size = size
        self.urgency = urgency
        self.is_choosy = urgency != EVERY_PRIORITY  #: it leaves some jobs of its queues to others
        self.by_weight = by_weight  #: else its queues take turns, whatever their weights
        self.prefetches = prefetches
        self.open = size  #: how many of them may be filled: fewer when jobs give way
        self.is_closed = False  #: a suspect runs alone in this runner, or is about to
        self.occupied = 0
        self.entering = 0  #: those of them whose job has yet to enter the event loop
        self.most_entering = size  #: others may have the rest
        self.prefetched: deque[ClaimedJob] = deque()  #: claimed, not begun
        self.prefetched_at = 0.0  #: when the last of them were claimed

    def __repr__(self) -> str:
        queues = "every queue" if EVERY_QUEUE in self.queues else ", ".join(sorted(self.queues))
        choices = [] if self.by_weight else ["in turns"]
        first, last = self.urgency
        if last != LEAST_URGENT:
            choices.insert(
                0, f"priority up to {last}" if first == MOST_URGENT else f"priority {first} to {last}"
            )
        elif first != MOST_URGENT:
            choices.insert(0, f"priority from {first}")
        choice = f" ({', '.join(choices)})" if choices else ""
        return f"<{counted(self.size, 'slot')} for {queues}{choice}>"

    @property
    def free(self) -> int:
        """Open slots without a job."""
        if self.is_closed:
            return 0
        return max(0, min(self.open - self.occupied, self.most_entering - self.entering))

    def serves(self, queue: str) -> bool:
        """Whether jobs of *queue* run here."""
        return queue in self.queues or EVERY_QUEUE in self.queues

    def takes(self, job: ClaimedJob) -> bool:
        """Whether *job* may run here."""
        return self.urgency.first <= job.priority <= self.urgency.last and self.serves(job.queue)

    def keep(self, jobs: Sequence[ClaimedJob], now: float, in_order: InOrder) -> None:
        """Let *jobs*, claimed *now*, wait for a slot: those that come first before those that wait already."""
        last = self.prefetched[-1] if self.prefetched else None
        self.prefetched.extend(jobs)
        self.prefetched_at = now
        if last is not None and in_order([last, jobs[0]])[0] is not last:
            self.prefetched = deque(in_order(self.prefetched))

    def drop(self, ids: Container[int]) -> None:
        """Forget these jobs: they are not this runner's any more."""
        self.prefetched = deque(job for job in self.prefetched if job.id not in ids)

    def give_up_beyond(self, most_bytes: int) -> list[ClaimedJob]:
        """The last of the jobs that were claimed, whose inputs are more than may wait."""
        surplus: list[ClaimedJob] = []
        held = sum(len(job.args) for job in self.prefetched)
        while held > most_bytes:
            surplus.append(self.prefetched.pop())
            held -= len(surplus[-1].args)
        return surplus

    def give_up(self) -> list[ClaimedJob]:
        """The jobs that were claimed and will not begin here."""
        jobs = list(self.prefetched)
        self.prefetched.clear()
        return jobs


Queues = Mapping[Any, int | None]
"""Queues and their slots. `("a", "b")` share theirs; "*" is every queue; None shares those of `slots=`.

Any: a name, or a tuple of names; a mapping's keys do not vary, so a `dict[str, int]` would not be one of either.
"""


def make_pools(
    queues: Mapping[Any, int | None] | Iterable[str] | None,
    slots: Slots | None = None,
    *,
    urgency: Urgency = EVERY_PRIORITY,
    reserved: int = 0,
) -> list[Pool]:
    """The pools of `Jobs(queues=…, slots=…)`: one for each queue with a number of its own, and one of *slots* slots for
    those without a number; without *queues*, one for every queue.

    *reserved* slots of those that several queues share take the queues in turns, whatever their weights.
    """
    if queues is None:
        return _sharing([EVERY_QUEUE], slots, urgency, reserved)
    if not isinstance(queues, Mapping):
        raise InvalidOption(
            f"queues={queues!r} does not say how many slots; write queues={{'default': 20}}, or None for shared slots"
        )
    if not queues:
        raise InvalidOption(
            "queues={} serves nothing; name queues with their slots, or leave it out for every queue"
        )
    sharing = [name for key, size in queues.items() if size is None for name in _names(key)]
    if slots is not None and not sharing:
        raise InvalidOption("queues= gives each queue its slots; leave slots= out")
    pools = [
        pool
        for key, size in queues.items()
        if size is not None
        for pool in _sharing(_names(key), _checked(size, f"queues[{key!r}]"), urgency, reserved)
    ]
    return [*pools, *_sharing(sharing, slots, urgency, reserved)] if sharing else pools


def _names(key: object) -> list[str]:
    names = key if isinstance(key, tuple) else (key,)
    if not names:
        raise InvalidOption("queues={(): …} names no queue; write '*' for every queue")
    return [EVERY_QUEUE if name == STAR else check_name(name, "queue") for name in names]


def _sharing(queues: list[str], slots: Slots | None, urgency: Urgency, reserved: int) -> list[Pool]:
    """Slots that *queues* share: a pool for each threshold, the most urgent first, and one for those reserved."""
    if slots is None or isinstance(slots, int):
        counts = {LEAST_URGENT: _shared(slots)}
    else:
        counts = thresholds(slots)
        _checked(sum(counts.values()), "slots")
    plain = len(counts) == 1
    pools = []
    for last, count in counts.items():
        takes = Urgency(urgency.first, min(last, urgency.last))
        if takes.first > takes.last:
            raise InvalidOption(f"a slot for priorities up to {last} takes none from {urgency.first} on")
        pools.append(Pool(queues, count, urgency=takes, prefetches=plain))
    several = len(queues) > 1 or EVERY_QUEUE in queues
    loosest = pools[-1]
    if several and reserved and loosest.size > 1:
        turns = min(reserved, loosest.size - 1)
        pools[-1] = Pool(queues, loosest.size - turns, urgency=loosest.urgency, prefetches=plain)
        pools.append(Pool(queues, turns, urgency=loosest.urgency, by_weight=False, prefetches=False))
    return pools


def _shared(slots: int | None) -> int:
    return DEFAULT_SLOTS if slots is None else _checked(slots, "slots")


def _checked(size: object, what: str) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10_000:
        raise InvalidOption(f"{what}={size!r} is not a number of slots; use 1 to 10000")
    return size
