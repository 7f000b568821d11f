"""Slots: parallel places for jobs. A pool of slots serves one queue, or every queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping

from asyncjobs._model.job import ClaimedJob
from asyncjobs.errors import InvalidOption

EVERY_QUEUE = ""
DEFAULT_SLOTS = 20


class Pool:
    """A number of slots, and the jobs that wait for one of them."""

    def __init__(self, queue: str, size: int) -> None:
        self.queue = queue  #: the queue it serves; EVERY_QUEUE for all of them
        self.size = size
        self.occupied = 0
        self.prefetched: deque[ClaimedJob] = deque()  #: claimed, not begun

    def __repr__(self) -> str:
        return f"<{self.size} slots for {self.queue or 'every queue'}>"

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.size - self.occupied

    def serves(self, queue: str) -> bool:
        """Whether jobs of *queue* run here."""
        return self.queue in (EVERY_QUEUE, queue)

    def drop(self, ids: Container[int]) -> None:
        """Forget these jobs: they are not this runner's any more."""
        self.prefetched = deque(job for job in self.prefetched if job.id not in ids)

    def give_up(self) -> list[ClaimedJob]:
        """The jobs that were claimed and will not begin here."""
        jobs = list(self.prefetched)
        self.prefetched.clear()
        return jobs


def make_pools(queues: Mapping[str, int] | None, slots: int | None = None) -> list[Pool]:
    """The pools of `Jobs(queues=…)`: one for each queue named, else one for every queue."""
    if queues is None:
        return [Pool(EVERY_QUEUE, DEFAULT_SLOTS if slots is None else slots)]
    if not queues:
        raise InvalidOption("queues={} serves nothing; name queues with their slots, or leave it out for every queue")
    for queue, size in queues.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10_000:
            raise InvalidOption(f"queues[{queue!r}]={size!r} is not a number of slots; use 1 to 10000")
    return [Pool(queue, size) for queue, size in queues.items()]
