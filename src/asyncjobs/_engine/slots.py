"""Slots: parallel places for jobs. A pool of slots serves one queue, or every queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable, Mapping

from asyncjobs._model.job import ClaimedJob
from asyncjobs.errors import InvalidOption

EVERY_QUEUE = ""
DEFAULT_SLOTS = 20


class Pool:
    """A number of slots, the jobs that may begin in them, and the jobs that wait for their turn."""

    def __init__(self, queue: str, size: int) -> None:
        self.queue = queue  #: the queue it serves; EVERY_QUEUE for all of them
        self.size = size
        self.occupied = 0
        self.ready: deque[ClaimedJob] = deque()  #: begun, as far as the database knows: a slot takes them at once
        self.prefetched: deque[ClaimedJob] = deque()  #: claimed, not begun
        self._idle: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<{self.size} slots for {self.queue or 'every queue'}>"

    @property
    def free(self) -> int:
        """Slots no job is meant for."""
        return self.size - self.occupied - len(self.ready)

    def serves(self, queue: str) -> bool:
        """Whether jobs of *queue* run here."""
        return self.queue in (EVERY_QUEUE, queue)

    def begin(self, jobs: Iterable[ClaimedJob]) -> None:
        """These jobs may begin: a slot is free for each."""
        for job in jobs:
            self.ready.append(job)
            while self._idle:
                slot = self._idle.popleft()
                if not slot.done():
                    slot.set_result(None)
                    break

    async def take(self) -> ClaimedJob:
        """The next job to run, for a slot."""
        while not self.ready:
            turn = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            await turn
        self.occupied += 1
        return self.ready.popleft()

    def leave(self) -> None:
        """A slot is free again."""
        self.occupied -= 1

    def drop(self, ids: Container[int]) -> None:
        """Forget these jobs: they are not this runner's any more."""
        self.ready = deque(job for job in self.ready if job.id not in ids)
        self.prefetched = deque(job for job in self.prefetched if job.id not in ids)

    def give_up(self) -> list[ClaimedJob]:
        """The jobs that were claimed and will not begin here."""
        jobs = [*self.ready, *self.prefetched]
        self.ready.clear()
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
