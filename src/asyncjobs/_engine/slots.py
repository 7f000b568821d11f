"""Slots: parallel places for jobs. A pool of slots serves one queue, a few that share it, or every queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping

from asyncjobs._model.job import ClaimedJob
from asyncjobs.errors import InvalidOption

EVERY_QUEUE = ""
DEFAULT_SLOTS = 20


class Pool:
    """A number of slots, and the jobs that wait for one of them."""

    def __init__(self, queues: Iterable[str], size: int) -> None:
        self.queues = frozenset(queues)  #: the queues it serves; EVERY_QUEUE for all of them
        self.size = size
        self.open = size  #: how many of them may be filled: fewer when jobs give way
        self.is_closed = False  #: a suspect runs alone in this runner, or is about to
        self.occupied = 0
        self.entering = 0  #: those of them whose job has yet to enter the event loop
        self.most_entering = size  #: others may have the rest
        self.prefetched: deque[ClaimedJob] = deque()  #: claimed, not begun
        self.prefetched_at = 0.0  #: when the last of them were claimed

    def __repr__(self) -> str:
        return f"<{self.size} slots for {', '.join(sorted(self.queues)) or 'every queue'}>"

    @property
    def free(self) -> int:
        """Open slots without a job."""
        if self.is_closed:
            return 0
        return max(0, min(self.open - self.occupied, self.most_entering - self.entering))

    def serves(self, queue: str) -> bool:
        """Whether jobs of *queue* run here."""
        return queue in self.queues or EVERY_QUEUE in self.queues

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


def make_pools(queues: Mapping[str, int | None] | None, slots: int | None = None) -> list[Pool]:
    """The pools of `Jobs(queues=…, slots=…)`: one for each queue with a number of its own, and one of *slots* slots for
    those without a number; without *queues*, one for every queue.
    """
    if queues is None:
        return [Pool([EVERY_QUEUE], _shared(slots))]
    if not isinstance(queues, Mapping):
        raise InvalidOption(
            f"queues={queues!r} does not say how many slots; write queues={{'default': 20}}, or None for shared slots"
        )
    if not queues:
        raise InvalidOption(
            "queues={} serves nothing; name queues with their slots, or leave it out for every queue"
        )
    sharing = [queue for queue, size in queues.items() if size is None]
    if slots is not None and not sharing:
        raise InvalidOption("queues= gives each queue its slots; leave slots= out")
    pools = [
        Pool([queue], _checked(size, f"queues[{queue!r}]"))
        for queue, size in queues.items()
        if size is not None
    ]
    return [*pools, Pool(sharing, _shared(slots))] if sharing else pools


def _shared(slots: int | None) -> int:
    return DEFAULT_SLOTS if slots is None else _checked(slots, "slots")


def _checked(size: object, what: str) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10_000:
        raise InvalidOption(f"{what}={size!r} is not a number of slots; use 1 to 10000")
    return size
